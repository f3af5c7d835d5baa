//! Brings each function to the replicas that `decide` wants.
//!
//! The worker sleeps until something can have changed a decision: the table, a call that somebody asleep waits for,
//! or the earliest deadline. It has no period: with nothing to do it does nothing.

mod authority;
pub mod decide;
pub mod depends;
mod plan;
pub mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::task::{self, JoinError, JoinSet};
use tracing::{debug, error, info, warn};

use crate::clock::{self, Instant, Tick};
use crate::cluster::{Cluster, ScaleError, Scaling};
use crate::model::function::FunctionId;
use crate::scaler::decide::{Decision, Reason};
use crate::scaler::depends::{Blocker, BlockerKind};
use crate::scaler::plan::{Moment, Plan};
use crate::table::Table;
use crate::table::activity::Live;

pub use authority::Authority;
pub use plan::dependency_problems;

/// After a refused scaling; doubles up to [`BACKOFF_MAX`], so that a broken cluster is neither hammered nor given up.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Least time between two passes when the one before had nothing to do: a burst of calls costs one pass, not
/// thousands. The first call after a quiet millisecond never waits.
const PASS_SPACING: Duration = Duration::from_millis(1);

/// A dependency that does not exist is worth a warning only once the cluster had this time to report it.
const UNKNOWN_GRACE: Duration = Duration::from_secs(5);

/// Hears what the scaler does; called on its thread, so it must be quick.
pub trait ScaleObserver: Send + Sync + 'static {
    /// The cluster took note of a new count.
    fn decided(&self, function: &FunctionId, from: u32, to: u32, reason: &Reason);

    /// The cluster refused; the scaler tries again later.
    fn refused(&self, _function: &FunctionId, _error: &ScaleError) {}

    /// All functions were looked at, in this time.
    fn passed(&self, _functions: usize, _took: Duration) {}
}

/// Tells the scaler that somebody needs a function. Cheap to clone and to call; never allocates, never blocks.
#[derive(Clone, Default)]
pub struct WakeHandle(Arc<Notify>);

impl WakeHandle {
    /// Has the scaler look at every function now.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Notes a call, and tells the scaler if it wakes something: this function, or another one through `DependsOn` or
    /// by waking with any. For every call, also those to functions that are up.
    pub fn note_call(&self, live: &Live, tick: Tick) {
        live.note_call(tick);
        if live.take_call_awaited() {
            self.request();
        }
    }

    /// Notes a call and has the scaler look in any case.
    pub fn note_call_and_wake(&self, live: &Live, tick: Tick) {
        live.note_call(tick);
        self.request();
    }
}

/// The worker; `run` it once.
pub struct Scaler {
    table: Arc<Table>,
    cluster: Arc<dyn Cluster>,
    observer: Arc<dyn ScaleObserver>,
    wake: WakeHandle,
    authority: Authority,
    awake_when_never_called: bool,
    wall_clock: Box<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    plan: Plan,
    attempts: BTreeMap<FunctionId, Attempt>,
    blocked: BTreeMap<FunctionId, Blocked>,
    /// Circles already logged.
    reported: BTreeSet<String>,
}

/// A change asked of the cluster.
struct Attempt {
    to: u32,
    state: AttemptState,
}

enum AttemptState {
    /// The cluster has not answered yet.
    Running(task::Id, u32),
    /// Refused this many times in a row: nothing is asked again before the instant.
    Refused(u32, Instant),
    /// Accepted: the same is not asked again before the instant, whatever the table shows.
    Accepted(Instant),
}

struct Blocked {
    by: Blocker,
    since: Instant,
    warned: bool,
}

/// What to do about one function's decision.
enum Step {
    /// Nothing, or nothing before the instant.
    Wait(Option<Instant>),
    Start {
        failures: u32,
    },
}

/// What a scaling task brings back.
struct Scaled {
    function: FunctionId,
    from: u32,
    to: u32,
    reason: Reason,
    result: Result<(), ScaleError>,
}

/// The end of one look at every function.
struct Pass {
    next: Option<Instant>,
    started: usize,
}

