//! The production store and queue, tormented in a simulation: network, disks, clocks and processes are simulated, and one
//! seed decides everything that happens.
//!
//! Each node is the real `Store` (openraft, redb, its writer) with the real workers of the queue and of jobs, on a runtime and a paused clock
//! of its own; what is simulated is what production code gets from outside: a `Transport`, a `StorageBackend`, the wall
//! clock, the peers' list, the functions. A process that is killed is a runtime that is dropped.
//!
//! Invariant: the same seed gives the same trace. It needs `--cfg tokio_unstable`, which `cargo xtask sim` sets: without
//! it tokio's `select!` cannot be seeded.

pub mod dice;
pub mod disk;
pub mod faults;
pub mod function;
pub mod invariants;
pub mod jobs;
pub mod journal;
pub mod network;
pub mod node;
pub mod oracle;
pub mod run;
pub mod trace;
pub mod workload;
pub mod world;
