//! Jobs: work that is asked for over HTTP or by a schedule, and done by the cluster.
//!
//! The log decides what runs: `plan` is its state machine (`command` in, rows out), so that a run or a firing is never
//! there twice, whoever leads. The node that leads looks at the log's state and at the cluster and does what is to be
//! done (`duties`, by `worker`, each in `carry_out`); everything that it does may be done again, or late.

pub mod carry_out;
pub mod command;
pub mod definitions;
pub mod duties;
pub mod handle;
pub mod logs;
pub mod plan;
pub mod quantity;
pub mod resolve;
pub mod worker;

#[cfg(test)]
mod tests;
