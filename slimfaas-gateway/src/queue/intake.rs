//! The front door of the queue: requests in, ids out.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::command::{Command, Enqueue, Limit, Limits, Reply};
use super::element::{ElementId, Place, Policy};
use super::request::{Body, StoredRequest};
use crate::bodies::{Bodies, Stored, Upload, UploadError};
use crate::clock;
use crate::model::function::FunctionId;
use crate::model::spec::CallPolicy;
use crate::model::stats::AsyncStats;
use crate::proxy::enqueue::{Accepted, BodyUpload, Intake, IntakeFuture, LOGGED_BODY_BYTES_MAX};
use crate::proxy::rejection::Rejection;
use crate::store::{Store, StoreError};

/// For a majority to have a request on its disks. Longer than an election.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Stores requests through the replicated log.
#[derive(Clone)]
pub struct Inbox(Arc<Shared>);

struct Shared {
    store: Store,
    bodies: Bodies,
    limits: Limits,
    stats: Arc<AsyncStats>,
    /// Of one body.
    body_bytes: u64,
    /// Of bodies that are being uploaded and may be stored.
    uploading: AtomicU64,
    /// Makes ids that nobody guesses: keyed at random in each process.
    entropy: RandomState,
    count: AtomicU64,
}

impl Inbox {
    /// `body_bytes`: no body is larger.
    pub fn new(store: Store, bodies: Bodies, limits: Limits, body_bytes: u64, stats: Arc<AsyncStats>) -> Self {
        let body_bytes = body_bytes.min(limits.function_bytes).min(limits.total_bytes);
        let (uploading, entropy, count) = (AtomicU64::new(0), RandomState::new(), AtomicU64::new(0));
        Self(Arc::new(Shared { store, bodies, limits, stats, body_bytes, uploading, entropy, count }))
    }
}

impl Shared {
    fn next_id(&self) -> ElementId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut entropy = [0; 10];
        entropy[..8].copy_from_slice(&self.entropy.hash_one(count).to_be_bytes());
        entropy[8..].copy_from_slice(&self.entropy.hash_one((count, 1)).to_be_bytes()[..2]);
        ElementId::new(clock::unix_millis(), entropy)
    }

    /// `own`: so many of the bytes are among those being uploaded already.
    fn has_room(&self, function: &FunctionId, bytes: u64, own: u64) -> Result<(), Rejection> {
        let full = |limit: Limit| Err(Rejection::QueueFull { limit: limit.as_str() });
        let (elements, total) = self.store.totals();
        if elements >= self.limits.total_elements {
            return full(Limit::TotalElements);
        }
        // Without a body there has to be room for a head at least.
        let exceeds = |used: u64, limit: u64| used.saturating_add(bytes.max(1)) > limit;
        let uploading = self.uploading.load(Ordering::Relaxed).saturating_sub(own);
        if exceeds(total.saturating_add(uploading), self.limits.total_bytes) {
            return full(Limit::TotalBytes);
        }
        if !self.bodies.has_room(bytes.saturating_sub(own)) {
            return Err(Rejection::StorageFull);
        }
        let Some(queue) = self.store.queue(function) else { return Ok(()) };
        if queue.pending() >= self.limits.function_elements {
            return full(Limit::FunctionElements);
        }
        if exceeds(queue.bytes, self.limits.function_bytes) {
            return full(Limit::FunctionBytes);
        }
        Ok(())
    }

    /// Stores a request; `false` beside a rejection: whether it was stored is not known.
    async fn propose(&self, id: ElementId, request: &Accepted, body: Body) -> Result<String, (Rejection, bool)> {
        let body_file = match &body {
            Body::Inline(_) => None,
            Body::File(file) => Some(*file),
        };
        let enqueue = Enqueue {
            id,
            function: request.function.id.clone(),
            policy: policy(&request.function.spec.async_calls),
            request: encode(request, body),
            place: Place::default(),
            body_file,
        };
        let began = clock::now();
        match self.store.propose(Command::Enqueue(enqueue), STORE_TIMEOUT).await {
            Ok(Reply::Refused(limit)) => Err((Rejection::QueueFull { limit: limit.as_str() }, true)),
            Ok(Reply::Done | Reply::Stale | Reply::Changed { .. }) => {
                self.stats.stored.record(clock::now().saturating_duration_since(began));
                Ok(id.to_string())
            }
            Err(StoreError::TooLarge) => Err((Rejection::BodyTooLarge { limit: LOGGED_BODY_BYTES_MAX as u64 }, true)),
            Err(StoreError::Busy) => Err((Rejection::QueueFull { limit: "requests being stored" }, true)),
            Err(error) => {
                tracing::warn!(%error, "an asynchronous request was not stored");
                Err((Rejection::QueueUnavailable, !matches!(error, StoreError::Unknown)))
            }
        }
    }
}

