//! Runs of jobs as child processes: each try is one process, and its last output is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::manifest::{JobEntry, Launch};
use super::output::Kept;
use super::replica::SHUTDOWN_TIMEOUT;
use super::supervisor::LocalCluster;
use crate::clock;
use crate::cluster::ClusterFuture;
use crate::cluster::jobs::{ClusterJob, ClusterJobs, JobError, JobRunner, LogStream, RunName, RunToStart};
use crate::cluster::seen_runs::{SeenRun, SeenRuns};
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::job::{RunSpec, RunState};
use crate::queue::element::ElementId;

/// Of one run, the last that it wrote.
const LOG_BYTES: usize = 256 * 1024;

/// Runs that have ended whose output is kept, whatever their time to live.
const ENDED_MAX: usize = 100;

/// Before a run's second try; doubled before each further one. Kubernetes begins at ten seconds, for other reasons.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Every run that this process has had.
pub(super) struct LocalJobs {
    jobs: BTreeMap<FunctionId, JobEntry>,
    definitions: watch::Sender<Arc<ClusterJobs>>,
    runs: watch::Sender<Option<Arc<SeenRuns>>>,
    details: Mutex<BTreeMap<ElementId, Details>>,
    ended: Mutex<VecDeque<ElementId>>,
    /// To the supervisor, which runs them. Bounded by the jobs' slots.
    starts: mpsc::UnboundedSender<LocalRun>,
    pub(super) starting: Mutex<Option<mpsc::UnboundedReceiver<LocalRun>>>,
}

struct Details {
    output: Arc<Kept>,
    /// True: it shall end.
    stop: watch::Sender<bool>,
}

/// One run that shall be made.
pub(super) struct LocalRun {
    name: RunName,
    spec: RunSpec,
    output: Arc<Kept>,
    stop: watch::Receiver<bool>,
}

impl LocalJobs {
    pub(super) fn new(namespace: &str, jobs: &BTreeMap<String, JobEntry>) -> Self {
        let id = |name: &String| FunctionId::new(namespace, name);
        let defined = |(name, job): (&String, &JobEntry)| {
            (id(name), ClusterJob { spec: Arc::clone(&job.spec), problems: job.problems.to_vec() })
        };
        let definitions = ClusterJobs { listed: true, jobs: jobs.iter().map(defined).collect() };
        let (starts, starting) = mpsc::unbounded_channel();
        Self {
            jobs: jobs.iter().map(|(name, job)| (id(name), job.clone())).collect(),
            definitions: watch::Sender::new(Arc::new(definitions)),
            runs: watch::Sender::new(Some(Arc::default())),
            details: Mutex::default(),
            ended: Mutex::default(),
            starts,
            starting: Mutex::new(Some(starting)),
        }
    }

    /// Tells all runs to end.
    pub(super) fn stop_all(&self) {
        self.details().values().for_each(|details| {
            details.stop.send_replace(true);
        });
    }

    fn details(&self) -> MutexGuard<'_, BTreeMap<ElementId, Details>> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut SeenRuns)) {
        self.runs.send_modify(|runs| change(Arc::make_mut(runs.get_or_insert_default())));
    }

    fn set_state(&self, id: ElementId, state: RunState) {
        self.change(|runs| {
            if let Some(run) = runs.get_mut(&id) {
                run.state = state;
            }
        });
    }

    fn forget(&self, id: ElementId) {
        self.details().remove(&id);
        self.change(|runs| {
            runs.remove(&id);
        });
    }

    /// Keeps no more than so many that have ended.
    fn note_end(&self, id: ElementId) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back(id);
        if ended.len() > ENDED_MAX
            && let Some(oldest) = ended.pop_front()
        {
            self.details().remove(&oldest);
        }
    }
}

impl JobRunner for LocalCluster {
    fn jobs(&self) -> watch::Receiver<Arc<ClusterJobs>> {
        self.local_jobs.definitions.subscribe()
    }

    fn runs(&self) -> watch::Receiver<Option<Arc<SeenRuns>>> {
        self.local_jobs.runs.subscribe()
    }

    fn check(&self, job: &FunctionId, spec: &RunSpec) -> Result<(), String> {
        if !self.local_jobs.jobs.contains_key(job) {
            return Err("the local mode runs the jobs of its manifest: add this one under jobs".to_owned());
        }
        match spec.environments.iter().find(|variable| variable.is_reference()) {
            Some(variable) => Err(format!("Environments: {:?}: the local mode knows values only", variable.name)),
            None => Ok(()),
        }
    }

