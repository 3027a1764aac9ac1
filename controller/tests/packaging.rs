//! The systemd unit: what the daemon relies on is in it, and systemd understands it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const UNIT: &str = include_str!("../packaging/husk.service");

/// The keys of a section with their values.
fn section<'u>(unit: &'u str, wanted: &str) -> BTreeMap<&'u str, &'u str> {
    let mut inside = false;
    let mut keys = BTreeMap::new();
    for line in unit.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            inside = name.trim_end_matches(']') == wanted;
        } else if let Some((key, value)) = line.split_once('=')
            && inside
            && !line.starts_with('#')
        {
            assert_eq!(keys.insert(key, value), None, "{key} is there twice");
        }
    }
    keys
}

#[test]
fn the_unit_has_what_the_daemon_relies_on() {
    let service = section(UNIT, "Service");
    let expected = [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "process"),
        ("Delegate", "yes"),
        ("Restart", "always"),
        ("OOMScoreAdjust", "-999"),
        ("ExecStart", "/usr/bin/husk serve"),
        ("RestartPreventExitStatus", "64"),
        ("FileDescriptorStoreMax", "65536"),
        (
            "Environment",
            "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0:\
             glibc.malloc.mmap_threshold=65536 FDSTORE=65536",
        ),
    ];
    for (key, value) in expected {
        assert_eq!(service.get(key), Some(&value), "{key}");
    }
    for key in ["WatchdogSec", "LimitNOFILE"] {
        assert!(service.contains_key(key), "{key}");
    }
}

/// A mount namespace hides pods' mounts from the host; filters and sets are inherited by containers.
#[test]
fn nothing_in_the_unit_reaches_into_the_pods() {
    let service = section(UNIT, "Service");
    let harmful = [
        "Protect",
        "Private",
        "Restrict",
        "SystemCall",
        "MemoryDeny",
        "NoNewPrivileges",
        "CapabilityBoundingSet",
        "ReadOnly",
        "Inaccessible",
        "DynamicUser",
        "LockPersonality",
        "RuntimeDirectory",
    ];
    for key in service.keys() {
        let hit = harmful.iter().find(|start| key.starts_with(**start));
        assert_eq!(hit, None, "{key}");
    }
}

#[test]
fn systemd_understands_the_unit() {
    let analyze = Path::new("/usr/bin/systemd-analyze");
    if !analyze.exists() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("husk.service");
    // verify wants the program to be there.
    let unit = UNIT.replace("/usr/bin/husk", "/bin/true");
    fs::write(&path, unit).expect("written");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test that asks systemd; it starts nothing of ours"
    )]
    let output = std::process::Command::new(analyze)
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&path)
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("husk.service"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{text}");
}
