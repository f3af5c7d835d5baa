//! What anybody outside can know of each element: who asked for what, what was answered, and what the functions saw. It
//! says which ends of an element are right without looking at how the store works.

use std::collections::BTreeMap;
use std::sync::Arc;

use slimfaas_gateway::proxy::deliver::Delivered;
use slimfaas_gateway::queue::command::Reply;
use slimfaas_gateway::queue::element::{ElementId, PeerRun};
use slimfaas_gateway::store::StoreError;

use crate::journal::Event;
use crate::workload::{Operation, What};

/// One element's life.
#[derive(Clone, Debug)]
pub struct Life {
    pub number: u64,
    pub retries: usize,
    /// Proposals to store it.
    pub proposed: u32,
    /// One of them was answered with success.
    pub is_acknowledged: bool,
    /// One of them is without an answer that says that nothing was stored.
    pub may_be_stored: bool,
    /// Somebody asked to delete it.
    pub may_be_deleted: bool,
    /// A dead letter may have been asked to be delivered again.
    pub may_be_replayed: bool,
    pub calls: u32,
    /// A function was done with it, or called back that it is.
    pub has_succeeded: bool,
    /// To whom each attempt was given.
    pub attempts: BTreeMap<u32, PeerRun>,
}

/// One run of a job, that a caller asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunLife {
    pub is_acknowledged: bool,
    /// The proposal is without an answer that says that nothing was stored.
    pub may_be_stored: bool,
    pub may_be_deleted: bool,
}

#[derive(Default)]
pub struct Oracle {
    pub lives: BTreeMap<ElementId, Life>,
    pub runs: BTreeMap<ElementId, RunLife>,
    /// Proposals without a reply yet, with the node that has them.
    pub pending: BTreeMap<u64, (Arc<str>, Operation)>,
    /// Replies by kind, for people.
    pub replies: BTreeMap<&'static str, u64>,
}

impl Oracle {
    pub fn proposed(&mut self, number: u64, node: Arc<str>, operation: Operation) {
        match &operation.what {
            What::Enqueue { number, retries, deletable } => {
                let life = self.lives.entry(operation.element).or_insert_with(|| Life {
                    number: *number,
                    retries: *retries,
                    proposed: 0,
                    is_acknowledged: false,
                    may_be_stored: false,
                    may_be_deleted: *deletable,
                    may_be_replayed: *deletable,
                    calls: 0,
                    has_succeeded: false,
                    attempts: BTreeMap::new(),
                });
                life.proposed += 1;
            }
            What::Delete => self.life(operation.element, |life| life.may_be_deleted = true),
            What::Replay => self.life(operation.element, |life| life.may_be_replayed = true),
            What::Callback { succeeded: true } => self.life(operation.element, |life| life.has_succeeded = true),
            What::Run => _ = self.runs.insert(operation.element, RunLife { may_be_stored: true, ..RunLife::default() }),
            What::DeleteRun => self.runs.entry(operation.element).or_default().may_be_deleted = true,
            What::Callback { succeeded: false } | What::Other | What::Insisted => {}
        }
        self.pending.insert(number, (node, operation));
    }

    /// Learns from an event. An error is a contradiction that no state of the store explains.
    pub fn learn(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Replied { operation, reply, .. } => self.replied(*operation, reply),
            Event::Called { element, body_is_right, .. } => {
                let Some(life) = self.lives.get_mut(element) else { return Err(format!("{element} was never sent")) };
                life.calls += 1;
                if !body_is_right {
                    return Err(format!("{element} was delivered with another body"));
                }
            }
            Event::Answered { element, delivered: Delivered::Status(200), .. } => {
                self.life(*element, |life| life.has_succeeded = true);
            }
            Event::Assigned { .. }
            | Event::Answered { .. }
            | Event::CallsBack { .. }
            | Event::RunStarted { .. }
            | Event::RunRefused { .. }
            | Event::RunGone { .. }
            | Event::Ended { .. }
            | Event::Fault(_) => {}
        }
        Ok(())
    }

    /// The node's process is gone, and with it every answer that was not given.
    pub fn crashed(&mut self, node: &str) -> Vec<Operation> {
        let lost: Vec<u64> =
            self.pending.iter().filter(|(_, (of, _))| &**of == node).map(|(number, _)| *number).collect();
        let mut operations = Vec::new();
        for number in lost {
            operations.extend(self.pending.get(&number).map(|(_, operation)| operation.clone()));
            self.replied(number, &Err(StoreError::Unknown));
        }
        operations
    }

    fn replied(&mut self, operation: u64, reply: &Result<Reply, StoreError>) {
        let Some((_, operation)) = self.pending.remove(&operation) else { return };
        *self.replies.entry(name_of(reply)).or_default() += 1;
        if matches!(operation.what, What::Run) {
            let run = self.runs.entry(operation.element).or_default();
            run.is_acknowledged = *reply == Ok(Reply::Done);
            run.may_be_stored = matches!(reply, Ok(Reply::Done) | Err(StoreError::Unknown));
        }
        if !matches!(operation.what, What::Enqueue { .. }) {
            return;
        }
        self.life(operation.element, |life| match reply {
            Ok(Reply::Done) => {
                life.is_acknowledged = true;
                life.may_be_stored = true;
            }
            Err(StoreError::Unknown) => life.may_be_stored = true,
            Ok(_) | Err(_) => {}
        });
    }

    fn life(&mut self, element: ElementId, change: impl FnOnce(&mut Life)) {
        if let Some(life) = self.lives.get_mut(&element) {
            change(life);
        }
    }

    /// Whether a proposal to store it has no reply yet.
    pub fn is_pending(&self, element: ElementId) -> bool {
        let enqueues = |operation: &Operation| matches!(operation.what, What::Enqueue { .. });
        self.pending.values().any(|(_, operation)| operation.element == element && enqueues(operation))
    }
}

fn name_of(reply: &Result<Reply, StoreError>) -> &'static str {
    match reply {
        Ok(Reply::Done) => "done",
        Ok(Reply::Refused(_)) => "refused",
        Ok(Reply::Stale) => "stale",
        Ok(Reply::Changed { .. }) => "changed",
        Err(StoreError::Busy) => "busy",
        Err(StoreError::NotAccepted) => "not accepted",
        Err(StoreError::Unknown) => "unknown",
        Err(StoreError::Stopped) => "stopped",
        Err(StoreError::TooLarge) => "too large",
        Err(StoreError::Unopened(_)) => "unopened",
    }
}
