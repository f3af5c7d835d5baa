//! Who asks, as proven: never as claimed by a header.

use crate::model::function::FunctionId;
use crate::model::visibility::Trust;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nothing proves that the connection comes from a known workload.
    Outside,
    /// A pod (or, locally, a process) of a known workload.
    Pod { workload: FunctionId, trust: Trust },
    /// A run of one of our jobs.
    Job { job: FunctionId },
    /// Another gateway node.
    Gateway,
}
