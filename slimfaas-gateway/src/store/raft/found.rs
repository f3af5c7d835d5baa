//! How a node without a log comes to one: it founds a cluster, or waits to be taken into one.
//!
//! Two nodes must not both found one. A node founds only when nobody else is listed, or when its own name is the first of
//! all that are listed and the others have no log either, as they answer or as is taken of those that were waited for.
//! Nobody but the first founds, however long that is away: when one node becomes three, and that one is lost on the way,
//! the new ones cannot know that it has a log, and what it has stored would be in another cluster than theirs when it
//! comes back. Lists may lag: two new nodes may each have one without the other. So a node reckons with those that ask it too; and once it founds, it says that it has a log. Of
//! two nodes that found at the same time, one would have asked the other before or after the other's decision.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rand::RngCore;

use super::database::row;
use super::links::Links;
use super::members::hello;
use super::proposer::Way;
use super::types::{Entropy, Member};
use super::writer::{Disk, Job};
use crate::clock;
use crate::model::peer::Peer;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The first node waits this long for listed peers that are not ready and do not answer: perhaps there is no place for
/// them.
const ABSENT_PATIENCE: Duration = Duration::from_secs(30);

/// A node that asked so lately may found a cluster: several of its rounds.
const GREETED_LATELY: Duration = Duration::from_secs(2);

/// What a node without a log knows of one that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    HasLog,
    HasNone,
    Silent,
    /// Silent, not ready, and was waited for.
    Absent,
}

/// Those that keep this node from founding a cluster; without any, it is to found one.
fn awaited<'a>(name: &str, others: &'a BTreeMap<String, Other>) -> Vec<&'a str> {
    let keeps = |(other, state): &(&String, &Other)| match state {
        Other::HasLog | Other::Silent => true,
        Other::HasNone | Other::Absent => other.as_str() < name,
    };
    others.iter().filter(keeps).map(|(other, _)| other.as_str()).collect()
}

/// When a node may found.
pub(super) struct Founding {
    /// How long an empty list of peers is not believed.
    pub(super) listed_after: Duration,
    /// Where the content is that this node once had: it may only join.
    pub(super) lost: Option<PathBuf>,
}

/// Ends when the node has a log.
pub(super) async fn run(way: Way, disk: std::sync::Arc<Disk>, founding: Founding) {
    let Founding { listed_after, lost } = founding;
    let began = clock::now();
    let name = way.links.name.to_string();
    let mut has_said = false;
    loop {
        match way.raft.is_initialized().await {
            Ok(false) => {}
            Ok(true) => return lead_alone(&way).await,
            Err(_ended) => return,
        }
        let waited = clock::now().saturating_duration_since(began);
        let listed = way.links.peers.borrow().clone();
        let mut others = look(&way.links, &listed, waited >= ABSENT_PATIENCE).await;
        let is_listed = !others.is_empty() || waited >= listed_after;
        for (greeter, has_log) in way.links.greeters(GREETED_LATELY) {
            let known = others.entry(greeter).or_insert(Other::HasNone);
            // What it says of itself is newer than its silence.
            *known = if has_log { Other::HasLog } else { *known };
        }
        let awaited = awaited(&name, &others);
        if !is_listed || !awaited.is_empty() {
            if !awaited.is_empty() && waited >= ABSENT_PATIENCE && !std::mem::replace(&mut has_said, true) {
                tracing::warn!(
                    peers = awaited.join(", "),
                    "this node has no log yet, and waits for these: check that they run and are reached on the peer port"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let Some(lost) = &lost else {
            // Nothing is waited for between the decision and this.
            way.links.founding.store(true, Ordering::Release);
            return found(&way, &disk, name).await;
        };
        tracing::error!(
            file = %lost.display(),
            "this node's file was damaged, and no peer has its content: with a backup, put it there as store.redb; \
             without, remove the damaged file to begin with nothing; then restart"
        );
        tokio::time::sleep(ABSENT_PATIENCE).await;
    }
}

/// A node that is its cluster's only voter need not wait for others before it leads again.
async fn lead_alone(way: &Way) {
    let alone = {
        let metrics = way.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.voter_ids().eq([way.links.node])
    };
    if alone && way.raft.trigger().elect().await.is_err() {
        tracing::warn!("could not begin to lead at once");
    }
}

async fn look(links: &Links, listed: &[Peer], gives_up: bool) -> BTreeMap<String, Other> {
    let mut others = BTreeMap::new();
    for peer in listed.iter().filter(|peer| peer.name != links.name) {
        let state = match hello(links, peer, false).await {
            Some(hello) if hello.is_initialized => Other::HasLog,
            Some(_) => Other::HasNone,
            None if gives_up && !peer.ready => Other::Absent,
            None => Other::Silent,
        };
        others.insert(peer.name.to_string(), state);
    }
    others
}

async fn found(way: &Way, disk: &Disk, name: String) {
    let cluster = Entropy.next_u64().max(1);
    let value = Bytes::copy_from_slice(&cluster.to_be_bytes());
    if disk.ask(|done| Job::SaveRow { name: row::CLUSTER, value, done }).await.is_err() {
        return;
    }
    way.links.set_cluster(cluster);
    let me = BTreeMap::from([(way.links.node, Member { name })]);
    match way.raft.initialize(me).await {
        Ok(()) => tracing::info!("founded a cluster of one node"),
        Err(error) => tracing::warn!(%error, "could not found a cluster: another node seems to have been faster"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(others: &[(&str, Other)], expected: &[&str]) {
        let others = others.iter().map(|(name, other)| ((*name).to_owned(), *other)).collect();
        assert_eq!(awaited("b", &others), expected, "{others:?}");
    }

    #[test]
    fn only_one_of_several_new_nodes_founds() {
        check(&[], &[]);
        check(&[("c", Other::HasNone)], &[]);
        check(&[("a", Other::HasNone), ("c", Other::HasNone)], &["a"]);
        check(&[("c", Other::HasLog)], &["c"]);
        check(&[("c", Other::HasNone), ("d", Other::Silent)], &["d"]);
        check(&[("c", Other::HasNone), ("d", Other::Absent)], &[]);
        // Perhaps it is the one that has the log.
        check(&[("a", Other::Absent), ("c", Other::HasNone)], &["a"]);
    }
}
