//! Rules about crates: who may depend on whom, what the monitor may link, licences, duplicates. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::build::OF_SUITES;

/// `(crate, those of ours it may depend on)`: the leaves know nothing of the programs.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("pod-monitor-schema", &[]),
    ("pod-monitor-client", &["pod-monitor-schema"]),
    ("fault-point", &[]),
    ("pod-monitor", &["pod-monitor-schema", "fault-point"]),
    ("husk-cri-api", &[]),
    ("husk-image", &["fault-point"]),
    ("husk-nri", &[]),
    ("husk-streaming", &[]),
    (
        "husk",
        &[
            "fault-point",
            "husk-cri-api",
            "husk-image",
            "husk-nri",
            "husk-streaming",
            "pod-monitor-client",
            "pod-monitor-schema",
        ],
    ),
    (
        "husk-tests",
        &[
            "fault-point",
            "husk-cri-api",
            "husk-streaming",
            "pod-monitor-client",
            "pod-monitor-schema",
        ],
    ),
    ("xtask", &[]),
];

/// What tests of any crate may use beside what the crate itself may.
const FOR_TESTS: &[&str] = &["pod-monitor-schema", "pod-monitor-client"];

/// Crates of ours that depend on a crate they must not know.
pub(super) fn directions(metadata: &Value) -> Vec<String> {
    let own: BTreeMap<&str, &Value> = packages(metadata)
        .filter(|package| package["source"].is_null())
        .map(|package| (name(package), package))
        .collect();
    let mut wrong = Vec::new();
    for (member, package) in &own {
        let Some((_, permitted)) = DIRECTIONS.iter().find(|(known, _)| known == member) else {
            wrong.push(format!(
                "{member} has no line in xtask's list of directions"
            ));
            continue;
        };
        let dependencies: BTreeSet<(&str, bool)> = list(&package["dependencies"])
            .map(|dependency| (name(dependency), dependency["kind"] == "dev"))
            .collect();
        let ours = dependencies
            .into_iter()
            .filter(|(dependency, _)| own.contains_key(dependency) && dependency != member)
            .filter(|(dependency, for_tests)| !(*for_tests && FOR_TESTS.contains(dependency)))
            .map(|(dependency, _)| dependency);
        let refused = ours.filter(|dependency| !permitted.contains(dependency));
        wrong.extend(refused.map(|dependency| format!("{member} must not depend on {dependency}")));
    }
    wrong
}

/// Crates in the monitor that its list does not have, and lines of the list that nothing needs.
pub(super) fn monitor(graph: &str, permitted: &str) -> Vec<String> {
    let first = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let linked: BTreeSet<_> = graph
        .lines()
        .map(first)
        .filter(|name| !name.is_empty() && name != "pod-monitor")
        .collect();
    let listed: BTreeSet<_> = permitted
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let new = linked
        .difference(&listed)
        .map(|name| format!("pod-monitor links {name}: not in its list of dependencies"));
    let old = listed
        .difference(&linked)
        .map(|name| format!("pod-monitor does not link {name}: take it off the list"));
    new.chain(old).collect()
}

/// Crates of ours that have fault points, or are of another version, without being asked for it.
pub(super) fn faults(metadata: &Value) -> Vec<String> {
    let named = |list: &Value| {
        list.as_array().is_some_and(|list| {
            list.iter()
                .any(|it| OF_SUITES.iter().any(|name| it == name))
        })
    };
    let mut wrong = Vec::new();
    for package in packages(metadata).filter(|package| package["source"].is_null()) {
        if named(&package["features"]["default"]) {
            wrong.push(format!(
                "{} has a feature of the suites by default",
                name(package)
            ));
        }
        let asked =
            list(&package["dependencies"]).filter(|dependency| named(&dependency["features"]));
        wrong.extend(asked.map(|dependency| {
            format!(
                "{} asks {} for a feature of the suites",
                name(package),
                name(dependency)
            )
        }));
    }
    wrong
}

