//! The private channel between gateway nodes.

mod frame;
mod inbox;
pub mod key;
mod noise;
mod outbox;
