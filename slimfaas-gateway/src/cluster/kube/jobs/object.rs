//! From a CronJob to a definition, and from a run to its Job. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec as KubeJobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMapKeySelector, Container, EnvVar as KubeEnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, PodTemplateSpec,
    ResourceFieldSelector, ResourceRequirements, SecretKeySelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Patch;
use serde_json::json;

use crate::cluster::jobs::{ClusterJob, RunToStart};
use crate::config::jobs;
use crate::model::function::FunctionId;
use crate::model::job::{
    EnvVar, FieldRef, JobSpec, KeyRef, ResourceFieldRef, Resources, RestartPolicy, millis_of_ticks, ticks,
};
use crate::model::problem::Problem;

/// Labels of the original, on the Job and on its pods.
const JOB_NAME: &str = "slimfaas-job-name";
pub(super) const ELEMENT_ID: &str = "slimfaas-job-element-id";
const QUEUED: &str = "slimfaas-in-queue-timestamp";
const STARTED: &str = "slimfaas-job-start-timestamp";

/// Annotation of a Job that is suspended until it is known that it is the one that shall run. Suspending alone does not
/// say so: queueing controllers suspend Jobs too.
const HELD: &str = "SlimFaas/Held";

/// How long after its time to live Kubernetes removes a Job by itself: the gateway does so in time, once the log knows
/// how it ended, and gateways that were all away for less than this still learn of it.
const TTL_MARGIN_SECONDS: u32 = 600;

/// `None` for a CronJob that is no job of ours.
pub(super) fn definition(object: CronJob) -> Option<(FunctionId, ClusterJob, KubeJobSpec)> {
    let ObjectMeta { annotations, name, namespace, deletion_timestamp, .. } = object.metadata;
    let (annotations, name) = (annotations.unwrap_or_default(), name?);
    if deletion_timestamp.is_some() || !jobs::is_job(&annotations) {
        return None;
    }
    let id = FunctionId::new(namespace.as_deref()?, &name);
    let spec = object.spec?;
    if spec.suspend != Some(true) {
        tracing::warn!(job = %id, "a CronJob with {}: \"true\" is no job unless spec.suspend is true", jobs::JOB);
        return None;
    }
    if !jobs::is_name(&name) {
        tracing::warn!(job = %id, "a CronJob is no job: its name has not 3 to 30 letters, digits, '_' and '-'");
        return None;
    }
    let template = spec.job_template.spec?;
    let pod = template.template.spec.as_ref()?;
    let container = pod.containers.first()?;
    let mut job = JobSpec {
        image: container.image.clone().unwrap_or_default(),
        environments: container.env.iter().flatten().filter_map(variable).collect(),
        backoff_limit: template.backoff_limit.and_then(|limit| limit.try_into().ok()).unwrap_or(1),
        ttl_seconds: template.ttl_seconds_after_finished.and_then(|ttl| ttl.try_into().ok()).unwrap_or(60),
        restart_policy: match pod.restart_policy.as_deref() {
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Never,
        },
        ..JobSpec::default()
    };
    if let Some(own) = &container.resources {
        let quantities = |list: &Option<BTreeMap<String, Quantity>>| {
            list.iter().flatten().map(|(name, quantity)| (name.clone(), quantity.0.clone())).collect()
        };
        let own = Resources { requests: quantities(&own.requests), limits: quantities(&own.limits) };
        // The API server shows an empty object where its owner has said nothing.
        if own != Resources::default() {
            job.resources = own;
        }
    }
    let mut problems = jobs::annotate(&name, &mut job, &annotations);
    if pod.containers.len() > 1 {
        let message = "it has more than one container: what a run asks for is given to the first";
        problems.push(Problem::new("spec.jobTemplate", message));
    }
    Some((id, ClusterJob { spec: Arc::new(job), problems }, template))
}

/// `None` for what runs cannot ask for; the template has it all the same.
fn variable(object: &KubeEnvVar) -> Option<EnvVar> {
    let mut variable = EnvVar { name: object.name.clone(), ..EnvVar::default() };
    match &object.value_from {
        None => variable.value = Some(object.value.clone().unwrap_or_default()),
        Some(from) => {
            let secret = from.secret_key_ref.as_ref();
            variable.secret_ref = secret.map(|of| KeyRef { name: of.name.clone(), key: of.key.clone() });
            let map = from.config_map_key_ref.as_ref();
            variable.config_map_ref = map.map(|of| KeyRef { name: of.name.clone(), key: of.key.clone() });
            variable.field_ref = from.field_ref.as_ref().map(|of| FieldRef { field_path: of.field_path.clone() });
            variable.resource_field_ref = from.resource_field_ref.as_ref().map(|of| ResourceFieldRef {
                container_name: of.container_name.clone(),
                resource: of.resource.clone(),
                divisor: of.divisor.as_ref().map(|divisor| divisor.0.clone()),
            });
        }
    }
    (variable.sources() == 1).then_some(variable)
}

