//! Tells the other nodes what functions do here, and puts what they tell into the table: whoever scales has to know of
//! every node's calls.
//!
//! A change is told within 250 ms, the first call after quiet at once, and everything every 5 seconds. With nothing going
//! on there is nothing but that.

mod known;
mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::clock::{self, Instant, Tick};
use crate::drain;
use crate::model::function::FunctionId;
use crate::model::peer::Peer;
use crate::peer::activity::known::Known;
use crate::peer::activity::local::Local;
use crate::peer::digest::Digest;
use crate::peer::stats::PeerStats;
use crate::peer::{Answer, Client, Failure, Kind, Node, Service, noise};
use crate::table::Table;

/// How long a change may wait to be told.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After news, so that a burst of first calls is told at once and not one by one.
const NEWS_SPACING: Duration = Duration::from_millis(10);

/// A peer is missed after six seconds (`known::SILENCE_MAX`).
const EVERYTHING_EVERY: Duration = Duration::from_secs(5);

/// For one digest; it takes a millisecond.
const TELL_TIME: Duration = Duration::from_secs(2);

/// After a digest that did not arrive.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What nodes know of each other's functions.
pub struct Activity {
    shared: Arc<Shared>,
    client: Client,
    membership: watch::Receiver<Arc<[Peer]>>,
}

struct Shared {
    table: Arc<Table>,
    /// Has the scaler look at every function.
    wake: Box<dyn Fn() + Send + Sync>,
    stats: Arc<PeerStats>,
    known: Mutex<Known>,
    local: Mutex<Local>,
    /// A digest has come.
    heard: Notify,
    complete: watch::Sender<bool>,
    run: u64,
    /// Of the last digest that was made.
    sequence: AtomicU64,
}

impl Activity {
    /// Registers with `node`. `wake` has the scaler look at every function; it is called when a call somewhere else
    /// wakes something, and must be quick.
    pub fn new(
        node: &Node,
        table: Arc<Table>,
        membership: watch::Receiver<Arc<[Peer]>>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            table,
            wake: Box::new(wake),
            stats: node.stats(),
            known: Mutex::default(),
            local: Mutex::default(),
            heard: Notify::new(),
            complete: watch::Sender::new(true),
            run: noise::run_number(),
            sequence: AtomicU64::new(0),
        });
        shared.follow(&membership.borrow());
        shared.judge(&mut Vec::new());
        node.register(Kind::Activity, Arc::<Shared>::clone(&shared));
        Self { shared, client: node.client(), membership }
    }

    /// Whether this node knows what every ready peer does; while it does not, nothing may be taken away from functions.
    pub fn is_complete(&self) -> watch::Receiver<bool> {
        self.shared.complete.subscribe()
    }

    /// Tells and listens until the drain starts. Run it with the node.
    pub async fn run(self, mut drain: drain::Watch) {
        let Self { shared, client, membership } = self;
        let versions = watch::Sender::new(0);
        tokio::select! {
            biased; // the end first: there is nothing to finish
            () = drain.signaled() => {}
            () = shared.listen(membership.clone()) => {}
            () = shared.tell_all(&client, membership, &versions) => {}
            () = shared.look(&versions) => {}
        }
    }
}

impl Service for Shared {
    fn serve(&self, from: Arc<str>, request: Bytes) -> Answer<'_> {
        let heard = Digest::decode(&request).map_err(|error| Failure(error.to_string())).and_then(|digest| {
            let mut known = self.known();
            let concerned = known.hear(&from, digest, clock::now());
            let concerned = concerned.map_err(|error| Failure(error.to_string()))?;
            self.publish(&known, &concerned);
            Ok(Bytes::new())
        });
        self.heard.notify_one();
        Box::pin(std::future::ready(heard))
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what is known of some functions into the table.
    fn publish(&self, known: &Known, concerned: &BTreeSet<FunctionId>) {
        let view = self.table.view();
        let mut wakes = false;
        for function in concerned.iter().filter_map(|id| view.function(id)) {
            let sum = known.sum(&function.id);
            let live = &function.live;
            live.set_remote(sum.in_flight, sum.waiting);
            if live.last_call() < sum.called {
                live.note_remote_call(sum.called);
                wakes |= live.take_call_awaited();
            }
        }
        if wakes {
            (self.wake)();
        }
    }

    fn follow(&self, peers: &[Peer]) {
        let mut known = self.known();
        let concerned = known.follow(peers, clock::now());
        self.publish(&known, &concerned);
    }

