//! Adjustments of a container in the making.

use super::list::Targets;
use super::owners::{Asker, Conflict, Owners};
use super::updates::Updates;
use crate::api::{
    Container, ContainerAdjustment, CreateContainerResponse, Field, Hooks, KeyValue,
    LinuxContainer, LinuxContainerAdjustment, LinuxRdt,
};

/// The wishes so far.
#[derive(Debug, Default)]
pub(crate) struct Creation {
    /// What is asked for.
    pub(crate) adjust: ContainerAdjustment,
    /// What is asked for of other containers.
    pub(crate) updates: Updates,
}

/// Sets single fields that the plugin gave a value.
macro_rules! set {
    ($asker:expr, $asked:expr, $adjusted:expr, $seen:expr, $($name:ident => $field:ident),* $(,)?) => {
        $(if let Some(value) = $asked.$name.take() {
            $asker.claim(Field::$field, "")?;
            $seen.$name = Some(value.clone());
            $adjusted.$name = Some(value);
        })*
    };
}

impl Creation {
    /// Adds what one plugin wants; `container` becomes what the next one sees.
    pub(crate) fn apply(
        &mut self,
        container: &mut Container,
        plugin: &str,
        answer: CreateContainerResponse,
    ) -> Result<(), Conflict> {
        let id = container.id.clone();
        if let Some(asked) = answer.adjust {
            let mut asker = Asker {
                owners: &mut self.updates.owners,
                id: &id,
                plugin,
            };
            adjust(&mut asker, asked, &mut self.adjust, container)?;
        }
        if answer.update.iter().any(|update| update.container_id == id) {
            let plugin = plugin.to_owned();
            return Err(Conflict::InCreation { plugin, id });
        }
        self.updates.apply(plugin, answer.update)
    }

    pub(crate) fn owners(&self) -> &Owners {
        &self.updates.owners
    }
}

fn adjust(
    asker: &mut Asker<'_>,
    asked: ContainerAdjustment,
    adjusted: &mut ContainerAdjustment,
    seen: &mut Container,
) -> Result<(), Conflict> {
    let (all, shown) = (&mut adjusted.annotations, &mut seen.annotations);
    asker.map(Field::Annotations, asked.annotations, all, shown)?;
    let mounts = Targets {
        adjusted: &mut adjusted.mounts,
        seen: &mut seen.mounts,
    };
    asker.list(Field::Mounts, asked.mounts, mounts)?;
    env(asker, asked.env, &mut adjusted.env, &mut seen.env)?;
    args(asker, asked.args, &mut adjusted.args, &mut seen.args)?;
    if let Some(asked) = asked.hooks.filter(|asked| *asked != Hooks::default()) {
        asker.join(Field::OciHooks);
        extend(seen.hooks.get_or_insert_default(), &asked);
        extend(adjusted.hooks.get_or_insert_default(), &asked);
    }
    let rlimits = Targets {
        adjusted: &mut adjusted.rlimits,
        seen: &mut seen.rlimits,
    };
    asker.list(Field::Rlimits, asked.rlimits, rlimits)?;
    let devices = Targets {
        adjusted: &mut adjusted.cdi_devices,
        seen: &mut seen.cdi_devices,
    };
    asker.list(Field::CdiDevices, asked.cdi_devices, devices)?;
    let Some(asked) = asked.linux else {
        return Ok(());
    };
    let adjusted = adjusted.linux.get_or_insert_default();
    linux(asker, asked, adjusted, seen.linux.get_or_insert_default())
}

/// The environment, which a container shows as `KEY=value`.
fn env(
    asker: &mut Asker<'_>,
    asked: Vec<KeyValue>,
    adjusted: &mut Vec<KeyValue>,
    seen: &mut Vec<String>,
) -> Result<(), Conflict> {
    if asked.is_empty() {
        return Ok(());
    }
    let pair = |text: String| {
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        }
    };
    let mut shown: Vec<_> = std::mem::take(seen).into_iter().map(pair).collect();
    let targets = Targets {
        adjusted,
        seen: &mut shown,
    };
    let done = asker.list(Field::Env, asked, targets);
    let text = |entry: KeyValue| format!("{}={}", entry.key, entry.value);
    *seen = shown.into_iter().map(text).collect();
    done
}

