//! The node agent: it loads the eBPF programs that tag connections and guard private functions, and keeps what they go
//! by true.
//!
//! `run` learns from the API server, the gateways and the node; `knowledge` makes of it what the kernel is to hold
//! (`desired`); `kernel` tells it; `pins` is how both outlive the agent's process. `capabilities` says what a node
//! allows, and `place` where on it the agent works.

pub mod capabilities;
pub mod cgroups;
pub mod desired;
mod gateways;
pub mod kernel;
pub mod knowledge;
pub mod pins;
mod place;
mod run;
mod secrets;
mod status;

pub use place::{Place, PlaceError, read_object};
pub use run::{AgentError, RunOptions, run};
