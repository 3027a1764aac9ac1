//! `husk upgrade-monitors`: every monitor executes the daemon's monitor program, while its pod runs on.

use std::io::Write;

use serde::Serialize;

use super::arguments::Output;
use super::daemon::Daemon;
use super::table::{columns, row, short};
use super::{Failure, write_json};
use crate::admin::v1 as admin;
use crate::config::Config;

/// What became of one monitor.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Upgrade {
    pod: String,
    namespace: String,
    name: String,
    pid: u32,
    /// Why it was not upgraded.
    error: Option<String>,
}

pub(super) async fn run(
    config: &Config,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let daemon = Daemon::connect(config).await?;
    let request = admin::UpgradeMonitorsRequest {};
    let answer = daemon.admin().upgrade_monitors(request).await;
    let answer = answer
        .map_err(Failure::call("upgrading the monitors"))?
        .into_inner();
    let upgrades: Vec<Upgrade> = answer.upgrades.into_iter().map(decode).collect();
    if output.json {
        write_json(&upgrades, out)?;
    } else {
        out.write_all(show(&upgrades).as_bytes())?;
    }
    match failed(&upgrades) {
        0 => Ok(()),
        count => {
            let all = upgrades.len();
            let why = format!("{count} of {all} monitors were not upgraded");
            Err(Failure::Amiss(why))
        }
    }
}

fn decode(upgrade: admin::MonitorUpgrade) -> Upgrade {
    let monitor = upgrade.monitor.unwrap_or_default();
    Upgrade {
        pod: monitor.pod_id,
        namespace: monitor.pod_namespace,
        name: monitor.pod_name,
        pid: monitor.pid,
        error: Some(upgrade.error).filter(|error| !error.is_empty()),
    }
}

fn failed(upgrades: &[Upgrade]) -> usize {
    let failed = upgrades.iter().filter(|upgrade| upgrade.error.is_some());
    failed.count()
}

fn show(upgrades: &[Upgrade]) -> String {
    let mut rows = vec![row(&["POD", "NAME", "MONITOR", "RESULT"])];
    rows.extend(upgrades.iter().map(|upgrade| {
        vec![
            short(&upgrade.pod),
            format!("{}/{}", upgrade.namespace, upgrade.name),
            upgrade.pid.to_string(),
            upgrade.error.clone().unwrap_or_else(|| "upgraded".into()),
        ]
    }));
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_became_of_each() {
        let upgrade = |pod: &str, pid, error: &str| {
            decode(admin::MonitorUpgrade {
                monitor: Some(admin::Monitor {
                    pod_id: pod.into(),
                    pod_name: "web".into(),
                    pod_namespace: "default".into(),
                    pid,
                    restarts: 0,
                }),
                error: error.into(),
            })
        };
        let upgrades = [upgrade("aaaaaaaaaaaaaaaa", 7, ""), upgrade("b", 8, "busy")];
        let expected = "\
POD           NAME         MONITOR  RESULT
aaaaaaaaaaaa  default/web  7        upgraded
b             default/web  8        busy
";
        assert_eq!(show(&upgrades), expected);
        assert_eq!(failed(&upgrades), 1);
    }
}
