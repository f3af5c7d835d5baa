//! How many replicas a function should have, and why. Pure: every input is a value, time comes as ages.
//!
//! A function is needed while somebody waits for it or used it less than its inactivity timeout ago; "used" includes
//! its dependents, transitively, and its schedule. Needed: at least `ReplicasAtStart`, more if its owner asked for
//! more. Not needed: `ReplicasMin`. Replicas are only ever added once what the function depends on is ready.

use std::fmt;
use std::time::Duration;

use crate::model::function::FunctionId;
use crate::model::spec::FunctionSpec;
use crate::scaler::depends::Blocker;

/// Nobody announces the end of a request, so a busy function is looked at again after its inactivity timeout: it
/// cannot be idle earlier. A timeout of zero would mean "at once, for ever"; this bounds it.
const BUSY_RECHECK_MIN: Duration = Duration::from_secs(1);

/// One function at one moment. Ages are times from an event to this moment, at most a millisecond too short.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    pub spec: &'a FunctionSpec,
    pub replicas_requested: u32,
    pub replicas_ready: u32,
    /// Requests that wait for the function.
    pub waiting: u32,
    /// Requests being answered.
    pub in_flight: u32,
    /// Since the last call; `None`: never called.
    pub since_call: Option<Duration>,
    /// Since the gateway first saw the function.
    pub since_seen: Duration,
    /// Since the last call of any function; zero while one is being answered.
    pub since_any_call: Option<Duration>,
    /// A function that was never called counts as called when it was first seen.
    pub awake_when_never_called: bool,
    pub schedule: ScheduleAges,
    /// What the functions that depend on this one ask of it.
    pub dependents: Dependents,
    /// A dependency that is not ready.
    pub blocked_by: Option<Blocker>,
    /// The cluster found no place for a pod of it.
    pub unschedulable: bool,
}

/// `scaler::schedule::Outcome`, as times from or to this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScheduleAges {
    pub since_wake: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub change_in: Option<Duration>,
}

/// Activity of the functions that depend, directly or not, on this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependents {
    /// One that has requests now, or is not up yet though it should be.
    pub waiting: Option<FunctionId>,
    /// The one that was used last, and how long ago.
    pub called: Option<(Duration, FunctionId)>,
}

/// What a function asks of those it depends on, by itself: without what its own dependents ask of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Requests wait or are being answered.
    pub busy: bool,
    /// It should be up and is not, so its dependencies must be.
    pub starting: bool,
    pub since_used: Option<Duration>,
}

/// Wanted replicas of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub replicas: u32,
    pub reason: Reason,
    /// When the decision may change though nothing happens; `None`: never.
    pub next: Option<Duration>,
    /// A call to it, or to a function that depends on it, would add replicas.
    pub asleep: bool,
}

/// Why a function has the replicas that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Requests wait for it.
    WaitingRequests,
    /// Requests are being answered.
    Busy,
    /// Called within its inactivity timeout.
    Call,
    /// A wake-up of its schedule within its inactivity timeout.
    Schedule,
    /// A function that depends on it has requests, or waits to start.
    DependentWaiting(FunctionId),
    /// A function that depends on it was used within this one's inactivity timeout.
    DependentCalled(FunctionId),
    /// Some function was called, and this one wakes with any.
    AnyCalled,
    /// Never called, and the operator wants such functions awake at first.
    NeverCalled,
    /// Found running when first seen: when it was last called is not known, so it gets one inactivity timeout.
    FoundRunning,
    /// Not needed.
    Idle,
    /// Not needed, and its owner asked for a minimum.
    ReplicasMin,
    /// Needed, but what it depends on is not ready.
    BlockedByDependency(Blocker),
    /// More replicas are wanted, but the cluster has no place for those already asked for.
    Unschedulable,
}

impl Reason {
    /// Stable text, for a metric's label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::WaitingRequests => "waiting_requests",
            Self::Busy => "busy",
            Self::Call => "call",
            Self::Schedule => "schedule",
            Self::DependentWaiting(_) => "dependent_waiting",
            Self::DependentCalled(_) => "dependent_called",
            Self::AnyCalled => "any_called",
            Self::NeverCalled => "never_called",
            Self::FoundRunning => "found_running",
            Self::Idle => "idle",
            Self::ReplicasMin => "replicas_min",
            Self::BlockedByDependency(_) => "blocked_by_dependency",
            Self::Unschedulable => "unschedulable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::DependentWaiting(function) | Self::DependentCalled(function) => write!(f, " {function}"),
            Self::BlockedByDependency(blocker) => write!(f, " {blocker}"),
            _ => Ok(()),
        }
    }
}

