//! Calls between peers: what stands before every call and answer, and when each peer was last heard.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::elections::Heard;
use super::shared::lock;
use crate::clock::{self, Instant};
use crate::model::peer::Peer;
use crate::queue::codec::{Reader, Writer};
use crate::store::transport::{Lane, Transport, TransportError};

/// What a call is about: its first byte.
pub(super) mod kind {
    pub(crate) const APPEND: u8 = 1;
    pub(crate) const VOTE: u8 = 2;
    pub(crate) const SNAPSHOT: u8 = 3;
    pub(crate) const PROPOSE: u8 = 4;
    pub(crate) const HELLO: u8 = 5;
    pub(crate) const READ_INDEX: u8 = 6;
    pub(crate) const LEAVE: u8 = 7;
}

/// Stands for "anybody" and "none yet".
pub(super) const NOBODY: u64 = 0;

pub(super) struct Links {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) peers: watch::Receiver<Arc<[Peer]>>,
    pub(super) node: u64,
    pub(super) name: Arc<str>,
    /// [`NOBODY`] until this node belongs to a cluster.
    cluster: AtomicU64,
    heard: Mutex<BTreeMap<u64, Instant>>,
    /// Who said hello, when, and whether it had a log.
    greeters: Mutex<BTreeMap<String, (Instant, bool)>>,
    /// This node founds a cluster, so others are to wait for it.
    pub(super) founding: AtomicBool,
    pub(super) elections: Heard,
}

const HEAD_BYTES: usize = 1 + 3 * 8;

/// First of every call.
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) cluster: u64,
    pub(super) from: u64,
    /// [`NOBODY`]: whoever is there.
    pub(super) to: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// It was not served, and will not be.
    #[error("{0}")]
    NotServed(String),
    /// It may have been served.
    #[error("{0}")]
    Unknown(String),
    /// So may this one, though the peer says that it failed to.
    #[error("{0}")]
    Failed(String),
}

/// Why a peer does not serve a call. First byte of an answer; zero: it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotThisNode = 1,
    OtherCluster = 2,
    NotLeader = 3,
    Failed = 4,
    Malformed = 5,
}

impl Links {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        peers: watch::Receiver<Arc<[Peer]>>,
        node: u64,
        name: Arc<str>,
        cluster: Option<u64>,
    ) -> Self {
        let cluster = AtomicU64::new(cluster.unwrap_or(NOBODY));
        let (heard, greeters, founding) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let elections = Heard::default();
        Self { transport, peers, node, name, cluster, heard, greeters, founding, elections }
    }

    pub(super) fn cluster(&self) -> u64 {
        self.cluster.load(Ordering::Acquire)
    }

    pub(super) fn set_cluster(&self, cluster: u64) {
        self.cluster.store(cluster, Ordering::Release);
    }

    /// A peer lives: it called, or answered.
    pub(super) fn heard(&self, node: u64) {
        lock(&self.heard).insert(node, clock::now());
    }

    pub(super) fn heard_at(&self, node: u64) -> Option<Instant> {
        lock(&self.heard).get(&node).copied()
    }

    pub(super) fn greeted(&self, name: String, has_log: bool) {
        lock(&self.greeters).insert(name, (clock::now(), has_log));
    }

    /// Who said hello in the last so long, and whether it had a log.
    pub(super) fn greeters(&self, within: Duration) -> Vec<(String, bool)> {
        let now = clock::now();
        let mut greeters = lock(&self.greeters);
        greeters.retain(|_, (at, _)| now.saturating_duration_since(*at) <= within);
        greeters.iter().map(|(name, (_, has_log))| (name.clone(), *has_log)).collect()
    }

    /// Where the peer with this name is now.
    pub(super) fn address_of(&self, name: &str) -> Option<SocketAddr> {
        self.peers.borrow().iter().find(|peer| &*peer.name == name).map(|peer| peer.address)
    }

    /// Calls a node by the name that the cluster's membership has for it.
    pub(super) async fn call(
        &self,
        node: u64,
        name: &str,
        kind: u8,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let Some(address) = self.address_of(name) else {
            return Err(CallError::NotServed(format!("peer {name} has no address now")));
        };
        let answer = self.call_at(address, node, kind, body, timeout).await?;
        self.heard(node);
        Ok(answer)
    }

    /// Calls whoever is at an address, as long as it is `node`.
    pub(super) async fn call_at(
        &self,
        address: SocketAddr,
        node: u64,
        kind: u8,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let mut writer = Writer::with_capacity(body.len() + HEAD_BYTES);
        writer.byte(kind);
        for number in [self.cluster(), self.node, node] {
            writer.fixed(number);
        }
        writer.raw(body);
        let lane = if kind == kind::SNAPSHOT { Lane::Snapshot } else { Lane::Raft };
        let called = self.transport.call(address, lane, writer.0.into(), timeout).await;
        let answer = called.map_err(|error| match error {
            TransportError::NotSent(_) => CallError::NotServed(error.to_string()),
            TransportError::NotAnswered(_) => CallError::Unknown(error.to_string()),
        })?;
        let refused = |what: &str| Err(CallError::NotServed(format!("peer at {address} {what}")));
        match answer.first() {
            Some(0) => Ok(answer.slice(1..)),
            Some(1) => refused("is another node than before: waiting until the cluster says so"),
            Some(2) => refused("belongs to another cluster: remove its data, or take it out of this one"),
            Some(3) => refused("does not lead"),
            _ => Err(CallError::Failed(format!("peer at {address} failed to serve the call"))),
        }
    }
}

/// Takes the head off a call.
pub(super) fn read_head(payload: Bytes) -> Option<(Head, Bytes)> {
    let mut reader = Reader::new(payload.clone());
    let head = Head {
        kind: reader.byte().ok()?,
        cluster: reader.fixed().ok()?,
        from: reader.fixed().ok()?,
        to: reader.fixed().ok()?,
    };
    Some((head, payload.slice(HEAD_BYTES..)))
}

pub(super) fn served(body: &[u8]) -> Bytes {
    let mut answer = Vec::with_capacity(body.len() + 1);
    answer.push(0);
    answer.extend_from_slice(body);
    answer.into()
}

pub(super) fn refused(refusal: Refusal) -> Bytes {
    Bytes::copy_from_slice(&[refusal as u8])
}
