//! Attachments to containers whose output a test writes.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use pod_monitor_schema::streams::{StreamMask, TOKEN_BYTES};
use pod_monitor_schema::wire::attachment;
use pod_monitor_schema::{AttachConfig, AttachEnd, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use super::door::Parcel;
use super::exec::{read_end, write_end};
use super::{Output, Shared};

/// Pieces of output that wait for a client.
const QUEUE: usize = 16;

/// A client that is attached.
pub(super) struct Attached {
    pub(super) token: [u8; TOKEN_BYTES],
    pub(super) terminal: bool,
    pub(super) end: attachment::Client,
}

/// Attaches a client to a container that has not exited.
pub(super) fn attach(shared: &Arc<Shared>, config: &AttachConfig) -> Result<Attached, Error> {
    let (client, output) = mpsc::channel(QUEUE);
    let id = &config.container_id;
    let (terminal, reads) = shared.change(|pod| pod.attach(id, client))?;
    connect(shared, config, reads, output)
        .map(|(token, end)| Attached {
            token,
            terminal,
            end,
        })
        .map_err(|source| Error::io("attach", id.clone(), &source))
}

fn connect(
    shared: &Arc<Shared>,
    config: &AttachConfig,
    reads: bool,
    output: mpsc::Receiver<(Output, Vec<u8>)>,
) -> io::Result<([u8; TOKEN_BYTES], attachment::Client)> {
    let (id, wanted) = (config.container_id.clone(), config.streams);
    let mut parcel = Parcel::default();
    if wanted.stdin && reads {
        let stdin = read_end(StreamMask::STDIN, &mut parcel)?;
        spawn_local(collect(Arc::clone(shared), id, stdin));
    }
    let mut end_for =
        |wanted: bool, stream| wanted.then(|| write_end(stream, &mut parcel)).transpose();
    let stdout = end_for(wanted.stdout, StreamMask::STDOUT)?;
    let stderr = end_for(wanted.stderr, StreamMask::STDERR)?;
    let token = shared.door.leave(parcel)?;
    let (ended, end) = watch::channel(None);
    spawn_local(async move {
        ended.send_replace(Some(pass_on(output, stdout, stderr).await));
    });
    Ok((token, capnp_rpc::new_client(End(end))))
}

/// Passes output on until the container has exited or the client has closed its ends.
async fn pass_on(
    mut output: mpsc::Receiver<(Output, Vec<u8>)>,
    mut stdout: Option<pipe::Sender>,
    mut stderr: Option<pipe::Sender>,
) -> AttachEnd {
    while let Some((stream, bytes)) = output.recv().await {
        let pipe = match stream {
            Output::Stdout => &mut stdout,
            Output::Stderr => &mut stderr,
        };
        if let Some(pipe) = pipe
            && pipe.write_all(&bytes).await.is_err()
        {
            return AttachEnd::Detached;
        }
    }
    AttachEnd::ContainerExited
}

async fn collect(shared: Arc<Shared>, id: String, mut stdin: pipe::Receiver) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        shared.pod().take_input(&id, &buffer[..length]);
    }
}

struct End(watch::Receiver<Option<AttachEnd>>);

impl attachment::Server for End {
    async fn wait(
        self: Rc<Self>,
        _: attachment::WaitParams,
        mut results: attachment::WaitResults,
    ) -> capnp::Result<()> {
        let mut end = self.0.clone();
        let end = end
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|end| *end);
        results
            .get()
            .set_end(end.unwrap_or(AttachEnd::ContainerExited).into());
        Ok(())
    }
}
