//! Whether the node can run pods, and what its runtime handlers can do.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use husk_cri_api::v1;

use crate::chain::chain;
use crate::monitors::{Handler, HandlerError, Handlers};
use crate::network::Readiness;
use crate::services::Services;
use crate::spec::{HostFacts, RuntimeFeatures as Features};
use crate::store::StoreError;

/// Both conditions that the kubelet knows. Looking up the one program is all the I/O there is.
pub(super) fn all(services: &Services) -> v1::RuntimeStatus {
    v1::RuntimeStatus {
        conditions: vec![
            runtime(
                services.monitors.handlers.find(""),
                services.store.fault().as_ref(),
            ),
            network(services.network.readiness()),
        ],
    }
}

/// Every pod without a handler of its own runs in the default one. When its program is gone, or
/// nothing can be written down about new pods, the node should be given none.
fn runtime(
    default: Result<&Handler, HandlerError>,
    store: Option<&StoreError>,
) -> v1::RuntimeCondition {
    if let Some(error) = store {
        return condition("RuntimeReady", Some(("StateNotWritable", chain(error))));
    }
    let fault = match default {
        Ok(handler) => unusable(&handler.path).map(|cause| {
            let path = handler.path.display();
            format!("runtime handler {:?}: {path} {cause}", handler.name)
        }),
        Err(error) => Some(error.to_string()),
    };
    condition("RuntimeReady", fault.map(|fault| ("RuntimeMissing", fault)))
}

/// Why a program cannot be executed, or nothing when it can.
fn unusable(program: &Path) -> Option<String> {
    match program.metadata() {
        Ok(found) if !found.is_file() => Some("is no file".into()),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Some("is not executable".into()),
        Ok(_) => None,
        Err(error) => Some(format!("cannot be found: {error}")),
    }
}

fn network(readiness: Readiness) -> v1::RuntimeCondition {
    match readiness {
        Readiness::Ready => condition("NetworkReady", None),
        Readiness::NotReady { reason } => {
            condition("NetworkReady", Some(("NetworkPluginNotReady", reason)))
        }
    }
}

/// All handlers; the default one is also there without a name.
pub(super) fn handlers(handlers: &Handlers, host: &HostFacts) -> Vec<v1::RuntimeHandler> {
    std::iter::once("")
        .chain(handlers.names())
        .map(|name| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(features(handlers.features(name), host)),
        })
        .collect()
}

/// What both the handler's OCI runtime and the kernel can do.
fn features(runtime: Features, host: &HostFacts) -> v1::RuntimeHandlerFeatures {
    v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: runtime.recursive_read_only && host.recursive_read_only(),
        user_namespaces: runtime.idmapped_mounts && host.user_namespaces,
    }
}

fn condition(name: &str, fault: Option<(&str, String)>) -> v1::RuntimeCondition {
    let status = fault.is_none();
    let (reason, message) = fault.unwrap_or_default();
    v1::RuntimeCondition {
        r#type: name.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::HandlerKind;

    #[test]
    fn the_program_of_the_default_handler_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("crun");
        let handler = Handler {
            name: "mine".into(),
            kind: HandlerKind::Crun,
            path: program.clone(),
            root: directory.path().into(),
            options: Vec::new(),
            timeout: std::time::Duration::from_secs(1),
            features: Features::default(),
        };
        let rows: [(&str, &dyn Fn(), bool, &str); 4] = [
            ("missing", &|| (), false, "cannot be found"),
            (
                "a directory",
                &|| fs::create_dir(&program).unwrap(),
                false,
                "is no file",
            ),
            (
                "not executable",
                &|| {
                    fs::remove_dir(&program).unwrap();
                    fs::write(&program, "").unwrap();
                    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
                },
                false,
                "is not executable",
            ),
            (
                "a program",
                &|| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap(),
                true,
                "",
            ),
        ];
        for (what, change, ready, part) in rows {
            change();
            let condition = runtime(Ok(&handler), None);
            assert_eq!(condition.status, ready, "{what}");
            assert_eq!(condition.reason.is_empty(), ready, "{what}");
            assert!(
                condition.message.contains(part),
                "{what}: {}",
                condition.message
            );
        }
    }
}
