//! The node agent: it loads the eBPF programs that tag connections and guard private functions, and keeps what they go
//! by true.
//!
//! `desired` says what the kernel is to know; `kernel` tells it; `pins` is how both outlive the agent's process;
//! `capabilities` says what a node allows, and `place` where on it the agent works.

pub mod capabilities;
pub mod desired;
pub mod kernel;
pub mod pins;
mod place;

pub use place::{Place, PlaceError, read_object};
