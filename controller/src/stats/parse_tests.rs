//! The texts are what real kernels wrote: 6.18 with version 1, 6.1 with version 2.

use super::*;

const CPU_V2: &str = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\ncore_sched.force_idle_usec 0\nnr_periods 40\nnr_throttled 3\nthrottled_usec 250000\nnr_bursts 0\nburst_usec 0\n";

const CPU_V1: &str =
    "nr_periods 40\nnr_throttled 3\nthrottled_time 250000000\nnr_bursts 0\nburst_time 0\n";

const MEMORY_V1: &str = "cache 0\nrss 0\nrss_huge 0\nshmem 0\nmapped_file 0\ndirty 0\nwriteback 0
workingset_refault_anon 0\nworkingset_refault_file 0\nswap 0\nswapcached 0\npgpgin 0\npgpgout 0
pgfault 0\npgmajfault 0\ninactive_anon 0\nactive_anon 0\ninactive_file 0\nactive_file 0\nunevictable 0
hierarchical_memory_limit 9223372036854771712\nhierarchical_memsw_limit 9223372036854771712
total_cache 28672\ntotal_rss 389120\ntotal_rss_huge 0\ntotal_shmem 0\ntotal_mapped_file 4096
total_dirty 0\ntotal_writeback 0\ntotal_workingset_refault_anon 0\ntotal_workingset_refault_file 164
total_swap 8192\ntotal_swapcached 0\ntotal_pgpgin 34625\ntotal_pgpgout 34523\ntotal_pgfault 55221
total_pgmajfault 2\ntotal_inactive_anon 360448\ntotal_active_anon 28672\ntotal_inactive_file 28672
total_active_file 12288\ntotal_unevictable 0\n";

const MEMORY_V2: &str = "anon 393216\nfile 1052672\nkernel 163840\nkernel_stack 16384\npagetables 61440
sec_pagetables 0\npercpu 1152\nsock 0\nvmalloc 0\nshmem 0\nzswap 0\nzswapped 0\nfile_mapped 700416
file_dirty 0\nfile_writeback 0\nswapcached 0\nanon_thp 0\nfile_thp 0\nshmem_thp 0\ninactive_anon 364544
active_anon 4096\ninactive_file 819200\nactive_file 233472\nunevictable 0\nslab_reclaimable 35512
slab_unreclaimable 41288\nslab 76800\nworkingset_refault_anon 0\nworkingset_refault_file 0
pgscan 0\npgsteal 0\npgfault 3146\npgmajfault 4\npgrefill 0\n";

const PRESSURE: &str = "some avg10=5.69 avg60=31.48 avg300=35.66 total=1093307569
full avg10=0.50 avg60=0.25 avg300=0.00 total=7\n";

const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     840      10    0    0    0     0          0         0      840      10    0    0    0     0       0          0
  eth0: 1876214    1210    1    2    0     0          0         3    88470     913    4    5    0     0       0          0\n";

const ROUTE: &str =
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth1\t00000000\t0101580A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t00000000\t0100580A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

const ROUTE_V6: &str = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     net1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     net1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

#[test]
fn cpu_of_both_versions() {
    let throttling = Throttling {
        periods: 40,
        throttled: 3,
        time: 250_000_000,
    };
    let time = CpuTime {
        usage: 1_234_567_000,
        user: 1_000_000_000,
        system: 234_567_000,
    };
    assert_eq!(cpu_v2(CPU_V2), Some((time, throttling)));
    assert_eq!(throttling_v1(CPU_V1), throttling);
    assert_eq!(cpu_v2(""), None);
}

