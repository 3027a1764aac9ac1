//! The server end to end: real sockets, real processes, clients of our own over the
//! codec, and the client code of Kubernetes where Go is there to build it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step is a failed test"
)]

mod client;
mod forward;
mod load;
mod peer;
mod programs;
mod remote_spdy;
mod remote_websocket;
mod tls;
mod websocket_client;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use husk_streaming::{Config, Server};

/// A plain server on a free loopback port.
async fn server() -> Server {
    Server::start(config()).await.expect("server starts")
}

fn config() -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Config::new(any)
}

/// The path of a URL.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").expect("a scheme").1;
    &rest[rest.find('/').expect("a path")..]
}

/// Waits until a state is reached; fails with what was seen last.
async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<(), T>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match look() {
            Ok(()) => return,
            Err(seen) if Instant::now() > deadline => panic!("{what}: {seen:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
