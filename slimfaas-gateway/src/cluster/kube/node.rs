//! The pods of one node, for its agent: whose each is.

use std::sync::Arc;

use futures::stream::{Stream, StreamExt};
use kube::Client;

use super::ConnectError;
use super::index::identities::BARE_POD;
use super::pod::{PodFacts, Stage};
use super::watches::{self, Change};

/// What a pod belongs to, as identities are made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOwner {
    pub namespace: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Also when nothing of it changed.
    Pod { uid: Arc<str>, owner: PodOwner },
    /// Its containers have ended, or the object is gone.
    Gone(Arc<str>),
    /// Everything that there is has been told.
    Listed,
    /// It is taken up again.
    Failed(String),
}

/// Follows the pods of a node, for ever.
pub async fn follow(node: &str) -> Result<impl Stream<Item = NodeChange> + Send + use<>, ConnectError> {
    let client = Client::try_default().await.map_err(|error| ConnectError(error.into()))?;
    let changes = watches::of_node(&client, node);
    Ok(changes.filter_map(|change| std::future::ready(node_change(change))))
}

fn node_change(change: Change) -> Option<NodeChange> {
    match change {
        Change::Pod(facts) if facts.stage == Stage::Ended => Some(NodeChange::Gone(facts.uid)),
        Change::Pod(facts) => Some(NodeChange::Pod { owner: owner(&facts), uid: facts.uid }),
        Change::PodGone(uid) => Some(NodeChange::Gone(uid)),
        Change::Listed(_) => Some(NodeChange::Listed),
        Change::Failed(_, error) => Some(NodeChange::Failed(format!("{error:#}"))),
        Change::Workload(_) | Change::WorkloadGone(_) | Change::ReplicaSet { .. } | Change::ReplicaSetGone(_) => None,
    }
}

/// A ReplicaSet's name is its Deployment's, a hyphen and a hash without one. Whoever may make pods in a namespace can
/// make them look like any workload's of it, and not like another namespace's.
fn owner(facts: &PodFacts) -> PodOwner {
    let namespace = Arc::clone(&facts.namespace);
    match &facts.controller {
        None => PodOwner { namespace, kind: BARE_POD.into(), name: Arc::clone(&facts.name) },
        Some(controller) => match controller.name.rsplit_once('-') {
            Some((deployment, _hash)) if &*controller.kind == "ReplicaSet" => {
                PodOwner { namespace, kind: "Deployment".into(), name: deployment.into() }
            }
            _ => PodOwner { namespace, kind: Arc::clone(&controller.kind), name: Arc::clone(&controller.name) },
        },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_belong_to_what_made_them() {
        let check = |owner_kind: Option<&str>, owner_name: &str, kind: &str, name: &str| {
            let owners = owner_kind.map(|kind| {
                json!([{
                    "apiVersion": "apps/v1", "kind": kind, "name": owner_name, "uid": "u", "controller": true
                }])
            });
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "shop", "uid": "1", "ownerReferences": owners},
                "spec": {"containers": [{"name": "c"}]},
            }))
            .expect("a pod");
            let found = owner(&PodFacts::of(&pod).expect("facts"));
            assert_eq!((&*found.namespace, &*found.kind, &*found.name), ("shop", kind, name));
        };
        check(Some("ReplicaSet"), "orders-api-5d4f8", "Deployment", "orders-api");
        check(Some("ReplicaSet"), "odd", "ReplicaSet", "odd");
        check(Some("StatefulSet"), "data-base", "StatefulSet", "data-base");
        check(Some("Job"), "nightly-28391", "Job", "nightly-28391");
        check(Some("DaemonSet"), "slimfaas-agent", "DaemonSet", "slimfaas-agent");
        check(None, "", "Pod", "p");
    }
}
