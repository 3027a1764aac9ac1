//! The HTTP server behind the CRI's Exec, Attach and PortForward.
//!
//! The CRI answers these calls with a URL; the bytes then flow between this server
//! and the client, usually the kubelet on behalf of a user. A URL holds a one-time
//! token, and behind each token waits an opener that starts the process, attaches
//! to it or connects to the port once the client is really there.
//!
//! ```text
//!  server ── http ── negotiate            who may in, and what is spoken
//!                       │
//!                     serve               session meets connection
//!                   ┌───┴────┐
//!  link::{spdy, websocket}   remote, forward
//!  frames, queues, windows   fds of a process, connections to ports
//!        │
//!  spdy, websocket, resize, status        codecs: values in, values out, no I/O
//! ```
//!
//! Invariants: memory is bounded per connection, whatever either side does or
//! fails to do; no byte is lost between a process and a client that keeps reading,
//! however slowly; a client that goes away is told to the opener, once.
//!
//! Deliberately absent: pods, containers, the CRI and its errors, authentication
//! beyond the token, and every way to start a program.

mod fd;
mod forward;
#[cfg(fuzzing)]
pub mod fuzz;
mod http;
mod link;
mod negotiate;
mod remote;
mod resize;
mod serve;
mod server;
mod session;
pub mod spdy;
mod status;
mod tls;
mod tokens;
mod websocket;

pub use self::server::{Config, Server, StartError};
pub use self::session::{
    BoxFuture, ByteStream, Connector, Opened, Opener, PortForwardSession, RemoteSession, Resize,
    SessionError, Size, StdinEnd, Stdio, StreamSet, StreamSetError,
};
pub use self::tls::{TlsError, server_tls};
pub use self::tokens::TokenError;

/// An error with its causes, for one line of a log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
