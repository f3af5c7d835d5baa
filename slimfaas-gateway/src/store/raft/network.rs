//! Raft's calls to its peers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend, Snapshot, StorageIOError};

use super::links::{CallError, Links, kind};
use super::machine::Image;
use super::shared::{Shared, lock};
use super::types::{LogId, Member, Types, Vote};
use super::{rpc, wire};
use crate::queue::codec::{Reader, Writer};
use crate::queue::tables::TableError;
use crate::store::snapshot::{Position, chunk_at};

/// A call without entries only tells how far the commit is. It waits this long for this node's own disk, so that
/// followers act on what was committed at once rather than with the next heartbeat.
const COMMIT_PATIENCE: Duration = Duration::from_millis(20);

/// A leader whose disk does not finish a write in this time is no leader: it stays silent, and its peers elect another.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// For a chunk of a snapshot, and for installing it.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two tries to reach a peer that is away.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

type Failure = RPCError<u64, Member, RaftError<u64>>;

#[derive(Clone)]
pub(super) struct Network {
    pub(super) links: Arc<Links>,
    pub(super) shared: Arc<Shared>,
}

/// To one peer.
pub(super) struct Link {
    network: Network,
    node: u64,
    name: String,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, member: &Member) -> Link {
        Link { network: self.clone(), node: target, name: member.name.clone() }
    }
}

impl Link {
    async fn call(&self, kind: u8, body: &[u8], timeout: Duration) -> Result<Reader, Failure> {
        let answer = self.network.links.call(self.node, &self.name, kind, body, timeout).await;
        match answer {
            Ok(answer) => Ok(Reader::new(answer)),
            // These may come at once, and openraft would repeat the call at once.
            Err(error @ (CallError::NotServed(_) | CallError::Failed(_))) => Err(Unreachable::new(&error).into()),
            Err(error @ CallError::Unknown(_)) => Err(NetworkError::new(&error).into()),
        }
    }

    /// No more of the commit than this node's own disk has.
    async fn told_commit(&self, commit: Option<LogId>, is_empty: bool) -> Option<LogId> {
        let mut durable = self.network.shared.durable.subscribe();
        if is_empty {
            let reached = durable.wait_for(|durable| *durable >= commit);
            let _late = tokio::time::timeout(COMMIT_PATIENCE, reached).await.is_err();
        }
        commit.min(*durable.borrow())
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        if self.network.shared.writing_for() > DISK_PATIENCE {
            let silent = std::io::Error::other("this node's disk is too slow to lead");
            return Err(Unreachable::new(&silent).into());
        }
        // openraft read the log for this call, as it does for a pause or two after the end of a leadership. If another
        // leader's vote came first, its entries may have too, and need not be what follows `prev_log_id`.
        let vote = *lock(&self.network.shared.vote);
        if let Some(vote) = vote.filter(|vote| *vote > rpc.vote) {
            return Ok(AppendEntriesResponse::HigherVote(vote));
        }
        rpc.leader_commit = self.told_commit(rpc.leader_commit, rpc.entries.is_empty()).await;
        let body = rpc::append_request(&rpc);
        let mut reader = self.call(kind::APPEND, &body, option.hard_ttl()).await?;
        rpc::read_append_response(&mut reader).map_err(|error| NetworkError::new(&error).into())
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        let body = rpc::vote_request(&rpc);
        let mut reader = self.call(kind::VOTE, &body, option.hard_ttl()).await?;
        let response = rpc::read_vote_response(&mut reader).map_err(|error| NetworkError::new(&error))?;
        self.network.links.elections.was_answered(&rpc, &response);
        Ok(response)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        // Dropping the stream ends it; the peer forgets what it has of it when the next begins.
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, &snapshot) => sent,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}

impl Link {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: &Snapshot<Types>,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let unreadable =
            |error: AnyError| StreamingError::StorageError(StorageIOError::read_snapshot(None, error).into());
        let Image::Stored(image) = &*snapshot.snapshot else {
            return Err(unreadable(AnyError::error("only a stored state is sent")));
        };
        // Any other error would have openraft begin anew at once, again and again while the peer is away.
        let failed = |error: CallError| StreamingError::Unreachable(Unreachable::new(&error));
        let (mut position, mut number) = (Position::start(), 0);
        loop {
            let (rows, next) =
                chunk_at(&**image, &position).map_err(|error: TableError| unreadable(AnyError::new(&error)))?;
            let mut writer = Writer::with_capacity(rows.len() + 512);
            wire::write_vote(&mut writer, &vote);
            rpc::write_snapshot_meta(&mut writer, &snapshot.meta);
            writer.number(number);
            writer.flag(next.is_none());
            writer.bytes(&rows);
            let timeout = if next.is_some() { CHUNK_TIMEOUT } else { INSTALL_TIMEOUT };
            let links = &self.network.links;
            let answer = links.call(self.node, &self.name, kind::SNAPSHOT, &writer.0, timeout).await.map_err(failed)?;
            let answered = wire::read_vote(&mut Reader::new(answer));
            let answered = answered.map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
            match next {
                Some(next) if answered <= vote => position = next,
                _ => return Ok(SnapshotResponse::new(answered)),
            }
            number += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use openraft::raft::AppendEntriesRequest;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::model::peer::Peer;
    use crate::queue::element::PeerRun;
    use crate::store::transport::{Calling, Lane, Transport, TransportError};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Transport for Counting {
        fn call(&self, _to: std::net::SocketAddr, _lane: Lane, _payload: Bytes, _timeout: Duration) -> Calling<'_> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(Err(TransportError::NotAnswered("it only counts".to_owned()))))
        }
    }

    #[tokio::test]
    async fn a_leader_sends_nothing_once_it_has_a_higher_vote() {
        let shared = Arc::new(Shared::new(PeerRun { node: 1, incarnation: 1 }, mpsc::unbounded_channel().0, None));
        let peer = Peer { name: "b".into(), address: ([127, 0, 0, 1], 2).into(), ready: true };
        let (_listed, peers) = watch::channel(Arc::from([peer]));
        let transport = Arc::new(Counting::default());
        let links = Links::new(Arc::<Counting>::clone(&transport), peers, 1, "a".into(), Some(9));
        let network = Network { links: Arc::new(links), shared: Arc::clone(&shared) };
        let mut link = Link { network, node: 2, name: "b".to_owned() };
        let own = Vote::new_committed(5, 1);
        for (vote, is_sent) in [
            (None, true),
            (Some(Vote::new(5, 1)), true),
            (Some(own), true),
            (Some(Vote::new(5, 2)), false),
            (Some(Vote::new(6, 0)), false),
        ] {
            *lock(&shared.vote) = vote;
            let before = transport.0.load(Ordering::Relaxed);
            let rpc = AppendEntriesRequest { vote: own, prev_log_id: None, leader_commit: None, entries: Vec::new() };
            let answer = link.append_entries(rpc, RPCOption::new(Duration::from_secs(1))).await;
            assert_eq!(transport.0.load(Ordering::Relaxed) - before, usize::from(is_sent), "{vote:?}");
            match answer {
                Ok(AppendEntriesResponse::HigherVote(higher)) => assert_eq!(Some(higher), vote),
                other => assert!(is_sent && other.is_err(), "{other:?}"),
            }
        }
    }
}
