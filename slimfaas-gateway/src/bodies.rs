//! Large bodies of asynchronous calls: files beside the log, on every node, named after their element.
//!
//! **Coming in** (`upload`). The node that a client sends to writes the body to its own disk and, part by part, to all
//! other nodes. Once a majority of the voters has all of it on its disks, the element is proposed to the log, which
//! names the body by its digest; only then the client hears 202. So whatever one minority of nodes loses, somebody who
//! is left has both the element and its body. A node that does not keep up is left behind.
//!
//! **Going out** (`fetch`). A node that is to deliver reads its file once to verify it, and then streams it. What it
//! lacks, or what is damaged, it gets from the others before.
//!
//! **Upkeep** (`upkeep`). Every half minute a node compares its folder with the log's state. What an element names and
//! the folder lacks is fetched, so that redundancy comes back after a node was slow, down, or new. What no element names
//! is removed, but only after it was seen unnamed for a quarter of an hour: a body is older than its element. And only
//! after this node has seen all that the cluster acknowledged: its own state may be behind its files. An element that is
//! done releases its body at once, on every node; the sweep is for what a crash left.
//!
//! **What a failure leaves.** An upload that is given up, refused or not stored removes its files on all nodes. Where
//! nobody knows whether the element was stored, they stay until the sweep knows. A file that is not whole never has its
//! element's name, and does not outlive its process. A disk that is full, or fails, refuses uploads and nothing else.
//!
//! **Membership.** Who votes is looked at when the upload is complete, not when it begins; copies are counted by the
//! identity of the disk that they are on. A node that leaves waits until those that stay have what it has.

mod copies;
mod fetch;
mod folder;
mod serve;
pub mod stats;
mod upkeep;
mod upload;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

pub use self::fetch::Missing;
use self::folder::Folder;
use self::serve::{Incoming, Reads, Writes};
use self::stats::BodyStats;
pub use self::upload::{Stored, Upload, UploadError};
use crate::model::peer::Peer;
use crate::model::stats::BodyState;
use crate::peer::{Client, Service};
use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;
use crate::store::Store;

/// Uploads under way on one node. Each takes about a megabyte of memory.
const UPLOADS_MAX: usize = 64;

/// Uploads that were cut short by the process's end are told so; those that are only waiting for slow peers are not
/// waited for.
const END_TIME: Duration = Duration::from_secs(2);

