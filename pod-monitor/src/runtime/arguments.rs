//! What the OCI runtime is called with. The options are those that crun and runc, and what is
//! made to stand in for them, have in common.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pod_monitor_schema::RuntimeConfig;

/// The runtime's log, its first extra descriptor.
const LOG: &str = "/proc/self/fd/3";
/// The document that a call carries, its second.
const DOCUMENT: &str = "/proc/self/fd/4";

/// Where CRIU writes and reads.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// What the processes are.
    pub(crate) images: PathBuf,
    /// Its own log.
    pub(crate) work: PathBuf,
}

/// A call of the OCI runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    Create {
        id: &'a str,
        bundle: &'a Path,
        pid_file: &'a Path,
        console_socket: Option<&'a Path>,
    },
    Start {
        id: &'a str,
    },
    Kill {
        id: &'a str,
        signal: u8,
        all: bool,
    },
    Delete {
        id: &'a str,
        force: bool,
    },
    /// The process is the call's document.
    Exec {
        id: &'a str,
        pid_file: &'a Path,
        console_socket: Option<&'a Path>,
    },
    /// The resources are the call's document.
    Update {
        id: &'a str,
    },
    /// A create and start in one.
    Restore {
        id: &'a str,
        bundle: &'a Path,
        pid_file: &'a Path,
        console_socket: Option<&'a Path>,
        checkpoint: &'a Checkpoint,
    },
    /// The container runs on.
    Checkpoint {
        id: &'a str,
        checkpoint: &'a Checkpoint,
        /// In place of the configured time.
        limit: Option<Duration>,
    },
    Pause {
        id: &'a str,
    },
    Resume {
        id: &'a str,
    },
    State {
        id: &'a str,
    },
}

impl Call<'_> {
    /// The runtime's word for it.
    pub(crate) fn command(&self) -> &'static str {
        match self {
            Call::Create { .. } => "create",
            Call::Restore { .. } => "restore",
            Call::Start { .. } => "start",
            Call::Kill { .. } => "kill",
            Call::Delete { .. } => "delete",
            Call::Exec { .. } => "exec",
            Call::Update { .. } => "update",
            Call::Checkpoint { .. } => "checkpoint",
            Call::Pause { .. } => "pause",
            Call::Resume { .. } => "resume",
            Call::State { .. } => "state",
        }
    }

    /// How long this call may take, where that is not the configured time.
    pub(super) fn limit(&self) -> Option<Duration> {
        match self {
            Call::Checkpoint { limit, .. } => *limit,
            Call::Create { .. }
            | Call::Restore { .. }
            | Call::Start { .. }
            | Call::Kill { .. }
            | Call::Delete { .. }
            | Call::Exec { .. }
            | Call::Update { .. }
            | Call::Pause { .. }
            | Call::Resume { .. }
            | Call::State { .. } => None,
        }
    }
}

/// The whole argument vector, the program's name included.
pub(super) fn arguments(config: &RuntimeConfig, call: &Call<'_>) -> Vec<OsString> {
    let mut list = List(vec![config.path.clone().into()]);
    for option in &config.options {
        list.push(option);
    }
    list.option("--root", &config.root);
    list.option("--log", LOG);
    list.option("--log-format", "json");
    if config.systemd_cgroup {
        list.push("--systemd-cgroup");
    }
    list.push(call.command());
    list.command(call);
    list.0
}

struct List(Vec<OsString>);

impl List {
    fn push(&mut self, argument: impl Into<OsString>) {
        self.0.push(argument.into());
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.push(name);
        self.push(value);
    }

    fn process(&mut self, pid_file: &Path, console_socket: Option<&Path>) {
        self.option("--pid-file", pid_file);
        if let Some(socket) = console_socket {
            self.option("--console-socket", socket);
        }
    }

    /// A server that has clients, and one that locks its files, are no reason to refuse.
    fn criu(&mut self, checkpoint: &Checkpoint) {
        self.option("--image-path", &checkpoint.images);
        self.option("--work-path", &checkpoint.work);
        self.push("--tcp-established");
        self.push("--file-locks");
    }

