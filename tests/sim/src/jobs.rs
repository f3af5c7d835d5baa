//! The cluster that runs of jobs are in, as an API server with its controllers: it starts and removes them, answers late
//! or not at all, and shows each node what there is, sooner or later.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use slimfaas_gateway::cluster::jobs::{ClusterJob, ClusterJobs, JobError, JobRunner, LogStream, RunName, RunToStart};
use slimfaas_gateway::cluster::seen_runs::{SeenRun, SeenRuns};
use slimfaas_gateway::cluster::{Cluster, ClusterFuture, ScaleError, Scaling};
use slimfaas_gateway::config::jobs::configured;
use slimfaas_gateway::model::function::FunctionId;
use slimfaas_gateway::model::job::{JobSpec, RunSpec, RunState, ScheduleRequest};
use slimfaas_gateway::model::spec::Dependency;
use slimfaas_gateway::queue::element::ElementId;
use tokio::sync::watch;

use crate::dice::Dice;
use crate::journal::{Event, Journal};
use crate::run::Planted;
use crate::workload::id;

pub const JOB: &str = "report";

/// Of the job.
pub const SLOTS: u32 = 2;

/// Shared by all nodes.
#[derive(Clone)]
pub struct Runs(Arc<Mutex<State>>);

struct State {
    dice: Dice,
    journal: Journal,
    now_ms: u64,
    runs: BTreeMap<ElementId, Run>,
    /// All that there ever were.
    created: u64,
    has_changed: bool,
    /// Nothing is answered until then.
    away_until: u64,
    /// Some runs wait for an image, so that others get their slots, and as many more than the slots may run.
    lacks_images: bool,
    /// Everything is answered, and every run succeeds.
    is_well: bool,
    /// A planted bug: what was let go is held as before, and starts again when it is let go again.
    forgets: bool,
}

struct Run {
    seen: SeenRun,
    /// What happens to it next.
    next: Next,
    at_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    LacksImage,
    Runs,
    Ends,
    /// Somebody deletes it who is not the gateway.
    Vanishes,
    IsGone,
    Nothing,
}

/// How the API server takes a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// It is done, and the answer is lost.
    Unheard,
    Away,
    Refused,
}

impl Runs {
    pub fn new(dice: &Dice, journal: &Journal, planted: Option<Planted>) -> Self {
        Self(Arc::new(Mutex::new(State {
            lacks_images: dice.chance(0.3),
            dice: dice.clone(),
            journal: journal.clone(),
            now_ms: 0,
            runs: BTreeMap::new(),
            created: 0,
            has_changed: false,
            away_until: 0,
            is_well: false,
            forgets: planted == Some(Planted::ForgetfulCluster),
        })))
    }

    /// Lets time pass; whether there is something new to see.
    pub fn step(&self, now_ms: u64) -> bool {
        let mut state = self.state();
        state.now_ms = now_ms;
        let due = |run: &Run| run.at_ms <= now_ms && run.next != Next::Nothing;
        let due: Vec<ElementId> = state.runs.iter().filter(|(_, run)| due(run)).map(|(id, _)| *id).collect();
        for id in due {
            state.go_on(id);
        }
        std::mem::take(&mut state.has_changed)
    }

    pub fn seen(&self) -> Arc<SeenRuns> {
        Arc::new(self.state().runs.iter().map(|(id, run)| (*id, run.seen.clone())).collect())
    }

    pub fn is_away_for(&self, lasts_ms: u64) {
        let mut state = self.state();
        state.away_until = state.now_ms + lasts_ms;
    }

    pub fn be_well(&self) {
        let mut state = self.state();
        (state.is_well, state.away_until) = (true, 0);
    }

