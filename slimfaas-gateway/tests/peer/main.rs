//! The peer port over real sockets: calls, limits, strangers, keys, and how fast it is.

mod calls;
mod digests;
mod nodes;
mod speed;
mod strangers;
