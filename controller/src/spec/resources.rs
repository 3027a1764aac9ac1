//! Limits: from the CRI's numbers to the OCI runtime's, at creation and on update.

use husk_cri_api::v1::LinuxContainerResources;
use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};

use super::error::{SpecError, Warning};
use super::facts::{CgroupVersion, HostFacts};

/// Checks numbers and lists that the kernel would refuse later with less to say.
///
/// # Errors
/// The first field that makes no sense.
pub fn validate(resources: &LinuxContainerResources) -> Result<(), SpecError> {
    validate_cpu(resources)?;
    validate_memory(resources)?;
    for limit in &resources.hugepage_limits {
        if !is_page_size(&limit.page_size) {
            return Err(SpecError::invalid(
                "hugepage_limits.page_size",
                &limit.page_size,
                "no size like 2MB",
            ));
        }
    }
    for (key, value) in &resources.unified {
        validate_unified(key, value)?;
    }
    Ok(())
}

/// The kernel's bounds: a period of 1 ms to 1 s, a quota of at least 1 ms, shares of at least 2.
fn validate_cpu(resources: &LinuxContainerResources) -> Result<(), SpecError> {
    let period = resources.cpu_period;
    if period != 0 && !(1_000..=1_000_000).contains(&period) {
        return Err(out_of_range(
            "cpu_period",
            period,
            "must be 1000 to 1000000 microseconds",
        ));
    }
    let quota = resources.cpu_quota;
    if quota < -1 || (1..1_000).contains(&quota) {
        return Err(out_of_range(
            "cpu_quota",
            quota,
            "must be at least 1000 microseconds, or -1",
        ));
    }
    if resources.cpu_shares < 0 {
        return Err(out_of_range(
            "cpu_shares",
            resources.cpu_shares,
            "must not be negative",
        ));
    }
    validate_cpuset("cpuset_cpus", &resources.cpuset_cpus)?;
    validate_cpuset("cpuset_mems", &resources.cpuset_mems)
}

fn validate_memory(resources: &LinuxContainerResources) -> Result<(), SpecError> {
    let limit = resources.memory_limit_in_bytes;
    if limit < -1 {
        return Err(out_of_range(
            "memory_limit_in_bytes",
            limit,
            "must be positive, or -1",
        ));
    }
    let swap = resources.memory_swap_limit_in_bytes;
    if swap < -1 {
        return Err(out_of_range(
            "memory_swap_limit_in_bytes",
            swap,
            "must be positive, or -1",
        ));
    }
    if swap > 0 && limit > swap {
        let reason = "it counts memory and swap together, so it cannot be below the memory limit";
        return Err(out_of_range("memory_swap_limit_in_bytes", swap, reason));
    }
    Ok(())
}

fn out_of_range(field: &'static str, value: i64, reason: &'static str) -> SpecError {
    SpecError::invalid(field, &value.to_string(), reason)
}

/// `0-3,7`: numbers and ranges that go up.
fn validate_cpuset(field: &'static str, set: &str) -> Result<(), SpecError> {
    let is_range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (from.parse::<u32>(), to.parse::<u32>()) {
            (Ok(from), Ok(to)) => from <= to,
            (Err(_), _) | (_, Err(_)) => false,
        }
    };
    if set.is_empty() || set.split(',').all(is_range) {
        return Ok(());
    }
    Err(SpecError::invalid(field, set, "no list like 0-3,7"))
}

fn is_page_size(size: &str) -> bool {
    ["KB", "MB", "GB"].iter().any(|unit| {
        size.strip_suffix(unit)
            .is_some_and(|number| number.parse::<u32>().is_ok_and(|n| n > 0))
    })
}

/// A key is a file of the cgroup: a plain name with a dot, as `memory.high`.
fn validate_unified(key: &str, value: &str) -> Result<(), SpecError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-';
    let named = key
        .split_once('.')
        .is_some_and(|(controller, file)| !controller.is_empty() && !file.is_empty());
    if !named || key.contains("..") || !key.chars().all(plain) {
        return Err(SpecError::invalid("unified", key, "no cgroup file's name"));
    }
    if key.starts_with("cgroup.") {
        return Err(SpecError::invalid(
            "unified",
            key,
            "the cgroup's own files are not a limit",
        ));
    }
    if value.contains('\0') {
        return Err(SpecError::invalid("unified", value, "a NUL is in it"));
    }
    Ok(())
}

/// The resources of a new container.
pub(super) fn create(
    asked: Option<&LinuxContainerResources>,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<LinuxResources, SpecError> {
    let mut start = LinuxResources::default();
    if let Ok(limit @ 1..) = i64::try_from(host.pids_limit) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        start.set_pids(Some(pids));
    }
    update(
        &start,
        asked.unwrap_or(&LinuxContainerResources::default()),
        host,
        warnings,
    )
}

