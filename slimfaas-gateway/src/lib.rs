//! SlimFaas: a sidecar-free Kubernetes gateway for functions. Start reading at `proxy.rs`; `ARCHITECTURE.md` is the map.

pub mod clock;
pub mod cluster;
pub mod config;
pub mod model;
pub mod net;
pub mod scaler;
pub mod table;
