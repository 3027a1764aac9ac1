//! Who descends from a process. Pure but for the reading of /proc.

use std::collections::BTreeSet;

use crate::cgroup;
use crate::sys::signal;

/// What is known of a process.
#[derive(Clone, Copy, Debug)]
struct Relation {
    pid: i32,
    parent: i32,
    session: i32,
}

/// The processes that an exec and what it started are made of, for as long as they are hunted.
#[derive(Debug)]
pub(crate) struct Family {
    /// All that were ever found: a child whose parent is gone is known by its session still.
    known: BTreeSet<i32>,
    group: Option<std::path::PathBuf>,
}

impl Family {
    /// The family of a process that lives, or whose zombie was not taken yet.
    pub(crate) fn of(pid: i32) -> Family {
        Family {
            known: BTreeSet::from([pid]),
            group: cgroup::of(pid).ok().and_then(|groups| groups.any),
        }
    }

    /// Signals all who are alive. Answers how many there were.
    pub(crate) fn signal(&mut self, signal: u8) -> usize {
        let alive = self.alive();
        for pid in &alive {
            // Who is gone by now needs no signal.
            drop(signal::kill(*pid, signal));
        }
        alive.len()
    }

    fn alive(&mut self) -> Vec<i32> {
        let candidates = match &self.group {
            Some(group) => cgroup::processes(group),
            None => all(),
        };
        let relations: Vec<Relation> = candidates.into_iter().filter_map(relation).collect();
        extend(&mut self.known, &relations);
        relations
            .iter()
            .map(|relation| relation.pid)
            .filter(|pid| self.known.contains(pid))
            .collect()
    }
}

/// Adds all whose parent or session leader is known, and theirs.
fn extend(known: &mut BTreeSet<i32>, relations: &[Relation]) {
    loop {
        let before = known.len();
        for relation in relations {
            if known.contains(&relation.parent) || known.contains(&relation.session) {
                known.insert(relation.pid);
            }
        }
        if known.len() == before {
            return;
        }
    }
}

fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

fn relation(pid: i32) -> Option<Relation> {
    parse(
        pid,
        &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
    )
}

/// Reads `pid (name) state parent group session …`, where the name may contain anything
/// (proc_pid_stat(5)). A zombie is not alive.
fn parse(pid: i32, stat: &str) -> Option<Relation> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Relation {
        pid,
        parent,
        session,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let relation = parse(9, "9 (a) b) (c) S 4 9 7 0 -1").unwrap();
        assert_eq!((relation.pid, relation.parent, relation.session), (9, 4, 7));
        assert!(parse(9, "9 (gone) Z 4 9 7 0 -1").is_none());
        assert!(parse(9, "").is_none());
    }

    #[test]
    fn a_family_has_children_of_children_and_those_of_its_sessions() {
        let row = |pid, parent, session| Relation {
            pid,
            parent,
            session,
        };
        // 10 is the root; 13 left the session, 14 lost its parent, 20 is a stranger.
        let relations = [
            row(13, 12, 13),
            row(12, 11, 10),
            row(11, 10, 10),
            row(10, 1, 10),
            row(14, 1, 10),
            row(20, 1, 20),
        ];
        let mut known = BTreeSet::from([10]);
        extend(&mut known, &relations);
        assert_eq!(Vec::from_iter(known), [10, 11, 12, 13, 14]);
    }
}
