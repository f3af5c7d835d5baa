//! What the kernel programs, the agent and the gateway agree on, and every decision that the kernel programs take.
//!
//! `contract` is the layout of what crosses between kernel and user space. The other modules are pure functions of
//! values to values, tested on the host and called by the kernel programs, which hold no policy of their own. So all
//! of it is free of allocation, of I/O and of paths that panic.

#![no_std]

pub mod contract;
pub mod identity;
pub mod policy;
mod record;
pub mod segment;
pub mod siphash;
pub mod tag;
