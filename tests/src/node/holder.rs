//! The process that keeps a node's namespaces open.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::cgroup;
use crate::command::command;

/// The last act of a holder whose harness is gone. `$0` is the cgroup, `$1` the directory.
const SWEEP: &str = r#"
pids() { find "$0" -name cgroup.procs -exec cat {} +; }
while [ -n "$(pids)" ]; do kill -9 $(pids); done
awk -v place="$1/" 'index($5, place) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r umount --lazy
rm -rf --one-file-system "$1"
find /sys/fs/cgroup -depth -type d -path "*/${0##*/}*" -exec rmdir {} ';'
"#;

/// Lives as long as the test: its standard input is a pipe whose other end closes with the harness.
#[derive(Debug)]
pub(super) struct Holder {
    process: Child,
}

impl Holder {
    /// Makes a mount and a network namespace with loopback up. If the harness dies without a word, what runs in
    /// `cgroup` is killed and `directory` removed.
    pub(super) fn start(cgroup: &Path, directory: &Path) -> Result<Self> {
        let hide = cgroup::hide_unified();
        let script = format!("{hide}ip link set lo up && echo ready && read -r _end; {SWEEP}");
        let mut process = command("unshare")
            .args(["--mount", "--net", "sh", "-c", &script])
            .args([cgroup, directory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("start unshare (Debian package util-linux)")?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("the holder's output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let holder = Self { process };
        ensure!(
            line == "ready\n",
            "namespaces cannot be made: is this root, and is iproute2 installed?"
        );
        Ok(holder)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A command inside the namespaces. `nsenter` replaces itself, so the process id is the program's own.
    pub(super) fn enter(&self, program: &Path) -> Command {
        let mut enter = command("nsenter");
        enter
            .arg(format!("--target={}", self.pid()))
            .args(["--mount", "--net", "--"])
            .arg(program);
        enter
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}
