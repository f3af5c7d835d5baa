//! The other gateway nodes, where an option lists them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::PeerNode;
use crate::model::peer::Peer;
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
        let listed = listed.iter().filter(|node| node.name != me).cloned().collect();
        Self { listed, peers: watch::Sender::default() }
    }

    /// Nobody says whether they serve, so they count as ready: what needs to hear of all of them waits for all of them.
    pub fn peers(&self) -> watch::Receiver<Arc<[Peer]>> {
        self.peers.subscribe()
    }

    /// Looks names up for ever.
    pub async fn run(self) {
        // Where nobody is reached; but whoever is listed counts.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut known = vec![nowhere; self.listed.len()];
        loop {
            for (node, known) in self.listed.iter().zip(&mut known) {
                match net::resolve(&node.address).await {
                    Ok(address) => *known = address,
                    // What was known may still be right.
                    Err(error) => tracing::debug!(node = node.name, %error, "a node's name has no address"),
                }
            }
            let peer = |(node, address): (&PeerNode, &SocketAddr)| Peer {
                name: node.name.as_str().into(),
                address: *address,
                ready: true,
            };
            let peers: Arc<[Peer]> = self.listed.iter().zip(&known).map(peer).collect();
            self.peers.send_if_modified(|former| {
                let changed = **former != *peers;
                *former = peers;
                changed
            });
            tokio::time::sleep(LOOK_UP_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::Address;

    #[tokio::test]
    async fn the_others_are_peers_wherever_they_are() {
        let node = |name: &str, address| PeerNode { name: name.to_owned(), address };
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listed = [
            node("a", Address::Socket(here(1))),
            node("b", Address::Socket(here(2))),
            node("c", Address::Host("no such name".into(), 3)),
        ];
        let nodes = Nodes::new(&listed, "a");
        let mut peers = nodes.peers();
        assert!(peers.borrow().is_empty());
        let peer = |name: &str, address| Peer { name: name.into(), address, ready: true };
        let expected = [peer("b", here(2)), peer("c", SocketAddr::from(([0, 0, 0, 0], 0)))];
        tokio::select! {
            () = nodes.run() => {}
            changed = peers.changed() => changed.expect("it runs"),
        }
        assert_eq!(**peers.borrow(), expected);
    }
}