fn kube_variable(variable: &EnvVar) -> KubeEnvVar {
    let from = EnvVarSource {
        secret_key_ref: variable.secret_ref.as_ref().map(|of| SecretKeySelector {
            name: of.name.clone(),
            key: of.key.clone(),
            ..SecretKeySelector::default()
        }),
        config_map_key_ref: variable.config_map_ref.as_ref().map(|of| ConfigMapKeySelector {
            name: of.name.clone(),
            key: of.key.clone(),
            ..ConfigMapKeySelector::default()
        }),
        field_ref: variable
            .field_ref
            .as_ref()
            .map(|of| ObjectFieldSelector { field_path: of.field_path.clone(), ..ObjectFieldSelector::default() }),
        resource_field_ref: variable.resource_field_ref.as_ref().map(|of| ResourceFieldSelector {
            container_name: of.container_name.clone(),
            resource: of.resource.clone(),
            divisor: of.divisor.clone().map(Quantity),
        }),
    };
    KubeEnvVar {
        name: variable.name.clone(),
        value: variable.value.clone(),
        value_from: variable.is_reference().then_some(from),
    }
}

/// The container that does the work.
pub(super) fn container_name(job: &FunctionId) -> String {
    job.name.replace('_', "-").trim_matches('-').to_owned()
}

/// The Job of a run: the definition's template, if there is one, with what was decided for this run.
pub(super) fn run(run: &RunToStart, template: Option<KubeJobSpec>) -> Job {
    let spec = &run.spec;
    let mut job = template.unwrap_or_default();
    let pod = job.template.spec.get_or_insert_with(PodSpec::default);
    pod.restart_policy = Some(spec.restart_policy.as_str().to_owned());
    if pod.containers.is_empty() {
        pod.containers.push(Container::default());
    }
    fill(&mut pod.containers[0], run);
    let labels = labels(run);
    let metadata = job.template.metadata.get_or_insert_with(ObjectMeta::default);
    metadata.labels.get_or_insert_with(BTreeMap::new).extend(labels.clone());
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    job.backoff_limit = Some(number(spec.backoff_limit));
    job.ttl_seconds_after_finished = Some(number(spec.ttl_seconds.saturating_add(TTL_MARGIN_SECONDS)));
    job.suspend = Some(true);
    let mut annotations = BTreeMap::from([(HELD.to_owned(), "true".to_owned())]);
    if !spec.depends_on.is_empty() {
        annotations.insert(jobs::DEPENDS_ON.to_owned(), spec.depends_on.join(","));
    }
    Job {
        metadata: ObjectMeta {
            name: Some(run.name.text()),
            namespace: Some(run.name.job.namespace.to_string()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(KubeJobSpec {
            template: PodTemplateSpec { metadata: job.template.metadata, spec: job.template.spec },
            ..job
        }),
        status: None,
    }
}

/// For the Job with this uid; to any other, and to one that was let go, the API server does not apply it.
pub(super) fn let_go(uid: &str, suspend: bool) -> Patch<()> {
    let annotation = format!("/metadata/annotations/{}", HELD.replace('/', "~1"));
    let patch = json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "remove", "path": annotation},
        {"op": "replace", "path": "/spec/suspend", "value": suspend},
    ]);
    Patch::Json(serde_json::from_value(patch).expect("a JSON patch"))
}

fn fill(container: &mut Container, run: &RunToStart) {
    let spec = &run.spec;
    container.name = container_name(&run.name.job);
    container.image = Some(spec.image.clone());
    if let Some(args) = &spec.args {
        container.args = Some(args.clone());
    }
    let variables = container.env.get_or_insert_with(Vec::new);
    variables.retain(|own| !spec.environments.iter().any(|variable| variable.name == own.name));
    variables.extend(spec.environments.iter().map(kube_variable));
    let quantities = |list: &BTreeMap<String, String>| {
        list.iter().map(|(name, quantity)| (name.clone(), Quantity(quantity.clone()))).collect::<BTreeMap<_, _>>()
    };
    let own = container.resources.get_or_insert_with(ResourceRequirements::default);
    own.requests = Some(quantities(&spec.resources.requests)).filter(|list| !list.is_empty());
    own.limits = Some(quantities(&spec.resources.limits)).filter(|list| !list.is_empty());
}

