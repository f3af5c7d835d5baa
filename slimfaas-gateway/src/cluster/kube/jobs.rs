//! Jobs as suspended CronJobs, and their runs as Jobs of `batch/v1`.
//!
//! Watches of its own, so that functions are served also where the gateway may not look at jobs.

mod object;
mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::io::AsyncReadExt;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec as KubeJobSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams, PatchParams, PostParams};
use kube::runtime::watcher as watch;
use tokio::sync::watch as channel;
use tokio::time::timeout;

use super::watches::{self, Followed};
use super::{KubeCluster, Uid};
use crate::cluster::ClusterFuture;
use crate::cluster::jobs::{ClusterJob, ClusterJobs, JobError, JobRunner, LogStream, RunName, RunToStart};
use crate::cluster::seen_runs::SeenRuns;
use crate::drain;
use crate::model::function::FunctionId;
use crate::model::job::{RunSpec, RunState};

/// For the API server's answer; what was asked for is asked again later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a log that travel together.
const LOG_CHUNK: usize = 16 * 1024;

/// Changes that are applied together.
const BATCH: usize = 256;

/// Everything that the watches of jobs have shown.
pub(super) struct KubeJobs {
    state: Mutex<State>,
    definitions: channel::Sender<Arc<ClusterJobs>>,
    runs: channel::Sender<Option<Arc<SeenRuns>>>,
    /// A pod of a run has changed.
    pods: channel::Sender<u64>,
}

#[derive(Default)]
struct State {
    definitions: BTreeMap<Uid, Definition>,
    runs: BTreeMap<Uid, seen::Run>,
    awaited: BTreeSet<(usize, bool)>,
}

struct Definition {
    id: FunctionId,
    job: ClusterJob,
    /// What a run's Job is made from.
    template: KubeJobSpec,
}

