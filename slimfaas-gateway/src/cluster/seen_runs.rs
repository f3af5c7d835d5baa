//! Runs of jobs as a cluster shows them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::function::FunctionId;
use crate::model::job::RunState;
use crate::queue::element::ElementId;

pub type SeenRuns = BTreeMap<ElementId, SeenRun>;

/// A run as the cluster shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRun {
    pub job: FunctionId,
    pub state: RunState,
    pub queued_ms: u64,
    pub started_ms: u64,
    pub ttl_ms: u64,
    /// It is on its way out.
    pub is_leaving: bool,
    /// Nothing of it runs until it is let go. The cluster's own name of this one: another of the same run, made after
    /// this one has gone, has another.
    pub held: Option<Arc<str>>,
}
