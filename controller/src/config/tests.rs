//! Configuration texts and what becomes of them.

use std::fs;

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("husk.toml"))
}

/// The problems of `text`, one a line, without the heading.
fn problems(text: &str) -> String {
    let error = parse(text).expect_err("the text is wrong").to_string();
    let lines: Vec<&str> = error.lines().skip(1).map(str::trim).collect();
    lines.join("\n")
}

#[test]
fn the_printed_default_reads_back_as_the_default() {
    let text = Config::default().to_toml();
    assert_eq!(parse(&text).expect("it reads"), Config::default());
    assert_eq!(parse("").expect("nothing is fine"), Config::default());
}

#[test]
fn the_packaged_file_is_the_printed_default() {
    let packaged = include_str!("../../packaging/husk.toml");
    let printed = Config::default().to_toml();
    assert!(
        packaged == printed,
        "packaging/husk.toml is stale: write the output of `husk config default` to it"
    );
}

#[test]
fn the_examples_of_unset_keys_are_valid() {
    let text: String = Config::default()
        .to_toml()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&text).expect("every example is valid");
    assert_eq!(config.monitor.path, Some(PathBuf::from("/path/to/it")));
    assert_eq!(
        config.runtime.handlers.0["crun"].kind,
        Some(HandlerKind::Crun)
    );
}

#[test]
fn a_changed_configuration_reads_back_as_itself() {
    let config = parse(
        r#"
        root = "/data/husk"
        log.level = "warn,husk::cri=trace"
        [runtime]
        default = "kata"
        start_timeout = "1m30s"
        [runtime.handlers.kata]
        path = "/opt/kata/bin/kata-runtime"
        options = ["--debug", "a \"quoted\" one"]
        [monitor]
        cgroup = "/husk-monitors"
        memory_limit = 0
        log_line_limit = 4096
        [defaults]
        rlimits = { nofile = "1024:524288", core = 0, memlock = "unlimited" }
        capabilities = ["chown", "CAP_KILL"]
        [defaults.sysctls]
        net.ipv4.ip_unprivileged_port_start = 80
        "kernel.shmmax" = "68719476736"
        "#,
    )
    .expect("valid");
    assert_eq!(parse(&config.to_toml()).expect("reads back"), config);
    let kata = &config.runtime.handlers.0["kata"];
    assert_eq!(kata.resolved_kind(), HandlerKind::Other);
    assert_eq!(config.runtime.handlers.0.len(), 3);
    assert_eq!(config.monitor.log_line_limit.get(), 4096);
    assert_eq!(config.monitor.log_line_limit, Size::kib(4));
    assert_eq!(config.defaults.capabilities.0, ["CAP_CHOWN", "CAP_KILL"]);
    let sysctls = &config.defaults.sysctls.0;
    assert_eq!(sysctls["net.ipv4.ip_unprivileged_port_start"], "80");
    let rlimits = &config.defaults.rlimits.0;
    assert_eq!(rlimits["RLIMIT_MEMLOCK"].hard, u64::MAX);
    assert_eq!(rlimits["RLIMIT_NOFILE"].soft, 1024);
}

#[test]
fn an_unknown_key_names_itself_its_place_and_the_nearest_known_key() {
    let cases = [
        ("soket = \"/x\"", 1, "soket", "socket"),
        (
            "\n[monitor]\nlog_line_limt = 1",
            3,
            "monitor.log_line_limt",
            "monitor.log_line_limit",
        ),
        ("log_level = \"info\"", 1, "log_level", "log.level"),
        (
            "[monitor]\nmemory = 1",
            2,
            "monitor.memory",
            "monitor.memory_limit",
        ),
        (
            "[image]\nconf_dir = \"/x\"",
            2,
            "image.conf_dir",
            "network.conf_dir",
        ),
        (
            "[runtime.handlers.crun]\noption = []",
            2,
            "runtime.handlers.crun.option",
            "runtime.handlers.crun.options",
        ),
        (
            "[streming]\naddress = \"127.0.0.1:0\"",
            1,
            "streming",
            "streaming",
        ),
    ];
    for (text, line, key, nearest) in cases {
        assert_eq!(
            problems(text),
            format!("husk.toml:{line}: unknown key `{key}`; the nearest known key is `{nearest}`"),
        );
    }
}

