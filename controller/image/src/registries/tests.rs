use super::*;

fn parse(text: &str) -> Registries {
    Registries::parse(text, Path::new("registries.conf")).unwrap()
}

/// The endpoints of a reference as text: `name`, `!` for insecure, `~` for mirrors.
fn endpoints(registries: &Registries, reference: &str) -> Vec<String> {
    let reference = Reference::parse(reference).unwrap();
    let endpoints = registries.endpoints(&reference).unwrap();
    let mark = |set: bool, mark: &'static str| if set { mark } else { "" };
    endpoints
        .iter()
        .map(|e| {
            format!(
                "{}{}{}",
                mark(e.mirror, "~"),
                mark(e.insecure, "!"),
                e.reference
            )
        })
        .collect()
}

const FULL: &str = r#"
unqualified-search-registries = ["quay.io", "docker.io"]
short-name-mode = "enforcing"
[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
[[registry]]
location = "registry.k8s.io"
[[registry.mirror]]
location = "127.0.0.1:5000/k8s"
insecure = true
[[registry]]
prefix = "example.com/team"
location = "internal.example.net:8443/x"
insecure = true
mirror-by-digest-only = true
[[registry.mirror]]
location = "m1.example.net"
[[registry]]
prefix = "example.com"
[[registry.mirror]]
location = "tags.example.net"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "digests.example.net"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.blocked.org"
blocked = true
[[registry]]
prefix = "ok.blocked.org"
location = "elsewhere.org"
[[registry]]
prefix = "*.wild.org"
[[registry.mirror]]
location = "cache.net/wild"
"#;

#[test]
fn references_become_endpoints() {
    let registries = parse(FULL);
    let digest = crate::Digest::of(b"x");
    let rows: Vec<(String, Vec<String>)> = vec![
        ("quay.io/a/b:1".into(), vec!["quay.io/a/b:1".into()]),
        (
            "registry.k8s.io/pause:3".into(),
            vec![
                "~!127.0.0.1:5000/k8s/pause:3".into(),
                "registry.k8s.io/pause:3".into(),
            ],
        ),
        (
            "example.com/team/app:1".into(),
            vec!["!internal.example.net:8443/x/app:1".into()],
        ),
        (
            format!("example.com/team/app@{digest}"),
            vec![
                format!("~m1.example.net/app@{digest}"),
                format!("!internal.example.net:8443/x/app@{digest}"),
            ],
        ),
        // A prefix ends at a slash: "teams" is not below "team".
        (
            "example.com/teams/app:1".into(),
            vec![
                "~tags.example.net/teams/app:1".into(),
                "example.com/teams/app:1".into(),
            ],
        ),
        (
            format!("example.com/a@{digest}"),
            vec![
                format!("~digests.example.net/a@{digest}"),
                format!("example.com/a@{digest}"),
            ],
        ),
        (
            "ok.blocked.org/a:1".into(),
            vec!["elsewhere.org/a:1".into()],
        ),
        (
            "x.wild.org:444/a:1".into(),
            vec!["~cache.net/wild/a:1".into(), "x.wild.org:444/a:1".into()],
        ),
        ("wild.org/a:1".into(), vec!["wild.org/a:1".into()]),
    ];
    for (reference, expect) in rows {
        assert_eq!(endpoints(&registries, &reference), expect, "{reference}");
    }
}

#[test]
fn blocked_registries_say_which_rule() {
    let registries = parse(FULL);
    let reference = Reference::parse("a.b.blocked.org/x").unwrap();
    let blocked = registries.endpoints(&reference).unwrap_err();
    assert_eq!(blocked.prefix, "*.blocked.org");
}

#[test]
fn short_names_are_searched_or_replaced() {
    let registries = parse(FULL);
    let names = |text: &str| -> Vec<String> {
        let found = registries.candidates(text).unwrap();
        found.iter().map(ToString::to_string).collect()
    };
    assert_eq!(names("fedora:40"), ["registry.fedoraproject.org/fedora:40"]);
    assert_eq!(
        names("a"),
        ["quay.io/a:latest", "docker.io/library/a:latest"]
    );
    assert_eq!(names("docker.io/a"), ["docker.io/library/a:latest"]);
    let empty = Registries::default();
    assert_eq!(
        empty.candidates("a").unwrap()[0].to_string(),
        "docker.io/library/a:latest"
    );
}

#[test]
fn wrong_files_name_the_key() {
    let rows = [
        ("[[registry]]\nblocked = true", "registry"),
        ("[[registry]]\nlocation = \"https://a.b\"", "location"),
        ("[[registry]]\nprefix = \"*.-\"", "prefix"),
        (
            "unqualified-search-registries = [\"a/b\"]",
            "unqualified-search-registries",
        ),
        ("[aliases]\na = \"b\"", "aliases"),
        ("[aliases]\na = \"x.y/b:1\"", "aliases"),
        ("[registries.search]\nregistries = []", "registries"),
    ];
    for (text, expect) in rows {
        match Registries::parse(text, Path::new("f")) {
            Err(RegistriesError::Value { key, .. }) => assert_eq!(key, expect),
            other => panic!("{text}: {other:?}"),
        }
    }
    let syntax = Registries::parse("registry = 1", Path::new("f"));
    assert!(matches!(syntax, Err(RegistriesError::Syntax { .. })));
}

#[test]
fn drop_ins_replace_what_they_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registries.conf");
    let drop_in = directory.path().join("registries.conf.d");
    std::fs::create_dir(&drop_in).unwrap();
    std::fs::write(&file, FULL).unwrap();
    std::fs::write(
        drop_in.join("b.conf"),
        "[[registry]]\nlocation = \"registry.k8s.io\"",
    )
    .unwrap();
    std::fs::write(
        drop_in.join("a.conf"),
        "unqualified-search-registries = [\"a.b\"]",
    )
    .unwrap();
    std::fs::write(drop_in.join("ignored.txt"), "nonsense").unwrap();
    let missing = directory.path().join("missing.conf");
    let registries = Registries::load(&[file, missing]).unwrap();
    assert_eq!(registries.candidates("x").unwrap()[0].registry(), "a.b");
    assert_eq!(
        endpoints(&registries, "registry.k8s.io/p:1"),
        ["registry.k8s.io/p:1"]
    );
}
