//! The connection of a client's command to the running daemon.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::Failure;
use crate::admin::v1::admin_client::AdminClient;
use crate::config::Config;
use husk_cri_api::v1::image_service_client::ImageServiceClient;
use husk_cri_api::v1::runtime_service_client::RuntimeServiceClient;

/// A daemon that answered.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    channel: Channel,
    message_limit: usize,
}

impl Daemon {
    /// Connects to the socket of `config`.
    pub(super) async fn connect(config: &Config) -> Result<Self, Failure> {
        let socket = config.socket.clone();
        Ok(Self {
            channel: open(&socket)
                .await
                .map_err(|source| Failure::Connect { socket, source })?,
            message_limit: config.limits.grpc_message.to_usize(),
        })
    }

    pub(super) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(self.message_limit)
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(self.message_limit)
    }

    pub(super) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(self.message_limit)
    }
}

/// gRPC wants an authority; over a unix socket nothing looks at it.
const AUTHORITY: &str = "http://localhost";

async fn open(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static(AUTHORITY)
        .connect_with_connector(connector)
        .await
}
