//! What must be true, one file each. `Watch` reads the nodes after every step and asks them all.

mod attempts;
mod budgets;
mod completed;
mod leaders;
mod logs;
mod lost;
mod refused;
mod runs;

use std::collections::BTreeMap;
use std::sync::Arc;

use slimfaas_gateway::queue::element::{Element, ElementId, Phase};
use slimfaas_gateway::queue::function::FunctionQueue;
use slimfaas_gateway::queue::tables::{Reading, Table};
use slimfaas_gateway::store::Role;

use crate::journal::Event;
use crate::node::Node;
use crate::oracle::Oracle;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's file.
    pub invariant: &'static str,
    pub problem: String,
}

type Verdict = Result<(), Violation>;

fn violated(invariant: &'static str, problem: String) -> Verdict {
    Err(Violation { invariant, problem })
}

/// One node's state at the end of a step.
pub struct Seen<'a> {
    pub node: &'a Node,
    pub role: Role,
    pub queues: Vec<FunctionQueue>,
    /// The last entry that it applied, if it applied any since it was seen last.
    pub applied: Option<Applied>,
}

/// What a node has made of the log.
pub struct Applied {
    pub index: u64,
    /// Entries that were applied since the node was seen last and that it still has, by index.
    pub entries: Vec<(u64, bytes::Bytes)>,
    /// Those of the time before, as far as it still has them. Entries that a snapshot has replaced are among them no more:
    /// they go after it is installed, and before anything else is applied.
    pub settled: Vec<(u64, bytes::Bytes)>,
    /// Taken now and then: it costs reading everything.
    pub whole: Option<Whole>,
}

pub struct Whole {
    pub sum: u32,
    pub elements: BTreeMap<ElementId, Element>,
}

impl Whole {
    pub fn dead(&self, element: ElementId) -> bool {
        self.elements.get(&element).is_some_and(|element| matches!(element.phase, Phase::Dead { .. }))
    }
}

/// All invariants, and what they remember.
#[derive(Default)]
pub struct Watch {
    leaders: leaders::Leaders,
    logs: logs::Logs,
    budgets: budgets::Budgets,
    completed: completed::Completed,
    runs: runs::Runs,
    /// The last index seen of each node's process, and the one seen before.
    seen: BTreeMap<Arc<str>, (u64, u64)>,
}

/// A whole state is read at indices that are multiples of this, so that nodes are compared at the same ones.
const WHOLE_EVERY: u64 = 5;

impl Watch {
    /// A node's process is a new one.
    pub fn forget(&mut self, node: &str) {
        self.seen.remove(node);
        self.budgets.forget(node);
        self.completed.forget(node);
    }

    pub fn events(&mut self, oracle: &mut Oracle, events: &[Event]) -> Verdict {
        for event in events {
            oracle.learn(event).or_else(|problem| violated("oracle", problem))?;
            attempts::check(oracle, event)?;
            self.completed.check_event(oracle, event)?;
            self.runs.check_event(oracle, event)?;
        }
        Ok(())
    }

    pub fn node(&mut self, node: &Node, oracle: &Oracle) -> Verdict {
        if let Some(reason) = &*node.store.failure().borrow() {
            return violated("store", format!("{} failed: {reason}", node.name));
        }
        let applied = self.applied(node, false)?;
        let seen = Seen { node, role: node.store.role().borrow().clone(), queues: node.store.queues(), applied };
        self.leaders.check(&seen)?;
        self.logs.check(&seen)?;
        self.budgets.check(&seen, &self.logs)?;
        self.completed.check(&seen, oracle)?;
        self.runs.check(&seen);
        refused::check(&seen, oracle)
    }

    /// At the end, when nothing is on its way any more.
    pub fn end(&mut self, nodes: &[&Node], oracle: &Oracle) -> Verdict {
        for node in nodes {
            self.seen.remove(&node.name);
            let applied = self.applied(node, true)?;
            let whole = applied.and_then(|applied| applied.whole);
            lost::check(&node.name, &whole.unwrap_or(Whole { sum: 0, elements: BTreeMap::new() }), oracle)?;
            let jobs = node.store.jobs().map_err(|error| unreadable(node, &error))?;
            self.runs.end(&node.name, &jobs, oracle)?;
        }
        Ok(())
    }

    fn applied(&mut self, node: &Node, always: bool) -> Result<Option<Applied>, Violation> {
        let index = node.store.applied().borrow().unwrap_or(0);
        let seen = self.seen.get(&node.name).copied();
        if seen.is_some_and(|(last, _)| last == index) {
            return Ok(None);
        }
        let (last, before) = seen.unwrap_or_default();
        self.seen.insert(Arc::clone(&node.name), (index, last));
        let state = node.store.state().map_err(|error| unreadable(node, &error))?;
        let read = |after: u64, upto: u64| {
            let mut entries = Vec::new();
            for at in after + 1..=upto {
                let entry = state.entry(at).map_err(|error| unreadable(node, &error))?;
                entries.extend(entry.map(|entry| (at, entry)));
            }
            Ok(entries)
        };
        let (entries, settled) = (read(last, index)?, read(before, last)?);
        let whole = match always || index.is_multiple_of(WHOLE_EVERY) {
            true => Some(whole(&state).map_err(|error| unreadable(node, &error))?),
            false => None,
        };
        Ok(Some(Applied { index, entries, settled, whole }))
    }
}

fn unreadable(node: &Node, error: &dyn std::fmt::Display) -> Violation {
    Violation { invariant: "store", problem: format!("{}: {error}", node.name) }
}

fn whole(state: &impl Reading) -> Result<Whole, String> {
    let mut elements = BTreeMap::new();
    let mut from = Vec::new();
    while let Some((key, value)) = state.first(Table::Elements, &from).map_err(|error| error.to_string())? {
        let id = <[u8; 16]>::try_from(&key[..]).map_err(|error| error.to_string())?;
        elements.insert(ElementId(id), Element::decode(value).map_err(|error| error.0.to_owned())?);
        from = key;
        from.push(0);
    }
    Ok(Whole { sum: logs::sum(state)?, elements })
}