/// One text a line, and after `=>` a part of what is said of it.
const WRONG: &str = r#"
root = 5 => `root = 5`: expected a path, as a string
root = "" => `root = ""`: expected a path, not an empty string
root = "var/lib" => `root = "var/lib"`: permitted: an absolute path without `..`
root = "/var/../etc" => `root = "/var/../etc"`: permitted: an absolute path without `..`
log = 1 => `log = 1`: expected a table, as in [log]
log.level = "verbose" => `log.level = "verbose"`: permitted: error, warn, info, debug, trace or off
log.level = "husk=loud" => `log.level = "husk=loud"`: permitted: error, warn
log.format = "xml" => `log.format = "xml"`: expected one of "human" "json" "journald"
runtime.start_timeout = 4 => `runtime.start_timeout = 4`: expected a duration such as
runtime.start_timeout = "4 parsecs" => `runtime.start_timeout = "4 parsecs"`: expected a duration
runtime.start_timeout = "0s" => `runtime.start_timeout = "0s"`: permitted: "1s" to "1h"
runtime.start_timeout = "400d" => `runtime.start_timeout = "400d"`: permitted: "1s" to "1h"
runtime.start_timeout = "99999999999999999999d" => expected a duration
monitor.log_line_limit = "1TiB" => `monitor.log_line_limit = "1TiB"`: permitted: "1KiB" to "1MiB"
monitor.log_line_limit = -1 => `monitor.log_line_limit = -1`: expected a size
monitor.log_line_limit = 1.5 => `monitor.log_line_limit = 1.5`: expected a size
monitor.log_line_limit = "99999999TiB" => expected a size
monitor.memory_limit = 1 => permitted: 0 for no limit, or "16MiB" to "16GiB"
monitor.cgroup = "pods" => expected "pod" or a cgroup's path
monitor.cgroup = "/a/../b" => expected "pod" or a cgroup's path
network.bin_dirs = [] => `network.bin_dirs = []`: permitted: one or more absolute paths
network.bin_dirs = [1] => for `1`: expected a path, as a string
image.parallel_layers = 0 => `image.parallel_layers = 0`: permitted: 1 to 64
image.parallel_layers = 99999999999999999999 => expected a whole number from 0 to 4294967295
streaming.address = "localhost" => expected an address with a port
defaults.rlimits = { nofiles = 1 } => `nofiles` is no limit; the nearest known one is `nofile`
defaults.rlimits = { nofile = "9:1" } => for `nofile`: expected a number, "SOFT:HARD"
defaults.sysctls = { "kernel.panic" = 1 } => `kernel.panic` is not a sysctl of a pod's own namespaces
defaults.sysctls = { "net.a" = "1+kernel.core_pattern=x" } => for `net.a`: expected a number or a plain word
defaults.capabilities = ["SYS_ADMON"] => `SYS_ADMON` is no capability; the nearest known one is `SYS_ADMIN`
[runtime.handlers.Kata_1] => a handler's name is lower-case letters, digits and `-`
socket = "/ => not valid TOML
"#;

