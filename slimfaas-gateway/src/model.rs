//! Value types shared by every other module. No I/O, no clock, no lock.

pub mod address;
pub mod caller;
pub mod cron;
pub mod function;
pub mod job;
pub mod path;
pub mod peer;
pub mod percent;
pub mod problem;
pub mod schedule;
pub mod spec;
pub mod stats;
pub mod visibility;
pub mod zone;
