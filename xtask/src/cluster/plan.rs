//! Names and addresses of the cluster. There is one cluster on a machine, so they are constants; what would collide
//! with the machine's own networks is refused before anything starts (`network::check_free`).

use std::net::Ipv4Addr;

/// Name of the cluster's control group in every hierarchy, of its nftables table, and of its folder in `/run`.
pub(crate) const NAME: &str = "slimfaas-cluster";

/// The nodes' network: node 1 is this machine itself, at `.1`; further nodes are network namespaces on the bridge.
pub(crate) const NODE_NETWORK: &str = "10.245.0.0/24";
/// Addresses of pods: one `/24` of it for each node.
pub(crate) const POD_NETWORK: &str = "10.244.0.0/16";
/// Addresses of Services. The first is the API server's own.
pub(crate) const SERVICE_NETWORK: &str = "10.96.0.0/16";
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

pub(crate) const NODE_BRIDGE: &str = "sfnodes";
/// The bridge of a node's pods, in that node's network namespace.
pub(crate) const POD_BRIDGE: &str = "sfpods";

pub(crate) const API_PORT: u16 = 6443;
/// etcd has no authentication here, so it listens where no pod can reach it: on loopback.
pub(crate) const ETCD_PORT: u16 = 12379;
pub(crate) const ETCD_PEER_PORT: u16 = 12380;

/// Each node takes about 150 MB; more than this is a mistake on one machine.
pub(crate) const NODES_MAX: u8 = 4;

/// One node, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node(pub(crate) u8);

impl Node {
    /// Node 1: this machine, which also runs the control plane.
    pub(crate) const FIRST: Self = Self(1);

    pub(crate) fn all(count: u8) -> impl Iterator<Item = Self> + Clone {
        (1..=count).map(Self)
    }

    pub(crate) fn is_machine(self) -> bool {
        self == Self::FIRST
    }

    pub(crate) fn name(self) -> String {
        format!("node-{}", self.0)
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 245, 0, self.0)
    }

    pub(crate) fn pod_network(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    /// The machine's end of the cable to a node that has a network namespace of its own.
    pub(crate) fn cable(self) -> String {
        format!("sfnode{}", self.0)
    }
}

/// Where clients find the API server.
pub(crate) fn api_address() -> String {
    format!("https://{}:{API_PORT}", Node::FIRST.address())
}
