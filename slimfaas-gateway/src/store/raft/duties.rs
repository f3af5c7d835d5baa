//! What nodes propose by themselves: that they take part, that time has passed, that a peer is gone. Each loop ends with
//! the task set that it runs in.

use std::time::Duration;

use openraft::{LogIdOptionExt, RaftMetrics};

use super::proposer::Way;
use super::serve::leads;
use super::types::Member;
use crate::clock::{self, Instant};
use crate::queue::command::{Command, Reply};
use crate::queue::element::PeerRun;

/// A peer's process that was not heard for this long is taken for gone, and what it was delivering goes to others.
/// Longer than an election, shorter than any call's timeout that people set.
const SILENCE_MAX: Duration = Duration::from_secs(3);

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Before something is tried again that could not be done.
const PAUSE: Duration = Duration::from_millis(20);

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

const COMPACT_EVERY: Duration = Duration::from_millis(100);

/// Makes this process known to the state machine, now and whenever it was declared gone.
pub(super) async fn take_part(way: Way) {
    let mut peers = way.shared.peers.subscribe();
    let mut me = way.shared.me.subscribe();
    loop {
        let run = *me.borrow_and_update();
        if peers.borrow_and_update().contains(&run) {
            tokio::select! {
                biased;
                changed = me.changed() => if changed.is_err() { return },
                changed = peers.changed() => if changed.is_err() { return },
            }
        } else if way.command(Command::PeerUp(run), PROPOSE_TIMEOUT).await.is_ok() {
            // It is applied by the majority; here it will be in a moment.
            let applied = peers.wait_for(|peers| peers.contains(&run));
            let _late = tokio::time::timeout(PROPOSE_TIMEOUT, applied).await.is_err();
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// As the leader, has the queue's timers acted on when they are due.
pub(super) async fn keep_time(way: Way) {
    let mut due = way.shared.next_due.subscribe();
    let mut metrics = way.raft.server_metrics();
    loop {
        let next = *due.borrow_and_update();
        let leads = leads(&way.raft, way.links.node);
        let wait = match next.filter(|_| leads) {
            Some(due_ms) => Duration::from_millis(due_ms.saturating_sub(way.shared.time_ms())),
            // Until one of the watched changes.
            None => Duration::from_secs(3600),
        };
        if !wait.is_zero() {
            tokio::select! {
                biased;
                changed = due.changed() => if changed.is_err() { return },
                changed = metrics.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            continue;
        }
        match way.command(Command::Due, PROPOSE_TIMEOUT).await {
            Ok(Reply::Changed { .. }) => {
                // A clock that has just been set back: then nothing was due, and asking at once would spin.
                let moved = due.wait_for(|due| *due != next);
                let _same = tokio::time::timeout(Duration::from_millis(5), moved).await.is_err();
            }
            Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// As the leader, declares processes gone that are silent.
pub(super) async fn watch_peers(way: Way) {
    let mut leading_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !leads(&way.raft, way.links.node) {
            leading_since = None;
            continue;
        }
        let since = *leading_since.get_or_insert_with(clock::now);
        let peers = way.shared.peers.borrow().clone();
        let others = peers.iter().filter(|run| run.node != way.links.node);
        let silent = |run: &&PeerRun| {
            let heard = way.links.heard_at(run.node).map_or(since, |heard| heard.max(since));
            clock::now().saturating_duration_since(heard) >= SILENCE_MAX
        };
        for run in others.filter(silent) {
            tracing::warn!(node = format!("{:x}", run.node), "a peer is silent: what it was delivering goes to others");
            let _again_next_time = way.command(Command::PeerDown(*run), PROPOSE_TIMEOUT).await.is_err();
        }
    }
}

/// Removes the front of the log once the state has it. So many bytes are kept for peers that were away for a while; one
/// that was away for longer gets a snapshot.
pub(super) async fn compact(way: Way, keep_bytes: u64) {
    loop {
        let Some(upto) = way.shared.surplus(keep_bytes) else {
            tokio::time::sleep(COMPACT_EVERY).await;
            continue;
        };
        // A snapshot costs nothing here, and Raft removes nothing that is in none.
        if way.raft.trigger().snapshot().await.is_err() {
            return;
        }
        let covers = |metrics: &RaftMetrics<u64, Member>| metrics.snapshot.next_index() > upto;
        let built = way.raft.wait(Some(PROPOSE_TIMEOUT)).metrics(covers, "a snapshot").await;
        if built.is_ok() && way.raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
        let is_gone = |metrics: &RaftMetrics<u64, Member>| metrics.purged.next_index() > upto;
        let _later = way.raft.wait(Some(COMPACT_EVERY)).metrics(is_gone, "a shorter log").await.is_err();
    }
}
