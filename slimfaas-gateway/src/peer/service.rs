//! What can be asked of another node, and how a call ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

/// What a call is about. Its number stands on the wire and is never used for anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// What functions are doing on the calling node.
    Activity = 1,
    /// Raft's short messages and its entries.
    Raft = 2,
    /// Parts of a snapshot, pushed.
    Snapshot = 3,
    /// Parts of a request's body, pushed.
    BodyWrite = 4,
    /// Parts of a request's body, fetched.
    BodyRead = 5,
    /// What a node's agent is to tell its kernel.
    Agent = 6,
}

/// The largest payloads of a kind, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadLimits {
    pub request: usize,
    pub reply: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Activity, Self::Raft, Self::Snapshot, Self::BodyWrite, Self::BodyRead, Self::Agent];

    /// Transfers are cut into calls of 1 MiB: large enough that a call costs nothing beside its bytes, and small
    /// enough that a dozen are under way within the memory of one connection.
    pub fn limits(self) -> PayloadLimits {
        match self {
            // Some ten thousand functions; more go in several calls.
            Self::Activity => PayloadLimits { request: MIB, reply: 64 },
            // One entry holds every proposal that waited for a sync of the disk.
            Self::Raft => PayloadLimits { request: 8 * MIB, reply: 16 * KIB },
            Self::Snapshot | Self::BodyWrite => PayloadLimits { request: MIB + 4 * KIB, reply: 4 * KIB },
            Self::BodyRead => PayloadLimits { request: 4 * KIB, reply: MIB + 4 * KIB },
            // The whole policy: as much as the kernel's maps hold, and nothing like it in most clusters.
            Self::Agent => PayloadLimits { request: 4 * KIB, reply: 3 * MIB },
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Activity => "activity",
            Self::Raft => "raft",
            Self::Snapshot => "snapshot",
            Self::BodyWrite => "body-write",
            Self::BodyRead => "body-read",
            Self::Agent => "agent",
        }
    }

    pub(super) fn index(self) -> usize {
        usize::from(self as u8) - 1
    }

    pub(super) fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// What a service answers.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send + 'a>>;

/// Answers the calls of one [`Kind`].
pub trait Service: Send + Sync + 'static {
    /// `from`: the name that the caller gives itself; that it holds the key is all that is proven. Calls run
    /// concurrently and in no order. The future is dropped when the caller gives up, its time is over, or the
    /// connection ends: what must not stop half-way belongs into a task of the service's own.
    fn serve(&self, from: Arc<str>, request: Bytes) -> Answer<'_>;
}

/// A service cannot do what it was asked. The text is for people and is cut at 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

pub(super) const FAILURE_BYTES_MAX: usize = 512;

/// Why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No service has seen it: it may be repeated, here or elsewhere.
    #[error("not done: {0}")]
    NotDone(NotDone),
    /// It was sent: it may have been done, may be running, or may never have arrived.
    #[error("sent, and no answer: {0}")]
    Unknown(Lost),
    /// The service ran and failed.
    #[error("the peer failed: {0}")]
    Failed(Failure),
}

impl CallError {
    /// Whether repeating it cannot do anything twice.
    pub fn is_repeatable(&self) -> bool {
        matches!(self, Self::NotDone(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    #[error("the payload is larger than its kind allows")]
    TooLarge,
    #[error("there are too many connections to peers")]
    TooManyPeers,
    #[error("its time was over before it was sent")]
    Deadline,
    #[error("the peer cannot be reached: {0}")]
    Unreachable(Arc<str>),
    #[error("the connection was lost before it was sent")]
    Disconnected,
    #[error("this node or the peer is ending, or changes its keys")]
    Closing,
    #[error("the peer has too much to do")]
    Busy,
    #[error("the peer has no such service; check that both run the same version")]
    NoService,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("its time is over")]
    Deadline,
    #[error("the connection was lost")]
    Disconnected,
}

/// What a reply says, as its code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done = 0,
    Failed = 1,
    Busy = 2,
    NoService = 3,
    Closing = 4,
    TooLarge = 5,
}

impl Outcome {
    pub(super) fn of(code: u8) -> Option<Self> {
        [Self::Done, Self::Failed, Self::Busy, Self::NoService, Self::Closing, Self::TooLarge]
            .into_iter()
            .find(|outcome| *outcome as u8 == code)
    }

    pub(super) fn into_result(self, payload: Bytes) -> Result<Bytes, CallError> {
        Err(CallError::NotDone(match self {
            Self::Done => return Ok(payload),
            Self::Failed => {
                let text = String::from_utf8_lossy(&payload).into_owned();
                return Err(CallError::Failed(Failure(text)));
            }
            Self::Busy => NotDone::Busy,
            Self::NoService => NotDone::NoService,
            Self::Closing => NotDone::Closing,
            Self::TooLarge => NotDone::TooLarge,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_meanings_go_both_ways() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind as u8), Some(kind));
            assert_eq!(Kind::ALL[kind.index()], kind);
        }
        assert_eq!((Kind::of(0), Kind::of(7)), (None, None));
        for code in 0..6 {
            assert_eq!(Outcome::of(code).map(|outcome| outcome as u8), Some(code));
        }
        assert_eq!(Outcome::of(6), None);
    }

    #[test]
    fn only_what_was_not_done_may_be_repeated() {
        let repeatable = |outcome: Outcome| outcome.into_result(Bytes::new()).map_err(|error| error.is_repeatable());
        assert_eq!(repeatable(Outcome::Done), Ok(Bytes::new()));
        assert_eq!(repeatable(Outcome::Failed), Err(false));
        for outcome in [Outcome::Busy, Outcome::NoService, Outcome::Closing, Outcome::TooLarge] {
            assert_eq!(repeatable(outcome), Err(true));
        }
        assert!(!CallError::Unknown(Lost::Disconnected).is_repeatable());
    }
}
