//! Who belongs to the cluster. The leader makes the membership follow the list of peers: new ones learn the log first
//! and vote then; those that left, or came back with another disk, are taken out.
//!
//! A node that ends politely asks to be taken out, and is taken in again when it comes back. While it is away the
//! cluster is no less available than with an absent voter, and a cluster that is made smaller, down to one node, never
//! loses its majority on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::{ChangeMembers, Raft, RaftMetrics};
use tokio::sync::{Mutex, Notify};

use super::links::{Links, NOBODY, kind};
use super::serve::{Hello, leads, read_hello};
use super::types::{Member, Types};
use crate::clock::{self, Instant};
use crate::model::peer::Peer;
use crate::queue::codec::Writer;

/// How often the leader compares, when nothing changes.
const ROUND: Duration = Duration::from_millis(500);

/// A voter that is not listed, and silent, for this long is taken out. Longer than a pod needs to be replaced.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// A learner may vote once it is so many entries behind at most.
const LEVEL_ENTRIES: u64 = 200;

const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// Changing the membership commits two entries.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes that are ending and ask to be taken out.
#[derive(Clone, Default)]
pub(super) struct Departures {
    leaving: Arc<Mutex<BTreeMap<u64, Instant>>>,
    asked: Arc<Notify>,
}

/// After so long, a node that asked to be taken out may come back in.
const LEAVING_LASTS: Duration = Duration::from_secs(3);

impl Departures {
    pub(super) async fn ask(&self, node: u64) {
        self.leaving.lock().await.insert(node, clock::now());
        self.asked.notify_one();
    }

    async fn current(&self) -> BTreeSet<u64> {
        let mut leaving = self.leaving.lock().await;
        let now = clock::now();
        leaving.retain(|_, asked| now.saturating_duration_since(*asked) < LEAVING_LASTS);
        leaving.keys().copied().collect()
    }
}

/// What the leader knows of the peers; `plan` is pure.
#[derive(Debug, Default)]
pub(super) struct Situation {
    pub(super) voters: BTreeSet<u64>,
    /// The voters of a change that its leader began and did not end: until then two majorities are needed.
    pub(super) begun: Option<BTreeSet<u64>>,
    /// All members by name, voters or not.
    pub(super) members: BTreeMap<u64, String>,
    /// Members that have almost all of the log.
    pub(super) level: BTreeSet<u64>,
    /// Peers that answer, and who they are; this node is none of them.
    pub(super) present: BTreeMap<String, u64>,
    /// Peers that are listed, whether or not they answer.
    pub(super) listed: BTreeSet<String>,
    /// Members that neither are listed nor were heard for long.
    pub(super) gone: BTreeSet<u64>,
    pub(super) leaving: BTreeSet<u64>,
}

/// One change of the membership.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Learn {
        node: u64,
        name: String,
    },
    /// The voters from now on; other members go, unless they are learning.
    Vote(BTreeSet<u64>),
    Forget(u64),
}

/// The next change that brings the members closer to the peers.
pub(super) fn plan(now: &Situation) -> Option<Change> {
    if let Some(voters) = &now.begun {
        return Some(Change::Vote(voters.clone()));
    }
    let leaves = |node: &u64| now.leaving.contains(node) || now.gone.contains(node);
    if now.voters.iter().any(leaves) {
        let stay: BTreeSet<u64> = now.voters.iter().copied().filter(|node| !leaves(node)).collect();
        return (!stay.is_empty()).then_some(Change::Vote(stay));
    }
    let stranger = now.present.iter().find(|(_, node)| !now.members.contains_key(node) && !now.leaving.contains(node));
    if let Some((name, node)) = stranger {
        return Some(Change::Learn { node: *node, name: name.clone() });
    }
    // Those whose name another node has now: their disk is no more.
    let replaced = |node: &u64| {
        let now_at = now.members.get(node).and_then(|name| now.present.get(name));
        now_at.is_some_and(|present| present != node)
    };
    let ready: BTreeSet<u64> = now.present.values().copied().filter(|node| now.level.contains(node)).collect();
    let mut wanted: BTreeSet<u64> = now.voters.iter().copied().filter(|node| !replaced(node)).collect();
    let lost = now.voters.len() - wanted.len();
    wanted.extend(&ready);
    // Two voters are worse than one: either's end stops both. So an even number is only passed when it is asked for.
    let is_odd_later = wanted.len().is_multiple_of(2) && now.listed.len() + 1 > wanted.len();
    if wanted != now.voters && (lost > 0 || !is_odd_later) && (lost == 0 || wanted.len() >= now.voters.len()) {
        return Some(Change::Vote(wanted));
    }
    let useless = |node: &&u64| !now.voters.contains(node) && (replaced(node) || leaves(node));
    now.members.keys().find(useless).map(|node| Change::Forget(*node))
}

