//! The five capability sets of a container's process.
//!
//! Inheritable stays empty unless ambient capabilities are asked for: a non-empty set hands
//! capabilities to files of other users (CVE-2022-29162). The kernel keeps an ambient capability
//! only while it is inheritable too, so those, and only those, are in both.

use husk_cri_api::v1;
use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::ContainerInput;
use super::error::{SpecError, Warning};
use super::facts::HostFacts;

/// What a container gets that asks for nothing: enough for ordinary daemons that start as root.
pub(crate) const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// Every capability by its bit, from the kernel's `linux/capability.h`.
const BY_BIT: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Every capability that this program knows, in the kernel's order.
#[must_use]
pub fn known() -> &'static [Capability] {
    &BY_BIT
}

/// Reads the mask that `/proc/PID/status` prints as `CapBnd`.
#[must_use]
pub fn bounding_from_mask(mask: u64) -> Vec<Capability> {
    BY_BIT
        .iter()
        .enumerate()
        .filter(|(bit, _)| mask & (1_u64 << bit) != 0)
        .map(|(_, capability)| *capability)
        .collect()
}

/// The capabilities in the bounding set of a container.
pub(super) fn granted(input: &ContainerInput<'_>) -> Result<Granted, SpecError> {
    if input.privileged() {
        return Ok(Granted {
            bounding: input.host.bounding.clone(),
            ..Granted::default()
        });
    }
    let asked = input
        .security()
        .and_then(|context| context.capabilities.clone())
        .unwrap_or_default();
    let mut granted = Granted {
        bounding: start(&asked, input.host),
        ..Granted::default()
    };
    for name in &asked.add_capabilities {
        granted.add(parse("capabilities.add_capabilities", name)?, input);
    }
    for name in &asked.add_ambient_capabilities {
        let named = parse("capabilities.add_ambient_capabilities", name)?;
        granted.add(named, input);
        granted.add_ambient(named, input);
    }
    for name in &asked.drop_capabilities {
        granted.drop(parse("capabilities.drop_capabilities", name)?);
    }
    Ok(granted)
}

/// Dropping ALL empties the defaults before anything is added; adding ALL starts from all we have.
fn start(asked: &v1::Capability, host: &HostFacts) -> Vec<Capability> {
    if asked.add_capabilities.iter().any(|name| is_all(name)) {
        return host.bounding.clone();
    }
    if asked.drop_capabilities.iter().any(|name| is_all(name)) {
        return Vec::new();
    }
    let defaults = host.default_capabilities.iter().copied();
    defaults
        .filter(|capability| host.bounding.contains(capability))
        .collect()
}

/// What a container is granted, and what it would have been on a host with more rights.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) bounding: Vec<Capability>,
    ambient: Vec<Capability>,
    lacking: Vec<Capability>,
}

/// A capability's name, or the word for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    All,
    One(Capability),
}

impl Granted {
    fn add(&mut self, named: Named, input: &ContainerInput<'_>) {
        // ALL has been dealt with in `start`, as what is dropped may be named beside it.
        let Named::One(capability) = named else {
            return;
        };
        if !input.host.bounding.contains(&capability) {
            insert(&mut self.lacking, capability);
            return;
        }
        insert(&mut self.bounding, capability);
    }

    fn add_ambient(&mut self, named: Named, input: &ContainerInput<'_>) {
        match named {
            Named::All => {
                self.bounding.clone_from(&input.host.bounding);
                self.ambient.clone_from(&input.host.bounding);
            }
            Named::One(capability) if input.host.bounding.contains(&capability) => {
                insert(&mut self.ambient, capability);
            }
            Named::One(_) => {}
        }
    }

    fn drop(&mut self, named: Named) {
        let Named::One(capability) = named else {
            return;
        };
        self.bounding.retain(|kept| *kept != capability);
        self.ambient.retain(|kept| *kept != capability);
    }

    /// The sets for the spec; what could not be granted becomes a warning.
    pub(super) fn into_spec(self, warnings: &mut Vec<Warning>) -> LinuxCapabilities {
        if !self.lacking.is_empty() {
            let names = self
                .lacking
                .iter()
                .map(|capability| format!("CAP_{capability}"))
                .collect();
            warnings.push(Warning::Capabilities { names });
        }
        let bounding: oci_spec::runtime::Capabilities = self.bounding.into_iter().collect();
        let ambient: oci_spec::runtime::Capabilities = self.ambient.into_iter().collect();
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(bounding.clone()));
        sets.set_effective(Some(bounding.clone()));
        sets.set_permitted(Some(bounding));
        sets.set_inheritable(Some(ambient.clone()));
        sets.set_ambient(Some(ambient));
        sets
    }
}

fn insert(list: &mut Vec<Capability>, capability: Capability) {
    if !list.contains(&capability) {
        list.push(capability);
    }
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

/// Accepts `NET_ADMIN` and `CAP_NET_ADMIN` in any case, and `ALL`.
pub(crate) fn parse(field: &'static str, name: &str) -> Result<Named, SpecError> {
    if is_all(name) {
        return Ok(Named::All);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    BY_BIT
        .iter()
        .find(|capability| capability.to_string() == bare)
        .map(|capability| Named::One(*capability))
        .ok_or_else(|| SpecError::invalid(field, name, "no such capability"))
}