impl Scaler {
    /// `wake`: what it listens to. `awake_when_never_called`: a function that was never called counts as called when it is first seen.
    pub fn new(
        table: Arc<Table>,
        cluster: Arc<dyn Cluster>,
        observer: Arc<dyn ScaleObserver>,
        authority: Authority,
        wake: WakeHandle,
        awake_when_never_called: bool,
    ) -> Self {
        Self {
            table,
            cluster,
            observer,
            wake,
            authority,
            awake_when_never_called,
            wall_clock: Box::new(clock::utc),
            plan: Plan::default(),
            attempts: BTreeMap::new(),
            blocked: BTreeMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// For the proxy, the wake route, and whoever knows that a dependency became ready.
    pub fn wake_handle(&self) -> WakeHandle {
        self.wake.clone()
    }

    /// Scales until `stop` resolves; what the cluster has not answered by then is dropped.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut changes = self.table.changes();
        let wake = self.wake.clone();
        let mut authority = self.authority.clone();
        let mut scaling: JoinSet<Scaled> = JoinSet::new();
        loop {
            // Marked as seen before the view is read, so that a change in between causes one more pass.
            changes.mark_unchanged();
            let began = clock::now();
            let pass = self.pass(&mut scaling);
            // In this order: stopping first; then what frees a function before what asks for one.
            tokio::select! {
                biased;
                () = &mut stop => return,
                Some(scaled) = scaling.join_next_with_id(), if !scaling.is_empty() => {
                    if self.settle(scaled).is_break() {
                        info!("this cluster does not scale; functions keep the replicas that they have");
                        return stop.await;
                    }
                    continue;
                }
                _ = changes.changed() => {}
                () = wake.0.notified() => {}
                () = authority.changed() => {}
                () = clock::until(pass.next) => continue,
            }
            if pass.started == 0 && clock::now() < began + PASS_SPACING {
                tokio::time::sleep_until(began + PASS_SPACING).await;
            }
        }
    }

    /// Looks at every function, and starts what has to change.
    fn pass(&mut self, scaling: &mut JoinSet<Scaled>) -> Pass {
        let mut pass = Pass { next: None, started: 0 };
        loop {
            let now = clock::now();
            let moment = Moment { tick: Tick::of(now), utc: (self.wall_clock)() };
            let view = Arc::clone(&self.table.view());
            if self.plan.follow(&view, moment.tick) {
                self.forget_removed();
                self.report_circles();
            }
            let decisions = self.plan.decide(moment, &*self.cluster, self.awake_when_never_called);
            pass.next = None;
            for (function, decision) in view.functions().iter().zip(&decisions) {
                let next = decision.next.and_then(|after| now.checked_add(after));
                self.note_block(&function.id, decision, now);
                let retry = match self.pursue(&function.id, function.replicas_requested, decision, now) {
                    Step::Wait(until) => until,
                    Step::Start { failures } => {
                        self.start(&function.id, function.replicas_requested, decision, failures, scaling);
                        pass.started += 1;
                        None
                    }
                };
                pass.next = [pass.next, next, retry].into_iter().flatten().min();
            }
            self.observer.passed(decisions.len(), clock::now().duration_since(now));
            if !self.plan.await_calls(&decisions) {
                return pass;
            }
        }
    }

    fn pursue(&mut self, function: &FunctionId, from: u32, decision: &Decision, now: Instant) -> Step {
        let attempt = self.attempts.get(function);
        if decision.replicas == from {
            // What was refused is not wanted any more: the next wish is a new one and does not wait for its turn.
            if attempt.is_some_and(|attempt| attempt.is_over(now)) {
                self.attempts.remove(function);
            }
            return Step::Wait(None);
        }
        if !self.authority.allows(from, decision) {
            return Step::Wait(None);
        }
        match attempt.map(|attempt| (&attempt.state, attempt.to)) {
            Some((AttemptState::Running(..), _)) => Step::Wait(None),
            Some((AttemptState::Refused(_, until), _)) if now < *until => Step::Wait(Some(*until)),
            Some((AttemptState::Accepted(until), to)) if to == decision.replicas && now < *until => {
                Step::Wait(Some(*until))
            }
            Some((AttemptState::Refused(failures, _), _)) => Step::Start { failures: *failures },
            Some((AttemptState::Accepted(_), _)) | None => Step::Start { failures: 0 },
        }
    }

    fn start(
        &mut self,
        function: &FunctionId,
        from: u32,
        decision: &Decision,
        failures: u32,
        scaling: &mut JoinSet<Scaled>,
    ) {
        let (to, reason) = (decision.replicas, decision.reason.clone());
        debug!(%function, from, to, %reason, "scaling");
        let cluster = Arc::clone(&self.cluster);
        let asked = Scaling { function: function.clone(), from, to, reason: reason.to_string() };
        let task = scaling.spawn(async move {
            let result = cluster.scale(&asked).await;
            Scaled { function: asked.function, from, to, reason, result }
        });
        self.attempts.insert(function.clone(), Attempt { to, state: AttemptState::Running(task.id(), failures) });
    }

    /// Takes note of a scaling's end. Break: the cluster never scales.
    fn settle(&mut self, ended: Result<(task::Id, Scaled), JoinError>) -> ControlFlow<()> {
        let scaled = match ended {
            Ok((_, scaled)) => scaled,
            Err(panicked) => {
                self.settle_panicked(&panicked);
                return ControlFlow::Continue(());
            }
        };
        let Scaled { function, from, to, reason, result } = scaled;
        match result {
            Ok(()) => {
                info!(%function, from, to, %reason, "scaled");
                self.observer.decided(&function, from, to, &reason);
                let state = AttemptState::Accepted(clock::now() + BACKOFF_MIN);
                self.attempts.insert(function, Attempt { to, state });
            }
            Err(ScaleError::Unsupported) => return ControlFlow::Break(()),
            Err(ScaleError::Outdated) => {
                debug!(%function, from, to, "somebody else has changed its replicas");
                // Asked again only if the table does not show the change by then.
                let state = AttemptState::Accepted(clock::now() + BACKOFF_MIN);
                self.attempts.insert(function, Attempt { to, state });
            }
            Err(refusal) => {
                self.observer.refused(&function, &refusal);
                let retry_in = self.back_off(&function, to);
                warn!(
                    %function, from, to, %reason, error = %refusal, retry_in_secs = retry_in.as_secs(),
                    "not scaled; check that the workload exists and that the gateway may change its scale"
                );
            }
        }
        ControlFlow::Continue(())
    }

    fn settle_panicked(&mut self, panicked: &JoinError) {
        let ran = |attempt: &Attempt| matches!(attempt.state, AttemptState::Running(id, _) if id == panicked.id());
        let found = self.attempts.iter().find(|(_, attempt)| ran(attempt));
        let Some((function, to)) = found.map(|(function, attempt)| (function.clone(), attempt.to)) else { return };
        let retry_in = self.back_off(&function, to);
        error!(%function, to, error = %panicked, retry_in_secs = retry_in.as_secs(), "scaling panicked; please report it");
    }

    fn back_off(&mut self, function: &FunctionId, to: u32) -> Duration {
        let failures = match self.attempts.get(function).map(|attempt| &attempt.state) {
            Some(AttemptState::Running(_, failures) | AttemptState::Refused(failures, _)) => *failures,
            Some(AttemptState::Accepted(_)) | None => 0,
        };
        let wait = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(failures)).min(BACKOFF_MAX);
        let state = AttemptState::Refused(failures.saturating_add(1), clock::now() + wait);
        self.attempts.insert(function.clone(), Attempt { to, state });
        wait
    }

