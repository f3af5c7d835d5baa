//! Changes replicas through the scale subresource.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::timeout;

use super::{KubeCluster, Uid};
use crate::clock;
use crate::cluster::{ScaleError, Scaling};
use crate::model::function::WorkloadKind;
use crate::table::start::StartPhase;

/// For the API server's answer; the scaler tries again later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl KubeCluster {
    /// Changes the replicas only if they still are what the decision was made from: a person's or an autoscaler's
    /// change in between is not undone.
    pub(super) async fn patch_scale(&self, scaling: &Scaling) -> Result<(), ScaleError> {
        let Scaling { function, from, to, reason } = scaling;
        let found = {
            let index = self.index();
            index
                .function_workload(function)
                .map(|workload| (Uid::clone(&workload.uid), workload.kind, workload.reference()))
        };
        let (uid, kind, about) = found.ok_or_else(|| ScaleError::Unknown(function.clone()))?;
        // In a Scale object zero is left out, which the patch's test sees as null.
        let expected = if *from == 0 { json!(null) } else { json!(from) };
        let patch = serde_json::from_value(json!([
            {"op": "test", "path": "/spec/replicas", "value": expected},
            {"op": "add", "path": "/spec/replicas", "value": to},
        ]));
        let patch: Patch<()> = Patch::Json(patch.expect("a JSON patch"));
        self.table.note_start(function, StartPhase::Requested, clock::now());
        let answer = timeout(ANSWER_TIMEOUT, self.send(kind, scaling, &patch)).await;
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(kube::Error::Api(status))) if is_outdated(status.code) => return Err(ScaleError::Outdated),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                return Err(ScaleError::Unknown(function.clone()));
            }
            failed => {
                let error = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()),
                };
                self.announcer.not_scaled(about, *to, &error);
                return Err(ScaleError::Refused(error));
            }
        }
        self.table.note_start(function, StartPhase::Accepted, clock::now());
        let report = {
            let mut index = self.index();
            index.set_requested(&uid, *to);
            index.report(function)
        };
        if let Some(report) = report {
            self.table.put(report);
        }
        self.announcer.scaled(about, *from, *to, reason);
        Ok(())
    }

    async fn send(&self, kind: WorkloadKind, scaling: &Scaling, patch: &Patch<()>) -> kube::Result<()> {
        let (namespace, name) = (&*scaling.function.namespace, &*scaling.function.name);
        let (client, params) = (self.client.clone(), PatchParams::default());
        match kind {
            WorkloadKind::Deployment => {
                Api::<Deployment>::namespaced(client, namespace).patch_scale(name, &params, patch).await.map(drop)
            }
            WorkloadKind::StatefulSet => {
                Api::<StatefulSet>::namespaced(client, namespace).patch_scale(name, &params, patch).await.map(drop)
            }
        }
    }
}

/// The patch's test failed (422), or somebody wrote at the same moment (409).
fn is_outdated(code: u16) -> bool {
    matches!(code, 409 | 422)
}
