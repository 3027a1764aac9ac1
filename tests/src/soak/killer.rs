//! Kills of what pods must outlive.

use std::time::{Duration, Instant};

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

/// How often one pod loses its monitor. The seventh death within a minute would be its last.
const DEATHS: u64 = 3;

/// Kills until the soak is over; the daemon is up then.
pub(super) async fn run(world: &World, mut dice: Dice) -> Result<()> {
    while !world.is_over() {
        let pause = Duration::from_millis(200 + dice.below(1500));
        let left = world.end.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(left)).await;
        match dice.below(100) {
            0..35 => daemon(world, &mut dice).await?,
            35..65 => {
                monitor(world, &mut dice, "monitor killed");
            }
            _ => program(world, &mut dice).await,
        }
    }
    Ok(())
}

/// Ends the daemon, and now and then a monitor while it is away: what the pod depends on is kept for both.
async fn daemon(world: &World, dice: &mut Dice) -> Result<()> {
    let (signal, what) = match dice.percent(70) {
        true => (Signal::SIGKILL, "daemon killed"),
        false => (Signal::SIGTERM, "daemon stopped"),
    };
    world.node.end_daemon(signal)?;
    if dice.percent(40) {
        monitor(world, dice, "both killed");
    }
    world.node.launch().await?;
    world.count(what);
    Ok(())
}

/// Kills the monitor of some pod.
fn monitor(world: &World, dice: &mut Dice, what: &'static str) {
    let all = world.node.processes().into_iter();
    let all: Vec<_> = all.filter(|it| it.name == "pod-monitor").collect();
    // A child of one is about to become another program.
    let parents: Vec<u32> = all.iter().map(|it| it.pid).collect();
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|it| !parents.contains(&it.parent))
        .filter_map(|it| Some((it.arguments.get(1)?.clone(), it.pid)))
        .filter(|(pod, _)| world.deaths(pod) < DEATHS)
        .collect();
    if found.is_empty() {
        return;
    }
    let at = usize::try_from(dice.below(found.len() as u64)).unwrap_or_default();
    let (pod, pid) = found.swap_remove(at);
    // Before it dies, so that whoever sees what that did knows of it.
    world.note_death(&pod);
    if end(pid) {
        world.count(what);
    }
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
            if end(found.swap_remove(at).pid) {
                world.count("program killed");
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn end(pid: u32) -> bool {
    let pid = i32::try_from(pid).unwrap_or_default();
    pid > 0 && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}