/// Crates whose licence deny.toml does not allow.
pub(super) fn licences(metadata: &Value, deny: &toml::Table) -> Vec<String> {
    let allowed = strings(deny, "licenses", "allow");
    let refused = packages(metadata)
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("none given");
            (!is_allowed(licence, &allowed)).then(|| {
                format!(
                    "{}: the licence {licence:?} is not in deny.toml",
                    name(package)
                )
            })
        });
    refused.collect()
}

/// Whether some alternative of an SPDX expression has only allowed parts. Nesting deeper than one pair of
/// parentheses does not occur and would be refused.
fn is_allowed(licence: &str, allowed: &BTreeSet<String>) -> bool {
    let groups = licence.split(" AND ");
    let mut groups = groups.map(|group| group.trim_matches(|letter| "() ".contains(letter)));
    groups.all(|group| {
        group
            .split(" OR ")
            .flat_map(|part| part.split('/'))
            .any(|part| allowed.contains(part.trim()))
    })
}

/// Crates present in several versions that deny.toml does not skip.
pub(super) fn duplicates(metadata: &Value, deny: &toml::Table) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages(metadata) {
        versions
            .entry(name(package))
            .or_default()
            .insert(package["version"].as_str().unwrap_or_default());
    }
    let skipped = strings(deny, "bans", "skip");
    let named = |name: &str| {
        skipped
            .iter()
            .any(|skip| skip.split(['@', '=']).next() == Some(name))
    };
    let several = versions
        .into_iter()
        .filter(|(name, versions)| versions.len() > 1 && !named(name));
    several
        .map(|(name, versions)| {
            format!("{name} is there in versions {versions:?}: unify, or skip it in deny.toml")
        })
        .collect()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    list(&metadata["packages"])
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

fn strings(deny: &toml::Table, section: &str, key: &str) -> BTreeSet<String> {
    let values = deny
        .get(section)
        .and_then(|section| section.get(key))
        .and_then(toml::Value::as_array);
    let text = |value: &toml::Value| {
        value
            .as_str()
            .or_else(|| value.get("crate")?.as_str())
            .map(str::to_owned)
    };
    values.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_monitor_may_link_only_what_is_listed() {
        let graph =
            "pod-monitor v0.1.0 (/x)\ncapnp v0.27.0\ncapnp v0.27.0 (*)\nserde_json v1.0.0\n";
        assert_eq!(
            monitor(graph, "# why\ncapnp\ngone\n"),
            [
                "pod-monitor links serde_json: not in its list of dependencies",
                "pod-monitor does not link gone: take it off the list"
            ]
        );
    }

    #[test]
    fn the_two_programs_never_know_each_other() {
        let package = |name: &str, on: &str| json!({"name": name, "source": null, "dependencies": [{"name": on}]});
        let metadata =
            json!({"packages": [package("husk", "pod-monitor"), package("pod-monitor", "libc")]});
        assert_eq!(
            directions(&metadata),
            ["husk must not depend on pod-monitor"]
        );
    }

    #[test]
    fn fault_points_are_never_on_by_default() {
        let package = |features: Value, asked: Value| {
            let dependencies = [json!({"name": "husk-image", "features": asked})];
            json!({"packages": [{"name": "husk", "source": null, "features": features, "dependencies": dependencies}]})
        };
        let optional = json!({"faults": ["dep:fault-point", "husk-image/faults"]});
        assert!(faults(&package(optional, json!([]))).is_empty());
        for (features, asked) in [
            (json!({"default": ["faults"]}), json!([])),
            (json!({}), json!(["faults"])),
            (json!({}), json!(["first-version"])),
        ] {
            assert_eq!(faults(&package(features, asked)).len(), 1);
        }
    }

    #[test]
    fn a_licence_needs_one_allowed_alternative_of_each_part() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"]
            .map(str::to_owned)
            .into();
        for (licence, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("MIT AND GPL-3.0", false),
        ] {
            assert_eq!(is_allowed(licence, &allowed), expected, "{licence}");
        }
    }
}
