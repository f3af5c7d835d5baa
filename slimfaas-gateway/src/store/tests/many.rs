//! Several nodes: whatever happens to one of them, nothing that was acknowledged is lost.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cluster::{Cluster, WAIT, budget, enqueue, function, id};
use crate::queue::command::{Command, Reply};
use crate::store::StoreError;

#[tokio::test]
async fn every_node_takes_proposals_and_delivers() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    let names = ["a", "b", "c"];
    cluster.nodes["a"].propose(budget("f", 3)).await;
    for (number, name) in (1..).zip(names) {
        assert_eq!(cluster.nodes[name].propose(enqueue(number, "f")).await, Reply::Done);
    }
    let mut delivered = BTreeSet::new();
    for name in names {
        let node = cluster.nodes.get_mut(name).unwrap();
        let (element, attempt, _) = node.delivery().await;
        delivered.insert(element);
        assert_eq!(node.complete(element, attempt, 200).await, Reply::Done);
    }
    assert_eq!(delivered, [1, 2, 3].map(id).into(), "one each");
    for name in names {
        let store = cluster.store(name);
        store.catch_up(WAIT).await.unwrap();
        assert_eq!(store.totals(), (0, 0));
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_leader() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    for number in 1..=20 {
        cluster.nodes["b"].propose(enqueue(number, "f")).await;
    }
    let leader = cluster.leader().await;
    cluster.kill(&leader).await;
    let began = crate::clock::now();
    let survivor = cluster.nodes.keys().next().unwrap().clone();
    assert_eq!(cluster.nodes[&survivor].propose(enqueue(21, "f")).await, Reply::Done);
    let took = crate::clock::now() - began;
    assert!(took < Duration::from_secs(3), "{took:?} until somebody else led");
    let store = cluster.store(&survivor);
    store.catch_up(WAIT).await.unwrap();
    assert_eq!(store.queue(&function("f")).unwrap().ready, 21);
    // The former leader comes back, and learns what it missed.
    cluster.start(&leader).await;
    cluster.store(&leader).catch_up(WAIT).await.unwrap();
    assert_eq!(cluster.store(&leader).queue(&function("f")).unwrap().ready, 21);
}

#[tokio::test]
async fn what_a_lost_node_was_delivering_is_delivered_by_others() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    cluster.nodes["a"].propose(budget("f", 3)).await;
    for number in 1..=3 {
        cluster.nodes["a"].propose(enqueue(number, "f")).await;
    }
    let lost = ["a", "b", "c"].into_iter().find(|name| !cluster.store(name).role().borrow().leads).unwrap();
    let (element, ..) = cluster.nodes.get_mut(lost).unwrap().delivery().await;
    cluster.kill(lost).await;
    let mut again = BTreeSet::new();
    for node in cluster.nodes.values_mut() {
        let (own, attempt, _) = node.delivery().await;
        again.insert(own);
        node.complete(own, attempt, 200).await;
    }
    let found = async {
        loop {
            for node in cluster.nodes.values_mut() {
                if let Ok(next) = tokio::time::timeout(Duration::from_millis(50), node.delivery()).await {
                    return next;
                }
            }
        }
    };
    let (redelivered, attempt, try_number) = tokio::time::timeout(WAIT, found).await.unwrap();
    assert_eq!((redelivered, attempt, try_number), (element, 2, 1));
}

#[tokio::test]
async fn a_minority_answers_nothing() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    cluster.cut(&leader, true);
    let alone = cluster.store(&leader);
    let answered = alone.propose(enqueue(1, "f"), Duration::from_secs(2)).await;
    assert!(matches!(answered, Err(StoreError::Unknown | StoreError::NotAccepted)), "{answered:?}");
    assert_eq!(alone.catch_up(Duration::from_millis(500)).await, Err(StoreError::NotAccepted));
    assert_eq!(alone.totals(), (0, 0));
    cluster.cut(&leader, false);
    alone.catch_up(WAIT).await.unwrap();
    assert_eq!(alone.propose(enqueue(2, "f"), WAIT).await, Ok(Reply::Done));
}

#[tokio::test]
async fn a_proposal_whose_answer_is_lost_is_applied_once() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let leader = cluster.leader().await;
    let follower = ["a", "b", "c"].into_iter().find(|name| *name != leader).unwrap();
    let store = cluster.store(follower);
    store.propose(budget("f", 1), WAIT).await.unwrap();
    cluster.mute(follower, true);
    let proposing = tokio::time::timeout(WAIT, store.propose(enqueue(1, "f"), WAIT));
    let (reply, ()) = tokio::join!(proposing, async {
        // Meanwhile the element is stored, delivered and forgotten, so that nothing but the batch's number tells.
        let applied = async {
            let leader = cluster.store(&leader);
            while leader.element(id(1)).unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let complete = Command::Delete(id(1));
            leader.propose(complete, WAIT).await.unwrap();
        };
        tokio::time::timeout(WAIT, applied).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.mute(follower, false);
    });
    assert_eq!(reply.unwrap(), Ok(Reply::Done));
    store.catch_up(WAIT).await.unwrap();
    assert_eq!(store.queue(&function("f")).unwrap().totals.enqueued, 1);
    assert_eq!(store.totals(), (0, 0));
}

