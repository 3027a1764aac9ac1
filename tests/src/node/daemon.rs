//! The daemon of a node: started, ended in either way, and started again.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::PoisonError;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Node, Place};
use crate::cgroup;
use crate::wait::{DEADLINE, wait_blocking, wait_for};

/// The variables that systemd gives the daemon where it is installed, so that it behaves here as there.
fn unit_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = include_str!("../../../controller/packaging/husk.service");
    unit.lines()
        .filter_map(|line| line.strip_prefix("Environment="))
        .flat_map(str::split_whitespace)
        .filter_map(|variable| variable.split_once('='))
}

impl Node {
    /// Starts the daemon if this node has one, and waits until it answers and is ready.
    pub async fn launch(&self) -> Result<()> {
        if let Place::Private { daemon, .. } = &self.place {
            let child = self.spawn_daemon()?;
            *daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        }
        let ready = wait_for("the runtime is ready", DEADLINE, async || {
            if self.daemon_has_ended() {
                return Some(Err(anyhow::anyhow!("husk serve has ended")));
            }
            let status = self.client().await.ok()?.status().await.ok()?;
            let conditions = status.status.unwrap_or_default().conditions;
            conditions
                .iter()
                .any(|it| it.r#type == "RuntimeReady" && it.status)
                .then_some(Ok(()))
        });
        let ready = ready.await.and_then(|result| result);
        ready.with_context(|| format!("the daemon's log ends:\n{}", self.log_tail(40)))
    }

    /// Starts the daemon in the node's namespaces and in the node's own cgroup, which it leaves only by ending.
    fn spawn_daemon(&self) -> Result<Child> {
        let own = cgroup::tracking_root().join(&self.cgroup).join("daemon");
        fs::create_dir_all(&own).with_context(|| format!("make the cgroup {}", own.display()))?;
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.log_file())?;
        let mut serve = self.husk(&["serve"])?;
        let mut _inherited = Vec::new();
        if let Some(service) = &self.service {
            (serve, _inherited) = service.starts(&serve)?;
        }
        serve
            .envs(unit_environment())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = serve.spawn().with_context(|| format!("start {serve:?}"))?;
        fs::write(own.join("cgroup.procs"), child.id().to_string())?;
        Ok(child)
    }

    /// The daemon's process id; `None` when it is down or not the harness's own.
    pub fn daemon(&self) -> Option<u32> {
        let Place::Private { daemon, .. } = &self.place else {
            return None;
        };
        daemon
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(Child::id)
    }

    /// Whether the daemon was started and has ended.
    pub fn daemon_has_ended(&self) -> bool {
        let Place::Private { daemon, .. } = &self.place else {
            return false;
        };
        let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
        daemon
            .as_mut()
            .is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Ends the daemon with `signal` and waits until it is gone; its pods are left alone.
    pub fn end_daemon(&self, signal: Signal) -> Result<()> {
        let Place::Private { daemon, .. } = &self.place else {
            bail!("this endpoint is not the harness's own")
        };
        let Some(mut child) = daemon.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        let ended = kill(Pid::from_raw(i32::try_from(child.id())?), signal).is_ok()
            && wait_blocking(DEADLINE, || !matches!(child.try_wait(), Ok(None)));
        if !ended {
            child.kill()?;
            child.wait()?;
        }
        ensure!(
            ended,
            "husk serve did not end within {DEADLINE:?} of {signal}"
        );
        Ok(())
    }

    /// Asks the daemon to end and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.end_daemon(Signal::SIGTERM)?;
        self.launch().await
    }

    /// Kills the daemon and starts it again.
    pub async fn crash(&self) -> Result<()> {
        self.end_daemon(Signal::SIGKILL)?;
        self.launch().await
    }

    /// Does to the node what a reboot does: no process, mount, run directory, interface or rule is left, and the
    /// kernel has another boot id. Starts the daemon then.
    pub async fn reboot(&self) -> Result<()> {
        self.end_daemon(Signal::SIGKILL)?;
        ensure!(self.kill_all(), "processes of the node do not end");
        self.script(REBOOT)?;
        self.launch().await
    }
}

/// `$0` is the node's directory.
const REBOOT: &str = r#"
awk -v place="$0/" 'index($5, place) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r umount --lazy
rm -rf --one-file-system "$0/run"
ip -o link show type bridge | awk -F': ' '{ print $2 }' | xargs -r -n1 ip link delete
iptables -t nat -F && iptables -t nat -X
cat /proc/sys/kernel/random/uuid > "$0/boot_id"
mount --bind "$0/boot_id" /proc/sys/kernel/random/boot_id
"#;
