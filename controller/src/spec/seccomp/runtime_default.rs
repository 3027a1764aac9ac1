//! The default profile, by themes.

use oci_spec::runtime::{
    Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::{Architecture, ProfileContext};
use crate::spec::facts::KernelVersion;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Files and directories.
const FILES: &str = "\
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 \
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 \
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr file_setattr \
    flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync \
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat lchown \
    lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr \
    lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat \
    open openat openat2 readahead readlink readlinkat removexattr removexattrat rename \
    renameat renameat2 rmdir setxattr setxattrat stat stat64 statfs statfs64 statmount \
    listmount statx symlink symlinkat sync sync_file_range syncfs truncate truncate64 umask \
    unlink unlinkat utime utimensat utimensat_time64 utimes";

/// Reading, writing and waiting for readiness.
const INPUT_OUTPUT: &str = "\
    cachestat epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
    epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set _newselect pipe \
    pipe2 poll ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 \
    pwritev pwritev2 read readv select sendfile sendfile64 signalfd signalfd4 splice tee \
    vmsplice write writev";

/// Memory.
const MEMORY: &str = "\
    brk get_mempolicy_home_node madvise map_shadow_stack membarrier memfd_create \
    memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync \
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease \
    remap_file_pages";

/// Processes, threads, credentials and limits.
const PROCESSES: &str = "\
    capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 \
    futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid \
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid \
    getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage \
    getsid gettid getuid getuid32 kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr pause \
    pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address \
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit setsid setuid setuid32 sigaltstack signal sigpending sigprocmask \
    sigreturn sigsuspend sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid \
    waitpid";

/// Time.
const TIME: &str = "\
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer \
    gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun \
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";

/// Sockets, but for `socket` itself, which is allowed by family.
const NETWORK: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom \
    recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown \
    socketcall socketpair";

/// Semaphores, messages, shared memory and random numbers.
const SHARED: &str = "\
    getrandom ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
    mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget \
    semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget";

const X86: &str = "\
    arch_prctl modify_ldt uretprobe";

const ARM: &str = "\
    arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Calls that a capability opens. A call in several rows needs any one of their capabilities.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         mount mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module finit_module init_module",
    ),
    (Capability::SysPacct, "acct"),
    (
        Capability::SysPtrace,
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (Capability::SysRawio, "ioperm iopl"),
    (
        Capability::SysTime,
        "clock_settime clock_settime64 settimeofday stime",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Calls that no container has a use for, whatever its capabilities.
const NEVER: &str = "\
    _sysctl add_key create_module get_kernel_syms io_uring_enter io_uring_register \
    io_uring_setup kexec_file_load kexec_load keyctl migrate_pages move_pages nfsservctl \
    pivot_root query_module request_key swapoff swapon sysfs uselib userfaultfd ustat vm86 \
    vm86old";

pub(super) fn build(context: &ProfileContext<'_>) -> LinuxSeccomp {
    let mut rules = vec![allow(base(context))];
    rules.extend(by_argument(context));
    let (open, closed) = by_capability(context);
    if !open.is_empty() {
        rules.push(allow(open));
    }
    rules.push(refuse(
        closed.into_iter().chain(NEVER.split_whitespace()).collect(),
        EPERM,
    ));

    let mut filter = LinuxSeccomp::default();
    filter.set_default_action(LinuxSeccompAction::ScmpActErrno);
    filter.set_default_errno_ret(Some(ENOSYS));
    filter.set_architectures(Some(context.architecture.filters()));
    filter.set_syscalls(Some(rules));
    filter
}

fn base(context: &ProfileContext<'_>) -> Vec<&'static str> {
    let native = match context.architecture {
        Architecture::X86_64 => X86,
        Architecture::Aarch64 => ARM,
    };
    let themes = [
        FILES,
        INPUT_OUTPUT,
        MEMORY,
        PROCESSES,
        TIME,
        NETWORK,
        SHARED,
        native,
    ];
    let mut names: Vec<&str> = themes.into_iter().flat_map(str::split_whitespace).collect();
    if is_ptrace_safe(context.kernel) {
        names.extend(["process_vm_readv", "process_vm_writev", "ptrace"]);
    }
    names.sort_unstable();
    names
}

/// Before Linux 4.8 a tracer could change a system call after the filter had looked at it.
fn is_ptrace_safe(kernel: KernelVersion) -> bool {
    kernel >= KernelVersion { major: 4, minor: 8 }
}

/// What a container's capabilities open, and what stays closed.
fn by_capability(context: &ProfileContext<'_>) -> (Vec<&'static str>, Vec<&'static str>) {
    let has = |capability| context.capabilities.contains(capability);
    let rows = |wanted: bool| -> Vec<&'static str> {
        BY_CAPABILITY
            .iter()
            .filter(|(capability, _)| has(capability) == wanted)
            .flat_map(|(_, names)| names.split_whitespace())
            .collect()
    };
    let mut open = rows(true);
    open.sort_unstable();
    open.dedup();
    let allowed = base(context);
    let mut closed = rows(false);
    // `clone` and `clone3` have rules of their own; a call in two rules would have two answers.
    closed.retain(|name| {
        !open.contains(name) && !allowed.contains(name) && !name.starts_with("clone")
    });
    closed.sort_unstable();
    closed.dedup();
    open.retain(|name| !allowed.contains(name));
    (open, closed)
}

/// Calls that depend on what they are asked to do.
fn by_argument(context: &ProfileContext<'_>) -> Vec<LinuxSyscall> {
    let mut rules = sockets();
    rules.extend(PERSONALITIES.iter().map(|value| {
        allow_where(
            "personality",
            argument(0, *value, None, LinuxSeccompOperator::ScmpCmpEq),
        )
    }));
    if !context.capabilities.contains(&Capability::SysAdmin) {
        rules.extend(clone_without_namespaces());
    }
    rules
}

/// PER_LINUX, PER_LINUX32, each also with UNAME26, and the value that only asks (personality(2)).
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Every family but AF_ALG (38), a source of kernel holes, and AF_VSOCK (40), which reaches the
/// machine's hypervisor past all namespaces.
fn sockets() -> Vec<LinuxSyscall> {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpGt, ScmpCmpLt};
    let mut rules: Vec<_> = [(38, ScmpCmpLt), (39, ScmpCmpEq), (40, ScmpCmpGt)]
        .into_iter()
        .map(|(family, operator)| allow_where("socket", argument(0, family, None, operator)))
        .collect();
    rules.extend([38, 40].map(|family| {
        let mut rule = refuse(vec!["socket"], EPERM);
        rule.set_args(Some(vec![argument(0, family, None, ScmpCmpEq)]));
        rule
    }));
    rules
}

/// `clone3` has no rule: its flags are behind a pointer, where no filter can look, so it answers
/// ENOSYS and C libraries fall back to `clone`.
///
/// The flags of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID
/// and NEWNET.
const NAMESPACE_FLAGS: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];

