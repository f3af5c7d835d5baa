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
use crate::clock;
use crate::model::function::FunctionId;
use crate::model::spec::CallPolicy;
use crate::model::stats::AsyncStats;
use crate::proxy::enqueue::{Accepted, BODY_BYTES_MAX, Intake, IntakeFuture};
use crate::proxy::rejection::Rejection;
use crate::store::{Store, StoreError};

/// For a majority to have a request on its disks. Longer than an election.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Stores requests through the replicated log.
pub struct Inbox {
    store: Store,
    limits: Limits,
    stats: Arc<AsyncStats>,
    /// Makes ids that nobody guesses: keyed at random in each process.
    entropy: RandomState,
    count: AtomicU64,
}

impl Inbox {
    pub fn new(store: Store, limits: Limits, stats: Arc<AsyncStats>) -> Arc<Self> {
        Arc::new(Self { store, limits, stats, entropy: RandomState::new(), count: AtomicU64::new(0) })
    }

    fn next_id(&self) -> ElementId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut entropy = [0; 10];
        entropy[..8].copy_from_slice(&self.entropy.hash_one(count).to_be_bytes());
        entropy[8..].copy_from_slice(&self.entropy.hash_one((count, 1)).to_be_bytes()[..2]);
        ElementId::new(clock::unix_millis(), entropy)
    }
}

impl Intake for Inbox {
    fn has_room(&self, function: &FunctionId) -> Result<(), Rejection> {
        let full = |limit: Limit| Err(Rejection::QueueFull { limit: limit.as_str() });
        let (elements, bytes) = self.store.totals();
        if elements >= self.limits.total_elements {
            return full(Limit::TotalElements);
        }
        if bytes >= self.limits.total_bytes {
            return full(Limit::TotalBytes);
        }
        let Some(queue) = self.store.queue(function) else { return Ok(()) };
        if queue.pending() >= self.limits.function_elements {
            return full(Limit::FunctionElements);
        }
        if queue.bytes >= self.limits.function_bytes {
            return full(Limit::FunctionBytes);
        }
        Ok(())
    }

    fn store(&self, request: Accepted) -> IntakeFuture<'_, String> {
        Box::pin(async move {
            let began = clock::now();
            let id = self.next_id();
            let enqueue = Enqueue {
                id,
                function: request.function.id.clone(),
                policy: policy(&request.function.spec.async_calls),
                request: encode(request),
                place: Place::default(),
                body_file: None,
            };
            match self.store.propose(Command::Enqueue(enqueue), STORE_TIMEOUT).await {
                Ok(Reply::Refused(limit)) => Err(Rejection::QueueFull { limit: limit.as_str() }),
                Ok(Reply::Done | Reply::Stale | Reply::Changed { .. }) => {
                    self.stats.stored.record(clock::now().saturating_duration_since(began));
                    Ok(id.to_string())
                }
                Err(StoreError::TooLarge) => Err(Rejection::BodyTooLarge { limit: BODY_BYTES_MAX as u64 }),
                Err(StoreError::Busy) => Err(Rejection::QueueFull { limit: "requests being stored" }),
                Err(error) => {
                    tracing::warn!(%error, "an asynchronous request was not stored");
                    Err(Rejection::QueueUnavailable)
                }
            }
        })
    }

    fn called_back<'a>(&'a self, element: &'a str, succeeded: bool) -> IntakeFuture<'a, ()> {
        Box::pin(async move {
            // What is no id is the id of nothing.
            let Some(element) = ElementId::parse(element) else { return Ok(()) };
            match self.store.propose(Command::Callback { element, succeeded }, STORE_TIMEOUT).await {
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

fn encode(request: Accepted) -> Bytes {
    let headers = request.headers.iter();
    let stored = StoredRequest {
        method: request.method.as_str().to_owned(),
        path_and_query: request.target.as_str().to_owned(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        body: Body::Inline(request.body),
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
