//! From a view of the table to one decision per function, with what must be remembered between two readings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::clock::Tick;
use crate::cluster::Cluster;
use crate::model::function::FunctionId;
use crate::model::problem::Problem;
use crate::model::spec::{Dependency, FunctionSpec};
use crate::scaler::decide::{self, Decision, Dependents, Own, Reading, ScheduleAges};
use crate::scaler::depends::{Graph, Node};
use crate::scaler::schedule::{self, Outcome};
use crate::table::view::{Function, PodState, View};

/// Sleeping does not follow the wall clock when somebody sets it, or when a laptop sleeps: a function with a schedule
/// is looked at this often at least.
const WALL_CLOCK_RECHECK: Duration = Duration::from_secs(15 * 60);

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) tick: Tick,
    pub(super) utc: DateTime<Utc>,
}

/// The functions of one view, with their dependencies and memories, all by the same index.
#[derive(Default)]
pub(super) struct Plan {
    view: Arc<View>,
    graph: Graph,
    memories: Vec<Memory>,
}

/// What one function's reading needs to know of earlier ones.
struct Memory {
    first_seen: Tick,
    /// Some dependent was starting at the last reading.
    held: bool,
    /// When a dependent was last seen starting, and which. Its start is a use of this function, though not a call.
    last_held: Option<(Tick, FunctionId)>,
    spec: Arc<FunctionSpec>,
    /// The schedule's outcome and since when it holds; computing it takes microseconds, so it is kept.
    schedule: Option<(DateTime<Utc>, Outcome)>,
}

impl Plan {
    /// Takes over the functions of `view`. True: they may differ from those before.
    pub(super) fn follow(&mut self, view: &Arc<View>, now: Tick) -> bool {
        if Arc::ptr_eq(&self.view, view) {
            return false;
        }
        let ids = self.view.functions().iter().map(|function| function.id.clone());
        let mut known: BTreeMap<FunctionId, Memory> = ids.zip(self.memories.drain(..)).collect();
        self.memories =
            view.functions().iter().map(|function| Memory::of(known.remove(&function.id), function, now)).collect();
        self.graph = Graph::new(&nodes(view.functions()));
        self.view = Arc::clone(view);
        true
    }

    /// The circles among the dependencies, in words.
    pub(super) fn circles(&self) -> BTreeSet<String> {
        self.graph.circles(&nodes(self.view.functions())).into_iter().collect()
    }

    /// One decision per function, in the order of the view.
    pub(super) fn decide(
        &mut self,
        now: Moment,
        cluster: &dyn Cluster,
        awake_when_never_called: bool,
    ) -> Vec<Decision> {
        let view = Arc::clone(&self.view);
        let functions = view.functions();
        let mut readings: Vec<Reading<'_>> = functions
            .iter()
            .zip(&mut self.memories)
            .map(|(function, memory)| Reading { awake_when_never_called, ..read(function, memory, now) })
            .collect();
        let since_any_call = readings.iter().filter_map(since_called_or_busy).min();
        for reading in &mut readings {
            reading.since_any_call = since_any_call;
        }
        let own: Vec<Own> = readings.iter().map(decide::own).collect();
        let is_ready = |index: usize| {
            let function: &Function = &functions[index];
            function.replicas_ready() >= decide::replicas_to_be_ready(&function.spec)
        };
        readings
            .iter_mut()
            .enumerate()
            .map(|(index, reading)| {
                let function = &functions[index];
                reading.dependents = self.dependents(index, functions, &own, now.tick);
                let other = |dependency: &_| cluster.dependency_ready(&function.id, dependency);
                reading.blocked_by = self.graph.blocker(index, node(function), is_ready, other);
                decide::decide(reading)
            })
            .collect()
    }

    /// Asks to be told of each call that would change a decision. True: a call may have come before it was asked for,
    /// so decide again.
    pub(super) fn await_calls(&self, decisions: &[Decision]) -> bool {
        let functions = self.view.functions();
        let mut newly = false;
        let mut any = false;
        let asleep = decisions.iter().enumerate().filter(|(_, decision)| decision.asleep);
        for (index, _) in asleep {
            for concerned in self.graph.dependents(index).iter().chain([&index]) {
                newly |= functions[*concerned].live.await_call();
                any |= functions[*concerned].spec.wakes_with_any;
            }
        }
        if any {
            for function in functions {
                newly |= function.live.await_call();
            }
        }
        newly
    }