    /// For a node.
    pub fn runner(&self, shown: watch::Receiver<Option<Arc<SeenRuns>>>) -> Runner {
        Runner { runs: self.clone(), shown, jobs: watch::Sender::new(Arc::new(definitions())) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("one thread, which does not panic here")
    }

    async fn fate(&self) -> Fate {
        let (takes_ms, fate) = {
            let state = self.state();
            let takes = state.dice.weighted(&[(6, (0, 5)), (3, (5, 100)), (1, (100, 1500))]);
            (
                state.dice.within(takes.0..=takes.1),
                state.dice.weighted(&[(80, Fate::Done), (8, Fate::Unheard), (10, Fate::Away), (2, Fate::Refused)]),
            )
        };
        tokio::time::sleep(Duration::from_millis(takes_ms)).await;
        let state = self.state();
        match fate {
            _ if state.is_well => Fate::Done,
            _ if state.away_until > state.now_ms => Fate::Away,
            fate => fate,
        }
    }
}

impl State {
    fn create(&mut self, run: &RunToStart) {
        let RunName { id, job } = run.name.clone();
        if self.runs.contains_key(&id) {
            return;
        }
        self.created += 1;
        let (queued_ms, started_ms, ttl_ms) = (run.queued_ms, run.started_ms, u64::from(run.spec.ttl_seconds) * 1000);
        let held = Some(self.created.to_string().into());
        let seen = SeenRun { job, state: RunState::Pending, queued_ms, started_ms, ttl_ms, is_leaving: false, held };
        let next = if !self.is_well && self.dice.chance(0.02) { Next::Vanishes } else { Next::Nothing };
        let at_ms = self.now_ms + self.dice.within(1..=100);
        self.runs.insert(id, Run { seen, next, at_ms });
        self.has_changed = true;
    }

    fn let_go(&mut self, id: ElementId, held: &str) -> Result<(), JobError> {
        let (now_ms, dice) = (self.now_ms, self.dice.clone());
        let lacks_image = self.lacks_images && !self.is_well && dice.chance(0.3);
        let Some(run) = self.runs.get_mut(&id) else { return Err(JobError::Unknown) };
        if run.seen.held.as_deref() != Some(held) {
            return Err(JobError::Unavailable("another one is held".to_owned()));
        }
        run.seen.held = None;
        self.has_changed = true;
        if run.seen.is_leaving {
            return Ok(());
        }
        (run.next, run.at_ms) =
            (if lacks_image { Next::LacksImage } else { Next::Runs }, now_ms + dice.within(1..=100));
        let is_active = |run: &&Run| run.seen.held.is_none() && !run.seen.state.is_over();
        let active = self.runs.values().filter(is_active).count() as u64;
        let most = u64::from(SLOTS) * if self.lacks_images { 2 } else { 1 };
        self.journal.note(Event::RunStarted { run: id, active, most });
        Ok(())
    }

    fn go_on(&mut self, id: ElementId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        self.has_changed = true;
        let after = |range: (u64, u64)| self.now_ms + self.dice.within(range.0..=range.1);
        match run.next {
            Next::LacksImage => {
                run.seen.state = RunState::ImagePullBackOff;
                (run.next, run.at_ms) = (Next::Runs, after((500, 4000)));
            }
            Next::Runs => {
                run.seen.state = RunState::Running;
                let next = if !self.is_well && self.dice.chance(0.05) { Next::Vanishes } else { Next::Ends };
                (run.next, run.at_ms) = (next, after((10, 1500)));
            }
            Next::Ends => {
                let fails = !self.is_well && self.dice.chance(0.2);
                run.seen.state = if fails { RunState::Failed("exit code 3".to_owned()) } else { RunState::Succeeded };
                run.next = Next::Nothing;
            }
            Next::Vanishes | Next::IsGone => {
                let by_others = run.next == Next::Vanishes;
                self.runs.remove(&id);
                self.journal.note(Event::RunGone { run: id, by_others });
            }
            Next::Nothing => {}
        }
    }

