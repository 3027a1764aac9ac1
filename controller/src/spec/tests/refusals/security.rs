//! Security contexts that are refused, and their neighbours that are not.

use super::*;

fn capability(case: &mut Case, name: &str) {
    case.context().capabilities = Some(v1::Capability {
        add_capabilities: strings(&[name]),
        ..Default::default()
    });
}

#[test]
fn security_contexts() {
    refused(SECURITY_CONTEXTS_REFUSED);
    accepted(SECURITY_CONTEXTS_ACCEPTED);
}

const SECURITY_CONTEXTS_REFUSED: Refusals = &[
    ("uid 2^31", "run_as_user", |case| {
        case.context().run_as_user = Some(v1::Int64Value {
            value: 2_147_483_648,
        });
    }),
    ("negative gid", "run_as_group", |case| {
        case.context().run_as_user = Some(v1::Int64Value { value: 1 });
        case.context().run_as_group = Some(v1::Int64Value { value: -1 });
    }),
    ("supplemental group 2^31", "supplemental_groups", |case| {
        case.context().supplemental_groups = vec![1 << 31]
    }),
    ("group without user", "run_as_user", |case| {
        case.context().run_as_group = Some(v1::Int64Value { value: 1 });
    }),
    ("two users", "run_as_username", |case| {
        case.context().run_as_user = Some(v1::Int64Value { value: 1 });
        case.context().run_as_username = "app".to_owned();
    }),
    ("no capability", "capabilities.add_capabilities", |case| {
        capability(case, "CAP_FLY")
    }),
    (
        "twice prefixed capability",
        "capabilities.add_capabilities",
        |case| capability(case, "CAP_CAP_KILL"),
    ),
    ("relative masked path", "masked_paths", |case| {
        case.context().masked_paths = strings(&["proc/kcore"])
    }),
    ("relative read-only path", "readonly_paths", |case| {
        case.context().readonly_paths = strings(&["proc/sys"])
    }),
    ("privileged in a plain pod", "privileged", |case| {
        case.context().privileged = true
    }),
    ("target without id", "namespace_options.target_id", |case| {
        case.context()
            .namespace_options
            .get_or_insert_default()
            .set_pid(NamespaceMode::Target);
    }),
    (
        "relative seccomp profile",
        "seccomp.localhost_ref",
        |case| {
            let mut profile = v1::SecurityProfile {
                localhost_ref: "p".to_owned(),
                ..Default::default()
            };
            profile.set_profile_type(v1::security_profile::ProfileType::Localhost);
            case.context().seccomp = Some(profile);
        },
    ),
];

const SECURITY_CONTEXTS_ACCEPTED: Table = &[
    ("privileged in a privileged pod", |case| {
        case.context().privileged = true;
        sandbox_context(&mut case.sandbox).privileged = true;
    }),
    ("capability in small letters", |case| {
        capability(case, "cap_kill")
    }),
];
