//! What callers and people ask of the gateway while it is tormented.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use slimfaas_gateway::jobs::command::{JobCommand, NewRun};
use slimfaas_gateway::model::address::Address;
use slimfaas_gateway::model::function::{FunctionId, WorkloadKind};
use slimfaas_gateway::model::spec::{FunctionSpec, ParallelLimits};
use slimfaas_gateway::queue::command::{Command, Enqueue, Limits};
use slimfaas_gateway::queue::element::{ElementId, Place, Policy};
use slimfaas_gateway::queue::request::{Body, StoredRequest};
use slimfaas_gateway::table::FunctionReport;
use slimfaas_gateway::table::view::{Pod, PodState};

use crate::dice::Dice;
use crate::jobs::JOB;
use crate::node::body_of;

/// Elements of the last one are deleted in bulk now and then.
pub const FUNCTIONS: [&str; 3] = ["a", "b", "scratch"];

/// What a proposal means for its element.
#[derive(Clone, Debug)]
pub enum What {
    Enqueue {
        number: u64,
        retries: usize,
        deletable: bool,
    },
    Callback {
        succeeded: bool,
    },
    Delete,
    Replay,
    /// A run of the job; its id stands for the element's.
    Run,
    DeleteRun,
    /// About no element in particular.
    Other,
    /// Neither, and asked for until it is done.
    Insisted,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub element: ElementId,
    pub what: What,
    pub command: Command,
    pub timeout: Duration,
}

/// Makes operations.
pub struct Workload {
    dice: Dice,
    /// Operations each second.
    pub rate: f64,
    count: u64,
    /// So that some can be asked about again.
    recent: Vec<Operation>,
    recent_runs: Vec<ElementId>,
}

/// Of how many elements it is remembered what they are.
const RECENT: usize = 64;

const NO_ELEMENT: ElementId = ElementId([0; 16]);

#[derive(Clone, Copy)]
enum Kind {
    New,
    Again,
    Delete,
    Replay,
    ReplayAll,
    Pause,
    Bulk,
    Limits,
    Run,
    DeleteRun,
}

impl Workload {
    pub fn new(dice: Dice) -> Self {
        Self { dice, rate: 0.0, count: 0, recent: Vec::new(), recent_runs: Vec::new() }
    }

    /// What is asked in this millisecond, if anything.
    pub fn next_operation(&mut self) -> Option<Operation> {
        if !self.dice.chance(self.rate / 1000.0) {
            return None;
        }
        let kind = self.dice.weighted(&[
            (80, Kind::New),
            (5, Kind::Again),
            (3, Kind::Delete),
            (3, Kind::Replay),
            (1, Kind::ReplayAll),
            (2, Kind::Pause),
            (2, Kind::Bulk),
            (1, Kind::Limits),
            (8, Kind::Run),
            (1, Kind::DeleteRun),
        ]);
        let operation = match kind {
            Kind::New => self.enqueue(),
            Kind::Again => self.dice.one_of(&self.recent).cloned()?,
            Kind::Delete => {
                let element = self.dice.one_of(&self.recent)?.element;
                self.about(element, What::Delete, Command::Delete(element))
            }
            Kind::Replay => {
                let element = self.dice.one_of(&self.recent)?.element;
                self.about(element, What::Replay, Command::Replay(element))
            }
            Kind::ReplayAll => self.other(Command::ReplayAll { function: id("scratch"), max: 10 }),
            Kind::Pause => self.other(Command::Pause { function: self.function(), paused: self.dice.chance(0.5) }),
            Kind::Bulk if self.dice.chance(0.5) => self.other(Command::Purge { function: id("scratch"), max: 5 }),
            Kind::Bulk => self.other(Command::DeleteDead { function: id("scratch"), max: 5 }),
            Kind::Limits => {
                let function_elements = if self.dice.chance(0.5) { 20 } else { 1000 };
                self.other(Command::Limits(Limits { function_elements, ..Limits::default() }))
            }
            Kind::Run => self.run(),
            Kind::DeleteRun => {
                let run = *self.dice.one_of(&self.recent_runs)?;
                self.about(run, What::DeleteRun, Command::Job(JobCommand::Delete { id: run }))
            }
        };
        Some(operation)
    }

