//! Rules of resources: limits, swap, what the host lacks.

use super::*;

#[test]
fn what_the_host_lacks_is_left_out_with_one_warning() {
    let mut case = Case::default();
    case.host.cgroups.version = CgroupVersion::V1;
    case.host.cgroups.hugepage_sizes.clear();
    case.host.cgroups.swap = false;
    let resources = case.resources();
    resources.memory_limit_in_bytes = 1 << 20;
    resources.memory_swap_limit_in_bytes = 2 << 20;
    resources.unified = [("memory.high".to_owned(), "1".to_owned())].into();
    resources.hugepage_limits = ["2MB", "1GB"]
        .map(|size| v1::HugepageLimit {
            page_size: size.to_owned(),
            limit: 0,
        })
        .to_vec();
    let resources = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    assert!(resources.unified().is_none() && resources.hugepage_limits().is_none());
    assert_eq!(resources.memory().unwrap().swap(), None);
    assert_eq!(case.warnings().len(), 3, "{:?}", case.warnings());
}

#[test]
fn a_memory_limit_alone_forbids_swap() {
    let mut case = Case::default();
    case.resources().memory_limit_in_bytes = 1 << 20;
    let resources = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    assert_eq!(resources.memory().unwrap().swap(), Some(1 << 20));
}

#[test]
fn swap_follows_the_memory_limit_unless_it_was_allowed() {
    const M: i64 = 1 << 20;
    for (limit, swap, new_limit, new_swap, expected) in [
        (64, 0, 128, 0, 128),
        (64, 64, 128, 0, 128),
        (64, 96, 80, 0, 96),
        (64, 96, 128, 0, 128),
        (64, 96, 0, 200, 200),
        (64, 96, 0, 0, 96),
        (0, 0, 64, 0, 64),
    ] {
        let mut case = Case::default();
        case.resources().memory_limit_in_bytes = limit * M;
        case.resources().memory_swap_limit_in_bytes = swap * M;
        let before = case
            .spec()
            .linux()
            .clone()
            .unwrap()
            .resources()
            .clone()
            .unwrap();
        let change = v1::LinuxContainerResources {
            memory_limit_in_bytes: new_limit * M,
            memory_swap_limit_in_bytes: new_swap * M,
            ..Default::default()
        };
        let after = resources::update(&before, &change, &case.host, &mut Vec::new()).unwrap();
        assert_eq!(
            after.memory().unwrap().swap(),
            Some(expected * M),
            "{limit} {swap}"
        );
    }
}

#[test]
fn unlimited_swap_and_memory_stay_unlimited() {
    let mut case = Case::default();
    case.resources().memory_limit_in_bytes = 1 << 20;
    case.resources().memory_swap_limit_in_bytes = -1;
    let before = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    for (limit, expected) in [(2 << 20, -1), (-1, -1)] {
        let change = v1::LinuxContainerResources {
            memory_limit_in_bytes: limit,
            ..Default::default()
        };
        let after = resources::update(&before, &change, &case.host, &mut Vec::new()).unwrap();
        let memory = after.memory().unwrap();
        assert_eq!(
            (memory.limit(), memory.swap()),
            (Some(limit), Some(expected))
        );
    }
}

#[test]
fn an_update_changes_what_it_names() {
    let mut case = Case::default();
    *case.resources() = v1::LinuxContainerResources {
        cpu_shares: 100,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 1 << 20,
        unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let before = case
        .spec()
        .linux()
        .clone()
        .unwrap()
        .resources()
        .clone()
        .unwrap();
    let change = v1::LinuxContainerResources {
        cpu_shares: 200,
        unified: [("memory.low".to_owned(), "2".to_owned())].into(),
        ..Default::default()
    };
    let after = resources::update(&before, &change, &case.host, &mut Vec::new()).unwrap();
    let seen = resources::to_cri(&after, Some(5));
    assert_eq!(
        (seen.cpu_shares, seen.cpu_quota, seen.cpu_period),
        (200, 20_000, 100_000)
    );
    assert_eq!(
        (seen.memory_limit_in_bytes, seen.oom_score_adj),
        (1 << 20, 5)
    );
    assert_eq!(seen.unified.len(), 2);
    assert_eq!(after.devices(), before.devices());
    assert!(resources::for_update(&after).devices().is_none());
    let nothing = v1::LinuxContainerResources::default();
    assert_eq!(
        resources::update(&after, &nothing, &case.host, &mut Vec::new()).unwrap(),
        after
    );
}