/// Decides for one function.
pub fn decide(reading: &Reading<'_>) -> Decision {
    let requested = reading.replicas_requested;
    let floor = replicas_when_needed(reading.spec);
    let need = reading.need();
    let needed = need.is_some();
    let (wanted, reason, lasts) = match need {
        // More than the floor is the owner's wish (or a metric's): it stays while the function is needed.
        Some(need) => (requested.max(floor), need.reason, Some(need.lasts)),
        None => reading.unneeded(),
    };
    let asleep = !needed && wanted < floor;
    let next = [lasts, reading.schedule.change_in].into_iter().flatten().min();
    if wanted <= requested {
        return Decision { replicas: wanted, reason, next, asleep };
    }
    if let Some(blocker) = &reading.blocked_by {
        let next = [next, blocker.recheck()].into_iter().flatten().min();
        return Decision { replicas: requested, reason: Reason::BlockedByDependency(blocker.clone()), next, asleep };
    }
    if reading.unschedulable && requested > 0 {
        return Decision { replicas: requested, reason: Reason::Unschedulable, next, asleep };
    }
    Decision { replicas: wanted, reason, next, asleep }
}

/// What the function asks of its dependencies by itself.
pub fn own(reading: &Reading<'_>) -> Own {
    let busy = reading.waiting > 0 || reading.in_flight > 0;
    let since_used = reading.uses().filter_map(|(age, _)| age).min();
    let used = busy || since_used.is_some_and(|age| age < reading.idle_timeout());
    let wanted = if used { replicas_when_needed(reading.spec) } else { reading.spec.replicas_min };
    let starting = wanted > 0 && (reading.replicas_requested < wanted || reading.replicas_ready == 0);
    Own { busy, starting, since_used }
}

/// `ReplicasAtStart` may be below `ReplicasMin`, which then wins; and it may be zero: as nothing would ever answer the
/// call that needs the function (or make it ready for its dependents), that means one.
fn replicas_when_needed(spec: &FunctionSpec) -> u32 {
    spec.replicas_min.max(replicas_to_be_ready(spec))
}

/// Ready replicas from which dependents may start.
pub fn replicas_to_be_ready(spec: &FunctionSpec) -> u32 {
    spec.replicas_at_start.max(1)
}

struct Need {
    reason: Reason,
    /// How long the function stays needed if nothing happens.
    lasts: Duration,
}

impl Reading<'_> {
    fn idle_timeout(&self) -> Duration {
        self.schedule.idle_timeout.unwrap_or(self.spec.idle_timeout)
    }

    /// Its own uses, and how long ago each was.
    fn uses(&self) -> impl Iterator<Item = (Option<Duration>, Reason)> {
        let never_called = self.awake_when_never_called && self.since_call.is_none();
        [
            (self.since_call, Reason::Call),
            (self.schedule.since_wake, Reason::Schedule),
            (self.since_any_call.filter(|_| self.spec.wakes_with_any), Reason::AnyCalled),
            (never_called.then_some(self.since_seen), Reason::NeverCalled),
        ]
        .into_iter()
    }

    fn need(&self) -> Option<Need> {
        let timeout = self.idle_timeout();
        if let Some(reason) = self.needed_now() {
            return Some(Need { reason, lasts: timeout.max(BUSY_RECHECK_MIN) });
        }
        let dependent = self.dependents.called.as_ref();
        let dependent = dependent.map(|(age, function)| (Some(*age), Reason::DependentCalled(function.clone())));
        let uses = self.uses().chain(dependent).filter_map(|(age, reason)| Some((age?, reason)));
        let (age, reason) = uses.filter(|(age, _)| *age < timeout).min_by_key(|(age, _)| *age)?;
        Some(Need { reason, lasts: timeout - age })
    }

    fn needed_now(&self) -> Option<Reason> {
        if self.waiting > 0 {
            return Some(Reason::WaitingRequests);
        }
        if self.in_flight > 0 {
            return Some(Reason::Busy);
        }
        self.dependents.waiting.clone().map(Reason::DependentWaiting)
    }

    /// Replicas of a function that nobody needs, why, and for how long.
    fn unneeded(&self) -> (u32, Reason, Option<Duration>) {
        let min = self.spec.replicas_min;
        let grace = self.idle_timeout().checked_sub(self.since_seen).filter(|left| !left.is_zero());
        match grace {
            Some(left) if self.since_call.is_none() && self.replicas_requested > min => {
                (self.replicas_requested, Reason::FoundRunning, Some(left))
            }
            _ if min > 0 && self.replicas_requested <= min => (min, Reason::ReplicasMin, None),
            _ => (min, Reason::Idle, None),
        }
    }
}

#[cfg(test)]
mod tests;
