//! The private channel between gateway nodes: calls over connections that are encrypted and that only holders of the
//! key can make. What is called is registered by kind; the channel knows nothing of it.
//!
//! Each node opens one connection to each node that it calls, and many calls share it. Invariant: nobody without the
//! key gets an answer, and nobody at all costs more memory than `limits` say.

pub mod activity;
mod client;
mod dial;
pub mod digest;
mod frame;
mod handshake;
mod inbox;
pub mod key;
mod limits;
mod link;
mod noise;
mod outbox;
mod pipe;
mod server;
mod service;
mod serving;
pub mod stats;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::drain;
use crate::model::peer::Peer;
use crate::net::{self, TcpListener};
use crate::peer::dial::Dialer;
use crate::peer::handshake::{NAME_BYTES_MAX, VERSIONS, Versions};
use crate::peer::key::{KeyError, KeySource, Keys};
use crate::peer::link::Link;
use crate::peer::server::Server;
use crate::peer::serving::Services;
use crate::peer::stats::PeerStats;

pub use client::Client;
pub use service::{Answer, CallError, Failure, Kind, Lost, NotDone, PayloadLimits, Service};

/// What a node needs to be among others.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Port 0 is any free one.
    pub listen: SocketAddr,
    /// As other nodes' membership calls this one; at most 253 bytes.
    pub name: Arc<str>,
    pub keys: KeySource,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address} for peers: {source} (is another program using the port?)")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the key of the peer port: {0}")]
    Key(#[from] KeyError),
    #[error("the node's name is longer than 253 bytes")]
    Name,
}

/// This node on the peer port, bound and not yet running.
pub struct Node {
    listener: std::net::TcpListener,
    address: SocketAddr,
    name: Arc<str>,
    versions: Versions,
    source: KeySource,
    keys: watch::Sender<Arc<Keys>>,
    services: Arc<Services>,
    stats: Arc<PeerStats>,
    client: Client,
    /// Links that the client has made.
    links: mpsc::UnboundedReceiver<Arc<Link>>,
}

impl Node {
    /// Reads the keys and binds the port; needs no runtime. While there is no key file, nobody is accepted or reached.
    pub fn bind(options: NodeOptions) -> Result<Self, BindError> {
        if options.name.len() > NAME_BYTES_MAX {
            return Err(BindError::Name);
        }
        let keys = options.keys.read()?;
        let failed = |source| BindError::Listen { address: options.listen, source };
        net::check_unused(options.listen).map_err(failed)?;
        let listener = net::listen(options.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stats = Arc::new(PeerStats::default());
        let (client, links) = Client::new(&stats);
        Ok(Self {
            listener,
            address,
            name: options.name,
            versions: VERSIONS,
            source: options.keys,
            keys: watch::Sender::new(Arc::new(keys)),
            services: Arc::default(),
            stats,
            client,
            links,
        })
    }

    /// As it calls itself to others.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens, with the real port number.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its calls wait (within their deadlines) until the node runs.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn stats(&self) -> Arc<PeerStats> {
        Arc::clone(&self.stats)
    }

    /// Answers calls of `kind` with `service`, instead of one registered before.
    pub fn register(&self, kind: Kind, service: Arc<dyn Service>) {
        self.services.register(kind, service);
    }

    /// Serves and calls until the drain starts: then nothing new begins, and it resolves when what runs has ended, or
    /// at the drain's deadline. `membership`: the other nodes; connections to those that leave are closed.
    pub async fn run(self, membership: watch::Receiver<Arc<[Peer]>>, drain: drain::Watch) -> io::Result<()> {
        let Self { listener, name, versions, source, keys, services, stats, client, links, .. } = self;
        let listener = TcpListener::from_std(listener)?;
        let server = Server {
            versions,
            keys: keys.subscribe(),
            services,
            stats: Arc::clone(&stats),
            logged: Arc::new(Mutex::new(None)),
        };
        let dialer = Dialer { client, name, versions, keys: keys.subscribe(), stats };
        let ended = async {
            tokio::join!(server.run(listener, drain.clone()), run_links(dialer, links, membership, drain));
        };
        tokio::select! {
            biased; // the keys are followed for as long as anything needs them
            () = ended => {}
            () = source.follow(keys) => {}
        }
        Ok(())
    }
}

