//! Kills of what pods must outlive.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::World;
use super::dice::Dice;
use crate::process::Process;

/// Short-lived programs that the daemon or a monitor starts.
const PROGRAMS: [&str; 6] = [
    "crun",
    "bridge",
    "host-local",
    "portmap",
    "bandwidth",
    "loopback",
];

/// Kills until the soak is over; the daemon is up then.
pub(super) async fn run(world: &World, mut dice: Dice) -> Result<()> {
    while !world.is_over() {
        let pause = Duration::from_millis(200 + dice.below(1500));
        tokio::time::sleep(
            pause.min(
                world
                    .end
                    .saturating_duration_since(std::time::Instant::now()),
            ),
        )
        .await;
        if dice.percent(35) {
            let (signal, what) = match dice.percent(70) {
                true => (Signal::SIGKILL, "daemon killed"),
                false => (Signal::SIGTERM, "daemon stopped"),
            };
            world.node.end_daemon(signal)?;
            world.node.launch().await?;
            world.count(what);
        } else {
            program(world, &mut dice).await;
        }
    }
    Ok(())
}

/// Waits a moment for a program to be there, and kills it.
async fn program(world: &World, dice: &mut Dice) {
    for _ in 0..200 {
        // What has a mount namespace of its own is no call of the OCI runtime but already the container.
        let own = world.node.network().and_then(Process::find);
        let own = own.and_then(|holder| holder.namespace("mnt"));
        let found = world.node.processes().into_iter();
        let found = found.filter(|it| it.namespace("mnt") == own);
        let mut found: Vec<_> = found
            .filter(|it| PROGRAMS.contains(&it.name.as_str()))
            .collect();
        if !found.is_empty() {
            let at = usize::try_from(dice.below(found.len() as u64)).unwrap_or_default();
            let pid = i32::try_from(found.swap_remove(at).pid).unwrap_or_default();
            if pid > 0 && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
                world.count("program killed");
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
