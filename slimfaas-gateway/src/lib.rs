//! SlimFaas: a sidecar-free Kubernetes gateway for functions. Start reading at `proxy.rs`; `ARCHITECTURE.md` is the map.

pub mod agent;
pub mod api;
pub mod app;
pub mod bodies;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod drain;
pub mod events;
pub mod example;
pub mod identity;
pub mod jobs;
pub mod model;
pub mod net;
pub mod peer;
pub mod proxy;
pub mod queue;
pub mod readiness;
pub mod scaler;
pub mod signal;
pub mod store;
pub mod table;
pub mod telemetry;