fn labels(run: &RunToStart) -> BTreeMap<String, String> {
    let all = [
        (JOB_NAME, run.name.job.name.to_string()),
        (ELEMENT_ID, run.name.id.to_string()),
        (QUEUED, ticks(run.queued_ms).to_string()),
        (STARTED, ticks(run.started_ms).to_string()),
        ("app.kubernetes.io/managed-by", "slimfaas".to_owned()),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a Job says of its run.
pub(super) struct Said {
    pub(super) job: String,
    pub(super) id: String,
    pub(super) queued_ms: u64,
    pub(super) started_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) is_held: bool,
}

/// `None`: it is not one of ours.
pub(super) fn said(job: &Job) -> Option<Said> {
    let labels = job.metadata.labels.as_ref()?;
    let millis = |label: &str| Some(millis_of_ticks(labels.get(label)?.parse().ok()?));
    let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished).unwrap_or_default();
    let ttl = u32::try_from(ttl).unwrap_or_default().saturating_sub(TTL_MARGIN_SECONDS);
    Some(Said {
        job: labels.get(JOB_NAME)?.clone(),
        id: labels.get(ELEMENT_ID)?.clone(),
        queued_ms: millis(QUEUED).unwrap_or_default(),
        started_ms: millis(STARTED).unwrap_or_default(),
        ttl_ms: u64::from(ttl) * 1000,
        is_held: job.metadata.annotations.iter().flatten().any(|(name, _)| name == HELD),
    })
}

#[cfg(test)]
mod tests {
    use json_patch::patch as json_patch;
    use serde_json::Value;

    use super::*;
    use crate::cluster::jobs::RunName;
    use crate::model::job::RunSpec;
    use crate::model::visibility::Visibility;
    use crate::queue::element::ElementId;

    fn cron_job() -> Value {
        json!({
            "metadata": {"name": "report", "namespace": "demo", "uid": "u", "annotations": {
                "SlimFaas/Job": "true", "SlimFaas/JobImagesWhitelist": "repo/report:*",
                "SlimFaas/DefaultVisibility": "Public", "SlimFaas/NumberParallelJob": "3",
            }},
            "spec": {"schedule": "0 0 * * *", "suspend": true, "jobTemplate": {"spec": {
                "backoffLimit": 4, "ttlSecondsAfterFinished": 30, "activeDeadlineSeconds": 7,
                "template": {
                    "metadata": {"labels": {"team": "x"}},
                    "spec": {
                        "restartPolicy": "OnFailure", "serviceAccountName": "reporter",
                        "containers": [{
                            "name": "main", "image": "repo/report:1", "command": ["/report"],
                            "envFrom": [{"configMapRef": {"name": "all"}}],
                            "env": [
                                {"name": "PLAIN", "value": "v"},
                                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                            ],
                            "resources": {"requests": {"cpu": "200m"}, "limits": {"cpu": "400m"}},
                        }],
                    },
                },
            }}},
        })
    }

    fn read(object: Value) -> Option<(FunctionId, ClusterJob, KubeJobSpec)> {
        definition(serde_json::from_value(object).expect("a CronJob"))
    }

    #[test]
    fn a_suspended_cron_job_is_a_definition() {
        let (id, job, _) = read(cron_job()).unwrap();
        assert_eq!((id, job.problems), (FunctionId::new("demo", "report"), Vec::new()));
        let spec = &*job.spec;
        assert_eq!(
            (spec.image.as_str(), spec.parallel, spec.backoff_limit, spec.ttl_seconds),
            ("repo/report:1", 3, 4, 30)
        );
        assert_eq!((spec.visibility, spec.restart_policy.as_str()), (Visibility::Public, "OnFailure"));
        assert_eq!(spec.environments.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["PLAIN", "SECRET", "NODE"]);
        assert_eq!(spec.resources.limits["cpu"], "400m");
        let mut awake = cron_job();
        awake["spec"]["suspend"] = json!(false);
        assert!(read(awake).is_none(), "Kubernetes runs it");
        let mut other = cron_job();
        other["metadata"]["annotations"] = json!({});
        assert!(read(other).is_none());
        let mut bare = cron_job();
        bare["spec"]["jobTemplate"]["spec"] =
            json!({"template": {"spec": {"containers": [{"name": "main", "resources": {}}]}}});
        let spec = read(bare).unwrap().1.spec;
        assert_eq!(
            (spec.backoff_limit, spec.ttl_seconds, spec.resources.requests["memory"].as_str()),
            (1, 60, "100Mi")
        );
    }

