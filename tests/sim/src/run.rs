//! One seed: a cluster comes up, is tormented for a while, calms down, and has to be whole.

use std::collections::BTreeMap;
use std::io::Write;

use crate::faults::{Fault, Faults};
use crate::invariants::Violation;
pub use crate::trace::Fingerprint;
use crate::trace::Trace;
use crate::workload::{FUNCTIONS, id};
use crate::world::{Action, World, name_of};
use slimfaas_gateway::queue::command::{Command, Limits};

/// For the first cluster to have a leader. A node that waits for absent peers takes half a minute.
const FOUNDED_MS: u64 = 60_000;

/// From the last fault until everything is delivered: leases of attempts that got lost take the longest.
const DRAINED_MS: u64 = 90_000;

/// A bug that is put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Disks acknowledge syncs and keep nothing.
    LyingDisks,
    /// A node that comes back finds its disk as it was when it began, as after a restored backup.
    OldDisks,
    /// What appends to a peer's log and gets lost is taken for done.
    InventedAnswers,
    /// Deliveries are handed to the worker twice.
    RepeatedEffects,
    /// The cluster that runs of jobs are in starts those again whose start it did not confirm.
    ForgetfulCluster,
}

#[derive(Default)]
pub struct Options {
    /// Of torment, in milliseconds; zero: what the seed says.
    pub steps: u64,
    pub planted: Option<Planted>,
    pub scenario: Option<Scenario>,
    /// Where the events are shown.
    pub shown: Option<Box<dyn Write>>,
}

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    pub violation: Option<(&'static str, String)>,
    pub fingerprint: Fingerprint,
    pub figures: Figures,
}

/// How much happened, for people.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Elements that were acknowledged, and calls of functions.
    pub acknowledged: u64,
    pub calls: u64,
    pub simulated_ms: u64,
    pub replies: BTreeMap<&'static str, u64>,
}

/// Which faults come, instead of what the seed says.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub size: usize,
    pub kinds: Vec<Fault>,
    pub every_ms: u64,
}

pub fn run(seed: u64, options: Options) -> Outcome {
    let trace = options.shown.map_or_else(Trace::default, Trace::shown_on);
    let mut world = World::new(seed, options.planted, trace);
    let mut faults = match options.scenario {
        Some(scenario) => Faults::of(&mut world, &scenario),
        None => Faults::new(&mut world),
    };
    let steps = if options.steps > 0 { options.steps } else { world.dice.within(3000..=15_000) };
    let violation = history(&mut world, &mut faults, steps).err();
    let lives = world.oracle.lives.values();
    let figures = Figures {
        acknowledged: lives.clone().filter(|life| life.is_acknowledged).count() as u64,
        calls: lives.map(|life| u64::from(life.calls)).sum(),
        simulated_ms: world.now_ms,
        replies: world.oracle.replies.clone(),
    };
    let violation = violation.map(|violation| (violation.invariant, violation.problem));
    Outcome { violation, fingerprint: world.trace.fingerprint(), figures }
}

fn history(world: &mut World, faults: &mut Faults, steps: u64) -> Result<(), Violation> {
    for ordinal in 0..world.size {
        let after = world.dice.within(1..=1000);
        world.at(after, Action::Start(name_of(ordinal)));
    }
    until(world, FOUNDED_MS, "a cluster", World::is_whole)?;
    world.workload.rate = world.dice.weighted(&[(1, 5.0), (3, 20.0), (1, 80.0)]);
    for _ in 0..steps {
        faults.act(world);
        world.step()?;
    }
    world.calm();
    until(world, FOUNDED_MS, "a whole cluster again", World::is_whole)?;
    until(world, FOUNDED_MS, "an answer to every proposal", |world| world.oracle.pending.is_empty())?;
    for function in FUNCTIONS {
        world.scale(function, 1, 10);
        world.insist(Command::Pause { function: id(function), paused: false });
    }
    world.insist(Command::Limits(Limits::default()));
    until(world, DRAINED_MS, "empty queues", World::is_quiet)?;
    // What was applied is readable a moment later.
    for _ in 0..100 {
        world.step()?;
    }
    world.end()
}

fn until(world: &mut World, within_ms: u64, what: &str, reached: impl Fn(&World) -> bool) -> Result<(), Violation> {
    let began = world.now_ms;
    while !reached(world) {
        if world.now_ms > began + within_ms {
            let problem = format!("{what}: not within {within_ms} ms without faults: {}", world.situation());
            return Err(Violation { invariant: "progress", problem });
        }
        world.step()?;
    }
    Ok(())
}
