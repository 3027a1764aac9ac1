//! An attach whose client has come.

use husk_streaming::{BoxFuture, Opened, Opener, Resize, SessionError, Stdio};
use pod_monitor_client::schema::{AttachConfig, AttachEnd, StreamSet, TerminalSize};
use pod_monitor_client::{AttachmentEnd, Monitor};

use tokio::sync::watch;

use super::session_error;
use crate::monitors::Trace;
use crate::pod::Pods;

pub(super) struct AttachOpener {
    pub(super) pods: Pods,
    pub(super) container: String,
    pub(super) streams: StreamSet,
    pub(super) trace: Trace,
}

impl Opener for AttachOpener {
    fn open(self: Box<Self>) -> BoxFuture<Result<Opened, SessionError>> {
        Box::pin(async move {
            let config = AttachConfig {
                container_id: self.container.clone(),
                streams: self.streams,
            };
            // Since it was offered the pod may have got another monitor.
            let running = self.pods.monitored("attach to", &self.container);
            let (_, monitor) = running.await.map_err(|error| session_error(&error))?;
            let attached = monitor.attach(&self.trace, &config).await;
            let attached = attached.map_err(|error| session_error(&error))?;
            let resize = attached.terminal.then(|| self.resize(monitor));
            Ok(Opened {
                stdio: Stdio::Pipes {
                    stdin: attached.streams.stdin,
                    stdout: attached.streams.stdout,
                    stderr: attached.streams.stderr,
                    resize,
                },
                exit: Box::pin(async move { end(&attached.end).await }),
                // The monitor sees the descriptors close.
                abandon: None,
            })
        })
    }
}

impl AttachOpener {
    /// The monitor holds the terminal, so sizes go through it: one after the other, and of several that
    /// wait the last.
    fn resize(&self, monitor: Monitor) -> Resize {
        let (id, trace) = (self.container.clone(), self.trace.clone());
        let (wanted, mut next) = watch::channel(None);
        tokio::spawn(async move {
            // Ends with the session, which has the other end.
            while next.changed().await.is_ok() {
                let Some(size) = *next.borrow_and_update() else {
                    continue;
                };
                if let Err(error) = monitor.resize(&trace, &id, size).await {
                    tracing::debug!(%error, container = %id, "the terminal was not resized");
                }
            }
        });
        Box::new(move |size| {
            wanted.send_replace(Some(TerminalSize {
                columns: size.columns,
                rows: size.rows,
            }));
        })
    }
}

async fn end(attachment: &AttachmentEnd) -> Result<i32, SessionError> {
    let end = attachment.wait().await;
    match end.map_err(|error| session_error(&error))? {
        AttachEnd::ContainerExited | AttachEnd::Detached => Ok(0),
        AttachEnd::Stalled => Err(SessionError::new(
            "output was not read for too long: the rest of it is only in the log",
        )),
    }
}
