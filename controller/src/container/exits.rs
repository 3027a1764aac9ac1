//! What an end means in the CRI's words. Pure.

use pod_monitor_client::schema::{ErrorCode, Exit, ExitStatus};

use crate::chain::chain;
use crate::error::PodError;
use crate::store::v1::{ContainerState, Exited};

/// What a shell adds to a signal's number.
const SIGNALLED: i32 = 128;
/// The code of an end that nobody can tell.
const UNKNOWN: i32 = 255;
const SIGKILL: i32 = 9;

/// The state after an exit, or none where the end is known already. A program may end before the OCI runtime has told
/// that it was started, and nothing ends before its start.
pub fn after(state: &ContainerState, exit: &Exit) -> Option<ContainerState> {
    let started_at = started_at(state)?;
    let (code, reason) = match exit.status {
        ExitStatus::Code(code) => (i32::from(code), by_code(i32::from(code))),
        ExitStatus::Signal(signal) => (SIGNALLED + i32::from(signal), "Error"),
        ExitStatus::TimedOut => (SIGNALLED + SIGKILL, "Error"),
        ExitStatus::Lost => (UNKNOWN, "Unknown"),
    };
    let reason = if exit.oom_killed { "OOMKilled" } else { reason };
    Some(ContainerState::Exited(Exited {
        started_at: started_at.min(exit.at),
        finished_at: exit.at,
        code,
        reason: reason.into(),
        message: String::new(),
    }))
}

fn by_code(code: i32) -> &'static str {
    if code == 0 { "Completed" } else { "Error" }
}

/// When it started, 0 if it did not; none when it has ended.
fn started_at(state: &ContainerState) -> Option<i64> {
    match state {
        ContainerState::Created(_) => Some(0),
        ContainerState::Running(running) => Some(running.started_at),
        ContainerState::Exited(_) => None,
    }
}

/// Whether a failed start has ended the container: the OCI runtime refused, or did not come back.
/// Anything else, such as too many calls at once, leaves it as it was.
pub fn is_fatal(error: &PodError) -> bool {
    let (PodError::Monitor { source, .. } | PodError::Criu { source, .. }) = error else {
        return false;
    };
    matches!(
        source.code(),
        Some(
            ErrorCode::RuntimeFailed
                | ErrorCode::RuntimeMissing
                | ErrorCode::DeadlineExceeded
                | ErrorCode::Internal
                | ErrorCode::Io
        )
    )
}

/// The state of a container whose program could not be started. Code and reason as peers give them,
/// because the kubelet shows them to people.
pub fn start_failed(error: &PodError) -> ContainerState {
    ContainerState::Exited(Exited {
        started_at: 0,
        finished_at: crate::clock::now(),
        code: 128,
        reason: "StartError".into(),
        message: chain(error),
    })
}

/// The state of a container whose end nobody saw.
pub fn lost(state: &ContainerState, message: &str) -> ContainerState {
    ContainerState::Exited(Exited {
        started_at: started_at(state).unwrap_or_default(),
        finished_at: crate::clock::now(),
        code: UNKNOWN,
        reason: "Unknown".into(),
        message: message.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::v1::{Created, Running};

    #[test]
    fn ends_in_the_cris_words() {
        let running = ContainerState::Running(Running {
            pid: 1,
            started_at: 10,
        });
        let rows = [
            (ExitStatus::Code(0), false, 0, "Completed"),
            (ExitStatus::Code(3), false, 3, "Error"),
            (ExitStatus::Signal(15), false, 143, "Error"),
            (ExitStatus::Signal(9), true, 137, "OOMKilled"),
            (ExitStatus::Code(0), true, 0, "OOMKilled"),
            (ExitStatus::Lost, false, 255, "Unknown"),
        ];
        for (status, oom_killed, code, reason) in rows {
            let exit = Exit {
                status,
                at: 20,
                oom_killed,
            };
            let expected = ContainerState::Exited(Exited {
                started_at: 10,
                finished_at: 20,
                code,
                reason: reason.into(),
                message: String::new(),
            });
            assert_eq!(after(&running, &exit), Some(expected.clone()));
            assert_eq!(after(&expected, &exit), None, "news of a known end");
        }
    }

    #[test]
    fn no_start_is_later_than_the_end() {
        let running = ContainerState::Running(Running {
            pid: 1,
            started_at: 10,
        });
        let exit = Exit {
            status: ExitStatus::Code(0),
            at: 7,
            oom_killed: false,
        };
        let Some(ContainerState::Exited(exited)) = after(&running, &exit) else {
            panic!("not exited");
        };
        assert_eq!((exited.started_at, exited.finished_at), (7, 7));
    }

    #[test]
    fn a_container_that_never_ran_has_no_start_time() {
        let created = ContainerState::Created(Created::default());
        let ContainerState::Exited(exited) = lost(&created, "gone") else {
            panic!("not exited");
        };
        assert_eq!((exited.started_at, exited.code), (0, 255));
        assert_eq!(exited.message, "gone");
    }
}