fn clone_without_namespaces() -> Vec<LinuxSyscall> {
    let all = NAMESPACE_FLAGS.iter().fold(0, |all, flag| all | flag);
    let operator = LinuxSeccompOperator::ScmpCmpMaskedEq;
    let mut rules = vec![allow_where("clone", argument(0, all, Some(0), operator))];
    rules.extend(NAMESPACE_FLAGS.map(|flag| {
        let mut rule = refuse(vec!["clone"], EPERM);
        rule.set_args(Some(vec![argument(0, flag, Some(flag), operator)]));
        rule
    }));
    rules
}

fn allow(names: Vec<&str>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None)
}

fn allow_where(name: &str, argument: LinuxSeccompArg) -> LinuxSyscall {
    let mut rule = allow(vec![name]);
    rule.set_args(Some(vec![argument]));
    rule
}

fn refuse(names: Vec<&str>, errno: u32) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActErrno, Some(errno))
}

fn rule(names: Vec<&str>, action: LinuxSeccompAction, errno: Option<u32>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect());
    rule.set_action(action);
    rule.set_errno_ret(errno);
    rule
}

fn argument(
    index: usize,
    value: u64,
    second: Option<u64>,
    operator: LinuxSeccompOperator,
) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .op(operator);
    let argument = match second {
        Some(second) => argument.value_two(second),
        None => argument,
    };
    // Every field has a default, so building cannot fail.
    argument.build().unwrap_or_default()
}
