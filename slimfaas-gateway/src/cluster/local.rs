//! Functions as child processes, from `slimfaas.local.yaml`.
//!
//! `manifest` reads the file, `supervisor` is the [`crate::cluster::Cluster`]; each replica is one task
//! (`replica`) around one child process (`process`) with a port of the pool (`ports`).

mod document;
mod env_file;
mod expand;
pub mod manifest;
mod overlay;
mod reading;
mod report;
