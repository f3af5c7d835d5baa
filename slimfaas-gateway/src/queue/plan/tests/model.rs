//! The queue without any index: a list of elements, searched from the front for everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Command, Effect, ElementId, End, FunctionId, PeerRun, Place, Policy, Reply, function, id};
use crate::queue::command::{Assignment, Enqueue, Limit, Limits};
use crate::queue::plan::{DUE_MAX, attempt::LEASE_GRACE_MS};
use crate::queue::retry::{LOSSES_FREE, RETURNED_DELAY_MS};

const FUNCTIONS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
pub(super) enum Step {
    Enqueue { element: u8, function: usize, retries: usize, delay: u64 },
    Complete { pick: usize, wrong_attempt: bool, end: End },
    Callback { element: u8, succeeded: bool },
    Due { after: u64 },
    Up { node: u64, incarnation: u64 },
    Draining { node: u64 },
    Down { node: u64 },
    Budget { function: usize, slots: u32 },
    Pause { function: usize, paused: bool },
    Replay(u8),
    ReplayAll { function: usize, max: u32 },
    Delete(u8),
    DeleteDead { function: usize, max: u32 },
    Purge { function: usize, max: u32 },
    Limits { elements: u64, dead: u64, dead_age: u64 },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        Just(End::Status(200)),
        Just(End::Status(202)),
        Just(End::Status(500)),
        Just(End::Status(404)),
        Just(End::TimedOut),
        Just(End::Failed("refused".to_owned())),
        Just(End::Returned),
        Just(End::PeerLost),
    ];
    prop_oneof![
        8 => (0..30_u8, 0..3_usize, 0..3_usize, 0..300_u64)
            .prop_map(|(element, function, retries, delay)| Step::Enqueue { element, function, retries, delay }),
        10 => (any::<usize>(), prop::bool::weighted(0.1), end)
            .prop_map(|(pick, wrong_attempt, end)| Step::Complete { pick, wrong_attempt, end }),
        2 => (0..30_u8, any::<bool>()).prop_map(|(element, succeeded)| Step::Callback { element, succeeded }),
        4 => (0..2000_u64).prop_map(|after| Step::Due { after }),
        1 => (0..40_000_u64).prop_map(|after| Step::Due { after }),
        3 => (1..4_u64, 1..3_u64).prop_map(|(node, incarnation)| Step::Up { node, incarnation }),
        1 => (1..4_u64).prop_map(|node| Step::Draining { node }),
        1 => (1..4_u64).prop_map(|node| Step::Down { node }),
        3 => (0..3_usize, 0..4_u32).prop_map(|(function, slots)| Step::Budget { function, slots }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(function, paused)| Step::Pause { function, paused }),
        1 => (0..30_u8).prop_map(Step::Replay),
        1 => (0..3_usize, 0..4_u32).prop_map(|(function, max)| Step::ReplayAll { function, max }),
        1 => (0..30_u8).prop_map(Step::Delete),
        1 => (0..3_usize, 0..4_u32).prop_map(|(function, max)| Step::DeleteDead { function, max }),
        1 => (0..3_usize, 0..4_u32).prop_map(|(function, max)| Step::Purge { function, max }),
        1 => (1..20_u64, 0..5_u64, 0..3000_u64)
            .prop_map(|(elements, dead, dead_age)| Step::Limits { elements, dead, dead_age }),
    ]
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Ready,
    Running(PeerRun, u64),
    Accepted(u64),
    Waiting,
    Dead(u64),
}

#[derive(Clone, Debug)]
struct Item {
    id: ElementId,
    function: FunctionId,
    policy: Policy,
    phase: Phase,
    order: u64,
    due: Option<u64>,
    attempts: u32,
    tries: u32,
    losses: u32,
    enqueued_ms: u64,
}

#[derive(Default)]
pub(super) struct Model {
    now_ms: u64,
    order: u64,
    items: Vec<Item>,
    /// In the order in which they became known, with slots and pause.
    functions: Vec<(FunctionId, u32, bool)>,
    peers: BTreeMap<u64, (u64, bool)>,
    last: u64,
    limits: Limits,
    effects: Vec<Effect>,
}

