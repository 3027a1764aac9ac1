//! Which pods, containers and images a list was asked for. Pure.

use std::collections::HashMap;

use husk_cri_api::v1;

use crate::store::v1::ContainerRecord;
use crate::view::PodView;

use super::views;

type Labels = HashMap<String, String>;

/// Labels are looked up only where some are asked for, which the kubelet does not in its lists.
fn labels_match(selector: &Labels, labels: impl FnOnce() -> Labels) -> bool {
    if selector.is_empty() {
        return true;
    }
    let labels = labels();
    let mut wanted = selector.iter();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn pod(filter: Option<&v1::PodSandboxFilter>, pod: &PodView) -> bool {
    let Some(filter) = filter else { return true };
    pod.record.id.starts_with(&filter.id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state() == views::pod_state(pod.phase))
        && labels_match(&filter.label_selector, || pod.record.config().labels)
}

pub(super) fn container(filter: Option<&v1::ContainerFilter>, container: &ContainerRecord) -> bool {
    let Some(filter) = filter else { return true };
    container.id.starts_with(&filter.id)
        && container.pod_id.starts_with(&filter.pod_sandbox_id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state() == views::container_state(container))
        && labels_match(&filter.label_selector, || container.config().labels)
}

pub(super) fn container_stats(
    filter: Option<&v1::ContainerStatsFilter>,
    container: &ContainerRecord,
) -> bool {
    let Some(filter) = filter else { return true };
    container.id.starts_with(&filter.id)
        && container.pod_id.starts_with(&filter.pod_sandbox_id)
        && labels_match(&filter.label_selector, || container.config().labels)
}

pub(super) fn pod_stats(filter: Option<&v1::PodSandboxStatsFilter>, pod: &PodView) -> bool {
    let Some(filter) = filter else { return true };
    pod.record.id.starts_with(&filter.id)
        && labels_match(&filter.label_selector, || pod.record.config().labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::v1::{ContainerState, Running, pack};

    #[test]
    fn all_conditions_of_a_filter_must_hold() {
        let config = v1::ContainerConfig {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..v1::ContainerConfig::default()
        };
        let record = ContainerRecord {
            id: "abc".into(),
            pod_id: "pod".into(),
            packed_config: pack(&config),
            state: Some(ContainerState::Running(Running::default())),
            ..ContainerRecord::default()
        };
        let running = Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning.into(),
        });
        let exited = Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerExited.into(),
        });
        let filter = |id: &str, pod: &str, state, label: &str| v1::ContainerFilter {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            state,
            label_selector: [("app".to_owned(), label.to_owned())].into(),
        };
        let rows = [
            (filter("abc", "pod", running, "web"), true),
            (filter("a", "", None, "web"), true),
            (filter("b", "", None, "web"), false),
            (filter("", "other", None, "web"), false),
            (filter("", "", exited, "web"), false),
            (filter("", "", running, "db"), false),
        ];
        for (filter, expected) in rows {
            assert_eq!(container(Some(&filter), &record), expected, "{filter:?}");
        }
        assert!(container(None, &record));
    }
}