/// What a node's bodies need.
pub struct Options {
    /// As its peers list it.
    pub name: Arc<str>,
    /// Of this process alone; made if it does not exist.
    pub folder: PathBuf,
    /// Bytes of the disk that bodies leave free.
    pub reserve: u64,
    pub store: Store,
    /// `None`: there are no others.
    pub client: Option<Client>,
    /// The other nodes; this one may be among them.
    pub peers: watch::Receiver<Arc<[Peer]>>,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Bodies(Arc<Shared>);

/// Does the work that nobody waits for.
pub struct Running {
    shared: Arc<Shared>,
    uploads: mpsc::UnboundedReceiver<upload::Work>,
    releases: mpsc::UnboundedReceiver<ElementId>,
}

struct Shared {
    name: Arc<str>,
    folder: Arc<Folder>,
    store: Store,
    client: Option<Client>,
    peers: watch::Receiver<Arc<[Peer]>>,
    places: Arc<Semaphore>,
    /// Never more than there are places.
    uploads: mpsc::UnboundedSender<upload::Work>,
    /// Never more than there are files.
    releases: mpsc::UnboundedSender<ElementId>,
    /// What others send.
    incoming: Mutex<BTreeMap<ElementId, Arc<Incoming>>>,
    /// What is being fetched, so that it is fetched once.
    fetching: Mutex<BTreeSet<ElementId>>,
    /// A body has come, one way or the other, or will not.
    settled: Notify,
    /// There may be something to fetch.
    hurry: Notify,
    /// Bytes of the disk that may be used, as of the last look.
    room: AtomicU64,
    stats: BodyStats,
}

impl Bodies {
    /// Opens the folder, and removes what a former process was in the midst of. Blocks; to be called at the start.
    pub fn open(options: Options) -> io::Result<(Self, Running)> {
        let folder = Arc::new(Folder::open(options.folder, options.reserve)?);
        let room = AtomicU64::new(folder.room()?);
        let (uploads, uploads_out) = mpsc::unbounded_channel();
        let (releases, releases_out) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            name: options.name,
            folder,
            store: options.store,
            client: options.client,
            peers: options.peers,
            places: Arc::new(Semaphore::new(UPLOADS_MAX)),
            uploads,
            releases,
            incoming: Mutex::default(),
            fetching: Mutex::default(),
            settled: Notify::new(),
            hurry: Notify::new(),
            room,
            stats: BodyStats::default(),
        });
        Ok((Self(Arc::clone(&shared)), Running { shared, uploads: uploads_out, releases: releases_out }))
    }

    /// To be registered for [`crate::peer::Kind::BodyWrite`].
    pub fn writes(&self) -> Arc<dyn Service> {
        Arc::new(Writes(Arc::clone(&self.0)))
    }

    /// To be registered for [`crate::peer::Kind::BodyRead`].
    pub fn reads(&self) -> Arc<dyn Service> {
        Arc::new(Reads(Arc::clone(&self.0)))
    }

    /// Whether so many bytes fit the disk, as of the last look; for what is stored otherwise, too.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.0.room.load(Ordering::Relaxed) > bytes
    }

    /// Begins to store the body of an element that is to be. `declared`: its length, as far as the client says it.
    pub async fn upload(&self, id: ElementId, declared: Option<u64>) -> Result<Upload, UploadError> {
        upload::begin(&self.0, id, declared).await
    }

    /// The body of an element, verified, from wherever it is.
    pub async fn open_file(&self, id: ElementId, file: BodyFile) -> Result<std::fs::File, Missing> {
        fetch::open(&self.0, id, file).await
    }

    /// The element is no more.
    pub fn release(&self, id: ElementId) {
        // Nobody works any more: the sweep of the next process removes it.
        let _ended = self.0.releases.send(id).is_err();
    }

    /// Waits until the nodes that stay have all bodies, within `limit`.
    pub async fn hand_over(&self, limit: Duration) {
        if tokio::time::timeout(limit, upkeep::hand_over(&self.0)).await.is_err() {
            tracing::warn!("this node leaves, and others do not have all bodies of stored requests yet");
        }
    }

    pub fn state(&self) -> BodyState {
        let (files, bytes) = self.0.folder.totals();
        self.0.stats.state(files, bytes)
    }
}

impl Running {
    /// Works until `stop`.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { shared, uploads: mut begun, mut releases } = self;
        let mut tasks = JoinSet::new();
        tasks.spawn(upkeep::run(Arc::clone(&shared)));
        let of = Arc::clone(&shared);
        tasks.spawn(async move {
            while let Some(id) = releases.recv().await {
                of.release(id).await;
            }
        });
        let mut uploads = JoinSet::new();
        let work = async {
            loop {
                tokio::select! {
                    work = begun.recv() => match work {
                        Some(work) => drop(uploads.spawn(upload::run(Arc::clone(&shared), work))),
                        None => return,
                    },
                    Some(_ended) = uploads.join_next(), if !uploads.is_empty() => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = stop => {}
            () = work => {}
        }
        tasks.shutdown().await;
        let ended = async { while uploads.join_next().await.is_some() {} };
        let _cut = tokio::time::timeout(END_TIME, ended).await.is_err();
    }
}

impl Shared {
    /// The other nodes that are listed.
    fn others(&self) -> Vec<Peer> {
        let listed = self.peers.borrow().clone();
        listed.iter().filter(|peer| peer.name != self.name).cloned().collect()
    }

    fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    fn node(&self) -> u64 {
        self.store.me().node
    }

    async fn release(&self, id: ElementId) {
        let incoming = lock(&self.incoming).remove(&id);
        let folder = Arc::clone(&self.folder);
        let removed = blocking(move || {
            drop(incoming);
            folder.remove(id)
        });
        if let Err(error) = removed.await {
            tracing::warn!(element = %id, %error, "a body could not be removed: the sweep tries again");
        }
    }
}

/// Does what blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