/// The arguments. An empty first one permits to replace what another plugin set.
fn args(
    asker: &mut Asker<'_>,
    mut asked: Vec<String>,
    adjusted: &mut Vec<String>,
    seen: &mut Vec<String>,
) -> Result<(), Conflict> {
    let Some(first) = asked.first() else {
        return Ok(());
    };
    if first.is_empty() {
        asker.clear(Field::Args, "");
        asked.remove(0);
    }
    asker.claim(Field::Args, "")?;
    seen.clone_from(&asked);
    *adjusted = asked;
    Ok(())
}

fn extend(hooks: &mut Hooks, asked: &Hooks) {
    let lists = [
        (&mut hooks.prestart, &asked.prestart),
        (&mut hooks.create_runtime, &asked.create_runtime),
        (&mut hooks.create_container, &asked.create_container),
        (&mut hooks.start_container, &asked.start_container),
        (&mut hooks.poststart, &asked.poststart),
        (&mut hooks.poststop, &asked.poststop),
    ];
    for (list, more) in lists {
        list.extend(more.iter().cloned());
    }
}

fn linux(
    asker: &mut Asker<'_>,
    mut asked: LinuxContainerAdjustment,
    adjusted: &mut LinuxContainerAdjustment,
    seen: &mut LinuxContainer,
) -> Result<(), Conflict> {
    let devices = Targets {
        adjusted: &mut adjusted.devices,
        seen: &mut seen.devices,
    };
    asker.list(Field::Devices, asked.devices, devices)?;
    let namespaces = Targets {
        adjusted: &mut adjusted.namespaces,
        seen: &mut seen.namespaces,
    };
    asker.list(Field::Namespace, asked.namespaces, namespaces)?;
    let (all, shown) = (&mut adjusted.sysctl, &mut seen.sysctl);
    asker.map(Field::Sysctl, asked.sysctl, all, shown)?;
    let (all, shown) = (&mut adjusted.net_devices, &mut seen.net_devices);
    asker.map(Field::LinuxNetDevices, asked.net_devices, all, shown)?;
    if let Some(asked) = asked.resources {
        let all = adjusted.resources.get_or_insert_default();
        asker.resources(asked, all, seen.resources.get_or_insert_default())?;
    }
    if !asked.cgroups_path.is_empty() && asked.cgroups_path != seen.cgroups_path {
        return Err(Conflict::Cgroup {
            plugin: asker.plugin.to_owned(),
            id: asker.id.to_owned(),
            path: asked.cgroups_path,
        });
    }
    set!(asker, asked, adjusted, seen,
        oom_score_adj => OomScoreAdj,
        io_priority => IoPriority,
        seccomp_policy => SeccompPolicy,
        scheduler => LinuxSched,
    );
    if let Some(policy) = asked.memory_policy {
        asker.claim(Field::MemoryPolicy, "")?;
        adjusted.memory_policy = Some(policy);
    }
    if let Some(asked) = asked.rdt {
        rdt(asker, asked, adjusted.rdt.get_or_insert_default())?;
        seen.rdt.clone_from(&adjusted.rdt);
    }
    Ok(())
}

/// The class of cache and memory bandwidth. `remove` takes away what was set before.
fn rdt(asker: &mut Asker<'_>, asked: LinuxRdt, adjusted: &mut LinuxRdt) -> Result<(), Conflict> {
    if asked.remove {
        for field in [
            Field::RdtClosId,
            Field::RdtSchemata,
            Field::RdtEnableMonitoring,
        ] {
            asker.clear(field, "");
        }
        *adjusted = LinuxRdt {
            remove: true,
            ..LinuxRdt::default()
        };
    }
    if asked.clos_id.is_some() {
        asker.claim(Field::RdtClosId, "")?;
        adjusted.clos_id = asked.clos_id;
    }
    if asked.schemata.is_some() {
        asker.claim(Field::RdtSchemata, "")?;
        adjusted.schemata = asked.schemata;
    }
    if asked.enable_monitoring.is_some() {
        asker.claim(Field::RdtEnableMonitoring, "")?;
        adjusted.enable_monitoring = asked.enable_monitoring;
    }
    Ok(())
}