#[tokio::test]
async fn one_grows_to_five_and_shrinks_again() {
    let mut cluster = Cluster::of(&["a"]).await;
    cluster.nodes["a"].propose(enqueue(1, "f")).await;
    for name in ["b", "c", "d", "e"] {
        cluster.start(name).await;
    }
    cluster.until_voters(5).await;
    for name in ["e", "d", "c", "b"] {
        let at = cluster.nodes[name].at;
        cluster.stop(name).await;
        cluster.list(name, None);
        let _former = at;
    }
    cluster.until_voters(1).await;
    let store = cluster.store("a");
    assert_eq!(store.propose(enqueue(2, "f"), WAIT).await, Ok(Reply::Done));
    assert_eq!(store.queue(&function("f")).unwrap().ready, 2);
}

#[tokio::test]
async fn a_node_without_its_disk_is_another_node() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    for number in 1..=10 {
        cluster.nodes["a"].propose(enqueue(number, "f")).await;
    }
    let former = cluster.store("c").me().node;
    cluster.kill("c").await;
    std::fs::remove_file(cluster.folder.path().join("c/store.redb")).unwrap();
    cluster.start("c").await;
    let store = cluster.store("c");
    assert_ne!(store.me().node, former);
    cluster.until_voters(3).await;
    let is_in = store.propose(enqueue(11, "f"), WAIT).await;
    assert_eq!(is_in, Ok(Reply::Done));
    store.catch_up(WAIT).await.unwrap();
    assert_eq!(store.queue(&function("f")).unwrap().ready, 11);
    assert_eq!(store.request(id(3)).unwrap().unwrap(), 3_u64.to_be_bytes().repeat(128));
}

#[tokio::test]
async fn a_node_that_was_away_for_long_gets_the_state_instead_of_the_log() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    cluster.nodes["a"].propose(enqueue(1, "f")).await;
    let before = cluster.store("c").role().borrow().last_log;
    cluster.kill("c").await;
    // Twice the log that is kept, and time for the rounds that remove it.
    let enough = async {
        for number in 2.. {
            cluster.nodes["a"].propose(enqueue(number, "f")).await;
            let kept = cluster.nodes.values().all(|node| node.store.first_log() > before);
            if kept {
                return number;
            }
        }
        unreachable!("numbers do not end")
    };
    let last = tokio::time::timeout(3 * WAIT, enough).await.expect("the log's front is removed");
    // Meanwhile the state is offered to it now and then, and not as fast as the leader can.
    let offered = || cluster.net.snapshot_calls.load(Ordering::Relaxed);
    let before = offered();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(offered() - before <= 20, "{} in a second", offered() - before);
    cluster.start("c").await;
    let store = cluster.store("c");
    store.catch_up(WAIT).await.unwrap();
    assert_eq!(store.queue(&function("f")).unwrap().ready, last);
    assert_eq!(store.request(id(2)).unwrap().unwrap(), 2_u64.to_be_bytes().repeat(128));
    // It takes part again, as another process; until the others know of that, they get what there is to deliver.
    let delivered = async {
        for slots in 1.. {
            cluster.nodes["a"].propose(budget("f", slots)).await;
            let delivery = cluster.nodes.get_mut("c").unwrap().delivery();
            if let Ok(delivery) = tokio::time::timeout(Duration::from_millis(100), delivery).await {
                return delivery;
            }
        }
        unreachable!("numbers do not end")
    };
    let (element, attempt, _) = tokio::time::timeout(WAIT, delivered).await.expect("it delivers");
    assert_eq!(cluster.nodes["c"].complete(element, attempt, 200).await, Reply::Done);
}

#[tokio::test]
async fn one_flipped_bit_is_detected_and_repaired_from_the_peers() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    for number in 1..=50 {
        cluster.nodes["a"].propose(enqueue(number, "f")).await;
    }
    cluster.store("c").catch_up(WAIT).await.unwrap();
    cluster.kill("c").await;
    let folder = cluster.folder.path().join("c");
    flip_bit(&folder, &40_u64.to_be_bytes().repeat(128)).await;
    cluster.start("c").await;
    cluster.until_voters(3).await;
    let store = cluster.store("c");
    store.catch_up(WAIT).await.unwrap();
    assert_eq!(store.request(id(40)).unwrap().unwrap(), 40_u64.to_be_bytes().repeat(128));
    for kept in ["store.redb.damaged", "store.log.damaged"] {
        assert!(folder.join(kept).try_exists().unwrap(), "damaged files are kept for people: {kept}");
    }
}

/// In the log of a node that was killed, once its files are closed.
async fn flip_bit(folder: &std::path::Path, within: &[u8]) {
    let closed = async {
        while !crate::store::raft::tests::is_closed(&folder.join("store.redb")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, closed).await.unwrap();
    let file = folder.join("store.log");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(within.len()).position(|window| window == within).expect("it is stored");
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}
