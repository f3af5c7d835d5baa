//! The other gateway nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Of a node that is known to be and has no address yet: nobody is reached there. Such a node counts all the same, so
/// that nobody believes to be alone because others are slower to start.
pub const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// One gateway node beside this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Stays the same across restarts.
    pub name: Arc<str>,
    /// Of its peer port, or [`NOWHERE`].
    pub address: SocketAddr,
    /// It serves requests now.
    pub ready: bool,
}
