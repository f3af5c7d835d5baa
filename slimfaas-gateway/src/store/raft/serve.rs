//! Answers peers' calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::{Raft, Snapshot};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::database::row;
use super::links::{Head, Links, NOBODY, Refusal, kind, read_head, refused, served};
use super::machine::Image;
use super::members::Departures;
use super::sequencer::Submission;
use super::shared::Shared;
use super::types::{Types, Vote};
use super::writer::{Disk, Job};
use super::{rpc, wire};
use crate::queue::codec::{DecodeError, Reader, Writer};
use crate::store::snapshot::rows_of;

pub(super) struct Server {
    pub(super) raft: Raft<Types>,
    pub(super) links: Arc<Links>,
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Arc<Disk>,
    pub(super) sequencer: mpsc::Sender<Submission>,
    pub(super) departures: Departures,
    /// The snapshot that is arriving. Only one chunk is taken at a time.
    pub(super) incoming: Mutex<Option<Incoming>>,
}

/// A snapshot of which some chunks are here.
pub(super) struct Incoming {
    from: u64,
    id: String,
    next: u64,
}

/// What a peer says of itself.
pub(super) struct Hello {
    pub(super) node: u64,
    pub(super) name: String,
    pub(super) cluster: u64,
    /// It has a log, and so belongs to a cluster, or is about to.
    pub(super) is_initialized: bool,
}

impl Server {
    pub(super) async fn serve(&self, payload: Bytes) -> Bytes {
        let Some((head, body)) = read_head(payload) else { return refused(Refusal::Malformed) };
        if let Some(refusal) = self.refusal(&head) {
            return refused(refusal);
        }
        self.links.heard(head.from);
        match self.answer(&head, body).await {
            Ok(answer) => answer,
            Err(DecodeError(problem)) => {
                tracing::warn!(
                    kind = head.kind,
                    problem,
                    "a peer's call cannot be read: are all peers of one version?"
                );
                refused(Refusal::Malformed)
            }
        }
    }

    fn refusal(&self, head: &Head) -> Option<Refusal> {
        let mine = self.links.cluster();
        let is_hello = head.kind == kind::HELLO;
        if head.to != self.links.node && !(is_hello && head.to == NOBODY) {
            return Some(Refusal::NotThisNode);
        }
        let same = head.cluster == mine || mine == NOBODY && matches!(head.kind, kind::APPEND | kind::SNAPSHOT);
        (!same && !is_hello).then_some(Refusal::OtherCluster)
    }

    async fn answer(&self, head: &Head, body: Bytes) -> Result<Bytes, DecodeError> {
        let mut reader = Reader::new(body.clone());
        match head.kind {
            kind::APPEND => {
                let request = rpc::read_append_request(&mut reader)?;
                self.join(head.cluster).await;
                // One of a former term may not know that it is over.
                if request.vote >= self.raft.server_metrics().borrow().vote {
                    self.links.elections.leader();
                }
                let response = self.raft.append_entries(request).await;
                Ok(response.map_or_else(|_fatal| refused(Refusal::Failed), |ok| served(&rpc::append_response(&ok))))
            }
            kind::VOTE => {
                let request = rpc::read_vote_request(&mut reader)?;
                self.links.elections.candidate(&request, *self.shared.durable.borrow());
                let response = self.raft.vote(request.clone()).await;
                if let Ok(response) = &response {
                    self.links.elections.answered(&request, response);
                }
                Ok(response.map_or_else(|_fatal| refused(Refusal::Failed), |ok| served(&rpc::vote_response(&ok))))
            }
            kind::SNAPSHOT => {
                self.join(head.cluster).await;
                self.take_chunk(head.from, reader).await
            }
            kind::PROPOSE => Ok(self.propose(body).await),
            kind::HELLO => {
                self.links.greeted(reader.text()?, reader.flag()?);
                Ok(self.hello().await)
            }
            kind::READ_INDEX => Ok(match self.raft.get_read_log_id().await {
                Ok((read, _)) => {
                    let mut writer = Writer::default();
                    writer.number(read.map_or(0, |read| read.index));
                    served(&writer.0)
                }
                Err(_not_leader) => refused(Refusal::NotLeader),
            }),
            kind::LEAVE => {
                self.departures.ask(head.from).await;
                Ok(served(&[]))
            }
            _ => Err(DecodeError("is of an unknown kind")),
        }
    }

