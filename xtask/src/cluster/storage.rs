//! Volumes for claims: there is no provisioner, so each node offers some folders, through a default storage class.
//! A volume that was released stays so until the cluster goes; what needs no claim takes `emptyDir` or `hostPath`.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::node;
use super::plan::{NAME, Node};
use super::state::State;

/// More claims than a test has, on each node.
const VOLUMES: usize = 8;

/// Makes the folders, and returns the manifest that offers them.
pub(crate) fn create(state: &State, nodes: impl Iterator<Item = Node>) -> Result<Value> {
    let mut items = vec![class()];
    for node in nodes {
        for number in 1..=VOLUMES {
            let folder = state.node(node).join(folder(number));
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            // A pod of any user may have it, as with a provisioner that knows the pod's group.
            fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
            items.push(volume(node, number));
        }
    }
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }))
}

fn folder(number: usize) -> String {
    format!("volumes/{number}")
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": NAME,
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
        },
        "provisioner": "kubernetes.io/no-provisioner",
        // The pod's node decides which folder, not the other way round.
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

fn volume(node: Node, number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": format!("{}-{number}", node.name()) },
        "spec": {
            "capacity": { "storage": "10Gi" },
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": NAME,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": { "path": format!("{}/{}", node::FOLDER, folder(number)) },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [node.name()],
            }] }] } },
        },
    })
}
