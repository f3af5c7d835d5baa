//! The other gateway nodes.

use std::net::SocketAddr;
use std::sync::Arc;

/// One gateway node beside this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Stays the same across restarts.
    pub name: Arc<str>,
    /// Of its peer port.
    pub address: SocketAddr,
    /// It serves requests now.
    pub ready: bool,
}
