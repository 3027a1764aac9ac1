//! CNI and the packet paths that pods rely on.

use super::{Finding, fail, ok, warn};
use crate::cli::check::facts::Facts;

/// The sysctls that are looked at here.
pub(super) const SYSCTLS: [&str; 2] = ["net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"];

pub(super) fn cni(facts: &Facts) -> Finding {
    let network = &facts.network;
    let check = "network.cni";
    let conf = match &network.conf {
        None => {
            let directory = network.conf_dir.display();
            return warn(
                check,
                format!(
                    "no network configuration in {directory}: only pods in the host's network run"
                ),
                format!("install a network add-on, or put a .conflist file into {directory}"),
            );
        }
        Some(Err(why)) => return fail(check, why, "mend the file, or take it away"),
        Some(Ok(conf)) => conf,
    };
    let found = format!("network {} from {}", conf.name, conf.file.display());
    if network.missing.is_empty() {
        return ok(check, found);
    }
    let missing: Vec<&str> = network.missing.iter().map(String::as_str).collect();
    let places: Vec<String> = network
        .bin_dirs
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    fail(
        check,
        format!(
            "{found}: no plugin {} in {}",
            missing.join(", "),
            places.join(", ")
        ),
        "apt-get install containernetworking-plugins, or set network.bin_dirs",
    )
}

pub(super) fn forwarding(facts: &Facts) -> Finding {
    match facts.sysctls.get("net.ipv4.ip_forward") {
        Some(1..) => ok("network.ip_forward", "net.ipv4.ip_forward is 1"),
        Some(0) | None => warn(
            "network.ip_forward",
            "net.ipv4.ip_forward is 0: pods reach nothing beyond the node",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

pub(super) fn bridge_filter(facts: &Facts) -> Finding {
    let check = "network.br_netfilter";
    match facts.sysctls.get("net.bridge.bridge-nf-call-iptables") {
        Some(1..) => ok(check, "bridged packets pass the firewall"),
        Some(0) => warn(
            check,
            "net.bridge.bridge-nf-call-iptables is 0: services may not work between pods of one node",
            "sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
        None => warn(
            check,
            "br_netfilter is not loaded: services may not work between pods of one node",
            "modprobe br_netfilter; echo br_netfilter > /etc/modules-load.d/husk.conf",
        ),
    }
}