    fn create<'a>(&'a self, run: &'a RunToStart) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(std::future::ready(self.start_run(run)))
    }

    /// Here nobody is late, and none is held.
    fn let_go<'a>(&'a self, _run: &'a RunName, _held: &'a str) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(std::future::ready(Err(JobError::Unknown)))
    }

    fn exists<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<bool, JobError>> {
        let exists = self.local_jobs.runs.borrow().as_ref().is_some_and(|runs| runs.contains_key(&run.id));
        Box::pin(std::future::ready(Ok(exists)))
    }

    fn delete<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<(), JobError>> {
        let jobs = &self.local_jobs;
        let is_over = jobs.runs.borrow().as_ref().and_then(|runs| Some(runs.get(&run.id)?.state.is_over()));
        let done = match is_over {
            None => Err(JobError::Unknown),
            Some(true) => {
                jobs.forget(run.id);
                Ok(())
            }
            Some(false) => {
                jobs.change(|runs| {
                    if let Some(run) = runs.get_mut(&run.id) {
                        run.is_leaving = true;
                    }
                });
                if let Some(details) = jobs.details().get(&run.id) {
                    details.stop.send_replace(true);
                }
                Ok(())
            }
        };
        Box::pin(std::future::ready(done))
    }

    fn logs<'a>(&'a self, run: &'a RunName, follow: bool) -> ClusterFuture<'a, Result<LogStream, JobError>> {
        let output = self.local_jobs.details().get(&run.id).map(|details| Arc::clone(&details.output));
        let stream = output.ok_or(JobError::Unknown).map(|output| {
            let chunks = stream::unfold((output, 0), move |(output, from)| async move {
                let (chunk, next) = output.after(from, follow).await?;
                Some((chunk, (output, next)))
            });
            Box::pin(chunks) as LogStream
        });
        Box::pin(std::future::ready(stream))
    }
}

impl LocalCluster {
    fn start_run(&self, run: &RunToStart) -> Result<(), JobError> {
        let (jobs, RunToStart { name, spec, .. }) = (&self.local_jobs, run);
        self.check(&name.job, spec).map_err(JobError::Refused)?;
        let output = Arc::new(Kept::new(LOG_BYTES));
        let stop = watch::Sender::new(false);
        let local =
            LocalRun { name: name.clone(), spec: spec.clone(), output: Arc::clone(&output), stop: stop.subscribe() };
        let mut is_new = false;
        jobs.change(|runs| {
            is_new = !runs.contains_key(&name.id);
            runs.entry(name.id).or_insert_with(|| SeenRun {
                job: name.job.clone(),
                state: RunState::Pending,
                queued_ms: run.queued_ms,
                started_ms: run.started_ms,
                ttl_ms: u64::from(spec.ttl_seconds) * 1000,
                is_leaving: false,
                held: None,
            });
        });
        if !is_new {
            return Ok(());
        }
        jobs.details().insert(name.id, Details { output, stop });
        jobs.starts.send(local).map_err(|_ended| {
            jobs.forget(name.id);
            JobError::Unavailable("the processes are being ended".to_owned())
        })
    }
}

/// Tries the run until it succeeds, has been tried often enough, or shall end.
pub(super) async fn run(cluster: Arc<LocalCluster>, run: LocalRun) {
    let (jobs, id) = (&cluster.local_jobs, run.name.id);
    let Some(entry) = jobs.jobs.get(&run.name.job).cloned() else { return };
    let state = try_all(&cluster, &run, &entry).await;
    run.output.close();
    if run.is_to_end() {
        return jobs.forget(id);
    }
    tracing::info!(job = %run.name.job, run = %id, state = state.as_str(), "a run has ended");
    jobs.set_state(id, state);
    jobs.note_end(id);
}

async fn try_all(cluster: &Arc<LocalCluster>, run: &LocalRun, entry: &JobEntry) -> RunState {
    let mut pause = FIRST_PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        let reason = match try_once(cluster, run, &entry.launch).await {
            Ok(()) => return RunState::Succeeded,
            Err(reason) => reason,
        };
        tracing::info!(job = %run.name.job, run = %run.name.id, tries, reason, "a try of a run failed");
        if tries > run.spec.backoff_limit || run.is_to_end() {
            return RunState::Failed(format!("{reason}, after {tries} tries"));
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = run.stopped() => {}
        }
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

impl LocalRun {
    fn is_to_end(&self) -> bool {
        // Closed: whoever could tell is gone.
        *self.stop.borrow() || self.stop.has_changed().is_err()
    }

    async fn stopped(&self) {
        let _told_or_gone = self.stop.clone().wait_for(|stop| *stop).await.is_ok();
    }
}

/// One process. Dropped, it kills it and all that it has started.
async fn try_once(cluster: &Arc<LocalCluster>, run: &LocalRun, launch: &Launch) -> Result<(), String> {
    let mut launch = launch.clone();
    launch.command.extend(run.spec.args.iter().flatten().cloned());
    let values =
        run.spec.environments.iter().filter_map(|variable| Some((variable.name.clone(), variable.value.clone()?)));
    launch.environment.extend(values);
    launch.environment.insert("SLIMFAAS_JOB_NAME".to_owned(), run.name.job.name.to_string());
    launch.environment.insert("SLIMFAAS_JOB_RUN_NAME".to_owned(), run.name.id.to_string());
    let (job, begin) = (&run.name.job, clock::now());
    let mut process = cluster
        .launcher
        .start_job(&launch, &cluster.job_source(job), Arc::clone(&run.output))
        .map_err(|error| format!("{}: cannot be started: {error}", launch.command[0]))?;
    let _registration = cluster.callers.register(process.pid(), Caller::Job { job: job.clone() });
    tracing::info!(%job, run = %run.name.id, pid = process.pid().as_raw_nonzero(), "a try of a run started");
    cluster.local_jobs.set_state(run.name.id, RunState::Running);
    tokio::select! {
        biased; // an end that was asked for is no failure
        () = run.stopped() => {
            process.end(None, SHUTDOWN_TIMEOUT).await;
            Err("it was told to end".to_owned())
        }
        status = process.ended() => match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{status} after {:.1} s", begin.elapsed().as_secs_f64())),
            Err(error) => Err(error.to_string()),
        },
    }
}
