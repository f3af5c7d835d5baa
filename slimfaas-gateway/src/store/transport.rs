//! How peers are reached. The store needs one call and one answer; who is at the other end, and that they may ask, is
//! the peer port's business.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Store;
use crate::clock;
use crate::peer::{Answer, CallError, Client, Kind, Service};

/// Sends calls to peers.
pub trait Transport: Send + Sync + 'static {
    /// Calls the peer port at `to`, whose [`Store::serve`] answers. Ends within `timeout`.
    fn call(&self, to: SocketAddr, lane: Lane, payload: Bytes, timeout: Duration) -> Calling<'_>;
}

pub type Calling<'a> = Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>>;

/// Large payloads are not to hold up small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Raft,
    Snapshot,
}

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("peer cannot be reached: {0}")]
    NotSent(String),
    /// It may have been served.
    #[error("peer did not answer: {0}")]
    NotAnswered(String),
}

/// The peer port.
impl Transport for Client {
    fn call(&self, to: SocketAddr, lane: Lane, payload: Bytes, timeout: Duration) -> Calling<'_> {
        let kind = match lane {
            Lane::Raft => Kind::Raft,
            Lane::Snapshot => Kind::Snapshot,
        };
        Box::pin(async move {
            let called = Client::call(self, to, kind, payload, clock::now() + timeout).await;
            called.map_err(|error| match error {
                CallError::NotDone(why) => TransportError::NotSent(why.to_string()),
                CallError::Unknown(_) | CallError::Failed(_) => TransportError::NotAnswered(error.to_string()),
            })
        })
    }
}

/// To be registered for both of [`Kind::Raft`] and [`Kind::Snapshot`].
impl Service for Store {
    fn serve(&self, _from: Arc<str>, request: Bytes) -> Answer<'_> {
        Box::pin(async move { Ok(Store::serve(self, request).await) })
    }
}
