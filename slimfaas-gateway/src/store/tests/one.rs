//! A single node, end to end.

use super::cluster::{Cluster, budget, enqueue, function, id};
use crate::queue::command::{Command, Enqueue, Reply};
use crate::queue::element::{End, Phase};
use crate::store::{Effect, REQUEST_BYTES_MAX, StoreError};

#[tokio::test]
async fn a_node_alone_stores_delivers_and_forgets() {
    let mut cluster = Cluster::of(&["a"]).await;
    let node = cluster.nodes.get_mut("a").unwrap();
    assert_eq!(node.propose(enqueue(1, "f")).await, Reply::Done);
    assert_eq!(node.store.queue(&function("f")).unwrap().ready, 1);
    assert_eq!(node.propose(budget("f", 1)).await, Reply::Done);
    let Some(Effect::Deliver(delivery)) = node.effects.recv().await else { panic!("no delivery") };
    assert_eq!(delivery.request, [0, 0, 0, 0, 0, 0, 0, 1].repeat(128));
    assert_eq!(node.complete(id(1), 1, 500).await, Reply::Done);
    assert_eq!(node.delivery().await, (id(1), 2, 2), "the retry is due after 50 ms, and nobody asks");
    assert_eq!(node.complete(id(1), 2, 500).await, Reply::Done);
    node.store.catch_up(super::cluster::WAIT).await.unwrap();
    let (dead, next) = node.store.dead_letters(&function("f"), 0, 10).unwrap();
    assert_eq!((dead.len(), next), (1, None));
    let ends: Vec<_> = dead[0].element.history.iter().map(|attempt| attempt.end.clone()).collect();
    assert_eq!(ends, [End::Status(500), End::Status(500)]);
    assert_eq!(node.propose(Command::Replay(id(1))).await, Reply::Done);
    assert_eq!(node.delivery().await, (id(1), 3, 1));
    assert_eq!(node.complete(id(1), 3, 200).await, Reply::Done);
    assert_eq!(node.store.totals(), (0, 0));
    node.store.catch_up(super::cluster::WAIT).await.unwrap();
    assert_eq!(node.store.request(id(1)).unwrap(), None);
}

#[tokio::test]
async fn a_node_that_returns_has_everything_and_delivers_again_what_was_running() {
    let mut cluster = Cluster::of(&["a"]).await;
    let node = cluster.nodes.get_mut("a").unwrap();
    node.propose(budget("f", 1)).await;
    for number in 1..=3 {
        node.propose(enqueue(number, "f")).await;
    }
    assert_eq!(node.delivery().await, (id(1), 1, 1));
    let former = node.store.me();
    cluster.kill("a").await;
    cluster.start("a").await;
    let node = cluster.nodes.get_mut("a").unwrap();
    assert_eq!(node.delivery().await, (id(1), 2, 1), "the same try: the node's end is not the function's fault");
    assert_eq!(node.store.me().node, former.node);
    assert_ne!(node.store.me().incarnation, former.incarnation);
    assert_eq!(node.complete(id(1), 1, 200).await, Reply::Stale);
    assert_eq!(node.complete(id(1), 2, 200).await, Reply::Done);
    assert_eq!(node.delivery().await, (id(2), 1, 1));
    node.store.show().await.unwrap();
    let found = node.store.element(id(3)).unwrap().unwrap();
    assert_eq!((found.function, found.element.phase), (function("f"), Phase::Ready));
    cluster.stop("a").await;
}

#[tokio::test]
async fn pages_of_dead_letters_follow_each_other() {
    let cluster = Cluster::of(&["a"]).await;
    let node = &cluster.nodes["a"];
    node.propose(budget("f", 10)).await;
    for number in 1..=5 {
        node.propose(enqueue(number, "f")).await;
        node.complete(id(number), 1, 400).await;
    }
    node.store.catch_up(super::cluster::WAIT).await.unwrap();
    let (mut seen, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let (page, next) = node.store.dead_letters(&function("f"), from, 2).unwrap();
        assert!(page.len() <= 2);
        seen.extend(page.into_iter().map(|found| found.id));
        cursor = next;
    }
    assert_eq!(seen, [1, 2, 3, 4, 5].map(id));
}

#[tokio::test]
async fn damage_that_is_read_ends_the_store_and_is_named() {
    let disk = super::disk::PowerDisk::default();
    let node = super::power::start(&disk, crate::store::DiskWriter::Thread).await.unwrap();
    let long = 7_u64.to_be_bytes().repeat(128);
    node.store.propose(enqueue(7, "f"), super::cluster::WAIT).await.unwrap();
    node.store.propose(enqueue(8, "f"), super::cluster::WAIT).await.unwrap();
    node.store.catch_up(super::cluster::WAIT).await.unwrap();
    assert_eq!(disk.flip_bits_in(&long), 1, "it is in the log");
    let again = disk.after_power_failure(super::disk::Luck::Nothing);
    let opened = super::power::start(&again, crate::store::DiskWriter::Thread).await;
    let Err(error) = opened else { panic!("a damaged file is opened") };
    let named = error.to_string();
    assert!(named.contains("log entry ") && named.contains("does not have its checksum"), "{error}");
}

#[tokio::test]
async fn a_node_whose_raft_has_ended_by_itself_has_failed() {
    let cluster = Cluster::of(&["a"]).await;
    let node = &cluster.nodes["a"];
    node.store.abort().await;
    let mut failure = node.store.failure();
    let told = tokio::time::timeout(super::cluster::WAIT, failure.wait_for(Option::is_some)).await;
    let told = told.expect("soon").expect("the store is there").clone();
    assert!(told.is_some_and(|told| told.contains("Raft has ended by itself")));
}

#[tokio::test]
async fn a_request_that_is_too_large_for_the_log_is_not_proposed() {
    let cluster = Cluster::of(&["a"]).await;
    let Command::Enqueue(enqueue) = enqueue(1, "f") else { unreachable!() };
    for (bytes, expected) in [(REQUEST_BYTES_MAX, Ok(Reply::Done)), (REQUEST_BYTES_MAX + 1, Err(StoreError::TooLarge))]
    {
        let enqueue = Enqueue { request: vec![0; bytes].into(), ..enqueue.clone() };
        let reply = cluster.store("a").propose(Command::Enqueue(enqueue), super::cluster::WAIT).await;
        assert_eq!(reply, expected, "{bytes}");
    }
}
