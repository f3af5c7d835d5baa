//! What becomes of bodies while nothing fails.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{BYTES, Cluster, WAIT, budget, content, enqueue, id, until, upload};
use crate::bodies::upkeep;
use crate::clock;
use crate::queue::command::{Command, Reply};
use crate::queue::request::{Body, StoredRequest};

#[tokio::test]
async fn a_body_is_on_every_node_until_its_element_is_done() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    let (bytes, names) = (content(1), ["a", "b", "c"]);
    let file = cluster.enqueue("b", id(1), &bytes).await;
    assert_eq!(file.bytes, BYTES as u64);
    for name in names {
        cluster.until_files(name, &[id(1).to_string()]).await;
        assert!(std::fs::read(cluster.path(name, id(1))).unwrap() == bytes, "{name}");
        cluster.nodes[name].store.catch_up(WAIT).await.unwrap();
        assert_eq!(cluster.nodes[name].store.bodies(id(0), 9).unwrap(), [(id(1), file)]);
    }
    assert_eq!(cluster.nodes["a"].store.totals().0, 1);
    assert!(cluster.nodes["a"].store.totals().1 > BYTES as u64, "the file counts");
    cluster.nodes["a"].propose(budget(1)).await;
    let (name, delivery) = next_delivery(&mut cluster).await;
    let request = StoredRequest::decode(delivery.request).unwrap();
    assert_eq!(request.body, Body::File(file));
    assert!(cluster.read(&name, id(1), file).await.unwrap() == bytes);
    cluster.nodes[&name].complete(id(1), delivery.assignment.attempt).await;
    for name in names {
        cluster.until_files(name, &[]).await;
        until("it counts no more", || cluster.bodies(name).state().bytes == 0).await;
    }
}

async fn next_delivery(cluster: &mut Cluster) -> (String, crate::store::Delivery) {
    let end = clock::now() + WAIT;
    loop {
        for (name, node) in &mut cluster.nodes {
            if let Ok(delivery) = node.deliveries.try_recv() {
                return (name.clone(), delivery);
            }
        }
        assert!(clock::now() < end, "nothing is delivered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_node_alone_needs_nobody() {
    let cluster = Cluster::of(&["a"]).await;
    let bytes = content(1);
    let file = cluster.enqueue("a", id(1), &bytes).await;
    assert!(cluster.read("a", id(1), file).await.unwrap() == bytes);
    let state = cluster.bodies("a").state();
    assert_eq!((state.files, state.bytes), (1, BYTES as u64));
    // Counted by a task that hears of it.
    until("it is counted", || cluster.bodies("a").state().stored == 1).await;
}

#[tokio::test]
async fn equal_bodies_are_files_of_their_own() {
    let cluster = Cluster::of(&["a"]).await;
    let bytes = content(1);
    let file = cluster.enqueue("a", id(1), &bytes).await;
    assert_eq!(cluster.enqueue("a", id(2), &bytes).await, file);
    cluster.nodes["a"].propose(Command::Delete(id(1))).await;
    cluster.until_files("a", &[id(2).to_string()]).await;
    assert!(cluster.read("a", id(2), file).await.unwrap() == bytes);
}

#[tokio::test]
async fn an_abandoned_upload_leaves_nothing() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let mut begun = cluster.bodies("a").upload(id(1), None).await.unwrap();
    for piece in content(1).chunks(100_000) {
        begun.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    until("the others have begun", || cluster.files("b") == [format!("{}.part", id(1))]).await;
    drop(begun);
    for name in ["a", "b", "c"] {
        cluster.until_files(name, &[]).await;
    }
    assert!(cluster.bodies("a").state().refused.contains(&("abandoned", 1)));

    // Whole, and refused by the log.
    let stored = upload(cluster.bodies("a"), id(2), &content(2)).await.unwrap();
    assert_eq!(cluster.files("a"), [id(2).to_string()]);
    stored.discard();
    for name in ["a", "b", "c"] {
        cluster.until_files(name, &[]).await;
    }
}

#[tokio::test]
async fn a_node_that_joins_later_gets_what_is_there() {
    let mut cluster = Cluster::of(&["a"]).await;
    let file = cluster.enqueue("a", id(1), &content(1)).await;
    cluster.start("b").await;
    cluster.until_voters(2).await;
    cluster.hurry("b");
    cluster.until_files("b", &[id(1).to_string()]).await;
    assert!(cluster.read("b", id(1), file).await.unwrap() == content(1));
    until("it is counted", || cluster.bodies("b").state().repaired == 1).await;
}

#[tokio::test]
async fn who_leaves_waits_until_others_have_everything() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    cluster.enqueue("a", id(1), &content(1)).await;
    for name in ["b", "c"] {
        cluster.until_files(name, &[id(1).to_string()]).await;
        std::fs::remove_file(cluster.path(name, id(1))).unwrap();
    }
    cluster.bodies("a").hand_over(WAIT).await;
    for name in ["b", "c"] {
        assert_eq!(cluster.files(name), [id(1).to_string()]);
    }
}

#[tokio::test]
async fn the_sweep_takes_what_no_element_names() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let named = cluster.enqueue("a", id(1), &content(1)).await;
    // Nobody says what became of it, as after a crash.
    drop(upload(cluster.bodies("a"), id(2), &content(2)).await.unwrap());
    // And so it is with one whose element came after all.
    let stored = upload(cluster.bodies("a"), id(3), &content(3)).await.unwrap();
    let late = stored.file;
    drop(stored);
    assert_eq!(cluster.nodes["b"].propose(enqueue(id(3), late)).await, Reply::Done);
    upkeep::sweep(&cluster.bodies("a").0, vec![id(1), id(2), id(3)]).await;
    assert_eq!(cluster.files("a"), [id(1).to_string(), id(3).to_string()]);
    assert_eq!(cluster.bodies("a").state().swept, 1);
    assert!(cluster.read("a", id(1), named).await.is_ok());
}