    fn remove(&mut self, id: ElementId) -> Result<(), JobError> {
        let Some(run) = self.runs.get_mut(&id) else { return Err(JobError::Unknown) };
        if !run.seen.is_leaving {
            run.seen.is_leaving = true;
            (run.next, run.at_ms) = (Next::IsGone, self.now_ms + self.dice.within(1..=500));
            self.has_changed = true;
        }
        Ok(())
    }
}

fn definitions() -> ClusterJobs {
    let schedule = ScheduleRequest { schedule: "* * * * *".to_owned(), ..ScheduleRequest::default() };
    let schedules = vec![configured(JOB, schedule)];
    let spec = JobSpec { parallel: SLOTS, ttl_seconds: 2, schedules, ..JobSpec::default() };
    let job = ClusterJob { spec: Arc::new(spec), problems: Vec::new() };
    ClusterJobs { listed: true, jobs: BTreeMap::from([(id(JOB), job)]) }
}

/// One node's way to the cluster.
pub struct Runner {
    runs: Runs,
    shown: watch::Receiver<Option<Arc<SeenRuns>>>,
    jobs: watch::Sender<Arc<ClusterJobs>>,
}

fn unavailable() -> JobError {
    JobError::Unavailable("a timeout".to_owned())
}

impl JobRunner for Runner {
    fn jobs(&self) -> watch::Receiver<Arc<ClusterJobs>> {
        self.jobs.subscribe()
    }

    fn runs(&self) -> watch::Receiver<Option<Arc<SeenRuns>>> {
        self.shown.clone()
    }

    fn check(&self, _job: &FunctionId, _spec: &RunSpec) -> Result<(), String> {
        Ok(())
    }

    fn create<'a>(&'a self, run: &'a RunToStart) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            let fate = self.runs.fate().await;
            let mut state = self.runs.state();
            if matches!(fate, Fate::Done | Fate::Unheard) {
                state.create(run);
            }
            match fate {
                Fate::Done => Ok(()),
                Fate::Unheard | Fate::Away => Err(unavailable()),
                Fate::Refused if state.runs.contains_key(&run.name.id) => Ok(()),
                Fate::Refused => {
                    state.journal.note(Event::RunRefused { run: run.name.id });
                    Err(JobError::Refused("a quota".to_owned()))
                }
            }
        })
    }

    fn let_go<'a>(&'a self, run: &'a RunName, held: &'a str) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            let fate = self.runs.fate().await;
            let mut state = self.runs.state();
            if !matches!(fate, Fate::Done | Fate::Unheard) {
                return Err(unavailable());
            }
            let done = state.let_go(run.id, held);
            if done.is_ok()
                && state.forgets
                && let Some(run) = state.runs.get_mut(&run.id)
            {
                run.seen.held = Some(held.into());
            }
            if fate == Fate::Done { done } else { Err(unavailable()) }
        })
    }

    fn exists<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<bool, JobError>> {
        Box::pin(async {
            match self.runs.fate().await {
                Fate::Done => Ok(self.runs.state().runs.contains_key(&run.id)),
                _ => Err(unavailable()),
            }
        })
    }

    fn delete<'a>(&'a self, run: &'a RunName) -> ClusterFuture<'a, Result<(), JobError>> {
        Box::pin(async {
            match self.runs.fate().await {
                Fate::Done => self.runs.state().remove(run.id),
                Fate::Unheard => self.runs.state().remove(run.id).and(Err(unavailable())),
                Fate::Away | Fate::Refused => Err(unavailable()),
            }
        })
    }

    fn logs<'a>(&'a self, _run: &'a RunName, _follow: bool) -> ClusterFuture<'a, Result<LogStream, JobError>> {
        Box::pin(async { Err(JobError::Unknown) })
    }
}

/// No simulated run depends on anything.
impl Cluster for Runner {
    fn scale<'a>(&'a self, _scaling: &'a Scaling) -> ClusterFuture<'a, Result<(), ScaleError>> {
        Box::pin(async { Err(ScaleError::Unsupported) })
    }

    fn dependency_ready(&self, _function: &FunctionId, _name: &Dependency) -> Option<bool> {
        None
    }
}
