//! Asynchronous requests. The log is the scheduler: `plan` is a deterministic state machine that every gateway node runs
//! over the same commands, so that the node to which it assigns an element starts the call without asking anybody.
//!
//! `intake` and `worker` are its doors. Everything else is pure: no clock, no randomness, no I/O of its own, no hash-map order. State lies in the ordered
//! tables of [`tables::Tables`], which the store implements over its database.

pub mod codec;
pub mod command;
pub mod element;
pub mod function;
pub mod intake;
pub mod plan;
pub mod request;
pub mod retry;
pub mod tables;
pub mod worker;
