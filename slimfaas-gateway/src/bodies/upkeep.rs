//! Makes the folder equal to what the log's state names: what lacks is fetched, what nobody needs is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;

use super::fetch::{self, Missing};
use super::stats::add;
use super::wire::{Found, Read};
use super::{Shared, blocking};
use crate::clock::{self, Instant};
use crate::model::peer::Peer;
use crate::peer::{CallError, Client, Kind};
use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;

/// Between two comparisons of the folder with the state.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// After bodies could not be fetched: nodes that have them may be restarting.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// When there is a reason to look again soon.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// How much room the disk has is looked at more often: it is what all asynchronous calls are refused by.
const ROOM_EVERY: Duration = Duration::from_secs(2);

/// A body is there before the element that names it, by as long as its last sync and storing the element take: a minute
/// and a half at most.
const UNNAMED_MAX: Duration = Duration::from_secs(15 * 60);

/// For this node to see what the cluster has acknowledged.
const CATCH_UP_TIME: Duration = Duration::from_secs(10);

/// Bodies that are fetched at once, so that deliveries have the network first.
const FETCHES: usize = 2;

/// Rows of the state that are read at once.
const PAGE: usize = 1024;

/// For a node to see what the cluster has acknowledged, when another one asks what it lacks.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Between two questions whether others have all bodies.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Runs until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    tokio::join!(watch_room(&shared), look(&shared));
}

async fn watch_room(shared: &Shared) {
    loop {
        let folder = Arc::clone(&shared.folder);
        match blocking(move || folder.room()).await {
            Ok(room) => shared.note_room(room),
            Err(error) => tracing::warn!(%error, "cannot tell how full the disk of stored bodies is"),
        }
        tokio::time::sleep(ROOM_EVERY).await;
    }
}

async fn look(shared: &Arc<Shared>) {
    let mut unnamed = Unnamed::default();
    // A node that was away would find that it lacks nothing, of what it knows of. Without a leader nothing can be known.
    let _seen = shared.store.catch_up(CATCH_UP_TIME).await.is_ok();
    loop {
        shared.forget_silent().await;
        let pause = match compare(shared, &mut unnamed).await {
            Ok(missing) => repair(shared, missing).await,
            Err(error) => {
                tracing::warn!(%error, "cannot compare stored bodies with stored requests");
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.hurry.notified() => tokio::time::sleep(LOOK_SOON).await,
        }
    }
}

/// What was seen without an element, and since when.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unnamed(BTreeMap<ElementId, Instant>);

impl Unnamed {
    /// Takes the files that have no element now, and gives those that have had none for too long.
    pub(super) fn see(&mut self, files: impl IntoIterator<Item = ElementId>, now: Instant) -> Vec<ElementId> {
        let former = std::mem::take(&mut self.0);
        self.0 = files.into_iter().map(|id| (id, former.get(&id).copied().unwrap_or(now))).collect();
        let old = self.0.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= UNNAMED_MAX);
        old.map(|(id, _)| *id).collect()
    }
}

/// What the state and the folder do not have in common.
#[derive(Default)]
struct Differences {
    /// Named by elements, and not in the folder.
    missing: Vec<(ElementId, BodyFile)>,
    /// In the folder, and not named by elements.
    unnamed: BTreeSet<ElementId>,
}

/// Sweeps, and gives what is missing.
async fn compare(shared: &Arc<Shared>, unnamed: &mut Unnamed) -> io::Result<Vec<(ElementId, BodyFile)>> {
    let both = Arc::clone(shared);
    let found = blocking(move || both.differences()).await?;
    let old = unnamed.see(found.unnamed, clock::now());
    if !old.is_empty() {
        sweep(shared, old).await;
    }
    shared.stats.missing.store(found.missing.len() as u64, Ordering::Relaxed);
    Ok(found.missing)
}