    fn dependents(&mut self, index: usize, functions: &[Arc<Function>], own: &[Own], now: Tick) -> Dependents {
        let asked = self.graph.asked(index, own);
        let id = |index: usize| functions[index].id.clone();
        let memory = &mut self.memories[index];
        match asked.starting {
            Some(starting) => memory.last_held = Some((now, id(starting))),
            // It was starting until now, whatever ended that.
            None if memory.held => memory.last_held = memory.last_held.take().map(|(_, by)| (now, by)),
            None => {}
        }
        memory.held = asked.starting.is_some();
        let held = memory.last_held.as_ref().map(|(at, by)| (at.until(now), by.clone()));
        let used = asked.used.map(|(age, by)| (age, id(by)));
        Dependents {
            waiting: asked.busy.or(asked.starting).map(id),
            called: used.into_iter().chain(held).min_by_key(|(age, _)| *age),
        }
    }
}

impl Memory {
    fn of(known: Option<Self>, function: &Function, now: Tick) -> Self {
        let spec = Arc::clone(&function.spec);
        match known {
            Some(known) if Arc::ptr_eq(&known.spec, &spec) => known,
            Some(known) => Self { spec, schedule: None, ..known },
            None => Self { first_seen: now, held: false, last_held: None, spec, schedule: None },
        }
    }

    fn schedule(&mut self, now: DateTime<Utc>) -> ScheduleAges {
        let Some(schedule) = &self.spec.schedule else { return ScheduleAges::default() };
        let holds = |(from, outcome): &(DateTime<Utc>, Outcome)| {
            *from <= now && outcome.next_change.is_none_or(|change| now < change)
        };
        if !self.schedule.as_ref().is_some_and(holds) {
            self.schedule = Some((now, schedule::outcome(schedule, now)));
        }
        let outcome = self.schedule.as_ref().map(|(_, outcome)| outcome).expect("computed just above");
        // A negative difference is a clock that was set back: nothing has passed.
        let between = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).to_std().unwrap_or_default();
        ScheduleAges {
            since_wake: outcome.last_wake.map(|wake| between(wake, now)),
            idle_timeout: outcome.idle_timeout,
            change_in: outcome.next_change.map(|change| between(now, change).min(WALL_CLOCK_RECHECK)),
        }
    }
}

/// What is wrong with the dependencies among `functions`; for the status, at any time.
pub fn dependency_problems(functions: &[Arc<Function>], cluster: &dyn Cluster) -> Vec<(FunctionId, Problem)> {
    let nodes = nodes(functions);
    let known = |function: &FunctionId, dependency: &Dependency| cluster.dependency_ready(function, dependency);
    let problems = Graph::new(&nodes).problems(&nodes, known);
    problems.into_iter().map(|(index, problem)| (functions[index].id.clone(), problem)).collect()
}

fn nodes(functions: &[Arc<Function>]) -> Vec<Node<'_>> {
    functions.iter().map(|function| node(function)).collect()
}

fn node(function: &Function) -> Node<'_> {
    Node { id: &function.id, depends_on: &function.spec.depends_on }
}

/// The function by itself; what others have to do with it is filled in once all are read.
fn read<'a>(function: &'a Function, memory: &mut Memory, now: Moment) -> Reading<'a> {
    let last_call = function.live.last_call();
    Reading {
        spec: &function.spec,
        replicas_requested: function.replicas_requested,
        replicas_ready: function.replicas_ready(),
        waiting: function.live.waiting().saturating_add(function.live.queued()),
        in_flight: function.live.in_flight(),
        since_call: (last_call != Tick::NEVER).then(|| last_call.until(now.tick)),
        since_seen: memory.first_seen.until(now.tick),
        since_any_call: None,
        awake_when_never_called: false,
        schedule: memory.schedule(now.utc),
        dependents: Dependents::default(),
        blocked_by: None,
        unschedulable: function.pods.iter().any(|pod| matches!(pod.state, PodState::Pending(Some(_)))),
    }
}

fn since_called_or_busy(reading: &Reading<'_>) -> Option<Duration> {
    if reading.waiting > 0 || reading.in_flight > 0 { Some(Duration::ZERO) } else { reading.since_call }
}
