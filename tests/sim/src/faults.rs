//! What goes wrong, and when. Each seed picks some kinds of faults and how often they come: a run with everything at
//! once would hardly ever get deep into any one of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::Crash;
use crate::network::Weather;
use crate::run::Scenario;
use crate::workload::FUNCTIONS;
use crate::world::{Action, World, name_of};

/// Time without a fault that shows that every node is a voter with the whole log.
const SETTLED_MS: u64 = 1500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    Kill,
    KillLeader,
    LoseDisk,
    LoseLeadersDisk,
    Pause,
    Partition,
    OneWay,
    BadWeather,
    SlowDisk,
    WallClock,
    Resize,
    Replicas,
    ApiServer,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::Kill,
        Self::KillLeader,
        Self::LoseDisk,
        Self::LoseLeadersDisk,
        Self::Pause,
        Self::Partition,
        Self::OneWay,
        Self::BadWeather,
        Self::SlowDisk,
        Self::WallClock,
        Self::Resize,
        Self::Replicas,
        Self::ApiServer,
    ];
}

/// The faults of one seed.
pub struct Faults {
    kinds: Vec<Fault>,
    /// On average.
    every_ms: u64,
    settled: Option<Settled>,
}

/// Since when all nodes vote, and the last entry that there was then.
struct Settled {
    since: u64,
    last_log: u64,
}

impl Faults {
    pub fn new(world: &mut World) -> Self {
        world.size = world.dice.weighted(&[(1, 1), (6, 3), (2, 5)]);
        let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|_| world.dice.chance(0.4)).collect();
        let every_ms = world.dice.within(150..=2500);
        Self { kinds, every_ms, settled: None }
    }

    /// Only these.
    pub fn of(world: &mut World, scenario: &Scenario) -> Self {
        world.size = scenario.size;
        Self { kinds: scenario.kinds.clone(), every_ms: scenario.every_ms, settled: None }
    }

    /// To be called once a millisecond.
    pub fn act(&mut self, world: &mut World) {
        self.look(world);
        if world.dice.within(0..=self.every_ms) == 0
            && let Some(fault) = world.dice.one_of(&self.kinds).copied()
        {
            self.make(fault, world);
        }
    }

    fn look(&mut self, world: &World) {
        let nodes = world.places.values().filter_map(|place| place.node.as_ref());
        let last_log = nodes.map(|node| node.store.role().borrow().last_log).max().unwrap_or(0);
        match &self.settled {
            _ if !world.is_whole() => self.settled = None,
            None => self.settled = Some(Settled { since: world.now_ms, last_log }),
            Some(_) => {}
        }
    }

    /// Whether losing one node for good leaves everything that was acknowledged with a majority.
    fn is_settled(&self, world: &World) -> bool {
        let Some(settled) = &self.settled else { return false };
        let nodes = world.places.values().filter_map(|place| place.node.as_ref());
        let has_all = |applied: u64| applied >= settled.last_log;
        settled.since + SETTLED_MS <= world.now_ms
            && nodes.into_iter().all(|node| has_all(node.store.role().borrow().last_applied))
    }

    fn make(&mut self, fault: Fault, world: &mut World) {
        let running = world.running();
        let Some(any) = world.dice.one_of(&running).cloned() else { return };
        let leader = world.leader().unwrap_or_else(|| Arc::clone(&any));
        match fault {
            Fault::Kill => self.kill(world, &any),
            Fault::KillLeader => self.kill(world, &leader),
            Fault::LoseDisk => self.lose_disk(world, &any),
            Fault::LoseLeadersDisk => self.lose_disk(world, &leader),
            Fault::Pause => {
                let name = if world.dice.chance(0.4) { leader } else { any };
                let lasts = world.dice.within(50..=5000);
                world.fault(format!("{name} is stopped for {lasts} ms"));
                let until = world.now_ms + lasts;
                if let Some(place) = world.places.get_mut(&name) {
                    place.paused_until = Some(until);
                }
            }
            Fault::Partition => partition(world, &running),
            Fault::OneWay => one_way(world, &running),
            Fault::BadWeather => bad_weather(world),
            Fault::SlowDisk => {
                let most = world.dice.weighted(&[(5, 20), (3, 200), (2, 1500)]);
                world.fault(format!("the disk of {any} takes up to {most} ms"));
                if let Some(place) = world.places.get(&any) {
                    place.disk_pace.store(most, Ordering::Relaxed);
                }
                let lasts = world.dice.within(500..=5000);
                world.at(lasts, Action::Heal);
            }
            Fault::WallClock => {
                let most = world.dice.weighted(&[(3, 500), (2, 30_000), (1, 3_600_000)]);
                let skew = i64::try_from(world.dice.within(0..=2 * most)).expect("hours")
                    - i64::try_from(most).expect("hours");
                world.fault(format!("the wall clock of {any} is {skew} ms off"));
                if let Some(place) = world.places.get_mut(&any) {
                    place.skew_ms = skew;
                }
            }
            Fault::Resize => self.resize(world),
            Fault::Replicas => {
                let function = world.dice.one_of(&FUNCTIONS).copied().expect("there are functions");
                let (replicas, per_pod) = (world.dice.within(0..=3), world.dice.weighted(&[(1, 1), (1, 2), (1, 5)]));
                world.scale(function, replicas, per_pod);
            }
            Fault::ApiServer => {
                let lasts = world.dice.within(100..=5000);
                world.fault(format!("the API server does not answer for {lasts} ms"));
                world.runs.is_away_for(lasts);
            }
        }
    }

    fn kill(&self, world: &mut World, name: &Arc<str>) {
        let crash = world.dice.weighted(&[(2, Crash::Process), (1, Crash::Power), (1, Crash::TornPower)]);
        world.crash(name, crash, false);
        come_back(world, name);
    }

    /// Only where the cluster could have replaced the node: a minority of disks may go, the next one only when the
    /// cluster is whole again.
    fn lose_disk(&mut self, world: &mut World, name: &Arc<str>) {
        if world.size < 3 || !self.is_settled(world) {
            return;
        }
        self.settled = None;
        world.crash(name, Crash::Process, true);
        come_back(world, name);
    }

    /// 1 → 3 → 5 → 3, one place at a time downwards, as a StatefulSet does.
    fn resize(&mut self, world: &mut World) {
        if !self.is_settled(world) {
            return;
        }
        self.settled = None;
        match world.size {
            1 | 3 if world.size == 1 || world.dice.chance(0.5) => {
                world.size += 2;
                world.fault(format!("grows to {}", world.size));
                for ordinal in world.size - 2..world.size {
                    world.start(&name_of(ordinal));
                }
            }
            4 | 5 => {
                world.size -= 1;
                let name = name_of(world.size);
                world.fault(format!("shrinks to {}", world.size));
                world.stop(&name);
                world.unlist(&name);
            }
            _ => {}
        }
    }
}

