//! A body that this node lacks, from the others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::folder::{Coming, Part, Verdict, is_full};
use super::stats::add;
use super::wire::{Found, PART_BYTES, Read};
use super::{Shared, blocking, lock};
use crate::clock;
use crate::model::peer::Peer;
use crate::peer::{Client, Kind};
use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;

/// One call for a part.
const CALL_TIME: Duration = Duration::from_secs(5);

/// Calls for one part, before another node is asked.
const CALLS_MAX: u32 = 2;

/// How long somebody waits for a body that is on its way, before he looks again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Why there is no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Everybody who votes was asked. It will not come back by itself.
    #[error("no gateway node has the body any more")]
    Nowhere,
    #[error("the gateway nodes that may have the body cannot be reached")]
    Unreachable,
    #[error("the disk is nearly full")]
    Full,
    #[error("the body cannot be read: {0}")]
    Failed(String),
}

/// What became of asking one node.
enum Asked {
    Got,
    Absent,
    Unreachable,
    /// It gave something else.
    Damaged,
    Failed(io::Error),
}

/// The file of a body, verified, at its beginning.
pub(super) async fn open(shared: &Arc<Shared>, id: ElementId, file: BodyFile) -> Result<std::fs::File, Missing> {
    loop {
        let folder = Arc::clone(&shared.folder);
        match blocking(move || folder.verify(id, file)).await.map_err(|error| failed(&error))? {
            Verdict::Intact(opened) => return Ok(opened),
            Verdict::Damaged => set_aside(shared, id).await.map_err(|error| failed(&error))?,
            Verdict::Absent => {}
        }
        obtain(shared, id, file).await?;
    }
}

/// Takes a damaged file out of the way, and says so.
pub(super) async fn set_aside(shared: &Arc<Shared>, id: ElementId) -> io::Result<()> {
    shared.damaged();
    tracing::warn!(
        element = %id,
        "the body of a stored request is damaged on this node's disk: it is set aside, and fetched from another node"
    );
    let folder = Arc::clone(&shared.folder);
    blocking(move || folder.set_aside(id)).await
}

/// Has the file in the folder, as it should be.
pub(super) async fn obtain(shared: &Arc<Shared>, id: ElementId, file: BodyFile) -> Result<(), Missing> {
    loop {
        let settled = shared.settled.notified();
        if has(shared, id, file).await? {
            return Ok(());
        }
        if !shared.is_coming(id)
            && let Some(_claim) = Claim::on(shared, id)
        {
            return fetch(shared, id, file).await;
        }
        let _looks_again = tokio::time::timeout(LOOK_EVERY, settled).await.is_err();
    }
}

async fn has(shared: &Shared, id: ElementId, file: BodyFile) -> Result<bool, Missing> {
    let folder = Arc::clone(&shared.folder);
    blocking(move || folder.has(id, file)).await.map_err(|error| failed(&error))
}

/// Whoever holds it fetches the body.
struct Claim<'a> {
    shared: &'a Shared,
    id: ElementId,
}

impl<'a> Claim<'a> {
    fn on(shared: &'a Shared, id: ElementId) -> Option<Self> {
        lock(&shared.fetching).insert(id).then_some(Self { shared, id })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.shared.fetching).remove(&self.id);
        self.shared.settled.notify_waiters();
    }
}

/// Asks one node after the other.
async fn fetch(shared: &Arc<Shared>, id: ElementId, file: BodyFile) -> Result<(), Missing> {
    let mut others = shared.others();
    // Nodes that are up first; and not all from the same one.
    others.sort_by_key(|peer| !peer.ready);
    if !others.is_empty() {
        let ready = others.iter().filter(|peer| peer.ready).count().max(1);
        others[..ready].rotate_left(usize::from(id.0[15]) % ready);
    }
    let mut denied = Vec::new();
    for peer in &others {
        let Some(client) = shared.client() else { break };
        match ask(shared, client, peer, id, file).await {
            Asked::Got => {
                add(&shared.stats.repaired);
                tracing::debug!(element = %id, from = %peer.name, "fetched the body of a stored request");
                return Ok(());
            }
            Asked::Absent => denied.push(Arc::clone(&peer.name)),
            Asked::Unreachable => {}
            Asked::Damaged => {
                denied.push(Arc::clone(&peer.name));
                shared.damaged();
                tracing::warn!(
                    element = %id,
                    from = %peer.name,
                    "another gateway node gave a damaged body of a stored request: asking the next one"
                );
                suspect(client, peer, id, file).await;
            }
            Asked::Failed(error) => return Err(failed(&error)),
        }
    }
    let voters = shared.store.voters();
    let all_denied = voters.values().all(|name| **name == *shared.name || denied.iter().any(|by| **by == **name));
    Err(if all_denied { Missing::Nowhere } else { Missing::Unreachable })
}

async fn ask(shared: &Arc<Shared>, client: &Client, peer: &Peer, id: ElementId, file: BodyFile) -> Asked {
    let folder = Arc::clone(&shared.folder);
    let created = blocking(move || Part::create(&folder, id, Coming::Fetched, file.bytes)).await;
    let mut part = match created {
        Ok(part) => part,
        Err(error) => return Asked::Failed(error),
    };
    while part.written() < file.bytes {
        let wanted = usize::try_from(file.bytes - part.written()).unwrap_or(PART_BYTES).min(PART_BYTES);
        let read = Read::Part { id, offset: part.written(), max: u32::try_from(wanted).unwrap_or(u32::MAX) };
        let data = match call(client, peer, read).await {
            Some(Found::Part(data)) if !data.is_empty() && data.len() <= wanted => data,
            Some(Found::Part(_)) => return drop_part(part, Asked::Damaged).await,
            Some(Found::Absent) => return drop_part(part, Asked::Absent).await,
            Some(Found::Missing(_)) | None => return drop_part(part, Asked::Unreachable).await,
        };
        match blocking(move || part.append(&data).map(|()| part)).await {
            Ok(appended) => part = appended,
            Err(error) => return Asked::Failed(error),
        }
    }
    if part.content() != file {
        return drop_part(part, Asked::Damaged).await;
    }
    match blocking(move || part.finish()).await {
        Ok(_file) => Asked::Got,
        Err(error) => Asked::Failed(error),
    }
}

/// Removing a large file blocks.
async fn drop_part(part: Part, asked: Asked) -> Asked {
    let dropped = blocking(move || {
        drop(part);
        Ok(())
    });
    match dropped.await {
        Ok(()) => asked,
        Err(error) => Asked::Failed(error),
    }
}

async fn call(client: &Client, peer: &Peer, read: Read) -> Option<Found> {
    let payload = read.encode();
    for _ in 0..CALLS_MAX {
        let deadline = clock::now() + CALL_TIME;
        match client.call(peer.address, Kind::BodyRead, Bytes::clone(&payload), deadline).await {
            Ok(answer) => return Found::decode(answer).ok(),
            Err(error) => tracing::debug!(peer = %peer.name, %error, "a peer does not give a body"),
        }
    }
    None
}

/// Has the other node look at its file, which may be damaged on its disk.
async fn suspect(client: &Client, peer: &Peer, id: ElementId, file: BodyFile) {
    let _unanswered = call(client, peer, Read::Suspect { id, file }).await.is_none();
}

fn failed(error: &io::Error) -> Missing {
    if is_full(error) { Missing::Full } else { Missing::Failed(error.to_string()) }
}