    async fn propose(&self, batch: Bytes) -> Bytes {
        if !leads(&self.raft, self.links.node) {
            return refused(Refusal::NotLeader);
        }
        let (done, reply) = oneshot::channel();
        if self.sequencer.try_send(Submission { batch, done }).is_err() {
            return refused(Refusal::NotLeader);
        }
        match reply.await {
            Ok(reply) => {
                let mut writer = Writer::default();
                reply.write(&mut writer);
                served(&writer.0)
            }
            Err(_unknown) => refused(Refusal::Failed),
        }
    }

    async fn hello(&self) -> Bytes {
        let mut writer = Writer::default();
        writer.fixed(self.links.node);
        writer.text(&self.links.name);
        writer.fixed(self.links.cluster());
        let is_founding = self.links.founding.load(Ordering::Acquire);
        writer.flag(is_founding || self.raft.is_initialized().await.unwrap_or(false));
        served(&writer.0)
    }

    /// A node without a cluster belongs to that of the first leader that has it as a member.
    async fn join(&self, cluster: u64) {
        if self.links.cluster() == NOBODY && cluster != NOBODY {
            let value = Bytes::copy_from_slice(&cluster.to_be_bytes());
            // Its failure shows as the store's.
            let _failed = self.disk.ask(|done| Job::SaveRow { name: row::CLUSTER, value, done }).await.is_err();
            self.links.set_cluster(cluster);
        }
    }

    async fn take_chunk(&self, from: u64, mut reader: Reader) -> Result<Bytes, DecodeError> {
        let vote = wire::read_vote(&mut reader)?;
        let meta = rpc::read_snapshot_meta(&mut reader)?;
        let (number, is_last) = (reader.number()?, reader.flag()?);
        let rows = rows_of(reader.bytes()?)?;
        let mut incoming = self.incoming.lock().await;
        if number == 0 {
            *incoming = Some(Incoming { from, id: meta.snapshot_id.clone(), next: 0 });
        }
        let expected = |arriving: &&mut Incoming| {
            (arriving.from, &arriving.id, arriving.next) == (from, &meta.snapshot_id, number)
        };
        let Some(arriving) = incoming.as_mut().filter(expected) else { return Ok(refused(Refusal::Failed)) };
        arriving.next += 1;
        self.links.elections.leader();
        if self.disk.ask(|done| Job::Receive { rows, fresh: number == 0, done }).await.is_err() {
            return Ok(refused(Refusal::Failed));
        }
        if !is_last {
            return Ok(answer_vote(&vote));
        }
        *incoming = None;
        let snapshot = Snapshot { meta, snapshot: Box::new(Image::Received) };
        match self.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Ok(answer_vote(&response.vote)),
            Err(_fatal) => Ok(refused(Refusal::Failed)),
        }
    }
}

fn answer_vote(vote: &Vote) -> Bytes {
    let mut writer = Writer::default();
    wire::write_vote(&mut writer, vote);
    served(&writer.0)
}

pub(super) fn read_hello(answer: Bytes) -> Result<Hello, DecodeError> {
    let mut reader = Reader::new(answer);
    Ok(Hello { node: reader.fixed()?, name: reader.text()?, cluster: reader.fixed()?, is_initialized: reader.flag()? })
}

/// Whether this node leads, as far as it knows.
pub(super) fn leads(raft: &Raft<Types>, node: u64) -> bool {
    raft.metrics().borrow().current_leader == Some(node)
}
