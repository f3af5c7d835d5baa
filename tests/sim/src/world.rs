//! A simulated cluster: nodes on a network, moved on by a millisecond at a time.
//!
//! Nothing in it knows the real time or another source of randomness than the dice, so that a seed is a whole history.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use slimfaas_gateway::jobs::plan::{Phase, Run};
use slimfaas_gateway::model::peer::Peer;
use slimfaas_gateway::store::Entropy;

use crate::dice::Dice;
use crate::disk::{Crash, Disk};
use crate::function::Functions;
use crate::invariants::{Violation, Watch};
use crate::jobs::Runs;
use crate::journal::{Event, Journal};
use crate::network::{Content, Network, Packet};
use crate::node::{Node, Parts};
use crate::oracle::Oracle;
use crate::run::Planted;
use crate::trace::Trace;
use crate::workload::{self, FUNCTIONS, Operation, What, Workload};
use slimfaas_gateway::queue::command::Command;

/// A disk's sync takes this long at most, on a good day.
const DISK_PACE_MS: u64 = 2;

/// A polite end takes as long at most; then the process is killed, as the kubelet does.
const GRACE_MS: u64 = 15_000;

/// One place of the StatefulSet.
#[derive(Default)]
pub struct Place {
    pub node: Option<Node>,
    pub disk: Disk,
    /// As the present process found it.
    former_disk: Disk,
    pub disk_pace: Arc<AtomicU64>,
    /// The process is stopped until then.
    pub paused_until: Option<u64>,
    /// How far its wall clock is off.
    pub skew_ms: i64,
    /// Its end was asked for; when it is killed.
    pub ends_by: Option<u64>,
}

impl Place {
    fn new(planted: Option<Planted>) -> Self {
        let lies = planted == Some(Planted::LyingDisks);
        Self { disk: if lies { Disk::lying() } else { Disk::default() }, ..Self::default() }
    }
}

/// What happens at a later time.
pub enum Action {
    Start(Arc<str>),
    /// A node learns who its peers are now.
    List(Arc<str>),
    /// A node learns of a function's replicas.
    Report(Arc<str>, &'static str),
    Ask(Box<Operation>),
    /// A node sees which runs of jobs there are.
    ShowRuns(Arc<str>),
    /// The cuts, the weather and the disks are good again.
    Heal,
}

pub struct World {
    pub now_ms: u64,
    /// How many nodes there are to be.
    pub size: usize,
    pub dice: Dice,
    pub network: Network,
    pub places: BTreeMap<Arc<str>, Place>,
    pub workload: Workload,
    pub oracle: Oracle,
    pub trace: Trace,
    functions: Functions,
    pub runs: Runs,
    journal: Journal,
    watch: Watch,
    later: BTreeMap<(u64, u64), Action>,
    scheduled: u64,
    operations: u64,
    listed: BTreeMap<Arc<str>, Peer>,
    replicas: BTreeMap<&'static str, (u64, u32)>,
    next_port: u16,
    pub planted: Option<Planted>,
    /// A store did not open.
    unopened: Option<Violation>,
}

pub fn name_of(ordinal: usize) -> Arc<str> {
    format!("slimfaas-{ordinal}").into()
}

impl World {
    pub fn new(seed: u64, planted: Option<Planted>, trace: Trace) -> Self {
        let dice = Dice::new(seed);
        Entropy::seed(dice.within(0..=u64::MAX));
        let functions = Functions { dice: dice.clone(), are_well: Arc::new(AtomicBool::new(false)) };
        let journal = Journal::default();
        let mut network = Network::new(dice.clone());
        network.invents_answers = planted == Some(Planted::InventedAnswers);
        Self {
            now_ms: 1,
            size: 0,
            network,
            places: BTreeMap::new(),
            workload: Workload::new(dice.clone()),
            oracle: Oracle::default(),
            trace,
            functions,
            runs: Runs::new(&dice, &journal, planted),
            journal,
            watch: Watch::default(),
            later: BTreeMap::new(),
            scheduled: 0,
            operations: 0,
            listed: BTreeMap::new(),
            replicas: FUNCTIONS.into_iter().map(|name| (name, (1, 3))).collect(),
            next_port: 1,
            planted,
            unopened: None,
            dice,
        }
    }

