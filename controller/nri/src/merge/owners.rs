//! Who set what.

use std::collections::BTreeMap;

use crate::api::{self, Field};

/// Wishes that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Two plugins set the same thing.
    #[error("plugins {first:?} and {second:?} both set {what} of container {id}")]
    Both {
        /// Who set it first.
        first: String,
        /// Who wanted to set it too.
        second: String,
        /// The field, and the entry in it.
        what: String,
        /// The container.
        id: String,
    },
    /// A plugin wants a container's cgroup where the runtime would not look for it.
    #[error(
        "plugin {plugin:?} wants the cgroup of container {id} to be {path:?}, but it is measured, limited and \
         ended by the one below its pod's"
    )]
    Cgroup {
        /// Who.
        plugin: String,
        /// The container.
        id: String,
        /// Where.
        path: String,
    },
    /// A plugin wants to update the container whose creation it was asked about.
    #[error("plugin {plugin:?} asked for an update of container {id} while that is being made")]
    InCreation {
        /// Who.
        plugin: String,
        /// The container.
        id: String,
    },
}

/// What a plugin did with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    Set(String),
    /// Took away what another had set, to set it itself.
    Cleared(String),
}

/// A container's field, or an entry in it; the entry is empty for fields without entries.
type Place = (String, i32, String);

/// Who set what in which container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owners(BTreeMap<Place, Claim>);

/// A plugin that asks for changes of a container.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) owners: &'a mut Owners,
    pub(crate) id: &'a str,
    pub(crate) plugin: &'a str,
}

impl Asker<'_> {
    fn place(&self, field: Field, entry: &str) -> Place {
        (self.id.to_owned(), field.into(), entry.to_owned())
    }

    /// Notes that the plugin sets a field; one that another plugin set or cleared is refused.
    pub(crate) fn claim(&mut self, field: Field, entry: &str) -> Result<(), Conflict> {
        let place = self.place(field, entry);
        if let Some(Claim::Set(other) | Claim::Cleared(other)) = self.owners.0.get(&place)
            && other != self.plugin
        {
            return Err(Conflict::Both {
                first: other.clone(),
                second: self.plugin.to_owned(),
                what: format!("{} {entry}", field.as_str_name())
                    .trim_end()
                    .to_owned(),
                id: self.id.to_owned(),
            });
        }
        let claim = Claim::Set(self.plugin.to_owned());
        self.owners.0.insert(place, claim);
        Ok(())
    }

    /// Notes that the plugin takes away what another set; from then on the field is its own.
    pub(crate) fn clear(&mut self, field: Field, entry: &str) {
        let place = self.place(field, entry);
        if let Some(claim) = self.owners.0.get_mut(&place) {
            *claim = Claim::Cleared(self.plugin.to_owned());
        }
    }

    /// Notes that the plugin adds to a field that all may add to.
    pub(crate) fn join(&mut self, field: Field) {
        let place = self.place(field, "");
        let all = match self.owners.0.get(&place) {
            Some(Claim::Set(others)) => format!("{others},{}", self.plugin),
            Some(Claim::Cleared(_)) | None => self.plugin.to_owned(),
        };
        self.owners.0.insert(place, Claim::Set(all));
    }
}

impl Owners {
    /// In the protocol's words, for validators.
    pub(crate) fn to_api(&self) -> api::OwningPlugins {
        let mut all = api::OwningPlugins::default();
        for ((id, field, entry), claim) in &self.0 {
            let owner = match claim {
                Claim::Set(plugin) => plugin.clone(),
                Claim::Cleared(plugin) => format!("-{plugin}"),
            };
            let owners = all.owners.entry(id.clone()).or_default();
            if entry.is_empty() {
                owners.simple.insert(*field, owner);
            } else {
                let entries = owners.compound.entry(*field).or_default();
                entries.owners.insert(entry.clone(), owner);
            }
        }
        all
    }
}
