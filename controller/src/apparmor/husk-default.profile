# What a container is confined to where Kubernetes says RuntimeDefault.
#
# A container's files, namespaces and capabilities are chosen elsewhere. This profile keeps a process
# that has won more of them than it should away from what belongs to the whole host: mounting, the
# kernel's switches below /proc and /sys, and processes of other profiles.
profile husk-default flags=(attach_disconnected, mediate_deleted) {
  file,
  capability,
  network,
  unix,
  umount,

  # The runtime, and whoever else on the host may, ends the container's processes.
  signal (receive) peer=unconfined,
  signal (receive) peer={runc,crun,husk,pod-monitor},
  signal (send, receive) peer=husk-default,
  ptrace (trace, tracedby, read, readby) peer=husk-default,

  deny mount,
  deny remount,
  deny pivot_root,

  # Below /proc a container changes its own processes, and the kernel parameters of its namespaces.
  deny /proc/{acpi,bus,driver,fs,irq,scsi}/** wlk,
  deny /proc/sysrq-trigger rwlk,
  deny /proc/kcore rwlk,
  deny /proc/{kmem,mem,kallsyms,timer_list,sched_debug} rwlk,
  deny /proc/sys/{abi,debug,dev,vm,user}/** wlk,
  deny /proc/sys/fs/[^m]** wlk,
  deny /proc/sys/kernel/{core_*,modprobe,hotplug,poweroff_cmd,usermodehelper/**} wlk,
  deny /proc/sys/kernel/{kptr_restrict,dmesg_restrict,modules_disabled,panic*,perf_*} wlk,
  deny /proc/sys/kernel/{randomize_va_space,sysrq,unprivileged_*,yama/**,keys/**} wlk,

  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wlk,
  deny /sys/fs/{bpf,ext4,fuse,pstore,selinux,xfs}/** wlk,
  deny /sys/firmware/** rwlk,
  deny /sys/kernel/security/** rwlk,
  deny /sys/devices/virtual/powercap/** rwlk,
}
