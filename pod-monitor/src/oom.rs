//! Whether the kernel has killed a process of a container because memory ran out.
//!
//! The truth is a counter of the container's own group; what wakes the watcher is only a hint,
//! because version 1 wakes a group for its parent's troubles too, which are its sibling's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use tokio::io::Interest;

use crate::cgroup::Memory;
use crate::sys::watched::{self, Watched};

/// Watches one container's group.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Has a line `oom_kill <count>`.
    counter: File,
    wake: Wake,
    baseline: u64,
}

#[derive(Debug)]
enum Wake {
    /// An eventfd that the group was told of.
    V1(Watched),
    /// The counter's own file, which is an exceptional condition when it has changed.
    V2(Watched),
}

impl Watch {
    /// Kills up to `baseline` do not count; without it, those that the group has counted so far.
    ///
    /// # Errors
    /// The kernel's, where the group's files cannot be used so.
    pub(crate) fn new(memory: &Memory, baseline: Option<u64>) -> io::Result<Watch> {
        let (counter, wake) = match memory {
            Memory::V1(group) => watch_v1(group)?,
            Memory::V2(group) => watch_v2(group)?,
        };
        let mut watch = Watch {
            counter,
            wake,
            baseline: 0,
        };
        let count = watch.count()?;
        watch.baseline = baseline.unwrap_or(count);
        Ok(watch)
    }

    pub(crate) fn baseline(&self) -> u64 {
        self.baseline
    }

    /// Whether the group has lost a process so far.
    pub(crate) fn has_killed(&self) -> bool {
        // A group that is gone cannot be asked any more: then what was seen before counts.
        self.count().is_ok_and(|count| count > self.baseline)
    }

    /// Waits until the group loses a process. Never ends where it does not.
    pub(crate) async fn killed(&self) {
        while !self.has_killed() {
            if self.woken().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn woken(&self) -> io::Result<()> {
        match &self.wake {
            Wake::V1(event) => {
                let mut ready = event.readable().await?;
                let mut count = [0; 8];
                match rustix::io::read(event.get_ref(), &mut count) {
                    Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                    Err(error) => return Err(error.into()),
                    // The kernel signals it too when the group is removed.
                    Ok(_) if self.count().is_err() => return Err(io::ErrorKind::NotFound.into()),
                    Ok(_) => {}
                }
            }
            Wake::V2(file) => {
                let mut ready = file.ready(Interest::PRIORITY).await?;
                ready.clear_ready();
                self.count()?;
            }
        }
        Ok(())
    }

    fn count(&self) -> io::Result<u64> {
        let mut bytes = [0; 512];
        let read = rustix::io::pread(&self.counter, &mut bytes, 0)?;
        Ok(kills(bytes.get(..read).unwrap_or_default()))
    }
}

fn watch_v1(group: &Path) -> io::Result<(File, Wake)> {
    let counter = File::open(group.join("memory.oom_control"))?;
    let event = rustix::event::eventfd(
        0,
        rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
    )?;
    let order = format!(
        "{} {}",
        event.as_fd().as_raw_fd(),
        counter.as_fd().as_raw_fd()
    );
    std::fs::write(group.join("cgroup.event_control"), order)?;
    let event = watched::watch(event, Interest::READABLE)?;
    Ok((counter, Wake::V1(event)))
}

fn watch_v2(group: &Path) -> io::Result<(File, Wake)> {
    let counter = File::open(group.join("memory.events.local"))?;
    let wake = watched::watch(counter.try_clone()?.into(), Interest::PRIORITY)?;
    Ok((counter, Wake::V2(wake)))
}

/// The count in a file of `name count` lines.
fn kills(text: &[u8]) -> u64 {
    text.split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"oom_kill "))
        .and_then(|number| std::str::from_utf8(number).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_from_both_versions() {
        let rows: [(&[u8], u64); 5] = [
            (b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
            (
                b"low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n",
                1,
            ),
            (b"oom 5\n", 0),
            (b"oom_kill x\n", 0),
            (b"", 0),
        ];
        for (text, expect) in rows {
            assert_eq!(kills(text), expect);
        }
    }
}