    fn start(template: bool) -> Job {
        let template = template.then(|| read(cron_job()).unwrap().2);
        let id = ElementId::parse("0190a6b0-0000-7000-8000-000000000001").unwrap();
        let value =
            |name: &str, value: &str| EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() };
        let secret = Some(KeyRef { name: "s".into(), key: "k".into() });
        let spec = RunSpec {
            image: "repo/report:2".into(),
            args: Some(vec!["42".into()]),
            environments: vec![
                value("PLAIN", "asked"),
                EnvVar { name: "OTHER".into(), secret_ref: secret, ..EnvVar::default() },
            ],
            resources: Resources { requests: BTreeMap::from([("cpu".into(), "100m".into())]), limits: BTreeMap::new() },
            depends_on: vec!["mysql".into(), "fib".into()],
            backoff_limit: 2,
            ttl_seconds: 9,
            restart_policy: RestartPolicy::Never,
        };
        let name = RunName { id, job: FunctionId::new("demo", "report") };
        run(&RunToStart { name, spec, queued_ms: 1000, started_ms: 2000 }, template)
    }

    #[test]
    fn a_run_is_a_job_with_the_originals_labels() {
        let job = serde_json::to_value(start(false)).unwrap();
        let labels = json!({
            "app.kubernetes.io/managed-by": "slimfaas",
            "slimfaas-in-queue-timestamp": "621355968010000000",
            "slimfaas-job-element-id": "0190a6b0-0000-7000-8000-000000000001",
            "slimfaas-job-name": "report",
            "slimfaas-job-start-timestamp": "621355968020000000",
        });
        assert_eq!(job["metadata"]["labels"], labels);
        assert_eq!(job["metadata"]["annotations"], json!({"SlimFaas/DependsOn": "mysql,fib", "SlimFaas/Held": "true"}));
        assert_eq!(
            job["spec"],
            json!({
                "backoffLimit": 2, "ttlSecondsAfterFinished": 609, "suspend": true,
                "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [{
                    "name": "report", "image": "repo/report:2", "args": ["42"],
                    "env": [
                        {"name": "PLAIN", "value": "asked"},
                        {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    ],
                    "resources": {"requests": {"cpu": "100m"}},
                }]}},
            })
        );
        let said = said(&start(false)).unwrap();
        assert_eq!((said.job.as_str(), said.queued_ms, said.started_ms, said.ttl_ms), ("report", 1000, 2000, 9000));
    }

    #[test]
    fn the_one_that_is_let_go_is_the_one_that_was_held() {
        let said = |job: &Value| said(&serde_json::from_value(job.clone()).unwrap()).unwrap();
        let mut job = serde_json::to_value(start(false)).unwrap();
        job["metadata"]["uid"] = json!("u-1");
        assert!(said(&job).is_held);
        let Patch::Json::<()>(patch) = let_go("u-2", false) else { panic!("of another kind") };
        assert!(json_patch(&mut job, &patch).is_err(), "another of the same run");
        let Patch::Json::<()>(patch) = let_go("u-1", false) else { panic!("of another kind") };
        json_patch(&mut job, &patch).unwrap();
        assert_eq!((said(&job).is_held, &job["spec"]["suspend"]), (false, &json!(false)));
        assert!(json_patch(&mut job, &patch).is_err(), "it was let go already: whoever suspends it now is another");
    }

    #[test]
    fn a_run_keeps_what_its_template_has_beside_it() {
        let job = serde_json::to_value(start(true)).unwrap();
        let spec = &job["spec"];
        assert_eq!((&spec["activeDeadlineSeconds"], &spec["backoffLimit"]), (&json!(7), &json!(2)));
        assert_eq!(spec["template"]["metadata"]["labels"]["team"], "x");
        assert_eq!(spec["template"]["spec"]["serviceAccountName"], "reporter");
        let container = &spec["template"]["spec"]["containers"][0];
        assert_eq!((&container["command"], &container["image"]), (&json!(["/report"]), &json!("repo/report:2")));
        assert_eq!(container["envFrom"], json!([{"configMapRef": {"name": "all"}}]));
        let names: Vec<&str> = container["env"].as_array().unwrap().iter().filter_map(|v| v["name"].as_str()).collect();
        assert_eq!(names, ["SECRET", "NODE", "PLAIN", "OTHER"]);
        assert_eq!(container["resources"], json!({"requests": {"cpu": "100m"}}));
    }
}
