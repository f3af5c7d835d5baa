//! Every limit of the peer port, with its reason.

use std::time::Duration;

use crate::peer::service::Kind;

/// Connections to other nodes, and from them, each: far more than a gateway has nodes.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Connections that have not proven anything yet. When one more comes the oldest is closed: a handshake takes
/// milliseconds, so whoever floods the port cannot keep nodes out by holding places.
pub(super) const STRANGERS_MAX: usize = 32;

/// Calls under way on a connection, each way. A few for Raft, two hundred for streams of bodies, and as many again.
pub(super) const CALLS_MAX: usize = 1024;

/// Request and reply of up to this count as small: [`CALLS_MAX`] bounds them to 32 MiB, and they never wait for
/// memory that transfers use.
const SMALL_BYTES: usize = 16 << 10;

/// Bytes of larger requests and of the replies that they may have, under way on a connection, each way: a dozen calls
/// of 1 MiB fill a network of 10 Gbit/s with a millisecond's way.
pub(super) const BULK_BYTES_MAX: usize = 16 << 20;

/// To connect and to agree on keys. Within a cluster it takes milliseconds; the time is for a lost packet or two.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(3);

/// After a failure nothing is tried for this long, doubling up to the maximum: calls fail at once meanwhile.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(50);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The calling side asks for a sign of life this often.
pub(super) const PING_EVERY: Duration = Duration::from_secs(2);

/// Without any record for this long the other end is gone: two lost pings and a half.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Records that are written at once must be taken within this time; between two machines it takes a millisecond.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(5);

/// A connection without calls is closed after this time.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a connection may still be used whose key is not accepted any more; the caller is told to make another one.
pub(super) const REVOKED_GRACE: Duration = Duration::from_secs(5);

/// A connection that was made with a former key, since the peer did not have the present one, is made anew after this.
pub(super) const PRESENT_KEY_AFTER: Duration = Duration::from_secs(10);

/// How long calls wait for a connection to end that is to be replaced, before they go on with it.
pub(super) const RETIRE_TIME: Duration = Duration::from_millis(250);

/// At the end of the process, for the caller to close before this side does: what crosses a close is unknown to it.
pub(super) const CLOSE_GRACE: Duration = Duration::from_millis(200);

/// What the kernel holds unsent, what it holds unread (twice this, with its own bookkeeping), and what is written at
/// once: a small call waits behind no more than these. For a millisecond's way 200 KiB are 200 MiB/s.
pub(super) const UNSENT_BYTES: u32 = 128 << 10;
pub(super) const UNREAD_BYTES: usize = 200 << 10;
pub(super) const RECORDS_AT_ONCE: usize = 2;

/// What a call takes of [`BULK_BYTES_MAX`]: nothing if it is small. Both ends count alike.
pub(super) fn bulk_bytes(kind: Kind, request: usize) -> usize {
    let reply = kind.limits().reply;
    if request <= SMALL_BYTES && reply <= SMALL_BYTES { 0 } else { request + reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_call_fits_an_empty_connection() {
        for kind in Kind::ALL {
            assert!(bulk_bytes(kind, kind.limits().request) <= BULK_BYTES_MAX, "{kind:?}");
        }
    }

    #[test]
    fn small_calls_take_nothing_of_the_bulk() {
        assert_eq!(bulk_bytes(Kind::Raft, SMALL_BYTES), 0);
        assert_eq!(bulk_bytes(Kind::Raft, SMALL_BYTES + 1), 2 * SMALL_BYTES + 1);
        assert_eq!(bulk_bytes(Kind::BodyRead, 1), 1 + Kind::BodyRead.limits().reply);
    }
}
