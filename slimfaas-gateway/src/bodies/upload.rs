//! A body on its way in: to this node's disk and to the others at the same time, and to be counted when it is there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::copies::{self, Copies, Majority};
use super::folder::{Coming, Part, is_full};
use super::stats::{Ended, add};
use super::wire::{PART_BYTES, PART_HEAD_BYTES, Write};
use super::{Shared, blocking};
use crate::queue::element::ElementId;
use crate::queue::request::BodyFile;

/// For a place among the uploads.
const PLACE_WAIT: Duration = Duration::from_secs(2);

/// For this node to know who votes.
const VOTERS_WAIT: Duration = Duration::from_secs(5);

/// What a slow client has sent goes on after this time, so that others learn that it is still there.
const FLUSH_AFTER: Duration = Duration::from_secs(5);

/// How long nodes that are a little behind are waited for, once the body is stored: the upload keeps its place meanwhile.
const REST_TIME: Duration = Duration::from_secs(5);

/// Why a body was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    #[error("too many uploads are under way")]
    Busy,
    #[error("the disk is nearly full")]
    Full,
    #[error("no majority of gateway nodes took it")]
    NoMajority,
    #[error("this node's disk failed, or the node is ending")]
    Failed,
}

/// A body that is being written. Dropped before `finish`, it leaves nothing on any node.
pub struct Upload {
    pieces: mpsc::Sender<Piece>,
    done: oneshot::Receiver<Result<Stored, UploadError>>,
}

enum Piece {
    Data(Bytes),
    End,
}

/// A body on the disks of a majority, whose element is still to be stored. Dropped without a word, the body stays until
/// the sweep knows whether an element names it.
pub struct Stored {
    pub file: BodyFile,
    fate: oneshot::Sender<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Discarded,
}

impl Stored {
    /// Its element is in the log.
    pub fn keep(self) {
        let _ended = self.fate.send(Fate::Kept).is_err();
    }

    /// Its element is not, and never will be.
    pub fn discard(self) {
        let _ended = self.fate.send(Fate::Discarded).is_err();
    }
}

impl Upload {
    /// Waits while what was written before is on its way.
    pub async fn write(&mut self, data: Bytes) -> Result<(), UploadError> {
        match self.pieces.send(Piece::Data(data)).await {
            Ok(()) => Ok(()),
            Err(_ended) => Err(self.end().await.err().unwrap_or(UploadError::Failed)),
        }
    }

    /// All was written. Resolves once it is on the disks of a majority.
    pub async fn finish(mut self) -> Result<Stored, UploadError> {
        let _ended = self.pieces.send(Piece::End).await.is_err();
        self.end().await
    }

    async fn end(&mut self) -> Result<Stored, UploadError> {
        (&mut self.done).await.unwrap_or(Err(UploadError::Failed))
    }
}

