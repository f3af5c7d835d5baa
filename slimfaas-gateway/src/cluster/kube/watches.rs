//! The watches of one namespace as a stream of changes: lists once, then follows, with bookmarks and back-off.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::Pin;

use futures::stream::{self, Stream, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::Uid;
use super::pod::{PodFacts, controller_of};
use super::workload::Workload;

/// Objects per answer of a first list: bounds the memory of a big namespace's start.
const PAGE_SIZE: u32 = 200;

/// Seconds until the server ends a watch, which is then taken up where it ended. A connection that died silently is
/// noticed after this time, so it is shorter than the usual 290.
const WATCH_SECONDS: u32 = 90;

/// One thing that happened.
pub(super) enum Change {
    Workload(Box<Workload>),
    WorkloadGone(Uid),
    ReplicaSet {
        uid: Uid,
        deployment: Uid,
    },
    ReplicaSetGone(Uid),
    Pod(Box<PodFacts>),
    PodGone(Uid),
    /// The first list of one kind is complete.
    Listed(Kind),
    /// The watch of one kind failed; it is taken up again.
    Failed(Kind, watcher::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Deployments,
    StatefulSets,
    ReplicaSets,
    Pods,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Deployments, Self::StatefulSets, Self::ReplicaSets, Self::Pods];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Deployments => "deployments",
            Self::StatefulSets => "statefulsets",
            Self::ReplicaSets => "replicasets",
            Self::Pods => "pods",
        }
    }
}

pub(super) type Changes = Pin<Box<dyn Stream<Item = Change> + Send>>;

/// Every change of a namespace, for ever.
pub(super) fn of_namespace(client: &Client, namespace: &str) -> Changes {
    let deployments = follow(
        watch(Api::<Deployment>::namespaced(client.clone(), namespace), config()),
        Kind::Deployments,
        |object| Workload::of_deployment(object).map(|workload| Change::Workload(Box::new(workload))),
        Change::WorkloadGone,
    );
    let stateful_sets = follow(
        watch(Api::<StatefulSet>::namespaced(client.clone(), namespace), config()),
        Kind::StatefulSets,
        |object| Workload::of_stateful_set(object).map(|workload| Change::Workload(Box::new(workload))),
        Change::WorkloadGone,
    );
    // Only who owns them: the rest of a ReplicaSet repeats its Deployment.
    let replica_sets = follow(
        watch(Api::<PartialObjectMeta<ReplicaSet>>::namespaced(client.clone(), namespace), config()),
        Kind::ReplicaSets,
        replica_set,
        Change::ReplicaSetGone,
    );
    let pods = follow(
        watch(Api::<Pod>::namespaced(client.clone(), namespace), config()),
        Kind::Pods,
        |object| PodFacts::of(&object).map(|facts| Change::Pod(Box::new(facts))),
        Change::PodGone,
    );
    stream::select_all([deployments, stateful_sets, replica_sets, pods]).boxed()
}

/// Every change of the pods of one node, whatever their namespace, for ever.
pub(super) fn of_node(client: &Client, node: &str) -> Changes {
    follow(
        watch(Api::<Pod>::all(client.clone()), config().fields(&format!("spec.nodeName={node}"))),
        Kind::Pods,
        |object| PodFacts::of(&object).map(|facts| Change::Pod(Box::new(facts))),
        Change::PodGone,
    )
}

pub(super) fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE).timeout(WATCH_SECONDS)
}

fn replica_set(object: PartialObjectMeta<ReplicaSet>) -> Option<Change> {
    let deployment = controller_of(object.owner_references()).filter(|owner| &*owner.kind == "Deployment")?;
    Some(Change::ReplicaSet { uid: object.uid()?.into(), deployment: deployment.uid })
}

/// What a watch shows beside the objects that concern us.
pub(super) enum Followed {
    Gone(Uid),
    /// The list is complete.
    Listed,
    /// It is taken up again.
    Failed(watcher::Error),
}

fn follow<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    kind: Kind,
    read: fn(K) -> Option<Change>,
    gone: fn(Uid) -> Change,
) -> Changes
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_any(events, read, move |followed| match followed {
        Followed::Gone(uid) => gone(uid),
        Followed::Listed => Change::Listed(kind),
        Followed::Failed(error) => Change::Failed(kind, error),
    })
}

/// Turns one watch into changes of any kind. After a new list, what is not in it is gone.
pub(super) fn follow_any<K, C>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    read: fn(K) -> Option<C>,
    other: impl Fn(Followed) -> C + Send + 'static,
) -> Pin<Box<dyn Stream<Item = C> + Send>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    C: Send + 'static,
{
    let mut listing = Listing::default();
    let changes = events.default_backoff().flat_map(move |event| {
        let gone = |uid| other(Followed::Gone(uid));
        let changes: Vec<C> = match event {
            Ok(Event::Init) => {
                listing.begin();
                Vec::new()
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                let Some(uid) = object.uid().map(Uid::from) else { return stream::iter(Vec::new()) };
                match read(object) {
                    Some(change) => {
                        listing.has(uid);
                        vec![change]
                    }
                    // It has become something that does not concern us.
                    None => listing.lost(&uid).map(gone).into_iter().collect(),
                }
            }
            Ok(Event::Delete(object)) => {
                let uid = object.uid().map(Uid::from);
                uid.and_then(|uid| listing.lost(&uid)).map(gone).into_iter().collect()
            }
            Ok(Event::InitDone) => {
                let left = listing.end().into_iter().map(gone);
                left.chain([other(Followed::Listed)]).collect()
            }
            Err(error) => vec![other(Followed::Failed(error))],
        };
        stream::iter(changes)
    });
    changes.boxed()
}

/// Which objects there are, across lists.
#[derive(Default)]
struct Listing {
    present: BTreeSet<Uid>,
    /// Of the list that is under way: those that it has not shown yet.
    unseen: BTreeSet<Uid>,
}

impl Listing {
    fn begin(&mut self) {
        self.unseen = self.present.clone();
    }

    fn has(&mut self, uid: Uid) {
        self.unseen.remove(&uid);
        self.present.insert(uid);
    }

    fn lost(&mut self, uid: &Uid) -> Option<Uid> {
        self.unseen.remove(uid);
        self.present.take(uid)
    }

    fn end(&mut self) -> Vec<Uid> {
        let gone = std::mem::take(&mut self.unseen);
        self.present.retain(|uid| !gone.contains(uid));
        gone.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_list_shows_what_has_gone_in_between() {
        let uid = |text: &str| Uid::from(text);
        let mut listing = Listing::default();
        listing.begin();
        for name in ["a", "b", "c"] {
            listing.has(uid(name));
        }
        assert!(listing.end().is_empty());
        assert_eq!(listing.lost(&uid("b")), Some(uid("b")));
        assert_eq!(listing.lost(&uid("b")), None);
        listing.begin();
        listing.has(uid("a"));
        listing.has(uid("d"));
        assert_eq!(listing.end(), [uid("c")]);
        listing.begin();
        assert_eq!(listing.end(), [uid("a"), uid("d")]);
    }
}