    fn forget_removed(&mut self) {
        let view = self.table.view();
        let running = |attempt: &Attempt| matches!(attempt.state, AttemptState::Running(..));
        self.attempts.retain(|function, attempt| running(attempt) || view.function(function).is_some());
        self.blocked.retain(|function, _| view.function(function).is_some());
    }

    /// Logs the beginning of a block, and a dependency that turns out not to exist.
    fn note_block(&mut self, function: &FunctionId, decision: &Decision, now: Instant) {
        let Reason::BlockedByDependency(by) = &decision.reason else {
            if !self.blocked.is_empty() {
                self.blocked.remove(function);
            }
            return;
        };
        match self.blocked.get_mut(function) {
            Some(blocked) if blocked.by == *by => {
                let overdue = by.kind == BlockerKind::Unknown && now >= blocked.since + UNKNOWN_GRACE;
                if overdue && !blocked.warned {
                    blocked.warned = true;
                    warn!(%function, dependency = %by, "waits for a dependency that does not exist; check its name");
                }
            }
            _ => {
                info!(%function, dependency = %by, "waits for a dependency to be ready");
                self.blocked.insert(function.clone(), Blocked { by: by.clone(), since: now, warned: false });
            }
        }
    }

    /// Logs circles of dependencies that were not there before.
    fn report_circles(&mut self) {
        let circles = self.plan.circles();
        for circle in circles.difference(&self.reported) {
            warn!("dependencies go in a {circle}");
        }
        self.reported = circles;
    }
}

impl Attempt {
    fn is_over(&self, now: Instant) -> bool {
        match self.state {
            AttemptState::Running(..) => false,
            AttemptState::Refused(..) => true,
            AttemptState::Accepted(until) => until <= now,
        }
    }
}

#[cfg(test)]
mod tests;
