//! The copies of an upload that other nodes make, and when there are enough of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::wire::Written;
use super::{Shared, wire};
use crate::clock;
use crate::peer::{CallError, Client, Kind};

/// Parts that wait for a peer while one is on its way.
const WAITING_PARTS: usize = 2;

/// A peer that others can do without may hold up a part for so long: its disk may be slow for a moment. It fetches the
/// body later.
const LAG_MAX: Duration = Duration::from_secs(2);

/// So it is with one that has not answered.
const SILENT_LAG_MAX: Duration = Duration::from_millis(250);

/// A peer that is needed for a majority, for its disk to take what waits: longer than an election or a short cut of the
/// network.
const STALL_MAX: Duration = Duration::from_secs(10);

/// For the last sync of a disk.
const FINISH_MAX: Duration = Duration::from_secs(30);

/// Between two calls about the same part, after one was not answered.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One call. The next one repeats it, so this is short of the time that a part has.
const CALL_TIME: Duration = Duration::from_secs(5);

/// How many nodes have it or can still get it, in the eyes of the voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Majority {
    Reached,
    Possible,
    Impossible,
}

/// `stored`: nodes that have it; `hoped_for`: names of nodes that may get it.
pub(super) fn majority(
    voters: &BTreeMap<u64, String>,
    stored: &BTreeSet<u64>,
    hoped_for: &BTreeSet<Arc<str>>,
) -> Majority {
    let needed = voters.len() / 2 + 1;
    let have = voters.keys().filter(|node| stored.contains(node)).count();
    let may = voters.iter().filter(|(node, name)| stored.contains(node) || hoped_for.contains(name.as_str())).count();
    if have >= needed {
        Majority::Reached
    } else if may >= needed {
        Majority::Possible
    } else {
        Majority::Impossible
    }
}

/// Whether a majority could take an upload that begins now, if all that are listed are up.
pub(super) fn is_possible(shared: &Shared) -> bool {
    let others = shared.others().into_iter().map(|peer| peer.name);
    let hoped_for = others.filter(|_| shared.client().is_some()).chain([Arc::clone(&shared.name)]).collect();
    majority(&shared.store.voters(), &BTreeSet::new(), &hoped_for) != Majority::Impossible
}

pub(super) struct Copies {
    shared: Arc<Shared>,
    tasks: JoinSet<(SocketAddr, Option<Written>)>,
    open: BTreeMap<SocketAddr, Copy>,
    addresses: Vec<SocketAddr>,
    stored: BTreeSet<u64>,
    /// A node refused because of its disk.
    is_full: bool,
}

struct Copy {
    name: Arc<str>,
    parts: mpsc::Sender<Bytes>,
    /// Whether the last call to it was answered.
    answers: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Copies {
    /// On all nodes that are listed now.
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        let mut copies = Self {
            shared: Arc::clone(shared),
            tasks: JoinSet::new(),
            open: BTreeMap::new(),
            addresses: Vec::new(),
            stored: BTreeSet::new(),
            is_full: false,
        };
        let Some(client) = shared.client() else { return copies };
        for peer in shared.others() {
            let (parts, out) = mpsc::channel(WAITING_PARTS);
            let answers = Arc::new(AtomicBool::new(false));
            let (client, to, answer) = (client.clone(), peer.address, Arc::clone(&answers));
            let task = copies.tasks.spawn(async move { (to, push(&client, to, out, &answer).await) });
            copies.open.insert(to, Copy { name: peer.name, parts, answers, task });
            copies.addresses.push(to);
        }
        copies
    }

    pub(super) fn majority(&self) -> Majority {
        self.majority_without(None)
    }

    /// Whether what is missing is room on disks.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// This node has the whole body on its disk.
    pub(super) fn stored_here(&mut self) {
        self.stored.insert(self.shared.node());
    }

    /// Hands a part, or the end, to every node that keeps up.
    pub(super) async fn give(&mut self, payload: &Bytes) {
        self.see_ends();
        let addresses: Vec<_> = self.open.keys().copied().collect();
        for to in addresses {
            let Some(copy) = self.open.get(&to) else { continue };
            let patience = match self.majority_without(Some(to)) {
                Majority::Impossible => STALL_MAX,
                Majority::Reached | Majority::Possible if copy.answers.load(Ordering::Relaxed) => LAG_MAX,
                Majority::Reached | Majority::Possible => SILENT_LAG_MAX,
            };
            if !matches!(tokio::time::timeout(patience, copy.parts.send(payload.clone())).await, Ok(Ok(()))) {
                tracing::debug!(peer = %copy.name, "does not keep up with a body: it will fetch it later");
                copy.task.abort();
                self.open.remove(&to);
            }
        }
        self.see_ends();
    }

    /// Nothing more comes; waits until there is a majority, or none any more.
    pub(super) async fn settle(&mut self) -> Majority {
        // Each ends within its own time.
        loop {
            self.see_ends();
            let majority = self.majority();
            if majority != Majority::Possible {
                return majority;
            }
            match self.tasks.join_next().await {
                Some(ended) => self.see(ended.ok()),
                None => return Majority::Impossible,
            }
        }
    }