#[test]
fn a_wrong_or_absurd_value_names_key_value_and_what_is_permitted() {
    for case in WRONG.trim().lines() {
        let (text, expected) = case.split_once(" => ").expect("a case");
        let found = problems(text);
        assert!(
            found.contains(expected) && found.starts_with("husk.toml:1: "),
            "{text}\n  gives: {found}\n  wanted: {expected}"
        );
    }
    let long = format!("socket = \"/{}\"", "a".repeat(107));
    assert!(problems(&long).contains("at most 107 bytes"));
    let twice = problems("root = \"/a\"\nroot = \"/b\"");
    assert!(twice.starts_with("husk.toml:2: not valid TOML"), "{twice}");
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    let cases = [
        (
            "runtime.default = \"kata\"",
            "`runtime.default`: no handler is called \"kata\"; there are crun, runc, and \"auto\"",
        ),
        (
            "streaming.tls_cert = \"/c.pem\"",
            "`streaming.tls_cert, streaming.tls_key`: a certificate and its key",
        ),
        (
            "streaming.address = \"0.0.0.0:10010\"",
            "0.0.0.0:10010 is not a loopback address",
        ),
        (
            "root = \"/run/husk/state\"",
            "`root, run`: neither directory may be inside the other",
        ),
        (
            "[runtime.handlers.auto]\npath = \"runc\"",
            "`runtime.handlers.auto`: this name stands for",
        ),
    ];
    for (text, expected) in cases {
        let found = problems(text);
        assert!(
            found.contains(expected),
            "{text}\n  gives: {found}\n  wanted: {expected}"
        );
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = "soket = 1\nroot = 2\n[image]\nparallel_layers = 0\n[runtime]\ndefault = \"kata\"\n";
    let found = problems(text);
    assert_eq!(found.lines().count(), 4, "{found}");
    let heading = parse(text).expect_err("wrong").to_string();
    assert!(
        heading.starts_with("the configuration has 4 problems\n"),
        "{heading}"
    );
}

#[test]
fn drop_ins_are_read_in_lexical_order_and_tables_merge() {
    let directory = tempfile::tempdir().expect("a directory");
    let main = directory.path().join("husk.toml");
    let drop_ins = drop_in_directory(&main);
    fs::create_dir(&drop_ins).expect("made");
    let files = [
        (
            main.clone(),
            "[monitor]\nlog_line_limit = 2048\nmemory_limit = \"32MiB\"\n[network]\nbin_dirs = [\"/a\", \"/b\"]\n",
        ),
        (
            drop_ins.join("20-late.toml"),
            "[monitor]\nlog_line_limit = 8192\n",
        ),
        (
            drop_ins.join("10-early.toml"),
            "[monitor]\nlog_line_limit = 4096\n[network]\nbin_dirs = [\"/c\"]\n",
        ),
        (drop_ins.join("30-not-read.conf"), "soket = 1\n"),
    ];
    for (path, text) in files {
        fs::write(path, text).expect("written");
    }
    let config = Config::load(Some(&main)).expect("valid");
    assert_eq!(config.monitor.log_line_limit, Size::kib(8));
    assert_eq!(config.monitor.memory_limit, Size::mib(32));
    assert_eq!(config.network.bin_dirs, [PathBuf::from("/c")]);

    fs::write(
        drop_ins.join("40-bad.toml"),
        "\n[network]\ntimout = \"1s\"\n",
    )
    .expect("written");
    let error = Config::load(Some(&main))
        .expect_err("unknown key")
        .to_string();
    assert!(error.contains("40-bad.toml:3: unknown key `network.timout`; the nearest known key is `network.timeout`"), "{error}");
}

#[test]
fn a_named_file_must_exist_and_its_cause_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("husk.toml");
    let error = Config::load(Some(&missing))
        .expect_err("missing")
        .to_string();
    assert!(
        error.contains("husk.toml: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn the_monitor_is_looked_for_beside_husk_and_then_where_packages_put_it() {
    let husk = Path::new("/opt/husk/bin/husk");
    assert_eq!(
        Monitor::default().candidates(husk),
        paths(&["/opt/husk/bin/pod-monitor", "/usr/libexec/husk/pod-monitor"])
    );
    let set = Monitor {
        path: Some("/x".into()),
        ..Monitor::default()
    };
    assert_eq!(set.candidates(husk), paths(&["/x"]));
}

#[test]
fn the_image_store_and_the_configuration_agree_on_the_usual_limits() {
    assert_eq!(Image::default().limits(), husk_image::Limits::default());
    let text = "[image]\nlayer_limit = \"1GiB\"\nlayer_ratio_limit = 20\nimage_limit = \"2GiB\"";
    let limits = parse(text).expect("valid").image.limits();
    assert_eq!(
        (limits.layer_unpacked, limits.ratio, limits.total),
        (1 << 30, 20, 2 << 30)
    );
}
