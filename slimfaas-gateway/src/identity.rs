//! Which workloads the kernel is to know, and which of their ports it is to guard: what the gateways make of what they
//! see in the cluster, and tell the agents. Pure.

mod codec;
pub mod keys;
pub mod table;

pub use codec::{DecodeError, decode, digest, encode};
