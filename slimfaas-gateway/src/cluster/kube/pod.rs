//! What a Pod object says, reduced to what the gateway asks of it. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod as PodObject, PodCondition, PodStatus};
use kube::ResourceExt;

use super::Uid;
use super::serving::{self, Serving};

/// One Pod at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodFacts {
    pub(super) uid: Uid,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    /// Its controller by reference: a ReplicaSet, StatefulSet, Job, ….
    pub(super) controller: Option<Controller>,
    pub(super) ip: Option<IpAddr>,
    /// It shares its node's address, which therefore proves nothing about it.
    pub(super) host_network: bool,
    pub(super) serving: Serving,
    /// How often the serving container was restarted: what was found out about a former one does not count any more.
    pub(super) instance: i32,
    pub(super) stage: Stage,
    /// Kubernetes' own verdict.
    pub(super) ready: bool,
    /// Everything that Kubernetes' verdict takes into account but the serving container's own probe is so.
    pub(super) others_ready: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Controller {
    pub(super) uid: Uid,
    pub(super) kind: Arc<str>,
    pub(super) name: Arc<str>,
}

/// How far it is, in the order of its life.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stage {
    /// No node yet; with the reason where no node has room for it.
    Pending(Option<String>),
    /// It has a node; its serving container does not run yet.
    Scheduled,
    /// Its serving container cannot start or keeps ending, for this reason.
    Failing(String),
    /// Its serving container runs.
    Running,
    /// Asked to end.
    Terminating,
    /// Ended for good.
    Ended,
}

impl PodFacts {
    /// `None` for an object without what every stored object has.
    pub(super) fn of(object: &PodObject) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let status = object.status.clone().unwrap_or_default();
        let container = serving::container(&spec.containers)?;
        let own = container_status(&status, &container.name);
        Some(Self {
            uid: object.uid()?.into(),
            namespace: object.namespace()?.into(),
            name: object.name_any().into(),
            controller: controller_of(object.owner_references()),
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            host_network: spec.host_network == Some(true),
            serving: Serving::of(&spec.containers)?,
            instance: own.map_or(0, |own| own.restart_count),
            stage: stage(object, &status, own),
            ready: condition(&status, "Ready").is_some_and(is_true),
            others_ready: others_ready(&spec.containers, container, &status)
                && spec
                    .readiness_gates
                    .iter()
                    .flatten()
                    .all(|gate| condition(&status, &gate.condition_type).is_some_and(is_true)),
        })
    }

    /// It has an address of its own that may answer.
    pub(super) fn can_serve(&self) -> bool {
        self.ip.is_some() && !matches!(self.stage, Stage::Pending(_) | Stage::Terminating | Stage::Ended)
    }
}

pub(super) fn controller_of(
    owners: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference],
) -> Option<Controller> {
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some(Controller {
        uid: owner.uid.as_str().into(),
        kind: owner.kind.as_str().into(),
        name: owner.name.as_str().into(),
    })
}

fn stage(object: &PodObject, status: &PodStatus, own: Option<&ContainerStatus>) -> Stage {
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Stage::Ended;
    }
    if object.metadata.deletion_timestamp.is_some() {
        return Stage::Terminating;
    }
    let has_node = object.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if !has_node {
        let refused = condition(status, "PodScheduled").filter(|condition| condition.status == "False");
        return Stage::Pending(refused.and_then(|condition| condition.reason.clone()));
    }
    let Some(state) = own.and_then(|own| own.state.as_ref()) else { return Stage::Scheduled };
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    match waiting {
        _ if state.running.is_some() => Stage::Running,
        // On its way, as far as anybody can tell.
        None | Some("ContainerCreating" | "PodInitializing") if state.terminated.is_none() => Stage::Scheduled,
        Some(reason) => Stage::Failing(reason.to_owned()),
        None => Stage::Failing(
            state.terminated.as_ref().and_then(|ended| ended.reason.clone()).unwrap_or_else(|| "Terminated".to_owned()),
        ),
    }
}

fn container_status<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    status.container_statuses.iter().flatten().find(|container| container.name == name)
}