/// What the one who runs it needs.
pub(super) struct Work {
    id: ElementId,
    part: Part,
    expected: u64,
    pieces: mpsc::Receiver<Piece>,
    done: oneshot::Sender<Result<Stored, UploadError>>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn begin(shared: &Arc<Shared>, id: ElementId, declared: Option<u64>) -> Result<Upload, UploadError> {
    let begun = try_begin(shared, id, declared.unwrap_or(0)).await;
    if let Err(error) = &begun {
        shared.stats.count(error.as_ended());
    }
    begun
}

async fn try_begin(shared: &Arc<Shared>, id: ElementId, expected: u64) -> Result<Upload, UploadError> {
    let place = tokio::time::timeout(PLACE_WAIT, Arc::clone(&shared.places).acquire_owned());
    let place = place.await.map_err(|_elapsed| UploadError::Busy)?.map_err(|_closed| UploadError::Failed)?;
    let mut role = shared.store.role();
    // A process that has just begun does not know them; that the store has ended shows in what follows.
    let _known = tokio::time::timeout(VOTERS_WAIT, role.wait_for(|role| role.voters > 0)).await.is_ok();
    if !copies::is_possible(shared) {
        return Err(UploadError::NoMajority);
    }
    let folder = Arc::clone(&shared.folder);
    let part = blocking(move || Part::create(&folder, id, Coming::Pushed, expected)).await;
    let part = part.map_err(|error| failed(&error))?;
    let (pieces, pieces_out) = mpsc::channel(1);
    let (done, done_out) = oneshot::channel();
    let work = Work { id, part, expected, pieces: pieces_out, done, _place: place };
    shared.uploads.send(work).map_err(|_ended| UploadError::Failed)?;
    Ok(Upload { pieces, done: done_out })
}

/// Runs until nothing more can become of it.
pub(super) async fn run(shared: Arc<Shared>, work: Work) {
    let Work { id, part, expected, pieces, done, _place } = work;
    let mut copies = Copies::begin(&shared);
    let file = match receive(&mut copies, id, part, expected, pieces).await {
        Ok(file) => file,
        Err(end) => {
            shared.stats.count(end.map_or(Ended::Abandoned, UploadError::as_ended));
            let _gone = done.send(Err(end.unwrap_or(UploadError::Failed))).is_err();
            shared.release(id).await;
            return copies.discard(Write::Discard { id }.encode()).await;
        }
    };
    let (fate, fate_out) = oneshot::channel();
    let told = done.send(Ok(Stored { file, fate })).is_ok();
    // A client that has gone before its request was proposed wants none.
    let fate = if told { fate_out.await.ok() } else { Some(Fate::Discarded) };
    if fate == Some(Fate::Discarded) {
        shared.stats.count(Ended::NotStored);
        shared.release(id).await;
        return copies.discard(Write::Discard { id }.encode()).await;
    }
    add(&shared.stats.stored);
    let _late = tokio::time::timeout(REST_TIME, copies.rest()).await.is_err();
}

/// Writes what comes until it is stored. `Err(None)`: it was abandoned.
async fn receive(
    copies: &mut Copies,
    id: ElementId,
    mut part: Part,
    expected: u64,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<BodyFile, Option<UploadError>> {
    let mut filling = Write::part(id, 0, expected);
    loop {
        let piece = tokio::time::timeout(FLUSH_AFTER, pieces.recv()).await;
        match piece {
            Ok(Some(Piece::Data(mut data))) => {
                while !data.is_empty() {
                    let fits = (PART_HEAD_BYTES + PART_BYTES).saturating_sub(filling.len()).min(data.len());
                    filling.extend_from_slice(&data.split_to(fits));
                    if filling.len() >= PART_HEAD_BYTES + PART_BYTES {
                        part = write(copies, id, part, expected, &mut filling).await?;
                    }
                }
            }
            Ok(Some(Piece::End)) => break,
            Ok(None) => return Err(None),
            Err(_elapsed) => part = write(copies, id, part, expected, &mut filling).await?,
        }
    }
    part = write(copies, id, part, expected, &mut filling).await?;
    finish(copies, id, part).await.map_err(Some)
}

/// Writes what is in `filling`, and makes it ready for more.
async fn write(
    copies: &mut Copies,
    id: ElementId,
    mut part: Part,
    expected: u64,
    filling: &mut BytesMut,
) -> Result<Part, UploadError> {
    let payload = std::mem::take(filling).freeze();
    let data = payload.slice(PART_HEAD_BYTES..);
    let local = blocking(move || part.append(&data).map(|()| part));
    let (written, ()) = tokio::join!(local, copies.give(&payload));
    let part = written.map_err(|error| failed(&error))?;
    if copies.majority() == Majority::Impossible {
        return Err(no_majority(copies));
    }
    *filling = Write::part(id, part.written(), expected);
    Ok(part)
}

async fn finish(copies: &mut Copies, id: ElementId, part: Part) -> Result<BodyFile, UploadError> {
    let file = part.content();
    let end = Write::Finish { id, file }.encode();
    let (finished, ()) = tokio::join!(blocking(move || part.finish()), copies.give(&end));
    finished.map_err(|error| failed(&error))?;
    copies.stored_here();
    match copies.settle().await {
        Majority::Reached => Ok(file),
        Majority::Possible | Majority::Impossible => Err(no_majority(copies)),
    }
}

fn no_majority(copies: &Copies) -> UploadError {
    if copies.is_full() { UploadError::Full } else { UploadError::NoMajority }
}

fn failed(error: &io::Error) -> UploadError {
    if is_full(error) {
        return UploadError::Full;
    }
    tracing::warn!(%error, "cannot write the body of a request: check the disk of the store's directory");
    UploadError::Failed
}

impl UploadError {
    fn as_ended(self) -> Ended {
        match self {
            Self::Busy => Ended::Busy,
            Self::Full => Ended::Full,
            Self::NoMajority => Ended::NotStored,
            Self::Failed => Ended::Failed,
        }
    }
}
