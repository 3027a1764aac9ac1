//! A container's life, and what may be asked of it when. Pure: no process, no clock.

use pod_monitor_schema::{ContainerPhase, Exit};

/// How far a container's life has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Life {
    /// The OCI runtime is making it.
    Creating,
    /// Its first process exists. Times are nanoseconds since the Unix epoch.
    Made {
        pid: i32,
        created_at: i64,
        phase: ContainerPhase,
    },
}

/// What can be asked of a container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Request {
    Start,
    Signal,
    Stop,
    Delete { force: bool },
    Exec,
    Update,
    Attach,
    Resize,
    ReopenLog,
    Pause,
    Resume,
    Escrow,
}

/// What is to be done about a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Do,
    /// It is as it was asked to be.
    Done,
    /// Not now, and why.
    Denied(&'static str),
}

impl Life {
    pub(crate) fn phase(&self) -> Option<ContainerPhase> {
        match self {
            Life::Creating => None,
            Life::Made { phase, .. } => Some(*phase),
        }
    }

    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.phase()? {
            ContainerPhase::Exited { exit, .. } => Some(exit),
            ContainerPhase::Created
            | ContainerPhase::Running { .. }
            | ContainerPhase::Paused { .. } => None,
        }
    }

    /// The first process, while it has not been found to have ended.
    pub(crate) fn live_pid(&self) -> Option<i32> {
        match self {
            Life::Made { pid, .. } if self.exit().is_none() => Some(*pid),
            Life::Made { .. } | Life::Creating => None,
        }
    }

    pub(crate) fn judge(&self, request: Request) -> Verdict {
        match self.phase() {
            None => Verdict::Denied("it is being created"),
            Some(ContainerPhase::Created) => judge_created(request),
            Some(ContainerPhase::Running { .. }) => judge_running(request),
            Some(ContainerPhase::Paused { .. }) => judge_paused(request),
            Some(ContainerPhase::Exited { .. }) => judge_exited(request),
        }
    }

    /// The program runs, from now on or again.
    pub(crate) fn run(&mut self, now: i64) {
        self.change(|phase| match phase {
            ContainerPhase::Created => ContainerPhase::Running { started_at: now },
            ContainerPhase::Paused { started_at } => ContainerPhase::Running { started_at },
            // It ended before the runtime had answered.
            ContainerPhase::Exited {
                started_at: None,
                exit,
            } => ContainerPhase::Exited {
                started_at: Some(now.min(exit.at)),
                exit,
            },
            other @ (ContainerPhase::Running { .. } | ContainerPhase::Exited { .. }) => other,
        });
    }

    pub(crate) fn pause(&mut self) {
        self.change(|phase| match phase {
            ContainerPhase::Running { started_at } => ContainerPhase::Paused { started_at },
            other @ (ContainerPhase::Created
            | ContainerPhase::Paused { .. }
            | ContainerPhase::Exited { .. }) => other,
        });
    }

    pub(crate) fn end(&mut self, exit: Exit) {
        self.change(|phase| match phase {
            ContainerPhase::Created => ContainerPhase::Exited {
                started_at: None,
                exit,
            },
            ContainerPhase::Running { started_at } | ContainerPhase::Paused { started_at } => {
                ContainerPhase::Exited {
                    // The runtime may have answered after the end.
                    started_at: Some(started_at.min(exit.at)),
                    exit,
                }
            }
            first @ ContainerPhase::Exited { .. } => first,
        });
    }

    fn change(&mut self, next: impl FnOnce(ContainerPhase) -> ContainerPhase) {
        if let Life::Made { phase, .. } = self {
            *phase = next(*phase);
        }
    }
}

const NOT_STARTED: &str = "it has not been started";
const EXITED: &str = "it has exited";
const PAUSED: &str = "it is paused";

fn judge_created(request: Request) -> Verdict {
    match request {
        Request::Start
        | Request::Signal
        | Request::Stop
        | Request::Delete { force: true }
        | Request::Attach
        | Request::Resize
        | Request::ReopenLog
        | Request::Escrow
        | Request::Update => Verdict::Do,
        Request::Delete { force: false } => Verdict::Denied("its process has not ended"),
        Request::Exec | Request::Pause | Request::Resume => Verdict::Denied(NOT_STARTED),
    }
}

