//! What other nodes ask of this one: to take bodies, and to give them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::folder::{Coming, Part, Verdict, is_full};
use super::stats::add;
use super::wire::{Found, PART_BYTES, Read, Write, Written};
use super::{Shared, blocking, fetch, lock, upkeep};
use crate::clock::{self, Tick};
use crate::peer::{Answer, Failure, Service};
use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;

/// Bodies that come from others at once. A node sends no more than `UPLOADS_MAX` of them.
const INCOMING_MAX: usize = 512;

/// A body of which nothing came for so long will not come: even a client that sends nothing lets its node send a sign of
/// life more often.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Nobody who needs the body waits any longer for the next part of it.
const STALLED: Duration = Duration::from_secs(3);

/// A body that another node sends here.
pub(super) struct Incoming {
    /// `None`: not begun, or it broke off. Held while the disk works.
    part: Mutex<Option<Part>>,
    /// The [`Tick`] of the last call about it.
    touched: AtomicU64,
}

pub(super) struct Writes(pub(super) Arc<Shared>);

pub(super) struct Reads(pub(super) Arc<Shared>);

/// Writing goes on when the caller gives up; he asks again, and is answered what he would have been.
impl Service for Writes {
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        Box::pin(async move {
            let write = Write::decode(request).map_err(|error| Failure(format!("the call {}", error.0)))?;
            let written = match write {
                Write::Part { id, offset, expected, data } => self.0.take(id, offset, expected, data).await,
                Write::Finish { id, file } => self.0.finish(id, file).await,
                Write::Discard { id } => self.0.discard(id).await,
            };
            match written {
                Ok(written) => Ok(written.encode()),
                Err(error) if is_full(&error) => Ok(Written::Full.encode()),
                Err(error) => {
                    tracing::warn!(%error, "cannot write the body of a stored request");
                    Err(Failure(error.to_string()))
                }
            }
        })
    }
}

impl Service for Reads {
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        Box::pin(async move {
            let read = Read::decode(request).map_err(|error| Failure(format!("the call {}", error.0)))?;
            let found = match read {
                Read::Part { id, offset, max } => self.0.give(id, offset, max).await,
                Read::Missing => upkeep::missing(&self.0).await.map(Found::Missing),
                Read::Suspect { id, file } => self.0.doubt(id, file).await,
            };
            found.map(|found| found.encode()).map_err(|error| Failure(error.to_string()))
        })
    }
}

impl Incoming {
    fn take(&self, shared: &Shared, id: ElementId, offset: u64, expected: u64, data: &[u8]) -> io::Result<Written> {
        let mut coming = lock(&self.part);
        let end = offset.saturating_add(data.len() as u64);
        if coming.is_none() && offset == 0 {
            *coming = Some(Part::create(&shared.folder, id, Coming::Pushed, expected)?);
        }
        let Some(part) = &mut *coming else { return Ok(Written::Unknown) };
        let done = Written::Done { node: shared.node() };
        if end <= part.written() {
            // It came before, and the answer was lost.
            return Ok(done);
        }
        if offset != part.written() {
            return Ok(Written::Unknown);
        }
        match part.append(data) {
            Ok(()) => Ok(done),
            Err(error) => {
                *coming = None;
                Err(error)
            }
        }
    }

    fn finish(&self, shared: &Shared, file: BodyFile) -> io::Result<Written> {
        let Some(part) = lock(&self.part).take_if(|part| part.content() == file) else { return Ok(Written::Unknown) };
        part.finish()?;
        Ok(Written::Done { node: shared.node() })
    }

    fn touch(&self) {
        self.touched.store(Tick::of(clock::now()).0, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        Tick(self.touched.load(Ordering::Relaxed)).until(Tick::of(clock::now()))
    }
}

impl Shared {
    async fn take(self: &Arc<Self>, id: ElementId, offset: u64, expected: u64, data: Bytes) -> io::Result<Written> {
        let Some(incoming) = self.incoming(id, offset) else { return Ok(Written::Unknown) };
        let shared = Arc::clone(self);
        blocking(move || incoming.take(&shared, id, offset, expected, &data)).await
    }

