//! Functions as child processes, from `slimfaas.local.yaml`.
//!
//! `manifest` reads the file, `supervisor` is the [`crate::cluster::Cluster`]; each replica is one task
//! (`replica`) around one child process (`process`) with a port of the pool (`ports`).

mod backoff;
mod caller;
pub mod child;
mod companion;
mod document;
mod env_file;
mod expand;
mod jobs;
pub mod manifest;
mod output;
mod overlay;
mod ports;
mod process;
mod procfs;
mod reading;
mod replica;
mod report;
mod schema;
mod state;
mod supervisor;

pub use caller::LocalCallers;
pub use output::Output;
pub use state::{StateDirectory, StateError};
pub use supervisor::{LocalCluster, LocalOptions};