impl Intake for Inbox {
    fn body_bytes_max(&self) -> u64 {
        self.0.body_bytes
    }

    fn has_room(&self, function: &FunctionId, bytes: u64) -> Result<(), Rejection> {
        self.0.has_room(function, bytes, 0)
    }

    fn store(&self, mut request: Accepted) -> IntakeFuture<'_, String> {
        Box::pin(async move {
            let body = Body::Inline(std::mem::take(&mut request.body));
            self.0.propose(self.0.next_id(), &request, body).await.map_err(|(rejection, _)| rejection)
        })
    }

    fn upload(&self, function: FunctionId, declared: Option<u64>) -> IntakeFuture<'_, Box<dyn BodyUpload>> {
        Box::pin(async move {
            let id = self.0.next_id();
            let reserved = Reserved::of(&self.0, declared.unwrap_or(0));
            let upload = self.0.bodies.upload(id, declared).await.map_err(rejection)?;
            let upload: Box<dyn BodyUpload> = Box::new(Uploading { id, function, reserved, written: 0, upload });
            Ok(upload)
        })
    }

    fn called_back<'a>(&'a self, element: &'a str, succeeded: bool) -> IntakeFuture<'a, ()> {
        Box::pin(async move {
            // What is no id is the id of nothing.
            let Some(element) = ElementId::parse(element) else { return Ok(()) };
            match self.0.store.propose(Command::Callback { element, succeeded }, STORE_TIMEOUT).await {
                Ok(_) => Ok(()),
                Err(error) => {
                    tracing::warn!(%error, %element, "a callback was not stored");
                    Err(Rejection::QueueUnavailable)
                }
            }
        })
    }
}

fn policy(calls: &CallPolicy) -> Policy {
    let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Policy {
        timeout_ms: millis(&calls.http_timeout),
        retry_delays_ms: calls.retry_delays.iter().map(millis).collect(),
        retry_statuses: calls.retry_statuses.clone(),
    }
}

/// A body on its way to the disks.
struct Uploading {
    id: ElementId,
    function: FunctionId,
    reserved: Reserved,
    written: u64,
    upload: Upload,
}

impl BodyUpload for Uploading {
    fn write(&mut self, data: Bytes) -> IntakeFuture<'_, ()> {
        Box::pin(async move {
            self.written += data.len() as u64;
            if self.written > self.reserved.bytes {
                // Its length was not declared.
                self.reserved.inbox.has_room(&self.function, self.written, self.reserved.bytes)?;
                self.reserved.grow(self.written);
            }
            self.upload.write(data).await.map_err(rejection)
        })
    }

    fn finish(self: Box<Self>, request: Accepted) -> IntakeFuture<'static, String> {
        Box::pin(async move {
            let Self { id, reserved, upload, .. } = *self;
            let stored: Stored = upload.finish().await.map_err(rejection)?;
            match reserved.inbox.propose(id, &request, Body::File(stored.file)).await {
                Ok(id) => {
                    stored.keep();
                    Ok(id)
                }
                Err((rejection, is_certain)) => {
                    // In doubt the body stays: an element may name it yet.
                    if is_certain {
                        stored.discard();
                    }
                    Err(rejection)
                }
            }
        })
    }
}

/// A share of all bytes, for a body that is not stored yet.
struct Reserved {
    inbox: Arc<Shared>,
    bytes: u64,
}

impl Reserved {
    fn of(inbox: &Arc<Shared>, bytes: u64) -> Self {
        inbox.uploading.fetch_add(bytes, Ordering::Relaxed);
        Self { inbox: Arc::clone(inbox), bytes }
    }

    fn grow(&mut self, bytes: u64) {
        self.inbox.uploading.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.inbox.uploading.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn rejection(error: UploadError) -> Rejection {
    match error {
        UploadError::Busy => Rejection::QueueFull { limit: "uploads" },
        UploadError::Full => Rejection::StorageFull,
        UploadError::NoMajority | UploadError::Failed => Rejection::QueueUnavailable,
    }
}

fn encode(request: &Accepted, body: Body) -> Bytes {
    let headers = request.headers.iter();
    let stored = StoredRequest {
        method: request.method.as_str().to_owned(),
        path_and_query: request.target.as_str().to_owned(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        body,
    };
    stored.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_in_milliseconds() {
        let calls = CallPolicy {
            http_timeout: Duration::from_secs(120),
            retry_delays: vec![Duration::from_secs(2), Duration::from_millis(500)],
            retry_statuses: vec![500],
        };
        let expected = Policy { timeout_ms: 120_000, retry_delays_ms: vec![2000, 500], retry_statuses: vec![500] };
        assert_eq!(policy(&calls), expected);
    }
}