    fn command(&mut self, call: &Call<'_>) {
        match *call {
            Call::Create {
                id,
                bundle,
                pid_file,
                console_socket,
            } => {
                self.option("--bundle", bundle);
                self.process(pid_file, console_socket);
                self.push(id);
            }
            Call::Start { id } | Call::Pause { id } | Call::Resume { id } | Call::State { id } => {
                self.push(id);
            }
            Call::Kill { id, signal, all } => {
                if all {
                    self.push("--all");
                }
                self.push(id);
                self.push(signal.to_string());
            }
            Call::Delete { id, force } => {
                if force {
                    self.push("--force");
                }
                self.push(id);
            }
            Call::Exec {
                id,
                pid_file,
                console_socket,
            } => {
                self.option("--process", DOCUMENT);
                self.push("--detach");
                self.process(pid_file, console_socket);
                self.push(id);
            }
            Call::Update { id } => {
                self.option("--resources", DOCUMENT);
                self.push(id);
            }
            Call::Restore {
                id,
                bundle,
                pid_file,
                console_socket,
                checkpoint,
            } => {
                self.option("--bundle", bundle);
                self.push("--detach");
                self.process(pid_file, console_socket);
                self.criu(checkpoint);
                self.push(id);
            }
            Call::Checkpoint { id, checkpoint, .. } => {
                self.push("--leave-running");
                self.criu(checkpoint);
                self.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(systemd_cgroup: bool) -> RuntimeConfig {
        RuntimeConfig {
            path: "/usr/bin/oci".into(),
            root: "/run/oci".into(),
            options: vec!["--debug".into()],
            systemd_cgroup,
            ..RuntimeConfig::default()
        }
    }

    fn line(config: &RuntimeConfig, call: &Call<'_>) -> String {
        let words = arguments(config, call);
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    const START: &str =
        "/usr/bin/oci --debug --root /run/oci --log /proc/self/fd/3 --log-format json";

    fn check(rows: &[(Call<'_>, &str)]) {
        for (call, expect) in rows {
            assert_eq!(line(&config(false), call), format!("{START} {expect}"));
            assert_eq!(
                line(&config(true), call),
                format!("{START} --systemd-cgroup {expect}")
            );
        }
    }

    const ID: &str = "c1";

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            images: "/i".into(),
            work: "/w".into(),
        }
    }

    #[test]
    fn calls_that_make_processes_have_their_golden_arguments() {
        let pid_file = Path::new("/r/pid-1");
        let bundle = Path::new("/b");
        let create = |console_socket| Call::Create {
            id: ID,
            bundle,
            pid_file,
            console_socket,
        };
        let exec = |console_socket| Call::Exec {
            id: ID,
            pid_file,
            console_socket,
        };
        let from = checkpoint();
        let restore = |console_socket| Call::Restore {
            id: ID,
            bundle,
            pid_file,
            console_socket,
            checkpoint: &from,
        };
        let socket = Some(Path::new("/r/tty-1"));
        check(&[
            (
                restore(None),
                "restore --bundle /b --detach --pid-file /r/pid-1 --image-path /i --work-path /w \
                 --tcp-established --file-locks c1",
            ),
            (
                restore(socket),
                "restore --bundle /b --detach --pid-file /r/pid-1 --console-socket /r/tty-1 \
                 --image-path /i --work-path /w --tcp-established --file-locks c1",
            ),
            (create(None), "create --bundle /b --pid-file /r/pid-1 c1"),
            (
                create(socket),
                "create --bundle /b --pid-file /r/pid-1 --console-socket /r/tty-1 c1",
            ),
            (
                exec(None),
                "exec --process /proc/self/fd/4 --detach --pid-file /r/pid-1 c1",
            ),
            (
                exec(socket),
                "exec --process /proc/self/fd/4 --detach --pid-file /r/pid-1 \
                 --console-socket /r/tty-1 c1",
            ),
        ]);
    }

    #[test]
    fn the_other_calls_have_their_golden_arguments() {
        let kill = |signal, all| Call::Kill {
            id: ID,
            signal,
            all,
        };
        let delete = |force| Call::Delete { id: ID, force };
        check(&[
            (Call::Start { id: ID }, "start c1"),
            (kill(15, false), "kill c1 15"),
            (kill(9, true), "kill --all c1 9"),
            (delete(false), "delete c1"),
            (delete(true), "delete --force c1"),
            (
                Call::Update { id: ID },
                "update --resources /proc/self/fd/4 c1",
            ),
            (
                Call::Checkpoint {
                    id: ID,
                    checkpoint: &checkpoint(),
                    limit: None,
                },
                "checkpoint --leave-running --image-path /i --work-path /w --tcp-established \
                 --file-locks c1",
            ),
            (Call::Pause { id: ID }, "pause c1"),
            (Call::Resume { id: ID }, "resume c1"),
            (Call::State { id: ID }, "state c1"),
        ]);
    }
}