    /// Lets a millisecond pass.
    pub fn step(&mut self) -> Result<(), Violation> {
        self.now_ms += 1;
        let rest = self.later.split_off(&(self.now_ms + 1, 0));
        for action in std::mem::replace(&mut self.later, rest).into_values() {
            self.act(action);
        }
        if let Some(operation) = self.workload.next_operation() {
            self.ask(operation);
        }
        if self.runs.step(self.now_ms) {
            self.running().into_iter().for_each(|name| self.show_runs(name));
        }
        for packet in self.network.arrived(self.now_ms) {
            self.deliver(packet);
        }
        self.run_nodes();
        self.settle_events()?;
        self.unopened.take().map_or(Ok(()), Err)?;
        for place in self.places.values() {
            let Some(node) = &place.node else { continue };
            self.watch.node(node, &self.oracle)?;
        }
        Ok(())
    }

    pub fn at(&mut self, in_ms: u64, action: Action) {
        self.scheduled += 1;
        self.later.insert((self.now_ms + in_ms, self.scheduled), action);
    }

    pub fn fault(&mut self, what: String) {
        self.journal.note(Event::Fault(what));
    }

    fn act(&mut self, action: Action) {
        match action {
            // It may have been given up meanwhile.
            Action::Start(name) if (0..self.size).any(|ordinal| name_of(ordinal) == name) => self.start(&name),
            Action::Start(_) => {}
            Action::List(name) => {
                if let Some(node) = self.node(&name) {
                    node.peers.send_replace(self.listed.values().cloned().collect());
                }
            }
            Action::Report(name, function) => {
                if let (Some(node), Some((replicas, per_pod))) = (self.node(&name), self.replicas.get(function)) {
                    node.table.put(workload::report(function, *replicas, *per_pod));
                }
            }
            Action::Ask(operation) => self.ask(*operation),
            Action::ShowRuns(name) => {
                if let Some(node) = self.node(&name) {
                    node.runs.send_replace(Some(self.runs.seen()));
                }
            }
            Action::Heal => self.heal(),
        }
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.places.get(name).and_then(|place| place.node.as_ref())
    }

    pub fn running(&self) -> Vec<Arc<str>> {
        self.places.iter().filter(|(_, place)| place.node.is_some()).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The node that leads, in its own eyes; the one with the latest term if there are several.
    pub fn leader(&self) -> Option<Arc<str>> {
        let nodes = self.places.values().filter_map(|place| place.node.as_ref());
        let leaders = nodes.filter(|node| node.store.role().borrow().leads);
        leaders.max_by_key(|node| node.store.role().borrow().term).map(|node| Arc::clone(&node.name))
    }

    // Processes.

    /// Starts a process where none is, with another address than before.
    pub fn start(&mut self, name: &Arc<str>) {
        let planted = self.planted;
        let place = self.places.entry(Arc::clone(name)).or_insert_with(|| Place::new(planted));
        if place.node.is_some() {
            return;
        }
        place.former_disk = place.disk.copy();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next_port));
        self.next_port += 1;
        place.disk_pace.store(DISK_PACE_MS, Ordering::Relaxed);
        (place.paused_until, place.ends_by) = (None, None);
        self.listed.insert(Arc::clone(name), Peer { name: Arc::clone(name), address: at, ready: true });
        let parts = Parts {
            name: Arc::clone(name),
            at,
            disk: place.disk.clone(),
            peers: self.listed.values().cloned().collect(),
            dice: self.dice.clone(),
            journal: self.journal.clone(),
            functions: self.functions.clone(),
            runs: self.runs.clone(),
            disk_pace: Arc::clone(&place.disk_pace),
            now_ms: self.now_ms,
            skew_ms: place.skew_ms,
            repeats_effects: planted == Some(Planted::RepeatedEffects),
        };
        self.watch.forget(name);
        let node = match Node::start(parts) {
            Ok(node) => node,
            Err(error) => {
                let problem = format!("{name} does not start: {error}");
                self.unopened.get_or_insert(Violation { invariant: "store", problem });
                return;
            }
        };
        for (function, (replicas, per_pod)) in &self.replicas {
            node.table.put(workload::report(function, *replicas, *per_pod));
        }
        place.node = Some(node);
        self.fault(format!("{name} starts at {at}"));
        self.show_runs(Arc::clone(name));
        self.publish();
    }

