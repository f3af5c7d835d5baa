//! Calls to other nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::clock::Instant;
use crate::peer::limits::{CONNECTIONS_MAX, bulk_bytes};
use crate::peer::link::{Enqueued, Link};
use crate::peer::service::{CallError, Kind, Lost, NotDone};
use crate::peer::stats::PeerStats;

/// Calls other nodes. Cheap to clone. Nothing is sent before [`crate::peer::Node::run`].
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    links: Mutex<BTreeMap<SocketAddr, Arc<Link>>>,
    /// The node runs each new link; closed when it has ended. At most as many wait in it as there may be links.
    new_links: mpsc::UnboundedSender<Arc<Link>>,
    closing: AtomicBool,
    stats: Arc<PeerStats>,
}

impl Client {
    pub(super) fn new(stats: &Arc<PeerStats>) -> (Self, mpsc::UnboundedReceiver<Arc<Link>>) {
        let (new_links, links) = mpsc::unbounded_channel();
        let shared =
            Shared { links: Mutex::default(), new_links, closing: AtomicBool::new(false), stats: Arc::clone(stats) };
        (Self(Arc::new(shared)), links)
    }

    /// Asks the node at `address` and waits for its answer. Connects where needed. When dropped, the peer is told to
    /// stop. Calls to one peer go out together and in no order; large payloads do not hold up small ones.
    pub async fn call(
        &self,
        address: SocketAddr,
        kind: Kind,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let result = self.try_call(address, kind, payload, deadline).await;
        self.0.stats.called(kind, &result);
        result
    }

    async fn try_call(
        &self,
        address: SocketAddr,
        kind: Kind,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        if payload.len() > kind.limits().request {
            return Err(CallError::NotDone(NotDone::TooLarge));
        }
        loop {
            let link = self.link(address).map_err(CallError::NotDone)?;
            let room = tokio::time::timeout_at(deadline, link.room(bulk_bytes(kind, payload.len()))).await;
            let room = room.map_err(|_elapsed| CallError::NotDone(NotDone::Deadline))?;
            match link.enqueue(kind, payload.clone(), deadline, room).map_err(CallError::NotDone)? {
                // It was idle for so long that it ended just now; the next one is new.
                Enqueued::LinkEnded => continue,
                Enqueued::Waiting(mut call) => {
                    return match tokio::time::timeout_at(deadline, call.reply()).await {
                        Ok(Ok(result)) => result,
                        Ok(Err(_gone)) => Err(CallError::Unknown(Lost::Disconnected)),
                        Err(_elapsed) => call.give_up(),
                    };
                }
            }
        }
    }

    fn link(&self, address: SocketAddr) -> Result<Arc<Link>, NotDone> {
        if self.0.closing.load(Ordering::Relaxed) {
            return Err(NotDone::Closing);
        }
        let mut links = self.links();
        if let Some(link) = links.get(&address) {
            return Ok(Arc::clone(link));
        }
        if links.len() >= CONNECTIONS_MAX {
            return Err(NotDone::TooManyPeers);
        }
        let link = Arc::new(Link::new(address));
        self.0.new_links.send(Arc::clone(&link)).map_err(|_ended| NotDone::Closing)?;
        links.insert(address, Arc::clone(&link));
        Ok(link)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Arc<Link>>> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a link that nobody uses; false: somebody does.
    pub(super) fn end_if_quiet(&self, link: &Arc<Link>) -> bool {
        // In one step with `link`, so that a link that is found is one that runs.
        let mut links = self.links();
        let ended = link.end_if_quiet();
        if ended {
            links.remove(&link.address);
        }
        ended
    }

    /// Closes the connection to `address` once its calls have ended.
    pub(super) fn leave(&self, address: SocketAddr) {
        if let Some(link) = self.links().get(&address) {
            link.leave();
        }
    }

    /// Starts no more calls, and closes every connection once its calls have ended.
    pub(super) fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
        self.links().values().for_each(|link| link.leave());
    }
}