    /// A caller that heard nothing good may ask again.
    pub fn asks_again(&self) -> bool {
        self.dice.chance(0.5)
    }

    pub fn callback(&self, element: ElementId, succeeded: bool) -> Operation {
        self.about(element, What::Callback { succeeded }, Command::Callback { element, succeeded })
    }

    pub fn other(&self, command: Command) -> Operation {
        self.about(NO_ELEMENT, What::Other, command)
    }

    pub fn insisted(&self, command: Command) -> Operation {
        self.about(NO_ELEMENT, What::Insisted, command)
    }

    fn enqueue(&mut self) -> Operation {
        self.count += 1;
        let number = self.count;
        let entropy = self.dice.roll(|rng| rng.r#gen());
        let element = ElementId::new(number, entropy);
        let function = self.function();
        let retries = self.dice.weighted(&[(2, 0), (4, 1), (4, 3)]);
        let policy = Policy {
            timeout_ms: self.dice.within(300..=2000),
            retry_delays_ms: (0..retries).map(|_| self.dice.within(0..=400)).collect(),
            retry_statuses: vec![500],
        };
        let stored = StoredRequest {
            method: "POST".to_owned(),
            path_and_query: format!("/{number}"),
            headers: Vec::new(),
            body: Body::Inline(body_of(number)),
        };
        let deletable = &*function.name == "scratch";
        let request = stored.encode();
        let enqueue = Enqueue { id: element, function, policy, request, place: Place::default(), body_file: None };
        let what = What::Enqueue { number, retries, deletable };
        let operation = self.about(element, what, Command::Enqueue(enqueue));
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(operation.clone());
        operation
    }

    fn run(&mut self) -> Operation {
        self.count += 1;
        let id = ElementId::new(self.count, self.dice.roll(|rng| rng.r#gen()));
        if self.recent_runs.len() == RECENT {
            self.recent_runs.remove(0);
        }
        self.recent_runs.push(id);
        // The job's own spec does for all.
        let spec = Bytes::from_static(b"{}");
        let run = NewRun { id, job: self::id(JOB), spec, ttl_ms: 2000, job_max: 20, total_max: 1000 };
        self.about(id, What::Run, Command::Job(JobCommand::Run(run)))
    }

    fn about(&self, element: ElementId, what: What, command: Command) -> Operation {
        let timeout = Duration::from_millis(self.dice.within(500..=10_000));
        Operation { element, what, command, timeout }
    }

    fn function(&self) -> FunctionId {
        id(self.dice.weighted(&[(4, FUNCTIONS[0]), (3, FUNCTIONS[1]), (1, FUNCTIONS[2])]))
    }
}

pub fn id(name: &str) -> FunctionId {
    FunctionId::new("demo", name)
}

/// A function with so many replicas that take so many calls each.
pub fn report(name: &str, replicas: u64, per_pod: u32) -> FunctionReport {
    let pod = |number: u64| Pod {
        name: format!("{name}-{number}").into(),
        address: Some(Address::Host(format!("{name}-{number}").into(), 80)),
        base_path: None,
        state: PodState::Ready,
    };
    let parallel = ParallelLimits { per_function: None, per_pod: Some(per_pod) };
    FunctionReport {
        id: id(name),
        kind: WorkloadKind::Deployment,
        spec: Arc::new(FunctionSpec { parallel, ..FunctionSpec::default() }),
        problems: Arc::new([]),
        replicas_requested: u32::try_from(replicas).expect("a handful"),
        pods: (0..replicas).map(pod).collect(),
    }
}