    /// Looks who is silent; returns when to look again.
    fn judge(&self, before: &mut Vec<Arc<str>>) -> Option<Instant> {
        let now = clock::now();
        let mut known = self.known();
        let lost = known.forget_lost(now);
        self.publish(&known, &lost);
        let silent = known.silent(now);
        let next = known.next_change(now);
        drop(known);
        for peer in silent.iter().filter(|peer| !before.contains(peer)) {
            tracing::info!(%peer, "a ready peer tells nothing of its functions; nothing is scaled down meanwhile");
        }
        self.stats.silent.store(i64::try_from(silent.len()).unwrap_or(i64::MAX), Ordering::Relaxed);
        let complete = silent.is_empty();
        self.complete.send_if_modified(|known| std::mem::replace(known, complete) != complete);
        *before = silent;
        next
    }

    /// Follows the membership, the table and the passing of time.
    async fn listen(&self, mut membership: watch::Receiver<Arc<[Peer]>>) {
        let mut changes = self.table.changes();
        let mut silent = Vec::new();
        membership.mark_changed();
        loop {
            let next = self.judge(&mut silent);
            tokio::select! {
                biased; // who is a peer first: what is known follows from it
                Ok(()) = membership.changed() => {
                    let peers = Arc::clone(&membership.borrow_and_update());
                    self.follow(&peers);
                }
                () = self.heard.notified() => {}
                Ok(()) = changes.changed() => self.publish_all(),
                () = clock::until(next) => {}
            }
        }
    }

    /// For functions that have appeared since they were told of.
    fn publish_all(&self) {
        let known = self.known();
        let ids = self.table.view().functions().iter().map(|function| function.id.clone()).collect();
        self.publish(&known, &ids);
    }

    /// Looks for changes of this node's functions, and announces each.
    async fn look(&self, versions: &watch::Sender<u64>) {
        let news = self.table.news();
        loop {
            let began = clock::now();
            let look = self.local().look(&self.table.view());
            versions.send_if_modified(|known| std::mem::replace(known, look.version) != look.version);
            // Quiet functions announce themselves; the look all the same is for what comes without a call.
            let again = if look.quiet { EVERYTHING_EVERY } else { LOOK_EVERY };
            tokio::select! {
                biased; // news first: somebody waits
                () = news.notified() => tokio::time::sleep_until(began + NEWS_SPACING).await,
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Runs one teller for each peer.
    async fn tell_all(
        self: &Arc<Self>,
        client: &Client,
        mut membership: watch::Receiver<Arc<[Peer]>>,
        versions: &watch::Sender<u64>,
    ) {
        let mut tellers: JoinSet<()> = JoinSet::new();
        let mut running: BTreeMap<SocketAddr, AbortHandle> = BTreeMap::new();
        loop {
            let peers = Arc::clone(&membership.borrow_and_update());
            running.retain(|address, teller| {
                let stays = peers.iter().any(|peer| peer.address == *address);
                if !stays {
                    teller.abort();
                }
                stays
            });
            for peer in &*peers {
                running.entry(peer.address).or_insert_with(|| {
                    let (shared, client, versions) = (Arc::clone(self), client.clone(), versions.subscribe());
                    let address = peer.address;
                    tellers.spawn(async move { shared.tell(&client, address, versions).await })
                });
            }
            tokio::select! {
                biased; // changes of the membership make and end tellers
                Ok(()) = membership.changed() => {}
                Some(_) = tellers.join_next() => {}
                else => std::future::pending().await,
            }
        }
    }

    /// Tells one peer, one digest after the other, for ever.
    async fn tell(&self, client: &Client, address: SocketAddr, mut versions: watch::Receiver<u64>) {
        // The version that the peer has, and when it shall get everything again.
        let mut told: Option<(u64, Instant)> = None;
        loop {
            let version = *versions.borrow_and_update();
            let now = clock::now();
            let since = told.filter(|(_, everything)| now < *everything);
            if let Some((known, everything)) = since
                && known >= version
            {
                tokio::select! {
                    biased; // either leads to the same look
                    Ok(()) = versions.changed() => {}
                    () = tokio::time::sleep_until(everything) => {}
                }
                continue;
            }
            if self.send(client, address, since.map(|(known, _)| known)).await {
                told = Some((version, since.map_or(now + EVERYTHING_EVERY, |(_, everything)| everything)));
            } else {
                // What it knows is unknown: it gets everything.
                told = None;
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    async fn send(&self, client: &Client, address: SocketAddr, since: Option<u64>) -> bool {
        let parts = self.local().parts(since);
        for (scope, functions) in parts {
            let digest = Digest {
                run: self.run,
                sequence: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
                now: Tick::of(clock::now()),
                scope,
                functions,
            };
            let deadline = clock::now() + TELL_TIME;
            if let Err(error) = client.call(address, Kind::Activity, digest.encode().into(), deadline).await {
                tracing::debug!(peer = %address, %error, "a digest did not arrive");
                return false;
            }
        }
        true
    }
}
