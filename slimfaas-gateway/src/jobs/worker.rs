//! Looks at the log and at the cluster, on the node that leads the store, and has the duties of jobs carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::carry_out::{self, CATCH_UP_TIMEOUT, Trouble, propose, spec_of};
use super::command::JobCommand;
use super::duties::{self, Duty, Firing, ScheduleDuty, Situation};
use super::handle::{JobStats, Jobs};
use super::plan::{JobsView, Phase};
use super::resolve::{resolve, resolve_configured};
use crate::clock::{self, Instant, Tick};
use crate::cluster::Cluster;
use crate::cluster::jobs::RunName;
use crate::cluster::seen_runs::SeenRuns;
use crate::drain;
use crate::model::function::FunctionId;
use crate::model::job::{JobSpec, RunSpec};
use crate::model::spec::Dependency;
use crate::proxy::wake::Wake;
use crate::queue::element::ElementId;
use crate::store::StoreError;
use crate::table::Table;

/// Before something is tried again that failed.
const AGAIN: Duration = Duration::from_millis(500);

/// Least time between two looks at the log's state; a busy log changes thousands of times a second.
const LOOK_SPACING: Duration = Duration::from_millis(20);

/// The functions that runs depend on are called this often, so that they stay awake; timeouts are seconds.
const KEEP_AWAKE_EVERY: Duration = Duration::from_secs(1);

/// A created run that its cluster does not show for so long is asked for. Longer than a watch is late.
const MISSING_AFTER: Duration = Duration::from_secs(5);

/// After which a run that was not taken is tried again: doubled each time, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// What the cluster has taken is asked for again if it is not shown by then.
const TAKEN_FOR: Duration = Duration::from_secs(1);

/// The longest sleep, so that a clock that was set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// Duties towards the cluster at once.
const TASKS_MAX: usize = 16;

pub struct Worker {
    jobs: Jobs,
    table: Arc<Table>,
    cluster: Arc<dyn Cluster>,
    wake: Arc<dyn Wake>,
    /// What waiting and started runs depend on.
    depends: BTreeMap<ElementId, Vec<String>>,
    /// Refused by the cluster: how often, and when it is tried again.
    refused: BTreeMap<ElementId, (u32, Instant)>,
    /// Taken by the cluster: what is not asked for again before then, since a watch is a moment late.
    taken: BTreeMap<ElementId, (Duty, Instant)>,
    /// Created, and not shown by the cluster since.
    missing: BTreeMap<ElementId, Instant>,
    busy: BTreeSet<ElementId>,
    tasks: JoinSet<(Duty, ElementId, Result<(), Trouble>)>,
}