/// Whether every container beside the serving one is ready in Kubernetes' eyes.
fn others_ready(containers: &[Container], serving: &Container, status: &PodStatus) -> bool {
    containers
        .iter()
        .filter(|other| other.name != serving.name)
        .all(|other| container_status(status, &other.name).is_some_and(|other| other.ready))
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn is_true(condition: &PodCondition) -> bool {
    condition.status == "True"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(changes: Value) -> PodFacts {
        let mut pod = json!({
            "metadata": {
                "uid": "u", "namespace": "demo", "name": "fib-5-x",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "n"},
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "fib-5", "uid": "rs", "controller": true},
                ],
            },
            "spec": {"nodeName": "node-1", "containers": [{"name": "main", "ports": [{"containerPort": 8080}]}]},
            "status": {
                "phase": "Running", "podIP": "10.0.0.7",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "main", "ready": true, "restartCount": 2, "image": "", "imageID": "",
                    "state": {"running": {}},
                }],
            },
        });
        merge(&mut pod, changes);
        PodFacts::of(&serde_json::from_value(pod).expect("a pod")).expect("complete")
    }

    /// JSON merge patch (RFC 7386), as far as it is needed here.
    fn merge(into: &mut Value, changes: Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                for (key, change) in changes {
                    merge(into.entry(key).or_insert(Value::Null), change);
                }
            }
            (into, changes) => *into = changes,
        }
    }

    #[test]
    fn an_ordinary_pod() {
        let pod = facts(json!({}));
        assert_eq!(pod.controller.as_ref().map(|c| (&*c.kind, &*c.uid)), Some(("ReplicaSet", "rs")));
        assert_eq!(pod.ip, Some("10.0.0.7".parse().unwrap()));
        assert_eq!((pod.instance, pod.ready, pod.others_ready, pod.can_serve()), (2, true, true, true));
        assert_eq!(pod.stage, Stage::Running);
    }

    #[test]
    fn stages_follow_the_status() {
        let check = |changes: Value, expected: Stage| assert_eq!(facts(changes.clone()).stage, expected, "{changes}");
        let unscheduled = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
        check(
            json!({"spec": {"nodeName": null}, "status": {"conditions": unscheduled}}),
            Stage::Pending(Some("Unschedulable".to_owned())),
        );
        check(json!({"spec": {"nodeName": null}, "status": {"conditions": []}}), Stage::Pending(None));
        check(json!({"status": {"containerStatuses": []}}), Stage::Scheduled);
        let container = |state: Value| {
            json!({"status": {"containerStatuses": [
                {"name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state}
            ]}})
        };
        check(container(json!({"waiting": {"reason": "ContainerCreating"}})), Stage::Scheduled);
        check(container(json!({})), Stage::Scheduled);
        check(
            container(json!({"waiting": {"reason": "ImagePullBackOff"}})),
            Stage::Failing("ImagePullBackOff".to_owned()),
        );
        check(container(json!({"terminated": {"exitCode": 1, "reason": "Error"}})), Stage::Failing("Error".to_owned()));
        check(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), Stage::Terminating);
        check(json!({"status": {"phase": "Failed"}}), Stage::Ended);
        check(
            json!({"status": {"phase": "Succeeded"}, "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            Stage::Ended,
        );
    }

    #[test]
    fn an_early_verdict_waits_for_gates_and_for_the_other_containers() {
        let gate = json!([{"conditionType": "example.com/gate"}]);
        let check = |changes: Value, expected: bool| {
            assert_eq!(facts(changes.clone()).others_ready, expected, "{changes}");
        };
        check(json!({"spec": {"readinessGates": gate}}), false);
        let open = json!([{"type": "example.com/gate", "status": "True"}]);
        check(json!({"spec": {"readinessGates": gate}, "status": {"conditions": open}}), true);
        let two = json!([{"name": "main", "ports": [{"containerPort": 8080}]}, {"name": "sidecar"}]);
        check(json!({"spec": {"containers": two}}), false);
        let mut statuses = json!([
            {"name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": ""},
            {"name": "sidecar", "ready": true, "restartCount": 0, "image": "", "imageID": ""},
        ]);
        check(json!({"spec": {"containers": two}, "status": {"containerStatuses": statuses}}), true);
        statuses[1]["ready"] = json!(false);
        check(json!({"spec": {"containers": two}, "status": {"containerStatuses": statuses}}), false);
    }
}