/// One that only calls, and that nobody can call: a node's agent.
pub struct Outsider {
    name: Arc<str>,
    source: KeySource,
    keys: watch::Sender<Arc<Keys>>,
    stats: Arc<PeerStats>,
    client: Client,
    links: mpsc::UnboundedReceiver<Arc<Link>>,
}

impl Outsider {
    /// Reads the keys; needs no runtime.
    pub fn new(name: Arc<str>, source: KeySource) -> Result<Self, BindError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(BindError::Name);
        }
        let keys = watch::Sender::new(Arc::new(source.read()?));
        let stats = Arc::new(PeerStats::default());
        let (client, links) = Client::new(&stats);
        Ok(Self { name, source, keys, stats, client, links })
    }

    /// Its calls wait (within their deadlines) until this runs.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Calls until the drain starts. `membership`: whom it calls; connections to those that leave are closed.
    pub async fn run(self, membership: watch::Receiver<Arc<[Peer]>>, drain: drain::Watch) {
        let Self { name, source, keys, stats, client, links } = self;
        let dialer = Dialer { client, name, versions: VERSIONS, keys: keys.subscribe(), stats };
        tokio::select! {
            biased; // the keys are followed for as long as anything needs them
            () = run_links(dialer, links, membership, drain) => {}
            () = source.follow(keys) => {}
        }
    }
}

/// Runs every link that the client makes, until all have ended after the drain's start.
async fn run_links(
    dialer: Dialer,
    mut links: mpsc::UnboundedReceiver<Arc<Link>>,
    mut membership: watch::Receiver<Arc<[Peer]>>,
    mut drain: drain::Watch,
) {
    let mut running = JoinSet::new();
    let mut members = BTreeSet::new();
    membership.mark_changed();
    let mut warned = false;
    loop {
        tokio::select! {
            biased; // the end first; then what ends links, then what makes new ones
            () = drain.signaled() => break,
            Some(_) = running.join_next() => {}
            Ok(()) = membership.changed() => {
                let now = addresses(&membership.borrow_and_update());
                if !now.is_empty() && !warned && dialer.keys.borrow().all().is_empty() {
                    warned = true;
                    warn_of_missing_key(now.len());
                }
                members.difference(&now).for_each(|left| dialer.client.leave(*left));
                members = now;
            }
            Some(link) = links.recv() => {
                running.spawn(dialer.clone().run(link));
            }
        }
    }
    dialer.client.close();
    // Made just before the end.
    links.close();
    while let Some(link) = links.recv().await {
        running.spawn(dialer.clone().run(link));
    }
    tokio::select! {
        biased; // ended by themselves, rather than cut
        () = async { while running.join_next().await.is_some() {} } => {}
        () = drain.forced() => {}
    }
}

/// For a node that has no peer port, since it was given no key file: says so once there are other nodes.
pub async fn run_without(mut membership: watch::Receiver<Arc<[Peer]>>, mut drain: drain::Watch) {
    let found = async {
        match membership.wait_for(|peers| !peers.is_empty()).await {
            Ok(peers) => warn_of_missing_key(peers.len()),
            // There will never be any.
            Err(_gone) => {}
        }
    };
    tokio::select! {
        biased; // the end first: nothing is to be said any more
        () = drain.signaled() => {}
        () = found => {}
    }
}

fn warn_of_missing_key(others: usize) {
    tracing::warn!(
        others,
        "there are other gateway nodes, and no key to talk to them: calls on them are unknown here; give all nodes the \
         same SlimFaas__Peer__KeyFile"
    );
}

fn addresses(peers: &[Peer]) -> BTreeSet<SocketAddr> {
    peers.iter().map(|peer| peer.address).collect()
}

#[cfg(test)]
mod tests;
