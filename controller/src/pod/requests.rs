//! Which requests a container's and a pod's state allow: decided here, done elsewhere.
//!
//! No I/O, no lock, no clock. A repeated request is a row in these tables, not an `if` in a
//! handler: the kubelet repeats whatever it did not see the answer of.

use crate::store::v1::ContainerState;
use crate::view::PodPhase;

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Carry it out.
    Do,
    /// It is so already; answer with success.
    AlreadyDone,
    /// The like of it is under way; wait for that one's answer.
    Join,
    /// Something else is under way; decide again when that has ended.
    Defer,
    /// It cannot be; the state, in one word, is why.
    Denied(&'static str),
}

/// What is being done with a container right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// Nothing.
    Idle,
    /// Its program is being started.
    Starting,
    /// Its resources are being changed.
    Updating,
    /// It is being removed.
    Removing,
    /// Plugins are being told that it has ended.
    Telling,
}

/// StartContainer.
pub(super) fn start(state: &ContainerState, busy: Busy, pod_ready: bool) -> Decision {
    match (busy, state) {
        (Busy::Starting, _) => Decision::Join,
        (Busy::Updating, _) => Decision::Defer,
        (Busy::Removing, _) => Decision::Denied("being removed"),
        (Busy::Telling, _) => Decision::Denied("exited"),
        (Busy::Idle, ContainerState::Running(_)) => Decision::AlreadyDone,
        (Busy::Idle, ContainerState::Exited(_)) => Decision::Denied("exited"),
        (Busy::Idle, ContainerState::Created(_)) if pod_ready => Decision::Do,
        (Busy::Idle, ContainerState::Created(_)) => Decision::Denied("in a pod that is not ready"),
    }
}

/// StopContainer. Stops of one container may overlap: the monitor joins them, the shortest grace
/// period wins.
pub(super) fn stop(state: &ContainerState, busy: Busy) -> Decision {
    match (busy, state) {
        (Busy::Starting | Busy::Removing, _) => Decision::Defer,
        (Busy::Telling, _) => Decision::Join,
        (Busy::Idle | Busy::Updating, ContainerState::Exited(_)) => Decision::AlreadyDone,
        (Busy::Idle | Busy::Updating, ContainerState::Created(_) | ContainerState::Running(_)) => {
            Decision::Do
        }
    }
}

/// UpdateContainerResources. One at a time: each starts from what the one before left.
pub(super) fn update(state: &ContainerState, busy: Busy) -> Decision {
    match (busy, state) {
        (Busy::Removing, _) => Decision::Denied("being removed"),
        (_, ContainerState::Exited(_)) => Decision::Denied("exited"),
        (_, ContainerState::Created(created)) if created.restores => {
            Decision::Denied("not restored yet")
        }
        (Busy::Starting | Busy::Updating | Busy::Telling, _) => Decision::Defer,
        (Busy::Idle, _) => Decision::Do,
    }
}

/// RemoveContainer.
pub(super) fn remove(busy: Busy) -> Decision {
    match busy {
        Busy::Starting | Busy::Updating | Busy::Telling => Decision::Defer,
        Busy::Removing => Decision::Join,
        Busy::Idle => Decision::Do,
    }
}

/// CreateContainer, as far as the pod is concerned.
pub(super) fn create(phase: PodPhase) -> Decision {
    match phase {
        PodPhase::Ready => Decision::Do,
        PodPhase::Stopping => Decision::Denied("stopping"),
        PodPhase::NotReady => Decision::Denied("not ready"),
        PodPhase::Removing => Decision::Denied("being removed"),
    }
}

/// StopPodSandbox. `clean` says that an earlier stop left nothing behind.
pub(super) fn stop_pod(phase: PodPhase, clean: bool) -> Decision {
    match phase {
        PodPhase::Ready => Decision::Do,
        PodPhase::Stopping => Decision::Join,
        PodPhase::NotReady if clean => Decision::AlreadyDone,
        PodPhase::NotReady => Decision::Do,
        PodPhase::Removing => Decision::Join,
    }
}

/// RemovePodSandbox.
pub(super) fn remove_pod(phase: PodPhase) -> Decision {
    match phase {
        PodPhase::Ready | PodPhase::NotReady => Decision::Do,
        PodPhase::Stopping => Decision::Defer,
        PodPhase::Removing => Decision::Join,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::v1::{Created, Exited, Running};

    fn states() -> [ContainerState; 3] {
        [
            ContainerState::Created(Created::default()),
            ContainerState::Running(Running::default()),
            ContainerState::Exited(Exited::default()),
        ]
    }

    #[test]
    fn container_requests() {
        use Decision::{AlreadyDone, Defer, Denied, Do, Join};
        // Each row: busy, then the decisions for created, running, exited.
        let starts = [
            (Busy::Idle, [Do, AlreadyDone, Denied("exited")]),
            (Busy::Starting, [Join; 3]),
            (Busy::Updating, [Defer; 3]),
            (Busy::Removing, [Denied("being removed"); 3]),
            (Busy::Telling, [Denied("exited"); 3]),
        ];
        for (busy, expected) in starts {
            assert_eq!(
                states().map(|s| start(&s, busy, true)),
                expected,
                "{busy:?}"
            );
        }
        let stops = [
            (Busy::Idle, [Do, Do, AlreadyDone]),
            (Busy::Starting, [Defer; 3]),
            (Busy::Updating, [Do, Do, AlreadyDone]),
            (Busy::Removing, [Defer; 3]),
            (Busy::Telling, [Join; 3]),
        ];
        for (busy, expected) in stops {
            assert_eq!(states().map(|s| stop(&s, busy)), expected, "{busy:?}");
        }
        let updates = [
            (Busy::Idle, [Do, Do, Denied("exited")]),
            (Busy::Starting, [Defer, Defer, Denied("exited")]),
            (Busy::Updating, [Defer, Defer, Denied("exited")]),
            (Busy::Removing, [Denied("being removed"); 3]),
            (Busy::Telling, [Defer, Defer, Denied("exited")]),
        ];
        for (busy, expected) in updates {
            assert_eq!(states().map(|s| update(&s, busy)), expected, "{busy:?}");
        }
        assert_eq!(
            [
                Busy::Idle,
                Busy::Starting,
                Busy::Updating,
                Busy::Removing,
                Busy::Telling
            ]
            .map(remove),
            [Do, Defer, Defer, Join, Defer]
        );
        assert_eq!(
            start(&states()[0], Busy::Idle, false),
            Denied("in a pod that is not ready")
        );
    }

    #[test]
    fn pod_requests() {
        use Decision::{AlreadyDone, Defer, Denied, Do, Join};
        let phases = [
            PodPhase::Ready,
            PodPhase::Stopping,
            PodPhase::NotReady,
            PodPhase::Removing,
        ];
        assert_eq!(
            phases.map(create),
            [
                Do,
                Denied("stopping"),
                Denied("not ready"),
                Denied("being removed")
            ]
        );
        assert_eq!(
            phases.map(|p| stop_pod(p, true)),
            [Do, Join, AlreadyDone, Join]
        );
        assert_eq!(
            phases.map(|p| stop_pod(p, false)),
            [Do, Join, Do, Join],
            "a stop that left something behind is done again"
        );
        assert_eq!(phases.map(remove_pod), [Do, Defer, Do, Join]);
    }
}