    /// Kills a process, with or without its machine, or takes its disk too.
    pub fn crash(&mut self, name: &str, crash: Crash, loses_disk: bool) {
        let Some(place) = self.places.get_mut(name) else { return };
        let Some(node) = place.node.take() else { return };
        place.disk = node.crash(crash, &self.dice);
        if loses_disk {
            place.disk = Place::new(self.planted).disk;
        } else if self.planted == Some(Planted::OldDisks) {
            place.disk = place.former_disk.copy();
        }
        place.paused_until = None;
        self.fault(format!("{name} is killed: {crash:?}, loses its disk: {loses_disk}"));
        for operation in self.oracle.crashed(name) {
            self.ask_again(operation);
        }
    }

    /// Ends a process politely.
    pub fn stop(&mut self, name: &str) {
        let now_ms = self.now_ms;
        let Some(place) = self.places.get_mut(name) else { return };
        if let (Some(node), None) = (&mut place.node, place.ends_by) {
            node.stop();
            place.ends_by = Some(now_ms + GRACE_MS);
            self.fault(format!("{name} is asked to end"));
        }
    }

    /// Nobody is to call it any more.
    pub fn unlist(&mut self, name: &str) {
        self.listed.remove(name);
        self.publish();
    }

    /// Everybody learns of the peers, sooner or later.
    fn publish(&mut self) {
        for name in self.running() {
            let after = self.dice.within(1..=300);
            self.at(after, Action::List(name));
        }
    }

    fn show_runs(&mut self, name: Arc<str>) {
        let after = self.dice.within(1..=300);
        self.at(after, Action::ShowRuns(name));
    }

    /// Changes the replicas of a function, and with them its slots.
    pub fn scale(&mut self, function: &'static str, replicas: u64, per_pod: u32) {
        self.replicas.insert(function, (replicas, per_pod));
        self.fault(format!("{function} has {replicas} replicas for {per_pod} calls each"));
        for name in self.running() {
            let after = self.dice.within(1..=200);
            self.at(after, Action::Report(name, function));
        }
    }

