//! Every node's side of proposing: commands that wait become a batch, which goes to the leader until its fate is known.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::Raft;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::links::{CallError, Links, kind};
use super::sequencer::Submission;
use super::shared::Shared;
use super::types::Types;
use crate::clock::{self, Instant};
use crate::queue::codec::Reader;
use crate::queue::command::{Command, Reply};
use crate::queue::element::PeerRun;
use crate::store::StoreError;
use crate::store::command::{Batch, BatchReply};

/// Commands that wait to be put into a batch.
pub(super) const WAITING_MAX: usize = 8192;

/// Batches that the leader has and has not answered.
const BATCHES_IN_FLIGHT: usize = 2;

const BATCH_COMMANDS: usize = 1024;
const BATCH_BYTES: usize = 1 << 20;

/// An attempt to have a batch applied takes as long at most; then the leader may be another.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two attempts when nothing tells that the next will do better.
const PAUSE: Duration = Duration::from_millis(20);

/// A command, who waits for its reply, and until when.
pub(super) struct Proposal {
    pub(super) command: Command,
    pub(super) fate: Arc<Fate>,
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<Result<Reply, StoreError>>,
}

/// Whether a command was sent, or its proposer gave up before.
#[derive(Default)]
pub(super) struct Fate(AtomicU8);

impl Fate {
    const SENT: u8 = 1;
    const ABANDONED: u8 = 2;