#[test]
fn memory_of_both_versions() {
    let v1 = MemoryParts {
        cache: 28672,
        anonymous: 389_120,
        mapped_file: 4096,
        inactive_file: 28672,
        active_file: 12288,
        swap: 8192,
        kernel: 0,
        page_faults: 55221,
        major_page_faults: 2,
    };
    assert_eq!(memory_v1(MEMORY_V1), v1);
    let v2 = MemoryParts {
        cache: 1_052_672,
        anonymous: 393_216,
        mapped_file: 700_416,
        inactive_file: 819_200,
        active_file: 233_472,
        swap: 0,
        kernel: 163_840,
        page_faults: 3146,
        major_page_faults: 4,
    };
    assert_eq!(memory_v2(MEMORY_V2), v2);
    let before_5_18 = MEMORY_V2.replace("kernel 163840\n", "");
    assert_eq!(memory_v2(&before_5_18).kernel, 16384 + 61440 + 1152 + 76800);
}

#[test]
fn numbers_and_single_values() {
    let rows = [
        ("12\n", Some(12)),
        ("max\n", None),
        ("", None),
        ("-1", None),
    ];
    for (text, expected) in rows {
        assert_eq!(number(text), expected, "{text:?}");
    }
    let events = "low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n";
    assert_eq!(value(events, "oom_kill"), Some(1));
    assert_eq!(value(events, "max"), Some(17));
    let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    assert_eq!(value(control, "oom_kill"), Some(3));
    assert_eq!(value(control, "absent"), None);
}

#[test]
fn pressure_in_nanoseconds() {
    let found = pressure(PRESSURE).unwrap();
    let some = Psi {
        total: 1_093_307_569_000,
        avg10: 5.69,
        avg60: 31.48,
        avg300: 35.66,
    };
    assert_eq!(found.some, some);
    assert_eq!((found.full.total, found.full.avg10), (7000, 0.5));
    // Kernels before 5.13 have no line of all tasks for the CPU.
    let short = pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n").unwrap();
    assert_eq!((short.some.total, short.full), (1000, Psi::default()));
    assert_eq!(pressure(""), None);
}

#[test]
fn block_devices_of_both_versions() {
    let expected = DeviceIo {
        major: 253,
        minor: 0,
        read_bytes: 1_462_272,
        written_bytes: 4096,
        reads: 28,
        writes: 1,
    };
    let v2 = "253:0 rbytes=1462272 wbytes=4096 rios=28 wios=1 dbytes=0 dios=0\n";
    assert_eq!(io_v2(v2), [expected]);
    let bytes = "253:0 Read 1462272\n253:0 Write 4096\n253:0 Sync 1466368\n253:0 Async 0\n253:0 Discard 0\n253:0 Total 1466368\nTotal 1466368\n";
    let requests = "253:0 Read 28\n253:0 Write 1\n253:0 Sync 29\n253:0 Async 0\n253:0 Discard 0\n253:0 Total 29\nTotal 29\n";
    assert_eq!(io_v1(bytes, requests), [expected]);
    assert_eq!(io_v1("Total 0\n", "Total 0\n"), []);
    // A device without counters yet has a name only.
    assert_eq!(io_v2("8:16 \n").len(), 1);
}

#[test]
fn interfaces_without_loopback() {
    let expected = Interface {
        name: "eth0".into(),
        received: Traffic {
            bytes: 1_876_214,
            packets: 1210,
            errors: 1,
            dropped: 2,
        },
        sent: Traffic {
            bytes: 88470,
            packets: 913,
            errors: 4,
            dropped: 5,
        },
    };
    assert_eq!(interfaces(NET_DEV), [expected]);
    assert_eq!(interfaces("garbage\neth0: 1 2 3\n"), []);
}

#[test]
fn the_default_route_names_an_interface() {
    let rows = [
        (ROUTE, ROUTE_V6, Some("eth0")),
        ("Iface\tDestination\n", ROUTE_V6, Some("net1")),
        ("", "", None),
    ];
    for (v4, v6, expected) in rows {
        assert_eq!(default_interface(v4, v6).as_deref(), expected);
    }
}

#[test]
fn the_limit_of_open_files() {
    let text = "Limit                     Soft Limit           Hard Limit           Units
Max processes             95971                95971                processes
Max open files            1024                 524288               files
Max locked memory         8388608              8388608              bytes\n";
    assert_eq!(open_files_limit(text), Some(1024));
    assert_eq!(
        open_files_limit("Max open files unlimited unlimited files\n"),
        None
    );
}
