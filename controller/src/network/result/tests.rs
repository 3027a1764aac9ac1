use proptest::prelude::*;
use serde_json::json;

use super::*;

fn newest() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "cni0", "mac": "aa:aa:aa:aa:aa:aa", "mtu": 1500},
            {"name": "eth0", "mac": "bb:bb:bb:bb:bb:bb", "sandbox": "/run/n", "pciID": "0:1"},
        ],
        "ips": [
            {"address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 1},
            {"address": "fd00::2/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1", "priority": 5, "vendor": 1}],
        "dns": {"nameservers": ["10.9.0.1"]},
        "vendor": true,
    })
}

/// The same result as the given version has it, by hand.
fn expected(version: Version) -> Value {
    let mut value = newest();
    value["cniVersion"] = version.as_str().into();
    if version < Version::V1_1_0 {
        value["interfaces"][0]
            .as_object_mut()
            .unwrap()
            .remove("mtu");
        value["interfaces"][1]
            .as_object_mut()
            .unwrap()
            .remove("pciID");
        value["routes"][0]
            .as_object_mut()
            .unwrap()
            .remove("priority");
    }
    if version < Version::V1_0_0 {
        value["ips"][0]["version"] = "4".into();
        value["ips"][1]["version"] = "6".into();
    }
    value
}

#[test]
fn every_version_converts_to_every_version() {
    let versions = [
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];
    for from in versions {
        for to in versions {
            let parsed = NetworkResult::from_value(expected(from)).unwrap();
            let expect = match from < Version::V1_1_0 && to == Version::V1_1_0 {
                // What an older version could not say stays unsaid.
                true => {
                    let mut value = expected(Version::V1_0_0);
                    value["cniVersion"] = "1.1.0".into();
                    value
                }
                false => expected(to),
            };
            assert_eq!(parsed.to_value(to).unwrap(), expect, "{from} to {to}");
        }
    }
}

#[test]
fn the_attachment_holds_the_pods_side_only() {
    let mut value = newest();
    value["ips"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"address": "192.0.2.1/24", "interface": 0}));
    let attachment = NetworkResult::from_value(value.clone())
        .unwrap()
        .attachment("eth0", value.clone());
    assert_eq!(
        attachment.ips,
        ["10.9.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    assert_eq!(attachment.mac.as_deref(), Some("bb:bb:bb:bb:bb:bb"));
    assert_eq!(attachment.dns.servers, ["10.9.0.1"]);
    assert_eq!(attachment.routes[0].dst.to_string(), "0.0.0.0/0");
    assert_eq!(attachment.result, value);
}

#[test]
fn answers_are_read_with_goodwill() {
    for (answer, ips) in [
        (
            r#"{"cniVersion":"1.0.0","ips":null,"dns":null,"interfaces":null}"#,
            0,
        ),
        (r#"{"ips":[{"address":"10.0.0.1/8","gateway":""}]}"#, 1),
        (r#"{"ips":[{"address":"10.0.0.1/8","interface":7}]}"#, 1),
        (
            r#"{"ips":[{"address":"10.0.0.1/8","interface":-1}],"routes":null}"#,
            1,
        ),
    ] {
        let result = NetworkResult::parse(answer.as_bytes()).unwrap();
        assert_eq!(
            result.attachment("eth0", Value::Null).ips.len(),
            ips,
            "{answer}"
        );
    }
}

#[test]
fn garbage_is_refused() {
    for (answer, expect) in [
        ("", "not JSON"),
        ("ok", "not JSON"),
        ("[1]", "shape"),
        ("null", "shape"),
        (
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"}}"#,
            "version \"0.2.0\"",
        ),
        (r#"{"cniVersion":7}"#, "version \"7\""),
        (r#"{"ips":[{"address":"10.0.0.1"}]}"#, "shape"),
        (r#"{"ips":[{"address":"10.0.0.1/33"}]}"#, "shape"),
        (r#"{"ips":{}}"#, "shape"),
        (r#"{"routes":[{"gw":"10.0.0.1"}]}"#, "shape"),
    ] {
        let error = NetworkResult::parse(answer.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expect), "{answer}: {error}");
    }
}

/// JSON that is a result, nearly one, or none.
fn anything() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("10.0.0.1/8".to_owned()),
        Just("fd00::1/64".to_owned()),
        Just("1.0.0".to_owned()),
        ".{0,8}",
    ];
    let key = prop::sample::select(vec![
        "ips",
        "interfaces",
        "routes",
        "dns",
        "address",
        "interface",
        "sandbox",
        "gw",
        "dst",
        "cniVersion",
        "version",
        "name",
        "mtu",
        "search",
        "vendor",
    ]);
    let leaf = prop_oneof![
        text.prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        let object = prop::collection::btree_map(key.clone(), inner.clone(), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
            object.prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_taken_is_taken_again_and_stays_the_same(value in anything()) {
        if let Ok(result) = NetworkResult::from_value(value) {
            for version in [Version::V0_3_1, Version::V1_0_0, Version::V1_1_0] {
                let written = result.to_value(version).unwrap();
                let again = NetworkResult::from_value(written.clone()).unwrap();
                prop_assert_eq!(again.to_value(version).unwrap(), written);
                again.attachment("eth0", Value::Null);
            }
        }
    }
}
