//! Changes of containers that exist.

use super::owners::{Asker, Conflict, Owners};
use crate::api::{ContainerUpdate, LinuxContainerUpdate, LinuxResources};

/// The wishes so far, a container once.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    pub(super) owners: Owners,
    list: Vec<ContainerUpdate>,
    own: Option<Own>,
}

/// The container whose update the plugins are asked about.
#[derive(Debug)]
struct Own {
    id: String,
    resources: LinuxResources,
}

impl Updates {
    /// For the update of container `id` to `resources`.
    pub(crate) fn of(id: String, resources: LinuxResources) -> Self {
        Self {
            own: Some(Own { id, resources }),
            ..Self::default()
        }
    }

    /// What the next plugin sees of the update that it is asked about.
    pub(crate) fn resources(&self) -> Option<&LinuxResources> {
        self.own.as_ref().map(|own| &own.resources)
    }

    /// Adds what one plugin wants. A wish that may fail and conflicts is left out as a whole.
    pub(crate) fn apply(
        &mut self,
        plugin: &str,
        updates: Vec<ContainerUpdate>,
    ) -> Result<(), Conflict> {
        for update in updates {
            let may_fail = update.ignore_failure;
            match self.add(plugin, update) {
                Err(conflict) if !may_fail => return Err(conflict),
                Err(conflict) => {
                    tracing::debug!(%conflict, "an update by an NRI plugin is left out")
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, plugin: &str, update: ContainerUpdate) -> Result<(), Conflict> {
        let id = update.container_id;
        let asked = update.linux.unwrap_or_default().resources;
        let asked = asked.unwrap_or_default();
        let known = self.list.iter().position(|known| known.container_id == id);
        let before = match (&self.own, known) {
            (Some(own), _) if own.id == id => own.resources.clone(),
            (_, Some(known)) => resources(&self.list[known]),
            (_, None) => LinuxResources::default(),
        };
        // Copies first: a conflict leaves nothing half done.
        let (mut owners, mut merged) = (self.owners.clone(), before);
        let mut asker = Asker {
            owners: &mut owners,
            id: &id,
            plugin,
        };
        asker.resources(asked, &mut merged, &mut LinuxResources::default())?;
        self.owners = owners;
        match &mut self.own {
            Some(own) if own.id == id => own.resources = merged,
            _ => self.put(known, id, merged, update.ignore_failure),
        }
        Ok(())
    }

    fn put(
        &mut self,
        known: Option<usize>,
        container_id: String,
        merged: LinuxResources,
        may_fail: bool,
    ) {
        let linux = Some(LinuxContainerUpdate {
            resources: Some(merged),
        });
        match known {
            Some(known) => {
                let known = &mut self.list[known];
                known.linux = linux;
                known.ignore_failure &= may_fail;
            }
            None => self.list.push(ContainerUpdate {
                container_id,
                linux,
                ignore_failure: may_fail,
            }),
        }
    }

    /// The updates of others, without the one that the plugins were asked about.
    pub(crate) fn list(&self) -> &[ContainerUpdate] {
        &self.list
    }

    /// What the update that the plugins were asked about became, and the updates of others.
    pub(crate) fn finish(self) -> (LinuxResources, Vec<ContainerUpdate>) {
        let own = self.own.map(|own| own.resources);
        (own.unwrap_or_default(), self.list)
    }
}

fn resources(update: &ContainerUpdate) -> LinuxResources {
    let linux = update.linux.clone().unwrap_or_default();
    linux.resources.unwrap_or_default()
}