impl Shared {
    fn differences(&self) -> io::Result<Differences> {
        // The files first: what comes meanwhile is looked for once more, and what goes meanwhile is not missed.
        let (files, damaged) = (self.folder.list()?, self.folder.list_damaged()?);
        let mut found =
            Differences { missing: Vec::new(), unnamed: files.keys().chain(damaged.keys()).copied().collect() };
        let mut from = ElementId([0; 16]);
        loop {
            let page = self.store.bodies(from, PAGE).map_err(io::Error::other)?;
            for (id, file) in &page {
                found.unnamed.remove(id);
                if files.get(id) != Some(&file.bytes) {
                    found.missing.push((*id, *file));
                }
            }
            match page.last().and_then(|(last, _)| u128::from_be_bytes(last.0).checked_add(1)) {
                Some(next) if page.len() == PAGE => from = ElementId(next.to_be_bytes()),
                _ => return Ok(found),
            }
        }
    }
}

/// Removes files that no element names, in a state that has everything that was acknowledged.
pub(super) async fn sweep(shared: &Arc<Shared>, old: Vec<ElementId>) {
    if shared.store.catch_up(CATCH_UP_TIME).await.is_err() {
        return;
    }
    for id in old {
        if shared.store.body(id).is_ok_and(|body| body.is_none()) {
            tracing::info!(element = %id, "removing a body that belongs to no stored request");
            add(&shared.stats.swept);
            shared.release(id).await;
        }
    }
}

/// Fetches what is missing; how long until the next look.
async fn repair(shared: &Arc<Shared>, missing: Vec<(ElementId, BodyFile)>) -> Duration {
    let total = missing.len();
    let fetches = missing.into_iter().map(|(id, file)| async move {
        // It may be done meanwhile.
        if shared.store.body(id).ok().flatten() != Some(file) {
            return None;
        }
        fetch::obtain(shared, id, file).await.err()
    });
    let failures: Vec<Missing> =
        futures::stream::iter(fetches).buffer_unordered(FETCHES).filter_map(std::future::ready).collect().await;
    shared.stats.missing.store(failures.len() as u64, Ordering::Relaxed);
    if let Some(failure) = failures.first() {
        tracing::warn!(missing = failures.len(), %failure, "this node lacks bodies of stored requests, and will try again");
        return LOOK_AGAIN;
    }
    if total > 0 {
        tracing::info!(fetched = total, "this node has all bodies of stored requests again");
    }
    LOOK_EVERY
}

/// How many bodies of what was acknowledged this node lacks. It hurries to get them.
pub(super) async fn missing(shared: &Arc<Shared>) -> io::Result<u64> {
    shared.store.catch_up(ANSWER_TIME).await.map_err(io::Error::other)?;
    let both = Arc::clone(shared);
    let missing = blocking(move || both.differences()).await?.missing;
    if !missing.is_empty() {
        shared.hurry.notify_one();
    }
    Ok(missing.len() as u64)
}

/// Waits until all others that are up have everything. They fetch it here, among others.
pub(super) async fn hand_over(shared: &Arc<Shared>) {
    let Some(client) = shared.client() else { return };
    while shared.folder.totals().0 > 0 {
        let others = shared.others();
        let asked = others.iter().map(|peer| lacks(client, peer));
        if !futures::future::join_all(asked).await.contains(&true) {
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Whether another node is up and has not got everything. One that does not know what that is has not.
async fn lacks(client: &Client, peer: &Peer) -> bool {
    let deadline = clock::now() + 2 * ANSWER_TIME;
    match client.call(peer.address, Kind::BodyRead, Read::Missing.encode(), deadline).await {
        Ok(answer) => Found::decode(answer) != Ok(Found::Missing(0)),
        Err(error) => matches!(error, CallError::Failed(_)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_old_once_they_were_seen_unnamed_for_long() {
        let id = |number: u8| ElementId([number; 16]);
        let (mut unnamed, start) = (Unnamed::default(), clock::now());
        let minutes = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(unnamed.see([id(1), id(2)], start), []);
        assert_eq!(unnamed.see([id(1)], minutes(10)), []);
        // It had an element meanwhile, so it begins anew.
        assert_eq!(unnamed.see([id(1), id(2)], minutes(14)), []);
        assert_eq!(unnamed.see([id(1), id(2)], minutes(15)), [id(1)]);
        assert_eq!(unnamed.see([id(2)], minutes(28)), []);
        assert_eq!(unnamed.see([id(2)], minutes(29)), [id(2)]);
    }
}
