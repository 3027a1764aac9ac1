//! Connections to the ports of a pod, made inside its network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use husk_cri_api::v1::NamespaceMode;
use husk_streaming::{BoxFuture, ByteStream, Connector, SessionError};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::net::{TcpSocket, TcpStream};

use super::session_error;
use crate::network;
use crate::services::Services;
use crate::spec::namespace_options;
use crate::view::PodView;

/// A port of the pod answers at once or not at all: nothing but the node's own kernel is between.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to the loopback addresses of one pod, IPv4 first, as programs that listen on all
/// addresses or on loopback alone are both reached there.
pub(super) struct PodConnector {
    /// None: the pod uses the node's network.
    netns: Option<PathBuf>,
}

impl PodConnector {
    pub(super) fn new(services: &Services, pod: &PodView) -> Self {
        let own = namespace_options(&pod.record.config()).network() == NamespaceMode::Pod;
        let netns = own.then(|| services.directories.pod(&pod.record.id).join("ns/net"));
        Self { netns }
    }
}

impl Connector for PodConnector {
    fn connect(&self, port: u16) -> BoxFuture<Result<Box<dyn ByteStream>, SessionError>> {
        let netns = self.netns.clone();
        Box::pin(async move {
            let first = connect(netns.clone(), Ipv4Addr::LOCALHOST.into(), port).await;
            let stream = match first {
                Ok(stream) => stream,
                Err(error) => connect(netns, Ipv6Addr::LOCALHOST.into(), port)
                    .await
                    .map_err(|_| error)?,
            };
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}

async fn connect(
    netns: Option<PathBuf>,
    address: IpAddr,
    port: u16,
) -> Result<TcpStream, SessionError> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let make = move || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(family, SockType::Stream, flags, None)
    };
    // A socket stays in the namespace that it was made in.
    let made = match netns {
        None => make(),
        Some(netns) => network::within(netns, make)
            .await
            .map_err(|error| session_error(&error))?,
    };
    let made: OwnedFd = made.map_err(|errno| session_error(&errno))?;
    let socket = TcpSocket::from_std_stream(made.into());
    let connecting = socket.connect(SocketAddr::new(address, port));
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(SessionError::new(format!(
            "connect to port {port}: {error}"
        ))),
        Err(_) => Err(SessionError::new(format!(
            "connect to port {port}: no answer within {} s",
            PATIENCE.as_secs()
        ))),
    }
}