pub(super) async fn run(raft: Raft<Types>, links: Arc<Links>, departures: Departures) {
    let mut peers = links.peers.clone();
    let mut strangers = BTreeSet::new();
    let mut unlisted = BTreeMap::new();
    loop {
        // Any of these is reason to look again; the round is for what nobody announces.
        let _woken = tokio::time::timeout(ROUND, async {
            tokio::select! {
                biased;
                () = departures.asked.notified() => {}
                changed = peers.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        })
        .await;
        if !leads(&raft, links.node) {
            unlisted.clear();
            continue;
        }
        let metrics = raft.metrics().borrow().clone();
        let listed = peers.borrow_and_update().clone();
        let situation =
            look(&links, &metrics, &listed, &mut strangers, &mut unlisted, departures.current().await).await;
        if let Some(change) = plan(&situation) {
            tracing::info!(?change, "the peers' membership changes");
            let done = tokio::time::timeout(CHANGE_TIMEOUT, make(&raft, change)).await;
            if let Ok(Err(error)) = done {
                tracing::warn!(error, "the peers' membership could not be changed; trying again");
            }
        }
    }
}

/// Asks listed peers who they are, and compares with the members.
async fn look(
    links: &Links,
    metrics: &RaftMetrics<u64, Member>,
    listed: &[Peer],
    strangers: &mut BTreeSet<(String, u64)>,
    unlisted: &mut BTreeMap<u64, Instant>,
    leaving: BTreeSet<u64>,
) -> Situation {
    let membership = metrics.membership_config.membership();
    let members: BTreeMap<u64, String> = membership.nodes().map(|(id, member)| (*id, member.name.clone())).collect();
    let others = || listed.iter().filter(|peer| peer.name != links.name);
    let mut present = BTreeMap::new();
    for peer in others() {
        let name = peer.name.to_string();
        match hello(links, peer, true).await {
            Some(hello) if hello.name == name && may_join(links, &hello) => {
                present.insert(name, hello.node);
            }
            Some(hello) if hello.name == name && strangers.insert((name, hello.cluster)) => {
                let peer = hello.name;
                tracing::warn!(peer, "a peer belongs to another cluster: remove its data to have it join");
            }
            _ => {}
        }
    }
    let now = clock::now();
    let names: BTreeSet<String> = others().map(|peer| peer.name.to_string()).collect();
    unlisted.retain(|node, _| members.get(node).is_some_and(|name| !names.contains(name)));
    for (node, name) in &members {
        if *node != links.node && !names.contains(name) {
            unlisted.entry(*node).or_insert(now);
        }
    }
    let is_old = |since: Instant| now.saturating_duration_since(since) >= GONE_AFTER;
    let silent = |node: &u64| links.heard_at(*node).is_none_or(is_old);
    let gone = unlisted.iter().filter(|(node, since)| is_old(**since) && silent(node)).map(|(node, _)| *node);
    let begun = match membership.get_joint_config().as_slice() {
        [_, .., last] => Some(last.clone()),
        _ => None,
    };
    let last = metrics.last_log_index.unwrap_or(0);
    let replication = metrics.replication.iter().flatten();
    let level = replication
        .filter(|(_, matching)| matching.is_some_and(|matching| matching.index + LEVEL_ENTRIES >= last))
        .map(|(node, _)| *node);
    Situation {
        voters: membership.voter_ids().collect(),
        begun,
        level: level.collect(),
        gone: gone.collect(),
        members,
        present,
        listed: names,
        leaving,
    }
}

/// A node of another cluster is no member of this one, whatever its name.
fn may_join(links: &Links, hello: &Hello) -> bool {
    hello.cluster == links.cluster() || hello.cluster == NOBODY && !hello.is_initialized
}

/// Asks a peer who it is, and tells it who asks, and whether that is a node with a log.
pub(super) async fn hello(links: &Links, peer: &Peer, has_log: bool) -> Option<Hello> {
    let mut writer = Writer::default();
    writer.text(&links.name);
    writer.flag(has_log);
    let answer = links.call_at(peer.address, NOBODY, kind::HELLO, &writer.0, HELLO_TIMEOUT).await.ok()?;
    read_hello(answer).ok()
}

async fn make(raft: &Raft<Types>, change: Change) -> Result<(), String> {
    let done = match change {
        Change::Learn { node, name } => raft.add_learner(node, Member { name }, false).await.map(|_| ()),
        Change::Vote(voters) => {
            raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await.map(|_| ())
        }
        Change::Forget(node) => {
            raft.change_membership(ChangeMembers::RemoveNodes([node].into()), false).await.map(|_| ())
        }
    };
    done.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node n is called by its letter; 1 leads. Upper-case letters are voters, lower-case ones learners that are level.
    fn situation(members: &str, present: &[(&str, u64)]) -> Situation {
        let number = |char: char| u64::from(char.to_ascii_lowercase() as u8 - b'a' + 1);
        let name = |char: char| char.to_ascii_lowercase().to_string();
        Situation {
            voters: members.chars().filter(char::is_ascii_uppercase).map(number).collect(),
            members: members.chars().map(|char| (number(char), name(char))).collect(),
            level: members.chars().map(number).collect(),
            present: present.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect(),
            listed: present.iter().map(|(name, _)| (*name).to_owned()).collect(),
            ..Situation::default()
        }
    }

    #[track_caller]
    fn check(situation: &Situation, expected: Option<Change>) {
        assert_eq!(plan(situation), expected, "{situation:?}");
    }

    fn vote(nodes: &[u64]) -> Option<Change> {
        Some(Change::Vote(nodes.iter().copied().collect()))
    }

    #[test]
    fn one_becomes_three_without_stopping_at_two() {
        let peers = [("b", 2), ("c", 3)];
        check(&situation("A", &[]), None);
        check(&situation("A", &peers), Some(Change::Learn { node: 2, name: "b".to_owned() }));
        check(&situation("Ab", &peers), Some(Change::Learn { node: 3, name: "c".to_owned() }));
        check(&situation("Abc", &peers), vote(&[1, 2, 3]));
        check(&situation("ABC", &peers), None);
    }

    #[test]
    fn a_learner_votes_when_it_is_level() {
        let mut behind = situation("Abc", &[("b", 2), ("c", 3)]);
        behind.level.remove(&3);
        check(&behind, None);
    }

    #[test]
    fn two_are_two_when_no_more_are_wanted() {
        check(&situation("Ab", &[("b", 2)]), vote(&[1, 2]));
    }

    #[test]
    fn a_disk_that_was_lost_is_another_node() {
        let peers = [("b", 9), ("c", 3)];
        let mut now = situation("ABC", &peers);
        check(&now, Some(Change::Learn { node: 9, name: "b".to_owned() }));
        now.members.insert(9, "b".to_owned());
        check(&now, None);
        now.level.insert(9);
        check(&now, vote(&[1, 3, 9]));
        now.voters = [1, 3, 9].into();
        check(&now, Some(Change::Forget(2)));
    }

    #[test]
    fn what_a_leader_began_its_successor_ends() {
        let mut now = situation("ABCI", &[("b", 2), ("c", 9)]);
        now.members.insert(9, "c".to_owned());
        now.begun = Some([1, 2, 9].into());
        check(&now, vote(&[1, 2, 9]));
        now.leaving = [2].into();
        check(&now, vote(&[1, 2, 9]));
    }

    #[test]
    fn those_that_leave_or_are_gone_are_taken_out() {
        let mut now = situation("ABC", &[("b", 2), ("c", 3)]);
        now.leaving = [3].into();
        check(&now, vote(&[1, 2]));
        now.leaving = [1].into();
        check(&now, vote(&[2, 3]));
        now.leaving = BTreeSet::new();
        now.gone = [2].into();
        check(&now, vote(&[1, 3]));
        let mut last = situation("A", &[]);
        last.leaving = [1].into();
        check(&last, None);
    }

    #[test]
    fn one_that_left_is_not_taken_in_at_once() {
        let mut now = situation("AB", &[("b", 2), ("c", 3)]);
        now.leaving = [3].into();
        check(&now, None);
        now.leaving = BTreeSet::new();
        check(&now, Some(Change::Learn { node: 3, name: "c".to_owned() }));
    }
}
