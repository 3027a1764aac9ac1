//! Local profiles: JSON in, filter out.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::ProfileContext;
use crate::spec::facts::KernelVersion;

/// What is wrong with a local profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file is no profile.
    #[error("the file is not a seccomp profile")]
    Json(#[from] serde_json::Error),
    /// A rule names no system call.
    #[error("rule {index} names no system call")]
    NoNames {
        /// Counted from 0.
        index: usize,
    },
    /// A kernel version in `minKernel` that is none.
    #[error("minKernel {value:?} is no version")]
    MinKernel {
        /// As it was given.
        value: String,
    },
    /// Both ways to name architectures at once.
    #[error("architectures and archMap exclude each other")]
    TwoArchitectureLists,
    /// Notification needs an agent that listens; there is none.
    #[error("action SCMP_ACT_NOTIFY needs a listener, which is not configured")]
    Notify,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Vec<Arch>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: String,
}

pub(super) fn build(
    json: &[u8],
    context: &ProfileContext<'_>,
) -> Result<LinuxSeccomp, ProfileError> {
    let profile: Profile = serde_json::from_slice(json)?;
    let mut syscalls = Vec::new();
    for (index, rule) in profile.syscalls.iter().enumerate() {
        if rule.action == LinuxSeccompAction::ScmpActNotify {
            return Err(ProfileError::Notify);
        }
        if applies(rule, context)? {
            syscalls.push(syscall(rule, index)?);
        }
    }
    let mut filter = LinuxSeccomp::default();
    filter.set_default_action(profile.default_action);
    filter.set_default_errno_ret(profile.default_errno_ret);
    filter.set_architectures(architectures(&profile, context)?);
    filter.set_flags(Some(profile.flags).filter(|flags| !flags.is_empty()));
    filter.set_syscalls(Some(syscalls).filter(|syscalls| !syscalls.is_empty()));
    Ok(filter)
}

fn architectures(
    profile: &Profile,
    context: &ProfileContext<'_>,
) -> Result<Option<Vec<Arch>>, ProfileError> {
    if profile.arch_map.is_empty() {
        return Ok(Some(profile.architectures.clone()).filter(|list| !list.is_empty()));
    }
    if !profile.architectures.is_empty() {
        return Err(ProfileError::TwoArchitectureLists);
    }
    let native = context.architecture.filters();
    let entry = profile
        .arch_map
        .iter()
        .find(|entry| native.first() == Some(&entry.architecture));
    Ok(entry.map(|entry| {
        let mut list = vec![entry.architecture];
        list.extend(&entry.sub_architectures);
        list
    }))
}

fn applies(rule: &Rule, context: &ProfileContext<'_>) -> Result<bool, ProfileError> {
    let has = |name: &String| {
        context
            .capabilities
            .iter()
            .any(|capability| format!("CAP_{capability}") == *name)
    };
    let is_here = |name: &String| context.architecture.names().contains(&name.as_str());
    let (includes, excludes) = (&rule.includes, &rule.excludes);
    Ok(includes.caps.iter().all(has)
        && !excludes.caps.iter().any(has)
        && (includes.arches.is_empty() || includes.arches.iter().any(is_here))
        && !excludes.arches.iter().any(is_here)
        && (includes.min_kernel.is_empty() || context.kernel >= version(&includes.min_kernel)?)
        && (excludes.min_kernel.is_empty() || context.kernel < version(&excludes.min_kernel)?))
}

fn version(text: &str) -> Result<KernelVersion, ProfileError> {
    text.split_once('.')
        .and_then(|(major, minor)| {
            Some(KernelVersion {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        })
        .ok_or_else(|| ProfileError::MinKernel {
            value: text.to_owned(),
        })
}

fn syscall(rule: &Rule, index: usize) -> Result<LinuxSyscall, ProfileError> {
    let mut names = rule.names.clone();
    if !rule.name.is_empty() {
        names.push(rule.name.clone());
    }
    if names.is_empty() {
        return Err(ProfileError::NoNames { index });
    }
    let mut syscall = LinuxSyscall::default();
    syscall.set_names(names);
    syscall.set_action(rule.action);
    syscall.set_errno_ret(rule.errno_ret);
    syscall.set_args(rule.args.clone().filter(|args| !args.is_empty()));
    Ok(syscall)
}
