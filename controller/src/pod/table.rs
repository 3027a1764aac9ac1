//! Who there is: pods and containers by their names and ids.
//!
//! Deliberately absent: the lock around it ([`super::Pods`] has it) and what may be done with whom.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::channel::mpsc;
use futures::future::{BoxFuture, Shared};
use husk_cri_api::v1;
use tokio::sync::watch;

use super::driver::Request;
use crate::error::{Kind, PodError, SharedError};
use crate::view::PodView;

/// What identifies a sandbox to the kubelet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct SandboxKey {
    pub(super) name: String,
    namespace: String,
    uid: String,
    attempt: u32,
}

impl SandboxKey {
    pub(super) fn new(metadata: &v1::PodSandboxMetadata) -> Self {
        Self {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            attempt: metadata.attempt,
        }
    }
}

pub(super) type Making = Shared<BoxFuture<'static, Result<String, SharedError>>>;

/// Who has a name.
#[derive(Debug)]
pub(super) enum Name {
    /// A pod that is being made; whoever asks again waits for the same end.
    Making(Making),
    /// The pod with this id.
    Taken(Arc<str>),
}

#[derive(Debug, Clone)]
pub(super) struct Handle {
    /// The pod's, for whatever refers to it.
    pub(super) id: Arc<str>,
    /// Of a kind that takes its room when something comes: tokio's take a kilobyte from the start on.
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) view: watch::Receiver<Arc<PodView>>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) names: HashMap<SandboxKey, Name>,
    pub(super) pods: BTreeMap<String, Handle>,
    /// Container id → pod id, which a pod's containers share.
    pub(super) containers: BTreeMap<String, Arc<str>>,
}

pub(super) fn not_found(kind: Kind, id: &str) -> PodError {
    PodError::NotFound {
        kind,
        id: id.to_owned(),
    }
}

/// The full id for an id or an unambiguous beginning of one.
pub(super) fn resolve<V>(
    table: &BTreeMap<String, V>,
    kind: Kind,
    id: &str,
) -> Result<String, PodError> {
    if id.is_empty() {
        return Err(PodError::Invalid {
            subject: format!("id of the {kind}"),
            cause: "is empty".into(),
        });
    }
    if table.contains_key(id) {
        return Ok(id.to_owned());
    }
    let mut fits = table
        .range(id.to_owned()..)
        .map(|(key, _)| key)
        .take_while(|key| key.starts_with(id));
    match (fits.next(), fits.count()) {
        (None, _) => Err(not_found(kind, id)),
        (Some(only), 0) => Ok(only.clone()),
        (Some(_), more) => Err(PodError::Ambiguous {
            kind,
            id: id.to_owned(),
            count: more + 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_an_unambiguous_beginning() {
        let table: BTreeMap<String, ()> = ["aa1", "aa2", "b"].map(|id| (id.to_owned(), ())).into();
        let find = |id: &str| resolve(&table, Kind::Pod, id).map_err(|e| e.to_string());
        assert_eq!(find("aa1"), Ok("aa1".into()));
        assert_eq!(find("b"), Ok("b".into()));
        assert_eq!(
            find("aa"),
            Err("pod sandbox id \"aa\" is ambiguous: it fits 2 of them".into())
        );
        assert_eq!(find("c"), Err("pod sandbox \"c\" does not exist".into()));
        assert!(find("").is_err_and(|e| e.contains("empty")));
    }
}