fn come_back(world: &mut World, name: &Arc<str>) {
    // Meanwhile peers may still have the former address, or none. But where somebody has no log yet, a node that is not
    // listed is one that does not exist: new nodes would found a cluster of their own, which no rule of theirs forbids.
    let nodes = world.places.values().filter_map(|place| place.node.as_ref());
    let all_have_logs = nodes.into_iter().all(|node| node.store.role().borrow().voters > 0);
    if all_have_logs && world.dice.chance(0.5) {
        world.unlist(name);
    }
    let after = world.dice.within(20..=4000);
    world.at(after, Action::Start(Arc::clone(name)));
}

fn partition(world: &mut World, running: &[Arc<str>]) {
    let side: Vec<_> = running.iter().filter(|_| world.dice.chance(0.5)).cloned().collect();
    cut(world, &side, running, true);
}

fn one_way(world: &mut World, running: &[Arc<str>]) {
    let Some(one) = world.dice.one_of(running).cloned() else { return };
    cut(world, &[one], running, false);
}

/// Cuts some off from all others, or only what they send.
fn cut(world: &mut World, side: &[Arc<str>], running: &[Arc<str>], both_ways: bool) {
    let address = |name: &Arc<str>| world.node(name).map(|node| node.at);
    let mut pairs = Vec::new();
    for from in side {
        for to in running.iter().filter(|name| !side.contains(name)) {
            let (Some(from), Some(to)) = (address(from), address(to)) else { continue };
            pairs.push((from, to));
            if both_ways {
                pairs.push((to, from));
            }
        }
    }
    for (from, to) in pairs {
        world.network.cut(from, to);
    }
    world.fault(format!("cut off, both ways: {both_ways}: {side:?}"));
    let lasts = world.dice.within(100..=6000);
    world.at(lasts, Action::Heal);
}

fn bad_weather(world: &mut World) {
    let dice = world.dice.clone();
    let tail = dice.weighted(&[(2, 50), (2, 400), (1, 3000)]);
    let weather = Weather {
        loss: dice.weighted(&[(2, 0.0), (2, 0.02), (1, 0.2)]),
        duplication: dice.weighted(&[(1, 0.0), (1, 0.05), (1, 0.3)]),
        delay_ms: (1, dice.weighted(&[(3, 3), (2, 20), (1, 120)])),
        tail_ms: (1, tail),
    };
    world.network.weather = weather;
    world.fault(format!("{weather:?}"));
    let lasts = dice.within(500..=6000);
    world.at(lasts, Action::Heal);
}