impl Worker {
    pub fn new(jobs: Jobs, table: Arc<Table>, cluster: Arc<dyn Cluster>, wake: Arc<dyn Wake>) -> Self {
        Self {
            jobs,
            table,
            cluster,
            wake,
            depends: BTreeMap::new(),
            refused: BTreeMap::new(),
            taken: BTreeMap::new(),
            missing: BTreeMap::new(),
            busy: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Works until `end`, whenever this node leads.
    pub async fn run(mut self, mut end: drain::Watch) {
        tokio::select! {
            biased; // the end first; what was begun is taken up by the next leader
            () = end.signaled() => {}
            () = self.work() => {}
        }
        self.tasks.shutdown().await;
    }

    async fn work(&mut self) {
        let mut role = self.jobs.store.role();
        let mut news = News::of(self);
        loop {
            // An error means that the store has ended.
            if role.wait_for(|role| role.leads).await.is_err() {
                return;
            }
            let sleep = self.look().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "jobs are looked at again in a moment");
                AGAIN
            });
            tokio::select! {
                // What comes within a moment is seen in one look.
                () = news.come(!self.depends.is_empty()) => tokio::time::sleep(LOOK_SPACING).await,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Does what is to be done, and says how long there is nothing.
    async fn look(&mut self) -> Result<Duration, StoreError> {
        let store = self.jobs.store.clone();
        store.catch_up(CATCH_UP_TIMEOUT).await?;
        let view = store.jobs()?;
        let defined = self.jobs.definitions.all();
        let specs = defined.into_iter().map(|(id, definition)| (id, definition.spec)).collect();
        let (schedules, next_firing) =
            duties::of_schedules(&view, &specs, self.jobs.definitions.is_complete(), clock::utc());
        let mut commands: Vec<JobCommand> = schedules.into_iter().filter_map(|duty| self.scheduled(duty)).collect();
        let seen = self.jobs.runner.runs().borrow().clone();
        let mut sleep = SLEEP_MAX;
        if let Some(seen) = seen {
            let (of_runs, expiry_ms) = self.of_runs(&view, &seen)?;
            if let Some(expiry_ms) = expiry_ms {
                sleep = sleep.min(Duration::from_millis(expiry_ms.saturating_sub(clock::unix_millis())));
            }
            sleep = sleep.min(self.sleep_for_runs());
            for duty in of_runs {
                commands.extend(self.begin(duty, &view, &seen));
            }
        }
        if let Some(next) = next_firing {
            sleep = sleep.min((next - clock::utc()).to_std().unwrap_or_default());
        }
        let proposals = commands.into_iter().map(|command| propose(&self.jobs, command));
        let trouble = join_all(proposals).await.into_iter().any(|done| done.is_err());
        Ok(if trouble { AGAIN } else { sleep.max(Duration::from_millis(1)) })
    }

    fn of_runs(&mut self, view: &JobsView, seen: &SeenRuns) -> Result<(Vec<Duty>, Option<u64>), StoreError> {
        let now = clock::now();
        self.note_dependencies(view)?;
        self.missing.retain(|id, _| view.runs.contains_key(id) && !seen.contains_key(id));
        self.refused.retain(|id, _| view.runs.contains_key(id) || seen.contains_key(id));
        self.taken.retain(|_, (_, until)| *until > now);
        let created = view.runs.iter().filter(|(_, run)| matches!(run.phase, Phase::Started { is_created: true, .. }));
        for (id, _) in created.filter(|(id, _)| !seen.contains_key(id)) {
            self.missing.entry(*id).or_insert(now);
        }
        let is_over = |since: &Instant| now.saturating_duration_since(*since) >= MISSING_AFTER;
        let missing = self.missing.iter().filter(|(_, since)| is_over(since)).map(|(id, _)| *id).collect();
        let later = self.refused.iter().filter(|(_, (_, at))| *at > now).map(|(id, _)| *id);
        let busy = self.busy.iter().copied().chain(later).collect();
        let mut parallel = BTreeMap::new();
        for run in view.runs.values() {
            if let Some(definition) = self.jobs.definitions.find(&run.job) {
                parallel.insert(run.job.clone(), definition.spec.parallel);
            }
        }
        let blocked = self.blocked(view);
        let now_ms = clock::unix_millis();
        let (view, missing, busy) = (view, &missing, &busy);
        let situation = Situation { view, seen, now_ms, parallel: &parallel, blocked: &blocked, busy, missing };
        Ok(duties::of_runs(&situation))
    }

    /// Until a missing run is asked for, a refused one is tried again, or functions are to be kept awake.
    fn sleep_for_runs(&self) -> Duration {
        let now = clock::now();
        let missing = self.missing.values().map(|since| *since + MISSING_AFTER);
        let refused = self.refused.values().map(|(_, at)| *at);
        let taken = self.taken.values().map(|(_, until)| *until);
        let until = missing
            .chain(refused)
            .chain(taken)
            .map(|at| at.saturating_duration_since(now))
            .filter(|left| !left.is_zero());
        let keep_awake = self.depends.values().any(|names| !names.is_empty()).then_some(KEEP_AWAKE_EVERY);
        until.chain(keep_awake).min().unwrap_or(SLEEP_MAX)
    }

    fn note_dependencies(&mut self, view: &JobsView) -> Result<(), StoreError> {
        let matters = |phase: &Phase| matches!(phase, Phase::Queued | Phase::Started { .. });
        self.depends.retain(|id, _| view.runs.get(id).is_some_and(|run| matters(&run.phase)));
        for (id, _) in view.runs.iter().filter(|(_, run)| matters(&run.phase)) {
            if !self.depends.contains_key(id) {
                let names = spec_of(&self.jobs, *id)?.map(|spec| spec.depends_on).unwrap_or_default();
                self.depends.insert(*id, names);
            }
        }
        Ok(())
    }

    /// The runs whose dependencies are not ready; those are woken, and those of started runs are kept awake.
    fn blocked(&self, view: &JobsView) -> BTreeSet<ElementId> {
        let (table, now) = (self.table.view(), Tick::of(clock::now()));
        let mut blocked = BTreeSet::new();
        for (id, names) in &self.depends {
            let Some(run) = view.runs.get(id) else { continue };
            for name in names {
                let function = FunctionId::new(&run.job.namespace, name);
                let is_ready = match table.function(&function) {
                    Some(function) if function.replicas_ready() >= function.spec.replicas_at_start.max(1) => {
                        self.wake.called(function, now);
                        true
                    }
                    Some(function) => {
                        self.wake.wake(function, now);
                        false
                    }
                    // A plain workload. One that is not there may come yet.
                    None => {
                        let name = Dependency::Workload(name.clone());
                        self.cluster.dependency_ready(&run.job, &name).unwrap_or(false)
                    }
                };
                if !is_ready {
                    blocked.insert(*id);
                }
            }
        }
        blocked
    }

    /// What is to be proposed for a schedule.
    fn scheduled(&self, duty: ScheduleDuty) -> Option<JobCommand> {
        match duty {
            ScheduleDuty::See { id, job } => Some(JobCommand::See { id, job }),
            ScheduleDuty::Unschedule { id } => Some(JobCommand::Unschedule { id }),
            ScheduleDuty::Fire(firing) => self.firing(*firing),
        }
    }

    fn firing(&self, firing: Firing) -> Option<JobCommand> {
        let Firing { schedule, job, planned_ms, request, is_configured } = firing;
        let Some(definition) = self.jobs.definitions.find(&job) else {
            // Until its cluster has told all, the job may yet turn out to be defined.
            return self.jobs.definitions.is_complete().then(|| {
                tracing::warn!(%job, "a schedule fires for a job that is not defined: it is passed over");
                JobCommand::Fire { schedule, planned_ms, run: None }
            });
        };
        let run = fired_run(&definition.spec, &request, is_configured);
        let run = run.and_then(|spec| self.jobs.new_run(&job, &spec).map_err(|error| error.to_string()));
        if let Err(error) = &run {
            tracing::warn!(%job, error, "a schedule fires for what can no longer be run: it is passed over");
        }
        Some(JobCommand::Fire { schedule, planned_ms, run: run.ok() })
    }

    /// Begins what is for the cluster; answers what is for the log.
    fn begin(&mut self, duty: Duty, view: &JobsView, seen: &SeenRuns) -> Option<JobCommand> {
        let id = match duty {
            Duty::Start { id, parallel } => return Some(JobCommand::Start { id, parallel }),
            Duty::Created { id } => return Some(JobCommand::Created { id }),
            Duty::Finish { id, end } => return Some(JobCommand::Finish { id, end }),
            Duty::Adopt { id } => {
                let seen = seen.get(&id)?;
                let (job, queued_ms, started_ms) = (seen.job.clone(), seen.queued_ms, seen.started_ms);
                tracing::info!(%job, run = %id, "the cluster has a run that the store does not know: it is taken in");
                return Some(JobCommand::Adopt { id, job, queued_ms, started_ms, ttl_ms: seen.ttl_ms });
            }
            Duty::Create { id } | Duty::LetGo { id } | Duty::Remove { id } | Duty::Check { id } => id,
        };
        let is_taken = self.taken.get(&id).is_some_and(|(taken, _)| *taken == duty);
        if is_taken || self.tasks.len() >= TASKS_MAX {
            // Everything is looked at again when one ends, and when what was taken is shown or late.
            return None;
        }
        let (run, shown) = (view.runs.get(&id), seen.get(&id));
        let job = run.map(|run| &run.job).or(shown.map(|shown| &shown.job))?.clone();
        let has_ended = !run.is_some_and(|run| matches!(run.phase, Phase::Started { .. }));
        let held = shown.and_then(|shown| shown.held.clone()).unwrap_or_default();
        let (jobs, name) = (self.jobs.clone(), RunName { id, job });
        self.busy.insert(id);
        self.tasks.spawn(async move {
            let done = match duty {
                Duty::Create { .. } => carry_out::create(&jobs, name).await,
                Duty::LetGo { .. } => carry_out::let_go(&jobs, &name, &held).await,
                Duty::Remove { .. } => carry_out::remove(&jobs, &name).await,
                _ => carry_out::check(&jobs, &name, has_ended).await,
            };
            (duty, id, done)
        });
        None
    }

    fn ended(&mut self, ended: Result<(Duty, ElementId, Result<(), Trouble>), tokio::task::JoinError>) {
        let Ok((duty, id, done)) = ended else {
            // A panic: its run stays marked as busy, and is taken up by the next leader.
            tracing::error!("a task of a job's run panicked");
            return;
        };
        self.busy.remove(&id);
        match done {
            Ok(()) => {
                self.refused.remove(&id);
                self.taken.insert(id, (duty, clock::now() + TAKEN_FOR));
            }
            Err(Trouble) => {
                JobStats::count(&self.jobs.stats.not_taken);
                let (first, longest) = BACKOFF;
                let times = self.refused.get(&id).map_or(0, |(times, _)| *times);
                let pause = first.saturating_mul(1 << times.min(16)).min(longest);
                self.refused.insert(id, (times + 1, clock::now() + pause));
            }
        }
    }
}

/// Everything that a look may answer differently after.
struct News {
    store: crate::store::Store,
    generation: u64,
    applied: watch::Receiver<Option<u64>>,
    runs: watch::Receiver<Option<Arc<SeenRuns>>>,
    definitions: watch::Receiver<Arc<crate::cluster::jobs::ClusterJobs>>,
    table: watch::Receiver<u64>,
    role: watch::Receiver<crate::store::Role>,
}

impl News {
    fn of(worker: &Worker) -> Self {
        let jobs = &worker.jobs;
        Self {
            store: jobs.store.clone(),
            generation: 0,
            applied: jobs.store.applied(),
            runs: jobs.runner.runs(),
            definitions: jobs.definitions.changes(),
            table: worker.table.changes(),
            role: jobs.store.role(),
        }
    }

    /// Of several at once it tells once. `functions`: it matters which are ready.
    async fn come(&mut self, functions: bool) {
        let Self { store, generation, applied, runs, definitions, table, role } = self;
        let log = async {
            while applied.changed().await.is_ok() {
                match store.jobs_generation() {
                    Ok(now) if now == *generation => tokio::time::sleep(LOOK_SPACING).await,
                    Ok(now) => {
                        *generation = now;
                        return;
                    }
                    // The store has failed and says so elsewhere.
                    Err(_) => break,
                }
            }
            std::future::pending().await
        };
        let leads = role.borrow_and_update().leads;
        tokio::select! {
            () = log => {}
            () = changed(runs) => {}
            () = changed(definitions) => {}
            () = changed(table), if functions => {}
            _ = role.wait_for(|role| role.leads != leads) => {}
        }
    }
}

async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        // It has ended: nothing changes any more.
        std::future::pending().await
    }
}

fn fired_run(
    job: &JobSpec,
    request: &crate::model::job::ScheduleRequest,
    is_configured: bool,
) -> Result<RunSpec, String> {
    // Whether its references were allowed was decided when it was stored.
    let run = if is_configured { resolve_configured(job, &request.run) } else { resolve(job, &request.run, true) };
    run.map_err(|refusal| refusal.to_string())
}
