//! Resources: each limit is set by one plugin at most.

use super::list::Targets;
use super::owners::{Asker, Conflict};
use crate::api::{Field, LinuxCpu, LinuxMemory, LinuxResources};

/// Sets fields that the plugin gave a value, in all targets.
macro_rules! set {
    ($asker:expr, $asked:expr, $targets:expr, $($name:ident => $field:ident),* $(,)?) => {
        $(if let Some(value) = &$asked.$name {
            $asker.claim(Field::$field, "")?;
            for target in &mut *$targets {
                target.$name = Some(value.clone());
            }
        })*
    };
}

impl Asker<'_> {
    /// Puts what the plugin asks for into `adjusted`, and into what the next plugin sees.
    pub(super) fn resources(
        &mut self,
        asked: LinuxResources,
        adjusted: &mut LinuxResources,
        seen: &mut LinuxResources,
    ) -> Result<(), Conflict> {
        if let Some(memory) = &asked.memory {
            let targets = [
                adjusted.memory.get_or_insert_default(),
                seen.memory.get_or_insert_default(),
            ];
            self.memory(memory, targets)?;
        }
        if let Some(cpu) = &asked.cpu {
            let targets = [
                adjusted.cpu.get_or_insert_default(),
                seen.cpu.get_or_insert_default(),
            ];
            self.cpu(cpu, targets)?;
        }
        let mut targets = [&mut *adjusted, &mut *seen];
        set!(self, asked, &mut targets,
            blockio_class => BlockioClass,
            rdt_class => RdtClass,
            pids => PidsLimit,
        );
        for target in targets {
            target.devices.extend(asked.devices.iter().cloned());
        }
        let limits = Targets {
            adjusted: &mut adjusted.hugepage_limits,
            seen: &mut seen.hugepage_limits,
        };
        self.list(Field::HugepageLimits, asked.hugepage_limits, limits)?;
        let (all, shown) = (&mut adjusted.unified, &mut seen.unified);
        self.map(Field::CgroupsUnified, asked.unified, all, shown)
    }

    fn memory(
        &mut self,
        asked: &LinuxMemory,
        mut targets: [&mut LinuxMemory; 2],
    ) -> Result<(), Conflict> {
        set!(self, asked, &mut targets,
            limit => MemLimit,
            reservation => MemReservation,
            swap => MemSwapLimit,
            kernel => MemKernelLimit,
            kernel_tcp => MemTcpLimit,
            swappiness => MemSwappiness,
            disable_oom_killer => MemDisableOomKiller,
            use_hierarchy => MemUseHierarchy,
        );
        Ok(())
    }

    fn cpu(&mut self, asked: &LinuxCpu, mut targets: [&mut LinuxCpu; 2]) -> Result<(), Conflict> {
        set!(self, asked, &mut targets,
            shares => CpuShares,
            quota => CpuQuota,
            period => CpuPeriod,
            realtime_runtime => CpuRealtimeRuntime,
            realtime_period => CpuRealtimePeriod,
        );
        if !asked.cpus.is_empty() {
            self.claim(Field::CpuSetCpUs, "")?;
            for target in &mut targets {
                target.cpus.clone_from(&asked.cpus);
            }
        }
        if !asked.mems.is_empty() {
            self.claim(Field::CpuSetMems, "")?;
            for target in &mut targets {
                target.mems.clone_from(&asked.mems);
            }
        }
        Ok(())
    }
}