    /// False: it was abandoned, and must not be sent.
    fn send(&self) -> bool {
        self.0.compare_exchange(0, Self::SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// False: it was sent, so nobody knows whether it will be applied.
    pub(super) fn abandon(&self) -> bool {
        self.0.compare_exchange(0, Self::ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The way of a batch to the leader.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) raft: Raft<Types>,
    pub(super) links: Arc<Links>,
    pub(super) shared: Arc<Shared>,
    pub(super) sequencer: mpsc::Sender<Submission>,
}

/// What one attempt came to.
enum Attempt {
    Answered(BatchReply),
    /// Nobody has taken it.
    NotTaken,
    Unknown,
}

impl Way {
    /// Who leads, and under which name; `None`: nobody known.
    pub(super) fn leader(&self) -> Option<(u64, String)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let name = metrics.membership_config.membership().get_node(&leader)?.name.clone();
        Some((leader, name))
    }

    /// Has a batch applied, or says what is known of it at the deadline.
    pub(super) async fn settle(&self, batch: &Bytes, deadline: Instant) -> Result<BatchReply, StoreError> {
        let mut was_sent = false;
        loop {
            let attempt = self.attempt(batch, deadline).await;
            match attempt {
                // After an attempt without an answer, an earlier one may have been applied before its process was
                // declared gone.
                Attempt::Answered(BatchReply::NotUp) if was_sent => return Err(StoreError::Unknown),
                Attempt::Answered(reply) => return Ok(reply),
                Attempt::NotTaken => {}
                Attempt::Unknown => was_sent = true,
            }
            if clock::now() >= deadline {
                return Err(if was_sent { StoreError::Unknown } else { StoreError::NotAccepted });
            }
            if self.shared.failure.borrow().is_some() {
                return Err(if was_sent { StoreError::Unknown } else { StoreError::Stopped });
            }
            self.pause(deadline).await;
        }
    }

    async fn attempt(&self, batch: &Bytes, deadline: Instant) -> Attempt {
        let Some((leader, name)) = self.leader() else { return Attempt::NotTaken };
        let left = deadline.saturating_duration_since(clock::now()).min(ATTEMPT_TIMEOUT);
        if leader == self.links.node {
            return self.submit(batch.clone(), left).await;
        }
        match self.links.call(leader, &name, kind::PROPOSE, batch, left).await {
            Ok(answer) => match BatchReply::read(&mut Reader::new(answer)) {
                Ok(reply) => Attempt::Answered(reply),
                Err(_malformed) => Attempt::Unknown,
            },
            Err(CallError::NotServed(_)) => Attempt::NotTaken,
            Err(CallError::Unknown(_) | CallError::Failed(_)) => Attempt::Unknown,
        }
    }

    async fn submit(&self, batch: Bytes, timeout: Duration) -> Attempt {
        let (done, reply) = oneshot::channel();
        if self.sequencer.try_send(Submission { batch, done }).is_err() {
            return Attempt::NotTaken;
        }
        match tokio::time::timeout(timeout, reply).await {
            Ok(Ok(reply)) => Attempt::Answered(reply),
            _ => Attempt::Unknown,
        }
    }

    /// Until the leader changes, or a little while.
    async fn pause(&self, deadline: Instant) {
        let mut metrics = self.raft.server_metrics();
        let before = metrics.borrow_and_update().current_leader;
        let changed = async {
            if metrics.wait_for(|now| now.current_leader != before).await.is_err() {
                // Raft has ended: nothing changes any more, and asking at once would spin.
                std::future::pending::<()>().await;
            }
        };
        let until = deadline.min(clock::now() + PAUSE);
        let _same = tokio::time::timeout_at(until, changed).await.is_err();
    }

    /// Has commands applied that may be applied twice; for the node's own needs.
    pub(super) async fn command(&self, command: Command, timeout: Duration) -> Result<Reply, StoreError> {
        let from = *self.shared.me.borrow();
        let batch = Batch { from, number: 0, settled: 0, commands: vec![command] }.encode();
        match self.settle(&batch, clock::now() + timeout).await? {
            BatchReply::Applied(replies) => replies.first().copied().ok_or(StoreError::Unknown),
            BatchReply::NotUp | BatchReply::Settled => Err(StoreError::NotAccepted),
        }
    }
}

/// Batches of the present incarnation.
struct Session {
    from: PeerRun,
    next: u64,
    in_flight: BTreeSet<u64>,
}

pub(super) async fn run(way: Way, mut waiting: mpsc::Receiver<Proposal>) {
    let mut peers = way.shared.peers.subscribe();
    let from = *way.shared.me.borrow();
    let mut session = Session { from, next: 1, in_flight: BTreeSet::new() };
    let mut batches: JoinSet<(PeerRun, u64)> = JoinSet::new();
    loop {
        while batches.len() >= BATCHES_IN_FLIGHT {
            session.end(batches.join_next().await);
        }
        // Ended batches first: the next says that they are settled.
        let first = tokio::select! {
            biased;
            Some(ended) = batches.join_next() => {
                session.end(Some(ended));
                continue;
            }
            first = waiting.recv() => first,
        };
        let Some(first) = first else { return };
        if !wait_until_up(&way, &mut peers, first.deadline).await {
            refuse(first);
            continue;
        }
        let proposals = gather(first, &mut waiting);
        if proposals.is_empty() {
            continue;
        }
        let (batch, rest) = session.begin(*way.shared.me.borrow(), proposals);
        let (way, from, number) = (way.clone(), batch.from, batch.number);
        batches.spawn(async move {
            send(&way, batch, rest).await;
            (from, number)
        });
    }
}

impl Session {
    fn begin(&mut self, me: PeerRun, proposals: Vec<Proposal>) -> (Batch, Vec<Waiter>) {
        if self.from != me {
            *self = Self { from: me, next: 1, in_flight: BTreeSet::new() };
        }
        let number = self.next;
        self.next += 1;
        self.in_flight.insert(number);
        let settled = self.in_flight.first().copied().unwrap_or(number);
        let (commands, waiters) =
            proposals.into_iter().map(|proposal| (proposal.command, (proposal.deadline, proposal.done))).unzip();
        (Batch { from: me, number, settled, commands }, waiters)
    }

    fn end(&mut self, ended: Option<Result<(PeerRun, u64), tokio::task::JoinError>>) {
        if let Some(Ok((from, number))) = ended
            && from == self.from
        {
            self.in_flight.remove(&number);
        }
    }
}

type Waiter = (Instant, oneshot::Sender<Result<Reply, StoreError>>);

fn gather(first: Proposal, waiting: &mut mpsc::Receiver<Proposal>) -> Vec<Proposal> {
    let mut size = 0;
    let mut proposals = Vec::new();
    let mut next = Some(first);
    while let Some(proposal) = next {
        if proposal.fate.send() {
            size += proposal.command.size_hint();
            proposals.push(proposal);
        }
        if size >= BATCH_BYTES || proposals.len() >= BATCH_COMMANDS {
            break;
        }
        next = waiting.try_recv().ok();
    }
    proposals
}

/// The state machine takes batches only of processes that it knows.
async fn wait_until_up(way: &Way, peers: &mut watch::Receiver<Arc<[PeerRun]>>, deadline: Instant) -> bool {
    let known = peers.wait_for(|peers| peers.contains(&way.shared.me.borrow()));
    matches!(tokio::time::timeout_at(deadline, known).await, Ok(Ok(_)))
}

fn refuse(proposal: Proposal) {
    let _gone = proposal.done.send(Err(StoreError::NotAccepted)).is_err();
}

async fn send(way: &Way, batch: Batch, waiters: Vec<Waiter>) {
    let deadline = waiters.iter().map(|(deadline, _)| *deadline).max().unwrap_or_else(clock::now);
    let result = way.settle(&batch.encode(), deadline).await;
    let result = match result {
        Ok(BatchReply::Applied(replies)) => Ok(replies),
        Ok(BatchReply::NotUp) => Err(StoreError::NotAccepted),
        Ok(BatchReply::Settled) => Err(StoreError::Unknown),
        Err(error) => Err(error),
    };
    let mut replies = result.as_ref().map(|replies| replies.iter()).unwrap_or_default();
    for (_, done) in waiters {
        let reply = match &result {
            Ok(_) => replies.next().copied().ok_or(StoreError::Unknown),
            Err(error) => Err(error.clone()),
        };
        let _gone = done.send(reply).is_err();
    }
}