    fn run_nodes(&mut self) {
        let now_ms = self.now_ms;
        for place in self.places.values_mut() {
            let Some(node) = &place.node else { continue };
            match place.paused_until {
                Some(until) if until > now_ms => continue,
                Some(_) => {
                    place.paused_until = None;
                    node.resume(now_ms, place.skew_ms);
                }
                None => {}
            }
            node.run_until(now_ms, place.skew_ms);
            for packet in node.take_sent() {
                self.trace.packet(now_ms, &packet);
                self.network.send(now_ms, packet);
            }
        }
        let overdue = |place: &Place| place.ends_by.is_some_and(|by| by <= now_ms) && place.node.is_some();
        let late: Vec<_> =
            self.places.iter().filter(|(_, place)| overdue(place)).map(|(name, _)| Arc::clone(name)).collect();
        for name in late {
            self.crash(&name, Crash::Process, false);
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let nodes = self.places.values().filter_map(|place| place.node.as_ref());
        match nodes.into_iter().find(|node| node.at == packet.to) {
            Some(node) => node.receive(packet),
            None if matches!(packet.content, Content::Call(_)) => {
                let Packet { from, to, call, .. } = packet;
                self.network.send(self.now_ms, Packet { from: to, to: from, call, content: Content::Nobody });
            }
            None => {}
        }
    }

    // Callers.

    fn ask(&mut self, operation: Operation) {
        let running = self.running();
        let Some(name) = self.dice.one_of(&running).cloned() else { return };
        let number = self.operations;
        self.operations += 1;
        self.oracle.proposed(number, Arc::clone(&name), operation.clone());
        if let Some(node) = self.node(&name) {
            node.propose(number, operation.command, operation.timeout);
        }
    }

    fn ask_again(&mut self, operation: Operation) {
        let asks_again = match operation.what {
            What::Enqueue { .. } => self.workload.asks_again(),
            What::Insisted => true,
            _ => false,
        };
        if asks_again {
            let after = self.dice.within(1..=2000);
            self.at(after, Action::Ask(Box::new(operation)));
        }
    }

    fn settle_events(&mut self) -> Result<(), Violation> {
        let events = self.journal.take();
        for event in &events {
            self.trace.event(self.now_ms, event);
            match event {
                Event::CallsBack { element, after_ms, succeeded } => {
                    let callback = self.workload.callback(*element, *succeeded);
                    self.at(*after_ms, Action::Ask(Box::new(callback)));
                }
                Event::Replied { operation, reply, .. } if reply.is_err() => {
                    let operation = self.oracle.pending.get(operation).map(|(_, operation)| operation.clone());
                    operation.into_iter().for_each(|operation| self.ask_again(operation));
                }
                Event::Ended { node } => self.ended(node),
                _ => {}
            }
        }
        self.watch.events(&mut self.oracle, &events)
    }

    /// A process that ended by itself closed its files.
    fn ended(&mut self, name: &Arc<str>) {
        if self.places.get(name).is_some_and(|place| place.ends_by.is_some()) {
            self.crash(name, Crash::Process, false);
        }
    }

    // The end.

    pub fn heal(&mut self) {
        self.network.heal();
        self.network.weather = crate::network::Weather::FAIR;
        for place in self.places.values_mut() {
            place.disk_pace.store(DISK_PACE_MS, Ordering::Relaxed);
        }
        self.fault("network and disks are well".to_owned());
    }

    /// From now on everything goes well, and everybody is there.
    pub fn calm(&mut self) {
        self.heal();
        for ordinal in 0..self.size {
            self.start(&name_of(ordinal));
        }
        self.functions.are_well.store(true, Ordering::Relaxed);
        self.runs.be_well();
        self.workload.rate = 0.0;
        for place in self.places.values_mut() {
            place.paused_until = place.paused_until.map(|_| self.now_ms);
            place.skew_ms = 0;
        }
    }

    /// Nothing is on its way or waiting any more.
    pub fn is_quiet(&self) -> bool {
        let nodes = || self.places.values().filter_map(|place| place.node.as_ref());
        let applied: std::collections::BTreeSet<_> = nodes().map(|node| *node.store.applied().borrow()).collect();
        let is_drained = |node: &Node| node.store.queues().iter().all(|queue| queue.pending() == 0);
        let runs_ended = |node: &Node| {
            let ended = |run: &Run| matches!(run.phase, Phase::Finished { .. });
            node.store.jobs().is_ok_and(|jobs| jobs.runs.values().all(ended))
        };
        let is_idle = self.oracle.pending.is_empty() && self.later.is_empty() && applied.len() <= 1;
        is_idle && nodes().all(is_drained) && nodes().all(runs_ended)
    }

    /// Asks for it until it is done.
    pub fn insist(&mut self, command: Command) {
        let operation = self.workload.insisted(command);
        self.ask(operation);
    }

    /// Everybody is there, and votes.
    pub fn is_whole(&self) -> bool {
        let nodes: Vec<&Node> = self.places.values().filter_map(|place| place.node.as_ref()).collect();
        let votes = |node: &Node| {
            let role = node.store.role().borrow().clone();
            role.votes && role.voters == self.size && role.leader.is_some()
        };
        nodes.len() == self.size && nodes.into_iter().all(votes)
    }

    /// For people, when something does not come to its end.
    pub fn situation(&self) -> String {
        let mut text =
            format!("{} proposals without a reply, {} actions to come", self.oracle.pending.len(), self.later.len());
        for (name, place) in &self.places {
            let Some(node) = &place.node else { continue };
            let role = node.store.role().borrow().clone();
            let queues = node.store.queues().into_iter().filter(|queue| queue.pending() > 0);
            let queues: Vec<_> = queues
                .map(|queue| {
                    let (ready, running) = (queue.ready, queue.running);
                    let (accepted, waiting, slots) = (queue.accepted, queue.waiting, queue.slots);
                    format!("{}: {ready} ready, {running} running, {accepted} accepted, {waiting} waiting, {slots} slots, paused {}", queue.id.name, queue.paused)
                })
                .collect();
            text += &format!("\n  {name}: {role:?}, applied {:?}, {queues:?}", *node.store.applied().borrow());
        }
        text
    }

    pub fn end(&mut self) -> Result<(), Violation> {
        let nodes: Vec<&Node> = self.places.values().filter_map(|place| place.node.as_ref()).collect();
        self.watch.end(&nodes, &self.oracle)
    }
}