impl Model {
    /// The command that a step means here and now.
    pub(super) fn concrete(&self, step: Step) -> (u64, Command) {
        let run = |node: u64| {
            let incarnation = self.peers.get(&node).map_or(9, |(incarnation, _)| *incarnation);
            PeerRun { node, incarnation }
        };
        let of = |index: usize| function(FUNCTIONS[index]);
        let mut now_ms = self.now_ms;
        let command = match step {
            Step::Enqueue { element, function, retries, delay } => {
                let retry_delays_ms = vec![delay; retries];
                let policy = Policy { timeout_ms: 1000, retry_delays_ms, retry_statuses: vec![500] };
                let request = vec![element; 10].into();
                Command::Enqueue(Enqueue {
                    id: id(element),
                    function: of(function),
                    policy,
                    request,
                    place: Place::default(),
                    body_file: None,
                })
            }
            Step::Complete { pick, wrong_attempt, end } => {
                let running: Vec<_> =
                    self.items.iter().filter(|item| matches!(item.phase, Phase::Running(..))).collect();
                let picked = if running.is_empty() { None } else { Some(running[pick % running.len()]) };
                let (element, attempt) = picked.map_or((id(0), 1), |item| (item.id, item.attempts));
                Command::Complete { element, attempt: attempt - u32::from(wrong_attempt), end }
            }
            Step::Callback { element, succeeded } => Command::Callback { element: id(element), succeeded },
            Step::Due { after } => {
                now_ms += after;
                Command::Due
            }
            Step::Up { node, incarnation } => Command::PeerUp(PeerRun { node, incarnation }),
            Step::Draining { node } => Command::PeerDraining(run(node)),
            Step::Down { node } => Command::PeerDown(run(node)),
            Step::Budget { function, slots } => Command::Budget { function: of(function), slots },
            Step::Pause { function, paused } => Command::Pause { function: of(function), paused },
            Step::Replay(element) => Command::Replay(id(element)),
            Step::ReplayAll { function, max } => Command::ReplayAll { function: of(function), max },
            Step::Delete(element) => Command::Delete(id(element)),
            Step::DeleteDead { function, max } => Command::DeleteDead { function: of(function), max },
            Step::Purge { function, max } => Command::Purge { function: of(function), max },
            Step::Limits { elements, dead, dead_age } => Command::Limits(Limits {
                function_elements: elements,
                total_elements: 2 * elements,
                dead_elements: dead,
                dead_age_ms: dead_age,
                ..Limits::default()
            }),
        };
        (now_ms, command)
    }

    pub(super) fn apply(&mut self, now_ms: u64, command: &Command) -> (Reply, Vec<Effect>) {
        self.now_ms = self.now_ms.max(now_ms);
        let reply = self.reply(command);
        let known = std::mem::take(&mut self.functions);
        let has_items = |function: &FunctionId| self.items.iter().any(|item| item.function == *function);
        self.functions =
            known.into_iter().filter(|(name, slots, paused)| *slots > 0 || *paused || has_items(name)).collect();
        (reply, std::mem::take(&mut self.effects))
    }

    pub(super) fn counts(&self) -> Vec<(FunctionId, [u64; 5])> {
        let of = |name: &FunctionId| {
            let mut counts = [0; 5];
            for item in self.items.iter().filter(|item| item.function == *name) {
                let at = match item.phase {
                    Phase::Ready => 0,
                    Phase::Running(..) => 1,
                    Phase::Accepted(_) => 2,
                    Phase::Waiting => 3,
                    Phase::Dead(_) => 4,
                };
                counts[at] += 1;
            }
            counts
        };
        self.functions.iter().map(|(name, ..)| (name.clone(), of(name))).collect()
    }

    fn reply(&mut self, command: &Command) -> Reply {
        match command {
            Command::Enqueue(enqueue) => return self.enqueue(enqueue),
            Command::Complete { element, attempt, end } => {
                let running = |item: &Item| matches!(item.phase, Phase::Running(..)) && item.attempts == *attempt;
                let Some(at) = self.find(*element).filter(|at| running(&self.items[*at])) else { return Reply::Stale };
                if *end == End::PeerLost {
                    return Reply::Stale;
                }
                self.end(at, end);
            }
            Command::Callback { element, succeeded } => return self.callback(*element, *succeeded),
            Command::Due => return self.due(),
            Command::PeerUp(run) => {
                if self.peers.get(&run.node).map(|peer| peer.0) != Some(run.incarnation) {
                    self.lose(run.node);
                    self.peers.insert(run.node, (run.incarnation, false));
                    self.dispatch_all();
                }
            }
            Command::PeerDraining(run) => match self.peers.get_mut(&run.node) {
                Some(peer) => peer.1 = true,
                None => return Reply::Stale,
            },
            Command::PeerDown(run) => {
                if !self.peers.contains_key(&run.node) {
                    return Reply::Stale;
                }
                self.effects.push(Effect::PeerGone(*run));
                self.lose(run.node);
            }
            Command::Budget { function, slots } => self.set(function, *slots > 0, |known| known.1 = *slots),
            Command::Pause { function, paused } => self.set(function, *paused, |known| known.2 = *paused),
            Command::Replay(element) => match self.find(*element) {
                Some(at) if matches!(self.items[at].phase, Phase::Dead(_)) => self.revive(at),
                _ => return Reply::Stale,
            },
            Command::ReplayAll { function, max } => return self.each(function, *max, true, Self::revive),
            Command::Delete(element) => {
                let Some(at) = self.find(*element) else { return Reply::Stale };
                self.revoke(at);
                let function = self.items.remove(at).function;
                self.dispatch(&function);
            }
            Command::DeleteDead { function, max } => return self.each(function, *max, true, Self::remove),
            Command::Purge { function, max } => return self.each(function, *max, false, Self::remove),
            Command::Limits(limits) => self.limits = *limits,
            Command::Job(_) => return Reply::Stale,
        }
        Reply::Done
    }

