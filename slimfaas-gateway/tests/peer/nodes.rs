//! Nodes in this process, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slimfaas_gateway::clock::{self, Instant};
use slimfaas_gateway::drain;
use slimfaas_gateway::model::peer::Peer;
use slimfaas_gateway::peer::key::{KeySource, Keys};
use slimfaas_gateway::peer::stats::PeerStats;
use slimfaas_gateway::peer::{Answer, Client, Kind, Node, NodeOptions, Service};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const KEY: &str = "correct horse battery staple, twice over";

/// Longer than anything should take; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) stats: Arc<PeerStats>,
    pub(crate) members: watch::Sender<Arc<[Peer]>>,
    pub(crate) drain: drain::Trigger,
    pub(crate) tasks: JoinSet<()>,
}

pub(crate) fn bind(name: &str, keys: KeySource) -> Node {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Node::bind(NodeOptions { listen, name: name.into(), keys }).expect("binds")
}

pub(crate) fn fixed(text: &str) -> KeySource {
    KeySource::Fixed(Keys::parse(text).expect("a key"))
}

pub(crate) fn run(node: Node) -> Running {
    run_with(node, watch::Sender::new(Arc::from([])))
}

pub(crate) fn run_with(node: Node, members: watch::Sender<Arc<[Peer]>>) -> Running {
    let (drain, watch) = drain::channel();
    let (name, membership) = (node.name().to_owned(), members.subscribe());
    let (address, client, stats) = (node.address(), node.client(), node.stats());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { node.run(membership, watch).await.expect("runs") });
    Running { name, address, client, stats, members, drain, tasks }
}

/// A node whose every service gives requests back.
pub(crate) fn echo(name: &str, key: &str) -> Running {
    let node = bind(name, fixed(key));
    Kind::ALL.into_iter().for_each(|kind| node.register(kind, Arc::new(Echo)));
    run(node)
}

pub(crate) struct Echo;

impl Service for Echo {
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        Box::pin(async move { Ok(request) })
    }
}

/// Answers with a number of bytes that the request names, in its last four bytes.
pub(crate) struct Size;

impl Service for Size {
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        let size = request.last_chunk().map_or(0, |size| u32::from_be_bytes(*size));
        Box::pin(async move { Ok(Bytes::from(vec![7; size as usize])) })
    }
}

pub(crate) fn soon() -> Instant {
    clock::now() + PATIENCE
}

/// Waits until `done` says so.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = soon();
    while !done() {
        assert!(clock::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
