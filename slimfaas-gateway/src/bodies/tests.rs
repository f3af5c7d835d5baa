//! Nodes in one process, with real disks, real stores and real peer ports.

mod cluster;
mod damage;
mod failures;
mod life;