/// Lays an update over the resources that a container has; a field at its zero value stays as it
/// is. The result is what the status reports, and by way of [`for_update`] what the OCI runtime
/// takes.
///
/// # Errors
/// As [`validate`].
pub fn update(
    existing: &LinuxResources,
    change: &LinuxContainerResources,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<LinuxResources, SpecError> {
    validate(change)?;
    let mut resources = existing.clone();
    resources.set_cpu(cpu(existing.cpu().clone(), change));
    resources.set_memory(memory(*existing.memory(), change, host, warnings));
    if !change.hugepage_limits.is_empty() {
        resources.set_hugepage_limits(hugepages(change, host, warnings));
    }
    if !change.unified.is_empty() {
        unified(&mut resources, change, host, warnings);
    }
    Ok(resources)
}

/// What the OCI runtime's `update` is given: all but the device rules, which no update changes and
/// which some runtimes would write again, denying everything for a moment.
#[must_use]
pub fn for_update(resources: &LinuxResources) -> LinuxResources {
    let mut request = resources.clone();
    request.set_devices(None);
    request
}

/// The CRI's view of resources that a container has, for `ContainerStatus.resources`.
#[must_use]
pub fn to_cri(resources: &LinuxResources, oom_score_adj: Option<i32>) -> LinuxContainerResources {
    let cpu = resources.cpu().clone().unwrap_or_default();
    let memory = resources.memory().unwrap_or_default();
    let number =
        |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    LinuxContainerResources {
        cpu_period: number(cpu.period()),
        cpu_quota: cpu.quota().unwrap_or_default(),
        cpu_shares: number(cpu.shares()),
        memory_limit_in_bytes: memory.limit().unwrap_or_default(),
        oom_score_adj: oom_score_adj.map_or(0, i64::from),
        cpuset_cpus: cpu.cpus().clone().unwrap_or_default(),
        cpuset_mems: cpu.mems().clone().unwrap_or_default(),
        hugepage_limits: hugepages_to_cri(resources),
        unified: resources.unified().clone().unwrap_or_default(),
        memory_swap_limit_in_bytes: memory.swap().unwrap_or_default(),
    }
}

fn hugepages_to_cri(resources: &LinuxResources) -> Vec<husk_cri_api::v1::HugepageLimit> {
    resources
        .hugepage_limits()
        .iter()
        .flatten()
        .map(|limit| husk_cri_api::v1::HugepageLimit {
            page_size: limit.page_size().clone(),
            limit: u64::try_from(limit.limit()).unwrap_or(u64::MAX),
        })
        .collect()
}

fn cpu(existing: Option<LinuxCpu>, change: &LinuxContainerResources) -> Option<LinuxCpu> {
    let mut cpu = existing.clone().unwrap_or_default();
    if let Some(shares) = positive(change.cpu_shares) {
        cpu.set_shares(Some(shares));
    }
    if let Some(period) = positive(change.cpu_period) {
        cpu.set_period(Some(period));
    }
    if change.cpu_quota != 0 {
        cpu.set_quota(Some(change.cpu_quota));
    }
    if !change.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(change.cpuset_cpus.clone()));
    }
    if !change.cpuset_mems.is_empty() {
        cpu.set_mems(Some(change.cpuset_mems.clone()));
    }
    (existing.is_some() || cpu != LinuxCpu::default()).then_some(cpu)
}

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

fn memory(
    existing: Option<LinuxMemory>,
    change: &LinuxContainerResources,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Option<LinuxMemory> {
    let mut memory = existing.unwrap_or_default();
    let limit = change.memory_limit_in_bytes;
    let swap = change.memory_swap_limit_in_bytes;
    if limit != 0 {
        memory.set_limit(Some(limit));
    }
    if host.cgroups.swap {
        memory.set_swap(swap_limit(existing.unwrap_or_default(), limit, swap));
    } else if swap != 0 && swap != limit {
        // A kubelet repeats the memory limit where swap is off, which such a host keeps anyway.
        warnings.push(Warning::Swap { limit: swap });
    }
    (existing.is_some() || memory != LinuxMemory::default()).then_some(memory)
}

/// A memory limit without a word about swap forbids swap, so that a container cannot grow past its
/// limit into it. An update that only moves the memory limit keeps swap that was allowed before.
fn swap_limit(existing: LinuxMemory, limit: i64, swap: i64) -> Option<i64> {
    if swap != 0 {
        return Some(swap);
    }
    if limit == 0 {
        return existing.swap();
    }
    let allowed = existing
        .swap()
        .filter(|swap| Some(*swap) != existing.limit());
    match allowed {
        Some(unlimited @ -1) => Some(unlimited),
        Some(allowed) if limit > 0 && allowed >= limit => Some(allowed),
        Some(_) | None => Some(limit),
    }
}

/// The kubelet sends a limit for every page size on every host; those that the host cannot keep
/// are left out, with one warning.
fn hugepages(
    change: &LinuxContainerResources,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Option<Vec<LinuxHugepageLimit>> {
    let (kept, skipped): (Vec<_>, Vec<_>) = change
        .hugepage_limits
        .iter()
        .partition(|limit| host.cgroups.hugepage_sizes.contains(&limit.page_size));
    // A limit of zero on a size that cannot be used asks for nothing.
    let sizes: Vec<String> = skipped
        .iter()
        .filter(|limit| limit.limit > 0 || host.cgroups.hugepage_sizes.is_empty())
        .map(|limit| limit.page_size.clone())
        .collect();
    if !sizes.is_empty() {
        warnings.push(Warning::Hugepages { sizes });
    }
    let limits: Vec<_> = kept
        .into_iter()
        .map(|limit| {
            let mut to = LinuxHugepageLimit::default();
            to.set_page_size(limit.page_size.clone());
            to.set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
            to
        })
        .collect();
    (!limits.is_empty()).then_some(limits)
}

fn unified(
    resources: &mut LinuxResources,
    change: &LinuxContainerResources,
    host: &HostFacts,
    warnings: &mut Vec<Warning>,
) {
    if host.cgroups.version == CgroupVersion::V1 {
        let mut keys: Vec<String> = change.unified.keys().cloned().collect();
        keys.sort();
        warnings.push(Warning::Unified { keys });
        return;
    }
    let mut merged = resources.unified().clone().unwrap_or_default();
    merged.extend(change.unified.clone());
    resources.set_unified(Some(merged));
}