/// One thing that happened.
enum Change {
    Definition(Uid, Box<Definition>),
    Run(Uid, seen::Run),
    Gone(Uid),
    Listed { runs: bool },
    Failed(&'static str, watch::Error),
}

impl KubeJobs {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            definitions: channel::Sender::default(),
            runs: channel::Sender::new(None),
            pods: channel::Sender::new(0),
        }
    }

    /// A pod that a Job controls has changed.
    pub(super) fn pod_changed(&self) {
        self.pods.send_modify(|generation| *generation += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn follow(client: &kube::Client, namespace: &str) -> stream::BoxStream<'static, Change> {
    let definitions = watches::follow_any(
        watch(Api::<CronJob>::namespaced(client.clone(), namespace), watches::config()),
        |object: CronJob| {
            let uid: Uid = object.metadata.uid.as_deref()?.into();
            let (id, job, template) = object::definition(object)?;
            Some(Change::Definition(uid, Box::new(Definition { id, job, template })))
        },
        |followed| match followed {
            Followed::Gone(uid) => Change::Gone(uid),
            Followed::Listed => Change::Listed { runs: false },
            Followed::Failed(error) => Change::Failed("cronjobs", error),
        },
    );
    let runs = watches::follow_any(
        watch(Api::<Job>::namespaced(client.clone(), namespace), watches::config().labels(object::ELEMENT_ID)),
        |object: Job| {
            let uid: Uid = object.metadata.uid.as_deref()?.into();
            Some(Change::Run(uid, seen::Run::of(&object)?))
        },
        |followed| match followed {
            Followed::Gone(uid) => Change::Gone(uid),
            Followed::Listed => Change::Listed { runs: true },
            Followed::Failed(error) => Change::Failed("jobs", error),
        },
    );
    stream::select(definitions, runs).boxed()
}

impl KubeCluster {
    /// Follows the jobs of all namespaces until `end`.
    pub(super) async fn follow_jobs(self: Arc<Self>, mut end: drain::Watch) {
        let namespaces: Vec<&str> = self.namespaces().collect();
        self.jobs.state().awaited =
            (0..namespaces.len()).flat_map(|number| [(number, false), (number, true)]).collect();
        let numbered = |(number, namespace): (usize, &&str)| {
            follow(&self.client, namespace).map(move |change| (number, change)).boxed()
        };
        let changes = stream::select_all(namespaces.iter().enumerate().map(numbered));
        let mut changes = changes.ready_chunks(BATCH);
        let mut pods = self.jobs.pods.subscribe();
        loop {
            tokio::select! {
                biased; // the end first
                () = end.signaled() => return,
                Some(changes) = changes.next() => self.apply_job_changes(changes),
                Ok(()) = pods.changed() => self.publish_runs(),
            }
        }
    }

    fn apply_job_changes(&self, changes: Vec<(usize, Change)>) {
        let mut definitions_changed = false;
        {
            let mut state = self.jobs.state();
            for (number, change) in changes {
                match change {
                    Change::Definition(uid, definition) => {
                        for problem in &definition.job.problems {
                            tracing::warn!(job = %definition.id, key = problem.key, "{}", problem.message);
                        }
                        state.definitions.insert(uid, *definition);
                        definitions_changed = true;
                    }
                    Change::Run(uid, run) => {
                        state.runs.insert(uid, run);
                    }
                    Change::Gone(uid) => {
                        state.runs.remove(&uid);
                        definitions_changed |= state.definitions.remove(&uid).is_some();
                    }
                    Change::Listed { runs } => {
                        definitions_changed |= state.awaited.remove(&(number, runs));
                    }
                    Change::Failed(kind, error) => tracing::warn!(
                        kind,
                        error = %format_args!("{error:#}"),
                        "a watch failed and is taken up again; if it goes on, jobs are not run: check the API server and \
                         the Role of the gateway"
                    ),
                }
            }
            if definitions_changed {
                let listed = !state.awaited.iter().any(|(_, is_of_runs)| !is_of_runs);
                let jobs = state.definitions.values().map(|known| (known.id.clone(), known.job.clone())).collect();
                self.jobs.definitions.send_replace(Arc::new(ClusterJobs { listed, jobs }));
            }
        }
        self.publish_runs();
    }

    fn publish_runs(&self) {
        let state = self.jobs.state();
        if state.awaited.iter().any(|(_, is_of_runs)| *is_of_runs) {
            return;
        }
        let index = self.index();
        let shown: SeenRuns = state
            .runs
            .iter()
            .map(|(uid, run)| {
                let mut seen = run.seen.clone();
                // Its Job says only that it is not ready.
                if seen.state == RunState::Pending || seen.state == RunState::Running {
                    seen.state = seen::with_pods(seen.state, index.controlled_by(uid));
                }
                (run.id, seen)
            })
            .collect();
        self.jobs.runs.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&shown);
            if changed {
                *known = Some(Arc::new(shown));
            }
            changed
        });
    }

    fn jobs_of(&self, run: &RunName) -> Api<Job> {
        Api::namespaced(self.client.clone(), &run.job.namespace)
    }

    /// What a definition has for its runs.
    fn template(&self, job: &FunctionId) -> Option<KubeJobSpec> {
        let state = self.jobs.state();
        state.definitions.values().find(|known| known.id == *job).map(|known| known.template.clone())
    }

    async fn create_run(&self, run: &RunToStart) -> Result<(), JobError> {
        let job = object::run(run, self.template(&run.name.job));
        match answered(self.jobs_of(&run.name).create(&PostParams::default(), &job)).await {
            // Somebody who led before has created it.
            Err(Failed::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => Ok(()),
            // Not a matter of time: what was asked for cannot be.
            Err(Failed::Api(status)) if matches!(status.code, 400 | 422) => Err(JobError::Refused(status.message)),
            done => done.map(drop).map_err(Failed::into_error),
        }
    }

    async fn let_run_go(&self, run: &RunName, held: &str) -> Result<(), JobError> {
        let suspend = self.template(&run.job).and_then(|template| template.suspend).unwrap_or(false);
        let patch = object::let_go(held, suspend);
        match answered(self.jobs_of(run).patch(&run.text(), &PatchParams::default(), &patch)).await {
            Err(Failed::Api(status)) if status.code == 404 => Err(JobError::Unknown),
            done => done.map(drop).map_err(Failed::into_error),
        }
    }

    async fn delete_run(&self, run: &RunName) -> Result<(), JobError> {
        // Its pods first, so that its slot is free only when they are gone.
        match answered(self.jobs_of(run).delete(&run.text(), &DeleteParams::foreground())).await {
            Err(Failed::Api(status)) if status.code == 404 => Err(JobError::Unknown),
            done => done.map(drop).map_err(Failed::into_error),
        }
    }

    async fn run_exists(&self, run: &RunName) -> Result<bool, JobError> {
        let found = answered(self.jobs_of(run).get_opt(&run.text())).await.map_err(Failed::into_error)?;
        Ok(found.is_some())
    }

    async fn open_log(&self, run: &RunName, follow: bool) -> Result<LogStream, JobError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &run.job.namespace);
        let of_run = ListParams::default().labels(&format!("{}={}", object::ELEMENT_ID, run.id));
        let found = answered(pods.list(&of_run)).await.map_err(Failed::into_error)?;
        // Of several tries, the last.
        let last = found
            .items
            .into_iter()
            .max_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|created| created.0.to_string()));
        let name = last.and_then(|pod| pod.metadata.name).ok_or(JobError::Unknown)?;
        let container = Some(object::container_name(&run.job));
        let params = LogParams { container, follow, ..LogParams::default() };
        let log = match answered(pods.log_stream(&name, &params)).await {
            Ok(log) => log,
            // It has a pod, and no process yet.
            Err(Failed::Api(status)) if matches!(status.code, 400 | 404) => return Err(JobError::Unknown),
            Err(failed) => return Err(failed.into_error()),
        };
        let chunks = stream::unfold(Box::pin(log), |mut log| async move {
            let mut chunk = vec![0; LOG_CHUNK];
            match log.read(&mut chunk).await {
                Ok(read @ 1..) => {
                    chunk.truncate(read);
                    Some((Bytes::from(chunk), log))
                }
                Ok(0) | Err(_) => None,
            }
        });
        Ok(Box::pin(chunks))
    }
}

