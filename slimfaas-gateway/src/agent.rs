//! The node agent: it loads the eBPF programs that tag connections and guard private functions. In this version it only
//! tells what a node allows.

pub mod capabilities;
