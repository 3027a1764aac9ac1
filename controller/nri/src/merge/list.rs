//! Fields with entries: lists and maps whose entries have names.

use std::collections::BTreeMap;

use super::owners::{Asker, Conflict};
use crate::api::{self, Field};

/// What a name removes, if that is what it is for.
pub fn removed(name: &str) -> Option<&str> {
    name.strip_prefix('-')
}

/// Something with a name.
pub(super) trait Entry: Clone {
    fn name(&self) -> &str;
}

impl Entry for api::Mount {
    fn name(&self) -> &str {
        &self.destination
    }
}

impl Entry for api::LinuxDevice {
    fn name(&self) -> &str {
        &self.path
    }
}

impl Entry for api::KeyValue {
    fn name(&self) -> &str {
        &self.key
    }
}

impl Entry for api::LinuxNamespace {
    fn name(&self) -> &str {
        &self.r#type
    }
}

impl Entry for api::PosixRlimit {
    fn name(&self) -> &str {
        &self.r#type
    }
}

impl Entry for api::CdiDevice {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Entry for api::HugepageLimit {
    fn name(&self) -> &str {
        &self.page_size
    }
}

impl<V: Clone> Entry for (String, V) {
    fn name(&self) -> &str {
        &self.0
    }
}

/// What was asked for so far, and the container as the next plugin sees it.
pub(super) struct Targets<'a, T> {
    pub(super) adjusted: &'a mut Vec<T>,
    pub(super) seen: &'a mut Vec<T>,
}

impl Asker<'_> {
    /// Adds a plugin's entries to both; what it removes goes from both, and stays asked for unless
    /// the plugin sets it too.
    pub(super) fn list<T: Entry>(
        &mut self,
        field: Field,
        asked: Vec<T>,
        targets: Targets<'_, T>,
    ) -> Result<(), Conflict> {
        let (markers, set): (Vec<T>, Vec<T>) = asked
            .into_iter()
            .partition(|entry| removed(entry.name()).is_some());
        for name in markers.iter().filter_map(|marker| removed(marker.name())) {
            self.clear(field, name);
            remove(targets.adjusted, name);
            remove(targets.seen, name);
        }
        for marker in markers {
            let name = removed(marker.name()).unwrap_or_default();
            if !set.iter().any(|entry| entry.name() == name) {
                put(targets.adjusted, marker);
            }
        }
        for entry in set {
            self.claim(field, entry.name())?;
            put(targets.adjusted, entry.clone());
            put(targets.seen, entry);
        }
        Ok(())
    }

    /// The same for a map.
    pub(super) fn map<V: Clone>(
        &mut self,
        field: Field,
        asked: BTreeMap<String, V>,
        adjusted: &mut BTreeMap<String, V>,
        seen: &mut BTreeMap<String, V>,
    ) -> Result<(), Conflict> {
        if asked.is_empty() {
            return Ok(());
        }
        let take = |map: &mut BTreeMap<String, V>| std::mem::take(map).into_iter().collect();
        let (mut all, mut shown): (Vec<_>, Vec<_>) = (take(adjusted), take(seen));
        let targets = Targets {
            adjusted: &mut all,
            seen: &mut shown,
        };
        let done = self.list(field, asked.into_iter().collect(), targets);
        adjusted.extend(all);
        seen.extend(shown);
        done
    }
}

fn remove<T: Entry>(list: &mut Vec<T>, name: &str) {
    list.retain(|entry| entry.name() != name);
}

fn put<T: Entry>(list: &mut Vec<T>, entry: T) {
    remove(list, entry.name());
    list.push(entry);
}
