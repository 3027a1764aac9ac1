//! The process of a monitor, ours or somebody else's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use pod_monitor_schema::ExitStatus;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;

/// A monitor's process, held by a pidfd, so that its number is never mistaken for another's.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// None for a monitor that is part of another process.
    pidfd: Option<Arc<OwnedFd>>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Child {
    /// Takes over a child of this process: it is reaped when it ends.
    pub(crate) fn adopt(pidfd: OwnedFd) -> io::Result<Self> {
        let pidfd = Arc::new(pidfd);
        let readiness = crate::fd::readable(Arc::clone(&pidfd))?;
        let (tell, ended) = watch::channel(None);
        spawn_local(async move {
            // An error is the end of the runtime, when nobody is left to tell.
            if readiness.readable().await.is_ok() {
                let _ = tell.send(Some(reap(readiness.get_ref().as_fd())));
            }
        });
        Ok(Self {
            pidfd: Some(pidfd),
            ended,
        })
    }

    /// Watches a process that somebody else reaps.
    pub(crate) fn watch(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::InvalidInput)?;
        Self::adopt(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Stands for a monitor without a process, which ends with its connection.
    pub(crate) fn none(closed: CancellationToken) -> Self {
        let (tell, ended) = watch::channel(None);
        spawn_local(async move {
            closed.cancelled().await;
            let _ = tell.send(Some(ExitStatus::Lost));
        });
        Self { pidfd: None, ended }
    }

    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Sends SIGKILL. That it has ended already is success.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let Some(pidfd) = &self.pidfd else {
            return Ok(());
        };
        match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(ExitStatus::Lost),
            Err(_) => ExitStatus::Lost,
        }
    }
}

/// How a process ended, where it is a child of ours that nobody else reaped.
fn reap(pidfd: BorrowedFd<'_>) -> ExitStatus {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let Ok(Some(status)) = rustix::process::waitid(WaitId::PidFd(pidfd), options) else {
        return ExitStatus::Lost;
    };
    let byte = |number: i32| u8::try_from(number).ok();
    let code = status.exit_status().and_then(byte).map(ExitStatus::Code);
    let signal = status.terminating_signal().and_then(byte);
    code.or(signal.map(ExitStatus::Signal))
        .unwrap_or(ExitStatus::Lost)
}
