//! Records of containers brought up to date: what the store has, what the monitor says, what that means
//! has happened. Pure.

use std::collections::HashSet;

use pod_monitor_client::schema::{ContainerPhase, PodState};

use crate::container::exits;
use crate::events::Kind;
use crate::store::v1::{ContainerRecord, ContainerState, Created, Running};

/// Records brought up to date.
#[derive(Default)]
pub(super) struct Updated {
    pub(super) containers: Vec<ContainerRecord>,
    /// The ids of those to be written.
    pub(super) changed: HashSet<String>,
    /// What happened to them, by id.
    pub(super) news: Vec<(String, Kind)>,
}

impl Updated {
    fn apply(&mut self, record: &mut ContainerRecord, next: ContainerState) {
        self.changed.insert(record.id.clone());
        self.news.extend(happened(record, &next));
        record.state = Some(next);
    }
}

/// The records as the monitor knows the containers.
pub(super) fn apply_state(mut containers: Vec<ContainerRecord>, state: &PodState) -> Updated {
    let mut updated = Updated::default();
    for record in &mut containers {
        let known = state.containers.iter().find(|known| known.id == record.id);
        let next = match known {
            Some(known) => advance(record, known.pid, &known.phase),
            None if record.is_exited() || record.awaits_restore() => None,
            None => Some(exits::lost(&record.state(), "its monitor does not know it")),
        };
        if let Some(next) = next {
            updated.apply(record, next);
        }
    }
    Updated {
        containers,
        ..updated
    }
}

/// What brought a container from the state in its record to the next one.
fn happened(record: &ContainerRecord, next: &ContainerState) -> Vec<(String, Kind)> {
    let (started, ended) = match next {
        ContainerState::Created(_) => (false, false),
        ContainerState::Running(_) => (true, false),
        ContainerState::Exited(exited) => (exited.started_at > 0, true),
    };
    let started = started && matches!(record.state, Some(ContainerState::Created(_)));
    let kinds = [(started, Kind::Started), (ended, Kind::Stopped)];
    let kinds = kinds.into_iter().filter(|(so, _)| *so);
    kinds.map(|(_, kind)| (record.id.clone(), kind)).collect()
}

/// The state that follows from what the monitor says, if it is another one.
fn advance(record: &ContainerRecord, pid: u32, phase: &ContainerPhase) -> Option<ContainerState> {
    let running = |started_at: i64| ContainerState::Running(Running { pid, started_at });
    let created = |pid| Created {
        pid,
        restores: false,
    };
    let next = match phase {
        ContainerPhase::Created => ContainerState::Created(created(pid)),
        ContainerPhase::Running { started_at } | ContainerPhase::Paused { started_at } => {
            running(*started_at)
        }
        ContainerPhase::Exited { started_at, exit } => {
            let before = match started_at {
                Some(started_at) => running(*started_at),
                None => ContainerState::Created(created(pid)),
            };
            if record.is_exited() {
                return None;
            }
            exits::after(&before, exit)?
        }
    };
    (record.state.as_ref() != Some(&next)).then_some(next)
}

pub(super) fn lose(mut containers: Vec<ContainerRecord>, why: &str) -> Updated {
    let mut updated = Updated::default();
    for record in containers.iter_mut().filter(|record| !record.is_exited()) {
        let next = exits::lost(&record.state(), why);
        updated.apply(record, next);
    }
    Updated {
        containers,
        ..updated
    }
}

#[cfg(test)]
mod tests {
    use pod_monitor_client::schema::{ContainerState as Known, Exit, ExitStatus};

    use super::*;

    fn record(id: &str, state: ContainerState) -> ContainerRecord {
        ContainerRecord {
            id: id.into(),
            state: Some(state),
            ..ContainerRecord::default()
        }
    }

    fn created(restores: bool) -> Created {
        Created {
            pid: if restores { 0 } else { 7 },
            restores,
        }
    }

    fn known(id: &str, phase: ContainerPhase) -> Known {
        Known {
            id: id.into(),
            pid: 7,
            created_at: 1,
            phase,
            log_bytes_lost: 0,
            terminal: false,
        }
    }

    #[test]
    fn the_monitor_knows_better_than_the_record() {
        let running = ContainerState::Running(Running {
            pid: 7,
            started_at: 2,
        });
        let exit = Exit {
            status: ExitStatus::Code(3),
            at: 9,
            oom_killed: false,
        };
        let state = PodState {
            containers: vec![
                known("same", ContainerPhase::Running { started_at: 2 }),
                known(
                    "ended",
                    ContainerPhase::Exited {
                        started_at: Some(2),
                        exit,
                    },
                ),
                known("started", ContainerPhase::Running { started_at: 2 }),
            ],
            last_event: 5,
        };
        let records = vec![
            record("same", running.clone()),
            record("ended", running.clone()),
            record("started", ContainerState::Created(created(false))),
            record("to restore", ContainerState::Created(created(true))),
            record("forgotten", running.clone()),
        ];
        let Updated {
            containers: records,
            changed,
            news,
        } = apply_state(records, &state);
        assert_eq!(records[0].state, Some(running.clone()));
        let ContainerState::Exited(ended) = records[1].state() else {
            panic!("not exited");
        };
        assert_eq!((ended.started_at, ended.finished_at, ended.code), (2, 9, 3));
        assert_eq!(records[2].state, Some(running));
        assert!(records[3].awaits_restore(), "no monitor can know it yet");
        assert!(records[4].is_exited());
        let expected = [
            ("ended", Kind::Stopped),
            ("started", Kind::Started),
            ("forgotten", Kind::Stopped),
        ];
        let ids = expected.map(|(id, _)| id.to_owned());
        assert_eq!(changed, HashSet::from(ids));
        assert_eq!(news, expected.map(|(id, kind)| (id.to_owned(), kind)));
    }

    #[test]
    fn a_container_that_started_and_ended_unseen_is_told_of_twice() {
        let exit = Exit {
            status: ExitStatus::Code(0),
            at: 9,
            oom_killed: false,
        };
        let rows = [
            (Some(2), vec![Kind::Started, Kind::Stopped]),
            (None, vec![Kind::Stopped]),
        ];
        for (started_at, expected) in rows {
            let state = PodState {
                containers: vec![known("c", ContainerPhase::Exited { started_at, exit })],
                last_event: 1,
            };
            let created = record("c", ContainerState::Created(created(false)));
            let news = apply_state(vec![created], &state).news;
            let kinds: Vec<Kind> = news.into_iter().map(|(_, kind)| kind).collect();
            assert_eq!(kinds, expected);
        }
    }
}
