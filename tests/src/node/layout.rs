//! The files of a private node: Husk's configuration, a CNI network, registries.conf.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::NodeOptions;
use crate::settings;

/// Writes what `husk serve` reads into `directory`.
pub(super) fn write(directory: &Path, options: &NodeOptions) -> Result<()> {
    for part in [
        "cni",
        "logs",
        "certs.d",
        "husk.toml.d",
        fault_point::DIRECTORY,
    ] {
        fs::create_dir_all(directory.join(part))?;
    }
    fs::write(
        directory.join("husk.toml"),
        configuration(directory, options)?,
    )
    .context("write husk.toml")?;
    fs::write(
        directory.join("husk.toml.d/50-test.toml"),
        &options.configuration,
    )?;
    fs::write(directory.join("registries.conf"), &options.registries)?;
    let network = options.network.clone().unwrap_or_else(|| bridge(directory));
    if !network.is_empty() {
        fs::write(directory.join("cni/10-test.conflist"), network)?;
    }
    Ok(())
}

fn configuration(directory: &Path, options: &NodeOptions) -> Result<String> {
    let place = directory.display();
    let monitor = match options.monitor {
        Some(feature) => settings::pod_monitor_with(feature)?,
        None => settings::pod_monitor()?,
    };
    let driver = settings::cgroup_driver().unwrap_or_else(|| "auto".to_owned());
    Ok(format!(
        r#"root = "{place}/root"
run = "{place}/run"
socket = "{place}/husk.sock"

[cgroup]
driver = "{driver}"

[network]
conf_dir = "{place}/cni"

[image]
registries_conf = "{place}/registries.conf"
certs_dirs = ["{place}/certs.d"]

[monitor]
path = "{}"

[nri]
socket = "{place}/nri.sock"
plugin_dir = "{place}/nri-plugins"
plugin_config_dir = "{place}/nri-configs"
"#,
        monitor.display()
    ))
}

/// A bridge with portmap and bandwidth; the network namespace is the node's own, so names and subnets are free.
fn bridge(directory: &Path) -> String {
    let ranges = json!([[{"subnet": "10.88.0.0/16"}]]);
    let plugins = json!([
        {
            "type": "bridge", "bridge": "husk0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": directory.join("ipam"),
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    ]);
    json!({"cniVersion": "1.0.0", "name": "test", "plugins": plugins}).to_string()
}