    fn find(&self, id: ElementId) -> Option<usize> {
        self.items.iter().position(|item| item.id == id)
    }

    fn set(&mut self, function: &FunctionId, creates: bool, set: impl FnOnce(&mut (FunctionId, u32, bool))) {
        if creates {
            self.know(function);
        }
        if let Some(known) = self.functions.iter_mut().find(|known| known.0 == *function) {
            set(known);
            self.dispatch(function);
        }
    }

    fn know(&mut self, function: &FunctionId) {
        if self.functions.iter().all(|known| known.0 != *function) {
            self.functions.push((function.clone(), 0, false));
        }
    }

    fn enqueue(&mut self, enqueue: &Enqueue) -> Reply {
        if self.find(enqueue.id).is_some() {
            return Reply::Done;
        }
        let is_live = |item: &&Item| item.function == enqueue.function && !matches!(item.phase, Phase::Dead(_));
        if self.items.iter().filter(is_live).count() as u64 >= self.limits.function_elements {
            return Reply::Refused(Limit::FunctionElements);
        }
        if self.items.len() as u64 >= self.limits.total_elements {
            return Reply::Refused(Limit::TotalElements);
        }
        self.know(&enqueue.function);
        self.order += 1;
        self.items.push(Item {
            id: enqueue.id,
            function: enqueue.function.clone(),
            policy: enqueue.policy.clone(),
            phase: Phase::Ready,
            order: self.order,
            due: None,
            attempts: 0,
            tries: 0,
            losses: 0,
            enqueued_ms: self.now_ms,
        });
        self.dispatch(&enqueue.function);
        Reply::Done
    }

    fn dispatch_all(&mut self) {
        for (function, ..) in self.functions.clone() {
            self.dispatch(&function);
        }
    }

    fn dispatch(&mut self, function: &FunctionId) {
        loop {
            let Some((_, slots, paused)) = self.functions.iter().find(|known| known.0 == *function) else { return };
            let mine = |item: &&Item| item.function == *function && matches!(item.phase, Phase::Running(..));
            if *paused || self.items.iter().filter(mine).count() as u64 >= u64::from(*slots) {
                return;
            }
            let load = |node: u64| {
                let at = |item: &&Item| matches!(item.phase, Phase::Running(by, _) if by.node == node);
                self.items.iter().filter(at).count()
            };
            let able = self.peers.iter().filter(|(_, peer)| !peer.1).map(|(node, peer)| (*node, peer.0));
            let Some((node, incarnation)) = able.min_by_key(|(node, _)| (load(*node), *node <= self.last, *node))
            else {
                return;
            };
            let ready = |item: &&mut Item| item.function == *function && item.phase == Phase::Ready;
            let Some(item) = self.items.iter_mut().filter(ready).min_by_key(|item| item.order) else { return };
            self.last = node;
            let to = PeerRun { node, incarnation };
            item.attempts += 1;
            item.tries += 1;
            item.phase = Phase::Running(to, self.now_ms);
            item.due = Some(self.now_ms + item.policy.timeout_ms + LEASE_GRACE_MS);
            self.effects.push(Effect::Assigned(Assignment {
                to,
                element: item.id,
                attempt: item.attempts,
                try_number: item.tries,
                is_last_try: item.tries as usize > item.policy.retry_delays_ms.len(),
                function: function.clone(),
                timeout_ms: item.policy.timeout_ms,
                enqueued_ms: item.enqueued_ms,
            }));
        }
    }

    fn callback(&mut self, element: ElementId, succeeded: bool) -> Reply {
        let Some(at) = self.find(element) else { return Reply::Stale };
        match (&self.items[at].phase, succeeded) {
            (Phase::Running(..) | Phase::Accepted(_), _) => {
                self.revoke(at);
                self.end(at, if succeeded { &End::CalledBack } else { &End::CallbackFailed });
            }
            (Phase::Ready | Phase::Waiting, true) => {
                self.items.remove(at);
            }
            _ => return Reply::Stale,
        }
        Reply::Done
    }

    fn revoke(&mut self, at: usize) {
        let item = &self.items[at];
        if let Phase::Running(from, _) = item.phase {
            self.effects.push(Effect::Revoked { element: item.id, attempt: item.attempts, from });
        }
    }