fn judge_running(request: Request) -> Verdict {
    match request {
        Request::Start => Verdict::Denied("it runs already"),
        Request::Delete { force: false } => Verdict::Denied("it runs"),
        Request::Resume => Verdict::Done,
        Request::Signal
        | Request::Stop
        | Request::Delete { force: true }
        | Request::Exec
        | Request::Update
        | Request::Attach
        | Request::Resize
        | Request::ReopenLog
        | Request::Escrow
        | Request::Pause => Verdict::Do,
    }
}

fn judge_paused(request: Request) -> Verdict {
    match request {
        Request::Start => Verdict::Denied("it runs already"),
        Request::Delete { force: false } => Verdict::Denied(PAUSED),
        Request::Pause => Verdict::Done,
        Request::Exec => Verdict::Denied(PAUSED),
        Request::Signal
        | Request::Stop
        | Request::Update
        | Request::Delete { force: true }
        | Request::Attach
        | Request::Resize
        | Request::ReopenLog
        | Request::Escrow
        | Request::Resume => Verdict::Do,
    }
}

fn judge_exited(request: Request) -> Verdict {
    match request {
        Request::Delete { .. } => Verdict::Do,
        Request::Stop => Verdict::Done,
        Request::Start
        | Request::Signal
        | Request::Exec
        | Request::Update
        | Request::Attach
        | Request::Resize
        | Request::ReopenLog
        | Request::Pause
        | Request::Resume
        | Request::Escrow => Verdict::Denied(EXITED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pod_monitor_schema::ExitStatus;

    const EXIT: Exit = Exit {
        status: ExitStatus::Code(3),
        at: 50,
        oom_killed: false,
    };

    fn made(phase: ContainerPhase) -> Life {
        Life::Made {
            pid: 7,
            created_at: 1,
            phase,
        }
    }

    #[test]
    fn requests_are_judged_by_phase() {
        use Request::*;
        let created = made(ContainerPhase::Created);
        let running = made(ContainerPhase::Running { started_at: 2 });
        let paused = made(ContainerPhase::Paused { started_at: 2 });
        let exited = made(ContainerPhase::Exited {
            started_at: Some(2),
            exit: EXIT,
        });
        // d: do, =: done, x: denied; for creating, created, running, paused, exited.
        let rows = [
            (Start, "xdxxx"),
            (Signal, "xdddx"),
            (Stop, "xddd="),
            (Delete { force: false }, "xxxxd"),
            (Delete { force: true }, "xdddd"),
            (Exec, "xxdxx"),
            (Update, "xdddx"),
            (Attach, "xdddx"),
            (Resize, "xdddx"),
            (ReopenLog, "xdddx"),
            (Pause, "xxd=x"),
            (Resume, "xx=dx"),
            (Escrow, "xdddx"),
        ];
        for (request, expect) in rows {
            let verdicts: String = [Life::Creating, created, running, paused, exited]
                .iter()
                .map(|life| match life.judge(request) {
                    Verdict::Do => 'd',
                    Verdict::Done => '=',
                    Verdict::Denied(_) => 'x',
                })
                .collect();
            assert_eq!(verdicts, expect, "{request:?}");
        }
    }

    #[test]
    fn an_end_that_overtakes_the_start_keeps_both_times() {
        let expect = ContainerPhase::Exited {
            started_at: Some(50),
            exit: EXIT,
        };
        let mut life = made(ContainerPhase::Created);
        life.end(EXIT);
        life.run(60);
        assert_eq!(life.phase(), Some(expect));
        assert_eq!(life.live_pid(), None);
        life.end(Exit { at: 70, ..EXIT });
        assert_eq!(life.exit(), Some(EXIT));

        let mut life = made(ContainerPhase::Created);
        life.run(60);
        life.end(EXIT);
        assert_eq!(life.phase(), Some(expect));
    }

    #[test]
    fn a_pause_keeps_the_start() {
        let mut life = made(ContainerPhase::Created);
        life.pause();
        assert_eq!(life.phase(), Some(ContainerPhase::Created));
        life.run(5);
        life.pause();
        assert_eq!(life.phase(), Some(ContainerPhase::Paused { started_at: 5 }));
        life.run(9);
        assert_eq!(
            life.phase(),
            Some(ContainerPhase::Running { started_at: 5 })
        );
        assert_eq!(life.live_pid(), Some(7));
    }
}