    /// For those that are a little behind.
    pub(super) async fn rest(&mut self) {
        self.open.values().filter(|copy| !copy.answers.load(Ordering::Relaxed)).for_each(|copy| copy.task.abort());
        while self.tasks.join_next().await.is_some() {}
    }

    /// Removes what the nodes have of it, as far as they can be reached.
    pub(super) async fn discard(mut self, payload: Bytes) {
        self.tasks.shutdown().await;
        let Some(client) = self.shared.client() else { return };
        let mut calls = JoinSet::new();
        for to in self.addresses {
            let (client, payload) = (client.clone(), payload.clone());
            calls.spawn(async move {
                let deadline = clock::now() + CALL_TIME;
                // A node that is away finds it unnamed later.
                client.call(to, Kind::BodyWrite, payload, deadline).await.is_ok()
            });
        }
        while calls.join_next().await.is_some() {}
    }

    fn majority_without(&self, without: Option<SocketAddr>) -> Majority {
        let (me, node) = (&self.shared.name, self.shared.node());
        let open = self.open.iter().filter(|(to, _)| Some(**to) != without);
        let mut hoped_for: BTreeSet<Arc<str>> = open.map(|(_, copy)| Arc::clone(&copy.name)).collect();
        let voters = self.shared.store.voters();
        // A new disk under the same name is not the voter.
        if voters.contains_key(&node) {
            hoped_for.insert(Arc::clone(me));
        }
        majority(&voters, &self.stored, &hoped_for)
    }

    fn see_ends(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.see(ended.ok());
        }
    }

    fn see(&mut self, ended: Option<(SocketAddr, Option<Written>)>) {
        let Some((from, written)) = ended else { return };
        self.open.remove(&from);
        match written {
            Some(Written::Done { node }) => {
                self.stored.insert(node);
            }
            Some(Written::Full) => self.is_full = true,
            Some(Written::Unknown) | None => {}
        }
    }
}

/// Sends parts in order. What the last of them was answered, if that was the end of the body; a refusal at any time.
async fn push(
    client: &Client,
    to: SocketAddr,
    mut parts: mpsc::Receiver<Bytes>,
    answers: &AtomicBool,
) -> Option<Written> {
    while let Some(part) = parts.recv().await {
        let is_end = wire::is_finish(&part);
        let time = if is_end { FINISH_MAX } else { STALL_MAX };
        let written = tokio::time::timeout(time, insist(client, to, part, answers)).await.ok()?;
        if is_end || !matches!(written, Some(Written::Done { .. })) {
            return written;
        }
    }
    None
}

/// Until it is answered: a part may come twice.
async fn insist(client: &Client, to: SocketAddr, part: Bytes, answers: &AtomicBool) -> Option<Written> {
    let time = if wire::is_finish(&part) { FINISH_MAX } else { CALL_TIME };
    loop {
        let called = client.call(to, Kind::BodyWrite, part.clone(), clock::now() + time).await;
        answers.store(called.is_ok(), Ordering::Relaxed);
        match called {
            Ok(answer) => return Written::decode(answer).ok(),
            Err(CallError::Failed(failure)) => {
                tracing::debug!(%to, %failure, "a peer cannot take a body");
                return None;
            }
            Err(_unanswered) => tokio::time::sleep(AGAIN_AFTER).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(voters: &[(u64, &str)], stored: &[u64], hoped_for: &[&str], expected: Majority) {
        let voters = voters.iter().map(|(node, name)| (*node, (*name).to_owned())).collect();
        let hoped_for = hoped_for.iter().map(|name| Arc::from(*name)).collect();
        assert_eq!(majority(&voters, &stored.iter().copied().collect(), &hoped_for), expected);
    }

    #[test]
    fn most_voters_must_have_it() {
        const ONE: &[(u64, &str)] = &[(1, "a")];
        const TWO: &[(u64, &str)] = &[(1, "a"), (2, "b")];
        const THREE: &[(u64, &str)] = &[(1, "a"), (2, "b"), (3, "c")];
        check(ONE, &[], &["a"], Majority::Possible);
        check(ONE, &[1], &[], Majority::Reached);
        check(TWO, &[1], &["b"], Majority::Possible);
        check(TWO, &[1], &[], Majority::Impossible);
        check(TWO, &[1, 2], &[], Majority::Reached);
        check(THREE, &[1], &["c"], Majority::Possible);
        check(THREE, &[1, 3], &[], Majority::Reached);
        check(THREE, &[1], &[], Majority::Impossible);
        // Neither nodes that do not vote, nor a new disk under a voter's name.
        check(THREE, &[1, 9], &[], Majority::Impossible);
        check(THREE, &[1, 9], &["b"], Majority::Possible);
        // Nobody knows who votes.
        check(&[], &[1], &["b"], Majority::Impossible);
    }
}