    fn due(&mut self) -> Reply {
        let mut count = 0;
        loop {
            let due = self.items.iter().enumerate().filter_map(|(at, item)| Some((item.due?, item.order, at)));
            let Some((_, _, at)) = due.min().filter(|(time, ..)| *time <= self.now_ms) else { break };
            count += 1;
            match self.items[at].phase {
                Phase::Ready => panic!("a ready element has no timer"),
                Phase::Waiting => {
                    (self.items[at].phase, self.items[at].due) = (Phase::Ready, None);
                    self.dispatch(&self.items[at].function.clone());
                }
                Phase::Running(..) => {
                    self.revoke(at);
                    self.end(at, &End::TimedOut);
                }
                Phase::Accepted(_) => self.end(at, &End::NoCallback),
                Phase::Dead(_) => {
                    self.items.remove(at);
                }
            }
        }
        assert!(count < DUE_MAX);
        Reply::Changed { count, more: false }
    }

    fn end(&mut self, at: usize, end: &End) {
        let item = &mut self.items[at];
        let function = item.function.clone();
        let (Phase::Running(_, started) | Phase::Accepted(started)) = item.phase else { panic!("{item:?}") };
        item.due = None;
        item.losses += u32::from(*end == End::PeerLost);
        let uncounted = *end == End::Returned || *end == End::PeerLost && item.losses <= LOSSES_FREE;
        let is_done = matches!(end, End::Status(200) | End::CalledBack);
        let delay = item.policy.retry_delays_ms.get(item.tries as usize - 1).copied();
        if is_done {
            self.items.remove(at);
        } else if *end == End::Status(202) {
            item.phase = Phase::Accepted(started);
            item.due = Some(started + item.policy.timeout_ms);
        } else if uncounted {
            item.tries -= 1;
            let delay = if *end == End::Returned { RETURNED_DELAY_MS } else { 0 };
            Self::later(item, self.now_ms, delay);
        } else if let Some(delay) = delay.filter(|_| *end != End::Status(404)) {
            Self::later(item, self.now_ms, delay);
        } else {
            self.bury(at);
        }
        self.dispatch(&function);
    }

    fn later(item: &mut Item, now_ms: u64, delay: u64) {
        let waits = delay > 0;
        item.phase = if waits { Phase::Waiting } else { Phase::Ready };
        item.due = waits.then_some(now_ms + delay);
    }

    fn bury(&mut self, at: usize) {
        self.order += 1;
        let item = &mut self.items[at];
        item.phase = Phase::Dead(self.order);
        item.due = (self.limits.dead_age_ms > 0).then_some(self.now_ms + self.limits.dead_age_ms);
        let function = item.function.clone();
        while self.dead_of(&function).len() as u64 > self.limits.dead_elements {
            let oldest = self.dead_of(&function)[0].1;
            self.items.remove(oldest);
        }
    }

    /// Dead letters of a function, the oldest first: their order and their place.
    fn dead_of(&self, function: &FunctionId) -> Vec<(u64, usize)> {
        let dead = |(at, item): (usize, &Item)| match item.phase {
            Phase::Dead(order) if item.function == *function => Some((order, at)),
            _ => None,
        };
        let mut found: Vec<_> = self.items.iter().enumerate().filter_map(dead).collect();
        found.sort_unstable();
        found
    }

    fn revive(&mut self, at: usize) {
        let item = &mut self.items[at];
        (item.phase, item.due, item.tries, item.losses) = (Phase::Ready, None, 0, 0);
        let function = item.function.clone();
        self.dispatch(&function);
    }

    fn remove(&mut self, at: usize) {
        self.items.remove(at);
    }

    fn each(&mut self, function: &FunctionId, max: u32, dead: bool, act: impl Fn(&mut Self, usize)) -> Reply {
        let first = |model: &Self| match dead {
            true => model.dead_of(function).first().map(|(_, at)| *at),
            false => {
                let ready = |(_, item): &(usize, &Item)| item.function == *function && item.phase == Phase::Ready;
                let oldest = model.items.iter().enumerate().filter(ready).min_by_key(|(_, item)| item.order);
                oldest.map(|(at, _)| at)
            }
        };
        if self.functions.iter().all(|known| known.0 != *function) {
            return Reply::Changed { count: 0, more: false };
        }
        for count in 0..max {
            match first(self) {
                Some(at) => act(self, at),
                None => return Reply::Changed { count, more: false },
            }
        }
        Reply::Changed { count: max, more: first(self).is_some() }
    }

    fn lose(&mut self, node: u64) {
        self.peers.remove(&node);
        loop {
            let held = |item: &&Item| matches!(item.phase, Phase::Running(by, _) if by.node == node);
            let Some(item) = self.items.iter().filter(held).min_by_key(|item| item.order) else { return };
            let at = self.find(item.id).unwrap();
            self.end(at, &End::PeerLost);
        }
    }
}
