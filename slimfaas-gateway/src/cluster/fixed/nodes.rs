//! The other gateway nodes, where an option lists them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::PeerNode;
use crate::model::address::Address;
use crate::model::peer::{NOWHERE, Peer};
use crate::net;

/// How often names are looked up: a container that comes back may have another address.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2);

/// Listed nodes and where they are now.
pub struct Nodes {
    listed: Vec<PeerNode>,
    peers: watch::Sender<Arc<[Peer]>>,
}

impl Nodes {
    /// `me`: this node's name, which may be among the listed.
    pub fn new(listed: &[PeerNode], me: &str) -> Self {
        let listed: Vec<PeerNode> = listed.iter().filter(|node| node.name != me).cloned().collect();
        // Nobody says whether they serve, so they count as ready: what needs to hear of all of them waits for all.
        let peer = |node: &PeerNode| Peer {
            name: node.name.as_str().into(),
            address: if let Address::Socket(address) = node.address { address } else { NOWHERE },
            ready: true,
        };
        let peers = watch::Sender::new(listed.iter().map(peer).collect());
        Self { listed, peers }
    }

    pub fn peers(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.peers.subscribe()
    }

    /// Looks names up for ever.
    pub async fn run(self) {
        loop {
            let mut peers = self.peers.borrow().to_vec();
            for (node, peer) in self.listed.iter().zip(&mut peers) {
                match net::resolve(&node.address).await {
                    Ok(address) => peer.address = address,
                    // What was known may still be right.
                    Err(error) => tracing::debug!(node = node.name, %error, "a node's name has no address"),
                }
            }
            self.peers.send_if_modified(|known| {
                let changed = **known != *peers;
                *known = peers.into();
                changed
            });
            tokio::time::sleep(LOOK_UP_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[tokio::test]
    async fn the_others_are_peers_wherever_they_are() {
        let node = |name: &str, address| PeerNode { name: name.to_owned(), address };
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listed = [
            node("a", Address::Socket(here(1))),
            node("b", Address::Socket(here(2))),
            node("c", Address::Host("127.0.0.1".into(), 3)),
            node("d", Address::Host("no such name".into(), 4)),
        ];
        let nodes = Nodes::new(&listed, "a");
        let named = |c| [("b", here(2)), ("c", c), ("d", NOWHERE)].map(|(name, address)| (name.to_owned(), address));
        let mut peers = nodes.peers();
        let known = |peers: &watch::Receiver<Arc<[Peer]>>| -> Vec<_> {
            peers.borrow().iter().map(|peer| (peer.name.to_string(), peer.address)).collect()
        };
        assert_eq!(known(&peers), named(NOWHERE));
        tokio::select! {
            () = nodes.run() => {}
            changed = peers.changed() => changed.expect("it runs"),
        }
        assert_eq!(known(&peers), named(here(3)));
    }
}
