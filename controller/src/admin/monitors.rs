//! The pods' monitors, as an operator sees them.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use super::{MonitorInfo, MonitorList};
use crate::chain::chain;
use crate::pod::{Pods, UPGRADES};
use crate::view::PodView;

impl MonitorList for Pods {
    fn monitors(&self) -> Vec<MonitorInfo> {
        let info = |pod: Arc<PodView>| {
            let metadata = pod.record.config().metadata.unwrap_or_default();
            Some(MonitorInfo {
                pod_id: pod.record.id.clone(),
                pod_name: metadata.name,
                pod_namespace: metadata.namespace,
                pid: pod.monitor.as_ref()?.pid(),
                restarts: pod.record.monitor_restarts,
            })
        };
        self.list().into_iter().filter_map(info).collect()
    }

    fn upgrade(&self) -> BoxFuture<'static, Vec<(MonitorInfo, Result<(), String>)>> {
        let pods = self.clone();
        let upgrades = self.monitors().into_iter().map(move |monitor| {
            let pods = pods.clone();
            async move {
                let upgraded = pods.upgrade_monitor(&monitor.pod_id).await;
                (monitor, upgraded.map_err(|error| chain(&*error)))
            }
        });
        let upgrades = futures::stream::iter(upgrades);
        upgrades.buffered(UPGRADES).collect().boxed()
    }
}