impl JobRunner for KubeCluster {
    fn jobs(&self) -> channel::Receiver<Arc<ClusterJobs>> {
        self.jobs.definitions.subscribe()
    }

    fn runs(&self) -> channel::Receiver<Option<Arc<SeenRuns>>> {
        self.jobs.runs.subscribe()
    }

    fn check(&self, _job: &FunctionId, spec: &RunSpec) -> Result<(), String> {
        if spec.image.is_empty() {
            return Err("Image: this job has none of its own, so that the request has to name one".to_owned());
        }
        Ok(())
    }

    fn create<'a>(&'a self, run: &'a RunToStart) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(self.create_run(run))
    }

    fn let_go<'a>(&'a self, run: &'a RunName, held: &'a str) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(self.let_run_go(run, held))
    }

    fn exists<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<bool, JobError>> {
        Box::pin(self.run_exists(run))
    }

    fn delete<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(self.delete_run(run))
    }

    fn logs<'a>(&'a self, run: &'a RunName, follow: bool) -> ClusterFuture<'a, Result<LogStream, JobError>> {
        Box::pin(self.open_log(run, follow))
    }
}

enum Failed {
    Api(Box<kube::core::Status>),
    Other(String),
}

impl Failed {
    fn into_error(self) -> JobError {
        JobError::Unavailable(match self {
            Self::Api(status) => status.message,
            Self::Other(text) => text,
        })
    }
}

async fn answered<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Failed::Api(status)),
        Ok(Err(error)) => Err(Failed::Other(error.to_string())),
        Err(_elapsed) => Err(Failed::Other(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()))),
    }
}
