//! What happened, in order: read by the oracle and the invariants, and hashed into the trace of a run.

use std::sync::{Arc, Mutex};

use slimfaas_gateway::proxy::deliver::Delivered;
use slimfaas_gateway::queue::command::{Assignment, Reply};
use slimfaas_gateway::queue::element::ElementId;
use slimfaas_gateway::store::StoreError;

#[derive(Clone, Debug)]
pub enum Event {
    /// A node's process was told to deliver.
    Assigned { node: Arc<str>, assignment: Assignment },
    /// A function was called.
    Called { node: Arc<str>, element: ElementId, try_number: u32, is_last_try: bool, body_is_right: bool },
    /// The function has answered, or not.
    Answered { node: Arc<str>, element: ElementId, delivered: Delivered },
    /// The function, after a 202, will call back, at this time.
    CallsBack { element: ElementId, after_ms: u64, succeeded: bool },
    /// A proposal has its reply.
    Replied { node: Arc<str>, operation: u64, reply: Result<Reply, StoreError> },
    /// The cluster has a run that it had not, and so many that have not ended, of so many that there may be.
    RunStarted { run: ElementId, active: u64, most: u64 },
    /// The cluster refuses to have it.
    RunRefused { run: ElementId },
    /// The cluster has it no more.
    RunGone { run: ElementId, by_others: bool },
    /// A node's process ended by itself.
    Ended { node: Arc<str> },
    /// The scenario did something.
    Fault(String),
}

/// Shared by all nodes of a simulation.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<Event>>>);

impl Journal {
    pub fn note(&self, event: Event) {
        self.0.lock().expect("one thread, which does not panic here").push(event);
    }

    /// What was noted since the last time.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().expect("one thread, which does not panic here"))
    }
}
