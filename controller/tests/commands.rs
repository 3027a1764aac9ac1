//! The client's commands against a daemon made of canned answers, over a real unix socket.

#[cfg(test)]
mod canned;

use std::path::Path;

use husk::cli::Extent;

use self::canned::{Daemon, POD, run};

#[test]
fn status_shows_pods_containers_and_what_monitors_cost() {
    let daemon = Daemon::start();
    let (done, text) = daemon.husk("status");
    done.expect("status");
    let pid = std::process::id().to_string();
    for part in [
        "0123456789ab",
        "shop/web",
        "nginx",
        "exited",
        &pid,
        "1 pod, 1 container, 1 monitor",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (done, text) = daemon.husk("status --json");
    done.expect("status");
    let pods: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(pods[0]["id"], POD);
    let private = pods[0]["monitor"]["private_bytes"].as_u64();
    assert!(private.is_some_and(|bytes| bytes > 4096), "{text}");
}

#[test]
fn a_pull_tells_its_phases_in_lines_where_there_is_no_terminal() {
    let daemon = Daemon::start();
    let (done, text) = daemon.husk("image pull busybox:1 --creds ann:s3cret");
    done.expect("pulled");
    assert_eq!(
        text,
        "cccccccccccc: fetching 1.0 MiB\ncccccccccccc: done\n\
         docker.io/library/busybox:1  sha256:aaaaaaaaaaaaaaaa  1.0 MiB\n"
    );
    let pulled = daemon.canned.pulled.lock().expect("not poisoned").clone();
    assert_eq!(pulled[0].reference, "busybox:1");
    assert_eq!(
        (pulled[0].username.as_str(), pulled[0].password.as_str()),
        ("ann", "s3cret")
    );
}

#[test]
fn a_pull_on_a_terminal_ends_with_the_layers_and_the_image() {
    let daemon = Daemon::start();
    let extent = Extent {
        columns: 80,
        rows: 24,
    };
    let (done, text) = daemon.husk_on("image pull busybox:1", Some(extent));
    done.expect("pulled");
    assert!(
        text.contains("\x1b[1A\r\x1b[Kcccccccccccc  done\n"),
        "{text:?}"
    );
    assert!(
        text.ends_with("busybox:1  sha256:aaaaaaaaaaaaaaaa  1.0 MiB\n"),
        "{text:?}"
    );
}

#[test]
fn a_refused_pull_tells_the_cause_and_ends_with_its_status() {
    let daemon = Daemon::start();
    let (done, _) = daemon.husk("image pull private");
    let failure = done.expect_err("refused");
    assert_eq!(
        husk::chain::chain(&failure),
        "pulling private: the registry wants another password (Unauthenticated)"
    );
    assert_eq!(failure.exit_status(), 77);
}

#[test]
fn an_import_sends_the_absolute_path_and_the_tag() {
    let daemon = Daemon::start();
    let file = daemon.path("husk.toml");
    let (done, text) = daemon.husk(&format!("image import {} --tag b:2", file.display()));
    done.expect("imported");
    assert!(text.contains("sha256:aaaaaaaaaaaaaaaa"), "{text}");
    let imported = daemon.canned.imported.lock().expect("not poisoned").clone();
    let absolute = std::fs::canonicalize(file).expect("it exists");
    assert_eq!(Path::new(&imported[0].path), absolute);
    assert_eq!(imported[0].tag, "b:2");

    let (done, _) = daemon.husk("image import /no/such/file");
    assert_eq!(done.expect_err("missing").exit_status(), 66);
}

#[test]
fn images_are_listed_and_removed() {
    let daemon = Daemon::start();
    let (done, text) = daemon.husk("image ls");
    done.expect("listed");
    assert!(
        text.contains("docker.io/library/busybox:1  aaaaaaaaaaaa  1.0 MiB"),
        "{text}"
    );
    let (done, text) = daemon.husk("image ls --json");
    done.expect("listed");
    let images: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(images[0]["tags"][0], "docker.io/library/busybox:1");

    let (done, text) = daemon.husk("image rm known:1 typo known:2");
    let failure = done.expect_err("one is not there");
    assert_eq!(failure.exit_status(), 1);
    assert_eq!(husk::chain::chain(&failure), "removing typo: no such image");
    assert_eq!(text, "removed known:1\nremoved known:2\n");
    let removed = daemon.canned.removed.lock().expect("not poisoned").clone();
    assert_eq!(removed, ["known:1", "known:2"]);
}

#[test]
fn without_a_daemon_the_socket_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("husk.toml");
    std::fs::write(&config, "").expect("written");
    let socket = directory.path().join("none.sock");
    for line in ["status", "image ls", "image pull b", "image rm b"] {
        let (done, _) = run(line, &config, &socket, None);
        let failure = done.expect_err("no daemon");
        let text = husk::chain::chain(&failure);
        assert_eq!(failure.exit_status(), 69, "{line}: {text}");
        assert!(
            text.contains("none.sock: is `husk serve` running?"),
            "{text}"
        );
        assert!(text.contains("No such file"), "{text}");
    }
}

#[test]
fn config_commands_need_no_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("husk.toml");
    std::fs::write(&config, "[image]\nparallel_layers = 7\n").expect("written");
    let husk = |line: &str| run(line, &config, Path::new("/none"), None);
    let (done, text) = husk("config default");
    done.expect("printed");
    assert!(text.contains("parallel_layers = 4"), "{text}");
    let (done, text) = husk("config show --log-level debug");
    done.expect("printed");
    assert!(text.contains("parallel_layers = 7"), "{text}");
    assert!(text.contains("level = \"debug\""), "{text}");
    let (done, text) = husk("config check");
    done.expect("valid");
    assert!(text.ends_with("husk.toml: no problems\n"), "{text}");

    std::fs::write(&config, "[image]\nparalel_layers = 7\n").expect("written");
    for line in ["config check", "config show", "serve", "status"] {
        let (done, text) = husk(line);
        let failure = done.expect_err(line);
        assert_eq!(failure.exit_status(), 64, "{line}");
        assert!(
            failure
                .to_string()
                .contains("the nearest known key is `image.parallel_layers`")
        );
        assert_eq!(text, "");
    }
    let (done, _) = husk("config show --log-level verbose");
    assert_eq!(done.expect_err("no such level").exit_status(), 64);
}
