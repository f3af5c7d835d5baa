//! What a Job and its pods say of a run. Pure.

use k8s_openapi::api::batch::v1::Job;

use super::object::said;
use crate::cluster::kube::pod::{PodFacts, Stage};
use crate::cluster::seen_runs::SeenRun;
use crate::model::function::FunctionId;
use crate::model::job::RunState;
use crate::queue::element::ElementId;

#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) id: ElementId,
    pub(super) seen: SeenRun,
}

impl Run {
    /// `None`: it is none of ours.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let said = said(job)?;
        let seen = SeenRun {
            job: FunctionId::new(job.metadata.namespace.as_deref()?, &said.job),
            state: state(job),
            queued_ms: said.queued_ms,
            started_ms: said.started_ms,
            ttl_ms: said.ttl_ms,
            is_leaving: job.metadata.deletion_timestamp.is_some(),
            held: job.metadata.uid.as_deref().filter(|_| said.is_held).map(Into::into),
        };
        Some(Self { id: ElementId::parse(&said.id)?, seen })
    }
}

/// Kubernetes' conditions alone say that it has ended: a failed pod may be followed by another.
fn state(job: &Job) -> RunState {
    let Some(status) = &job.status else { return RunState::Pending };
    let condition = |kind: &str| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if condition("Complete").is_some() {
        return RunState::Succeeded;
    }
    if let Some(failed) = condition("Failed") {
        let reason = failed.reason.clone().unwrap_or_else(|| "Failed".to_owned());
        let message = failed.message.as_deref().map_or_else(String::new, |message| format!(": {message}"));
        return RunState::Failed(format!("{reason}{message}"));
    }
    if status.active.unwrap_or(0) > 0 { RunState::Running } else { RunState::Pending }
}

/// The state of a run that has not ended, as its pods show it.
pub(super) fn with_pods<'a>(state: RunState, pods: impl Iterator<Item = &'a PodFacts>) -> RunState {
    let mut shown = None;
    for pod in pods {
        match &pod.stage {
            Stage::Running => return RunState::Running,
            Stage::Failing(reason) if matches!(&**reason, "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName") => {
                shown = Some(RunState::ImagePullBackOff);
            }
            Stage::Pending(_) | Stage::Scheduled | Stage::Failing(_) => {
                shown = shown.or(Some(RunState::Pending));
            }
            Stage::Terminating | Stage::Ended => {}
        }
    }
    shown.unwrap_or(state)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_job_has_ended_when_a_condition_says_so() {
        let check = |status: Value, expected: RunState| {
            let labels = json!({"slimfaas-job-name": "report", "slimfaas-job-element-id": "0190a6b0-0000-7000-8000-000000000001"});
            let job = json!({"metadata": {"namespace": "demo", "labels": labels}, "status": status});
            let run = Run::of(&serde_json::from_value(job).expect("a Job")).expect("ours");
            assert_eq!(run.seen.state, expected, "{status}");
        };
        check(json!({}), RunState::Pending);
        check(json!({"active": 1, "failed": 1}), RunState::Running);
        check(json!({"failed": 1}), RunState::Pending);
        check(json!({"conditions": [{"type": "Complete", "status": "False"}]}), RunState::Pending);
        check(json!({"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}), RunState::Succeeded);
        let failed =
            json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"});
        check(json!({"conditions": [failed]}), RunState::Failed("BackoffLimitExceeded: too often".to_owned()));
    }

    #[test]
    fn pods_say_whether_it_runs_or_what_keeps_it() {
        let pod = |state: Value| {
            let container = json!({"name": "report", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
            let pod = json!({
                "metadata": {"uid": "u", "namespace": "demo", "name": "report-x"},
                "spec": {"nodeName": "n", "containers": [{"name": "report"}]},
                "status": {"phase": "Pending", "containerStatuses": [container]},
            });
            PodFacts::of(&serde_json::from_value::<Pod>(pod).expect("a pod")).expect("complete")
        };
        let waiting = |reason: &str| pod(json!({"waiting": {"reason": reason}}));
        let check = |pods: &[PodFacts], expected: RunState| {
            assert_eq!(with_pods(RunState::Running, pods.iter()), expected, "{pods:?}");
        };
        check(&[], RunState::Running);
        check(&[waiting("ContainerCreating")], RunState::Pending);
        check(&[waiting("ErrImagePull")], RunState::ImagePullBackOff);
        check(&[waiting("ImagePullBackOff"), pod(json!({"running": {}}))], RunState::Running);
    }
}
