//! The listener: URLs out, upgraded connections in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http;
use crate::session::{PortForwardSession, RemoteSession};
use crate::tokens::{TokenError, Tokens};

/// How long a client may take for the TLS handshake, and then for its request.
const GREETING: Duration = Duration::from_secs(10);

/// Pause after a failed accept, so that a lack of fds does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS instead of plain HTTP; see [`crate::server_tls`].
    pub tls: Option<Arc<ServerConfig>>,
    /// A connection on which nothing moves for this long is closed.
    pub idle_timeout: Duration,
    /// How long a URL may be used after it was handed out.
    pub token_timeout: Duration,
    /// URLs that may wait for their client.
    pub max_tokens: usize,
    /// Connections that are served at a time; more wait to be accepted.
    pub max_connections: usize,
}

impl Config {
    /// Loopback or not is the caller's choice; the limits are those of Kubernetes' own server.
    #[must_use]
    pub fn new(address: SocketAddr) -> Config {
        Config {
            address,
            tls: None,
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            token_timeout: Duration::from_secs(60),
            max_tokens: 1000,
            max_connections: 1000,
        }
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("listen for streaming clients on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

/// A session that waits for its client.
#[derive(Debug)]
pub(crate) enum Pending {
    Exec(RemoteSession),
    Attach(RemoteSession),
    PortForward(PortForwardSession),
}

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct Shared {
    tokens: Mutex<Tokens<Pending>>,
    pub(crate) idle_timeout: Duration,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
}

impl Shared {
    pub(crate) fn redeem(&self, token: &str) -> Option<Pending> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.redeem(token, Instant::now())
    }

    fn issue(&self, pending: Pending) -> Result<String, TokenError> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.issue(pending, Instant::now())
    }
}

/// A running server; dropping it ends all sessions.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    base: String,
    address: SocketAddr,
}

impl Server {
    /// Listens and serves until [`Server::stop`] or drop, on the current runtime.
    ///
    /// # Errors
    /// [`StartError`] when the address cannot be listened on.
    pub async fn start(config: Config) -> Result<Server, StartError> {
        let failed = |source| StartError::Listen {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let shared = Arc::new(Shared {
            tokens: Mutex::new(Tokens::new(config.max_tokens, config.token_timeout)),
            idle_timeout: config.idle_timeout,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        let acceptor = Acceptor {
            listener,
            tls: config.tls.map(TlsAcceptor::from),
            room: Arc::new(Semaphore::new(config.max_connections)),
            shared: Arc::clone(&shared),
        };
        let stopping = shared.stopping.clone();
        shared
            .tasks
            .spawn(async move { stopping.run_until_cancelled(acceptor.run()).await });
        let base = format!("{scheme}://{}", reachable(address));
        Ok(Server {
            shared,
            base,
            address,
        })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL at which one client may exec, once.
    ///
    /// # Errors
    /// [`TokenError::Full`] when too many sessions wait for their client.
    pub fn exec_url(&self, session: RemoteSession) -> Result<String, TokenError> {
        self.url("exec", Pending::Exec(session))
    }

    /// The URL at which one client may attach, once.
    ///
    /// # Errors
    /// [`TokenError::Full`] when too many sessions wait for their client.
    pub fn attach_url(&self, session: RemoteSession) -> Result<String, TokenError> {
        self.url("attach", Pending::Attach(session))
    }

    /// The URL at which one client may forward ports, once.
    ///
    /// # Errors
    /// [`TokenError::Full`] when too many sessions wait for their client.
    pub fn port_forward_url(&self, session: PortForwardSession) -> Result<String, TokenError> {
        self.url("portforward", Pending::PortForward(session))
    }

    /// Ends all sessions and waits until nothing of them is left.
    pub async fn stop(self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn url(&self, path: &str, pending: Pending) -> Result<String, TokenError> {
        let token = self.shared.issue(pending)?;
        Ok(format!("{}/{path}/{token}", self.base))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.cancel();
    }
}

/// The client is the kubelet of this host: an address that means all of them is
/// reached over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

struct Acceptor {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Acceptor {
    async fn run(self) {
        loop {
            // Never closed, so this only waits.
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a streaming client");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
            let stopping = shared.stopping.clone();
            self.shared.tasks.spawn(async move {
                let serve = greet(stream, tls, shared);
                stopping.run_until_cancelled(serve).await;
                drop(permit);
            });
        }
    }
}

async fn greet(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Keystrokes are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return serve(stream, shared).await;
    };
    match timeout(GREETING, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, shared).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake of a streaming client"),
        Err(_) => tracing::debug!("streaming client was too slow with its TLS handshake"),
    }
}

/// One request, and the session that it may turn into; a refusal closes the connection.
async fn serve<Io>(stream: Io, shared: Arc<Shared>)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (hand_over, upgraded) = tokio::sync::mpsc::channel(1);
    let service = service_fn(move |request| {
        let (shared, hand_over) = (Arc::clone(&shared), hand_over.clone());
        async move { http::answer(request, &shared, &hand_over) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "request of a streaming client");
    }
    run_upgraded(upgraded).await;
}

/// The session runs in the connection's own task once HTTP is done with it.
async fn run_upgraded(mut upgraded: tokio::sync::mpsc::Receiver<http::Session>) {
    // The service is gone with the connection, so an empty queue is closed, too.
    if let Some(session) = upgraded.recv().await {
        session.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_all_interfaces_is_handed_out_as_loopback() {
        for (bound, expected) in [
            ("0.0.0.0:81", "127.0.0.1:81"),
            ("[::]:81", "[::1]:81"),
            ("127.0.0.1:81", "127.0.0.1:81"),
            ("10.1.2.3:81", "10.1.2.3:81"),
        ] {
            let bound: SocketAddr = bound.parse().expect(bound);
            assert_eq!(reachable(bound).to_string(), expected);
        }
    }
}
