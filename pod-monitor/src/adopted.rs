//! The first process of a container that another monitor has made: not a child, so its end is seen
//! by a pidfd, and its status comes from the kernel, where it keeps it (Linux 6.15), or from whoever
//! is the process's parent now and tells it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::watch;

use crate::reaper::Ended;
use crate::sys::watched::{self, Watched};
use crate::sys::{clock, pidfd};

/// How long to wait between two questions for a status.
const ROUND: Duration = Duration::from_millis(20);
/// Rounds after which nobody can say how the process ended: 5 s.
const ROUNDS: u32 = 250;

/// A process that is not a child.
#[derive(Debug)]
pub(crate) struct Adopted {
    process: Watched,
    told: watch::Sender<Option<Ended>>,
}

impl Adopted {
    /// To be called in the runtime.
    ///
    /// # Errors
    /// The kernel's, where the process cannot be watched.
    pub(crate) fn new(process: OwnedFd) -> std::io::Result<Adopted> {
        Ok(Adopted {
            process: watched::watch(process, Interest::READABLE)?,
            told: watch::Sender::new(None),
        })
    }

    pub(crate) fn process(&self) -> &OwnedFd {
        self.process.get_ref()
    }

    /// Somebody knows how it ended.
    pub(crate) fn tell(&self, ended: Ended) {
        self.told.send_replace(Some(ended));
    }

    /// How it ended, once it has. `None` where nobody can say.
    pub(crate) async fn ended(&self) -> Option<Ended> {
        // A descriptor that cannot be watched any more is as good as an ended process.
        drop(self.process.readable().await);
        let now = clock::now();
        let mut told = self.told.subscribe();
        for _ in 0..ROUNDS {
            let known = *told.borrow_and_update();
            if let Some(ended) = known {
                let at = ended.at.min(now);
                return Some(Ended { at, ..ended });
            }
            if let Ok(Some(status)) = pidfd::exit_status(self.process()) {
                return Some(Ended { status, at: now });
            }
            // Either is the next round.
            drop(tokio::time::timeout(ROUND, told.changed()).await);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signal::Status;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a child that lives until its input ends"
    )]
    fn what_is_told_counts_from_the_moment_of_the_end() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut child = std::process::Command::new("/bin/cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let adopted = Adopted::new(pidfd::open(pid).unwrap()).unwrap();
            let ended = Ended {
                status: Status::Code(9),
                at: 5,
            };
            adopted.tell(ended);
            let early = tokio::time::timeout(ROUND, adopted.ended()).await;
            assert!(early.is_err(), "it lives");
            drop(child.stdin.take());
            // Not reaped, so that the kernel says nothing.
            assert_eq!(adopted.ended().await, Some(ended));
            child.wait().unwrap();
        });
    }
}