    /// A first part begins a body.
    fn incoming(&self, id: ElementId, offset: u64) -> Option<Arc<Incoming>> {
        let mut all = lock(&self.incoming);
        if let Some(known) = all.get(&id) {
            known.touch();
            return Some(Arc::clone(known));
        }
        if offset != 0 || all.len() >= INCOMING_MAX {
            return None;
        }
        let incoming = Arc::new(Incoming { part: Mutex::default(), touched: AtomicU64::new(0) });
        incoming.touch();
        all.insert(id, Arc::clone(&incoming));
        Some(incoming)
    }

    async fn finish(self: &Arc<Self>, id: ElementId, file: BodyFile) -> io::Result<Written> {
        let known = lock(&self.incoming).get(&id).cloned();
        let shared = Arc::clone(self);
        let finished = blocking(move || {
            let written = match &known {
                Some(incoming) => incoming.finish(&shared, file),
                None => Ok(Written::Unknown),
            };
            let written = match written {
                // It was finished before, and the answer was lost; or it came another way.
                Ok(Written::Unknown) if shared.folder.has(id, file)? => Ok(Written::Done { node: shared.node() }),
                written => written,
            };
            lock(&shared.incoming).remove(&id);
            written
        });
        let finished = finished.await;
        self.settled.notify_waiters();
        finished
    }

    async fn discard(self: &Arc<Self>, id: ElementId) -> io::Result<Written> {
        let known = lock(&self.incoming).remove(&id);
        let shared = Arc::clone(self);
        let discarded = blocking(move || {
            drop(known);
            // Only who has not proposed an element, or knows that it was not stored, discards its body. In doubt it stays.
            if shared.store.body(id).is_ok_and(|body| body.is_none()) {
                shared.folder.remove(id)?;
            }
            Ok(Written::Done { node: shared.node() })
        });
        let discarded = discarded.await;
        self.settled.notify_waiters();
        discarded
    }

    async fn give(self: &Arc<Self>, id: ElementId, offset: u64, max: u32) -> io::Result<Found> {
        let folder = Arc::clone(&self.folder);
        let max = usize::try_from(max).unwrap_or(PART_BYTES).min(PART_BYTES);
        let read = blocking(move || folder.read(id, offset, max)).await?;
        Ok(read.map_or(Found::Absent, |bytes| Found::Part(bytes.into())))
    }

    /// Another node could not use what it got from here.
    async fn doubt(self: &Arc<Self>, id: ElementId, file: BodyFile) -> io::Result<Found> {
        // What no element names is nobody's to judge.
        if self.store.body(id).ok().flatten() != Some(file) {
            return Ok(Found::Absent);
        }
        let folder = Arc::clone(&self.folder);
        if let Verdict::Damaged = blocking(move || folder.verify(id, file)).await? {
            fetch::set_aside(self, id).await?;
            self.hurry.notify_one();
        }
        Ok(Found::Absent)
    }

    /// Whether a body is on its way here.
    pub(super) fn is_coming(&self, id: ElementId) -> bool {
        let known = lock(&self.incoming).get(&id).cloned();
        known.is_some_and(|incoming| incoming.silence() < STALLED)
    }

    /// Gives up what does not come any more.
    pub(super) async fn forget_silent(&self) {
        let mut forgotten = Vec::new();
        lock(&self.incoming).retain(|_, incoming| {
            let keeps = incoming.silence() < SILENT_MAX;
            forgotten.extend((!keeps).then(|| Arc::clone(incoming)));
            keeps
        });
        if forgotten.is_empty() {
            return;
        }
        let _removed = blocking(move || {
            drop(forgotten);
            Ok(())
        })
        .await
        .is_ok();
        self.settled.notify_waiters();
    }

    pub(super) fn damaged(&self) {
        add(&self.stats.damaged);
    }

    pub(super) fn note_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Shared {
    /// Begins as many bodies as others may send at once; whether one more is refused.
    pub(super) fn has_limit_of_incoming(&self) -> bool {
        let id = |number: usize| ElementId((number as u128).to_be_bytes());
        let taken = (0..INCOMING_MAX).all(|number| self.incoming(id(number), 0).is_some());
        taken && self.incoming(id(INCOMING_MAX), 0).is_none() && self.incoming(id(0), 5).is_some()
    }
}
