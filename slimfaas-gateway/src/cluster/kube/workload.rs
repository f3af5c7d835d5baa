//! What a Deployment or StatefulSet says, reduced to what the gateway asks of it. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Uid;
use super::serving::Serving;
use crate::config::annotations;
use crate::model::function::{FunctionId, WorkloadKind};

/// One Deployment or StatefulSet at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Workload {
    pub(super) uid: Uid,
    pub(super) id: FunctionId,
    pub(super) kind: WorkloadKind,
    /// Seconds since 1970: of two workloads with one name, the older is the function.
    pub(super) created: i64,
    pub(super) replicas_requested: u32,
    pub(super) replicas_ready: u32,
    /// Only of functions: their `SlimFaas/…` annotations and how their pods are reached.
    pub(super) function: Option<FunctionParts>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct FunctionParts {
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) serving: Option<Serving>,
}

impl Workload {
    /// `None` when it is on its way out, or lacks what every stored object has.
    pub(super) fn of_deployment(object: Deployment) -> Option<Self> {
        let spec = object.spec?;
        let ready = object.status.and_then(|status| status.ready_replicas);
        Self::new(object.metadata, WorkloadKind::Deployment, spec.replicas, ready, &spec.template)
    }

    pub(super) fn of_stateful_set(object: StatefulSet) -> Option<Self> {
        let spec = object.spec?;
        let ready = object.status.and_then(|status| status.ready_replicas);
        Self::new(object.metadata, WorkloadKind::StatefulSet, spec.replicas, ready, &spec.template)
    }

    fn new(
        metadata: ObjectMeta,
        kind: WorkloadKind,
        replicas: Option<i32>,
        ready: Option<i32>,
        template: &PodTemplateSpec,
    ) -> Option<Self> {
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        let id = FunctionId::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?);
        Some(Self {
            uid: metadata.uid?.into(),
            id,
            kind,
            created: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            // The API server's default where nothing is said.
            replicas_requested: u32::try_from(replicas.unwrap_or(1)).unwrap_or(0),
            replicas_ready: u32::try_from(ready.unwrap_or(0)).unwrap_or(0),
            function: function_parts(template),
        })
    }

    /// Which of two with the same name is the function.
    pub(super) fn precedence(&self) -> (i64, bool, &str) {
        (self.created, self.kind == WorkloadKind::StatefulSet, &self.uid)
    }

    /// What Events about it refer to.
    pub(super) fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some(self.kind.as_str().to_owned()),
            namespace: Some(self.id.namespace.to_string()),
            name: Some(self.id.name.to_string()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }
}

fn function_parts(template: &PodTemplateSpec) -> Option<FunctionParts> {
    let annotations = template.metadata.as_ref()?.annotations.as_ref()?;
    if !annotations::is_function(annotations) {
        return None;
    }
    let serving = template.spec.as_ref().and_then(|spec| Serving::of(&spec.containers));
    Some(FunctionParts { annotations: annotations.clone(), serving })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_function_is_annotated_on_its_pod_template() {
        let read =
            |object: serde_json::Value| Workload::of_deployment(serde_json::from_value(object).expect("a deployment"));
        let template = json!({
            "metadata": {"annotations": {"SlimFaas/Function": "True", "SlimFaas/ReplicasMin": "1", "other": "x"}},
            "spec": {"containers": [{"name": "main", "ports": [{"containerPort": 5000}]}]},
        });
        let mut object = json!({
            "metadata": {"uid": "u", "namespace": "demo", "name": "fib", "creationTimestamp": "1970-01-01T00:00:09Z"},
            "spec": {"selector": {}, "template": template},
            "status": {"readyReplicas": 3},
        });
        let workload = read(object.clone()).expect("a workload");
        assert_eq!(workload.id, FunctionId::new("demo", "fib"));
        assert_eq!((workload.created, workload.replicas_requested, workload.replicas_ready), (9, 1, 3));
        let function = workload.function.expect("a function");
        assert_eq!(function.annotations.get("SlimFaas/ReplicasMin").map(String::as_str), Some("1"));
        assert_eq!(function.serving.map(|serving| serving.ports), Some(vec![5000]));

        // On the workload itself it says nothing (reference §2.1).
        object["metadata"]["annotations"] = json!({"SlimFaas/Function": "true"});
        object["spec"]["template"]["metadata"] = json!({});
        object["spec"]["replicas"] = json!(0);
        let plain = read(object.clone()).expect("a workload");
        assert_eq!((plain.function, plain.replicas_requested), (None, 0));

        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(read(object), None);
    }
}
