//! Which cgroup parents a caller may ask for, and the slices that they name.

use std::path::{Component, Path};

use super::{Cgroups, Driver};

/// Why a cgroup parent is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParentError {
    /// With the systemd driver only a slice can hold scopes.
    #[error("cgroup parent {parent:?} is not a slice, which the systemd cgroup driver needs")]
    NotASlice {
        /// What was asked for.
        parent: String,
    },
    /// Not a path that stays below the hierarchy's root.
    #[error("cgroup parent {parent:?} is not a path below the root of the cgroups")]
    NotBelowRoot {
        /// What was asked for.
        parent: String,
    },
}

impl Cgroups {
    /// Whether a pod's cgroups can be below `requested`; nothing asks for a parent of our own.
    ///
    /// # Errors
    /// With the systemd driver all that does not end in a valid slice's name, with either one a
    /// path that leads upwards.
    pub fn check_parent(&self, requested: &str) -> Result<(), ParentError> {
        let parent = || requested.to_owned();
        let upwards = Path::new(requested)
            .components()
            .any(|part| part == Component::ParentDir);
        if upwards || requested.contains('\0') {
            return Err(ParentError::NotBelowRoot { parent: parent() });
        }
        match &self.driver {
            Driver::Systemd(_) if !requested.is_empty() && !is_slice(&slice(requested)) => {
                Err(ParentError::NotASlice { parent: parent() })
            }
            Driver::Systemd(_) | Driver::Cgroupfs => Ok(()),
        }
    }
}

/// The unit name of the slice that a checked parent ends in: the kubelet gives the whole path.
pub(super) fn slice(parent: &str) -> String {
    let name = Path::new(parent).file_name();
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// As [`slice()`] for the operator's setting, where a plain name stands for a slice.
pub(super) fn slice_of_name(name: &str) -> String {
    let name = slice(name);
    let stem = name.strip_suffix(".slice").unwrap_or(&name);
    format!("{stem}.slice")
}

/// A slice's name: its dashes separate parts, none of which is empty (systemd.slice(5)). A colon,
/// which systemd would allow, separates the parts of a container's cgroup path.
fn is_slice(name: &str) -> bool {
    let part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.\\".contains(&byte);
        !part.is_empty() && part.bytes().all(allowed)
    };
    name.strip_suffix(".slice")
        .is_some_and(|stem| stem == "-" || stem.split('-').all(part))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{MonitorCgroup, Monitors, Systemd};
    use super::*;
    use crate::spec::{CgroupFacts, CgroupPath, CgroupVersion};

    fn cgroups(driver: Driver, monitors: Option<&str>) -> Cgroups {
        let facts = CgroupFacts {
            version: CgroupVersion::V2,
            hybrid: false,
            controllers: BTreeSet::new(),
            swap: false,
            hugepage_sizes: BTreeSet::new(),
        };
        let monitors = Monitors {
            parent: monitors.map(Into::into),
            memory_limit: 0,
        };
        Cgroups::new(Path::new("/nowhere"), &facts, driver, monitors).unwrap()
    }

    #[test]
    fn parents_fit_the_driver() {
        let systemd = cgroups(Driver::Systemd(Systemd::default()), None);
        let cgroupfs = cgroups(Driver::Cgroupfs, None);
        // (parent, accepted with systemd, accepted with cgroupfs)
        for (parent, slice, path) in [
            ("", true, true),
            ("kubepods-pod7.slice", true, true),
            ("/kubepods.slice/kubepods-pod7.slice", true, true),
            ("kubepods.slice/kubepods-pod7.slice/", true, true),
            ("-.slice", true, true),
            ("/kubepods/pod7", false, true),
            ("kubepods", false, true),
            (".slice", false, true),
            ("a--b.slice", false, true),
            ("-a.slice", false, true),
            ("a:b:c.slice", false, true),
            ("/", false, true),
            ("/kubepods.slice/x", false, true),
            ("../kubepods.slice", false, false),
            ("/kubepods/../../etc", false, false),
        ] {
            assert_eq!(systemd.check_parent(parent).is_ok(), slice, "{parent:?}");
            assert_eq!(cgroupfs.check_parent(parent).is_ok(), path, "{parent:?}");
        }
    }

    #[test]
    fn only_the_operators_setting_may_leave_out_the_suffix() {
        let parent = "/kubepods.slice/kubepods-pod7.slice";
        for (setting, expected) in [
            (None, "kubepods-pod7.slice"),
            (Some("monitors"), "monitors.slice"),
            (Some("/a.slice/a-monitors.slice"), "a-monitors.slice"),
        ] {
            let cgroups = cgroups(Driver::Systemd(Systemd::default()), setting);
            assert_eq!(
                cgroups.monitor(&cgroups.monitor_parent(parent), "p1"),
                MonitorCgroup::Scope {
                    slice: expected.into(),
                    name: "pod-monitor-p1.scope".into()
                }
            );
            let CgroupPath::Systemd { slice, .. } = cgroups.container(parent, "c") else {
                panic!("the driver is systemd");
            };
            assert_eq!(slice, "kubepods-pod7.slice");
        }
    }
}
