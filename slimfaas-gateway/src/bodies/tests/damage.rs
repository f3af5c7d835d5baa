//! Files that are lost, or not what they were.

use super::cluster::{Cluster, content, id, until};
use crate::bodies::Missing;

fn flip_a_bit(cluster: &Cluster, name: &str) {
    let path = cluster.path(name, id(1));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_a_node_lost_it_gets_from_the_others() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let file = cluster.enqueue("a", id(1), &content(1)).await;
    for name in ["b", "c"] {
        cluster.until_files(name, &[id(1).to_string()]).await;
        std::fs::remove_file(cluster.path(name, id(1))).unwrap();
    }
    // When it is to deliver, and of its own accord.
    assert!(cluster.read("b", id(1), file).await.unwrap() == content(1));
    cluster.hurry("c");
    cluster.until_files("c", &[id(1).to_string()]).await;
    assert!(std::fs::read(cluster.path("c", id(1))).unwrap() == content(1));
}

#[tokio::test]
async fn a_node_with_an_empty_folder_gets_everything() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    let ids: Vec<_> = (1..=5).map(id).collect();
    for (number, id) in (1..).zip(&ids) {
        cluster.enqueue("a", *id, &content(number)).await;
    }
    let names: Vec<_> = ids.iter().map(ToString::to_string).collect();
    cluster.until_files("c", &names).await;
    cluster.kill("c").await;
    for id in &ids {
        std::fs::remove_file(cluster.path("c", *id)).unwrap();
    }
    cluster.start("c").await;
    cluster.hurry("c");
    cluster.until_files("c", &names).await;
    for (number, id) in (1..).zip(&ids) {
        assert!(std::fs::read(cluster.path("c", *id)).unwrap() == content(number));
    }
}

#[tokio::test]
async fn one_flipped_bit_is_detected_and_repaired() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let file = cluster.enqueue("a", id(1), &content(1)).await;
    cluster.until_files("b", &[id(1).to_string()]).await;
    flip_a_bit(&cluster, "b");
    assert!(cluster.read("b", id(1), file).await.unwrap() == content(1));
    assert_eq!(cluster.files("b"), [id(1).to_string(), format!("{}.damaged", id(1))]);
    let state = cluster.bodies("b").state();
    assert_eq!((state.damaged, state.repaired), (1, 1));
}

#[tokio::test]
async fn a_damaged_copy_is_not_taken_and_its_holder_repairs_it() {
    let cluster = Cluster::of(&["a", "b", "c"]).await;
    let file = cluster.enqueue("a", id(1), &content(1)).await;
    for name in ["b", "c"] {
        cluster.until_files(name, &[id(1).to_string()]).await;
    }
    // The one that is asked first, as long as ids rotate who that is.
    flip_a_bit(&cluster, "b");
    std::fs::remove_file(cluster.path("c", id(1))).unwrap();
    assert!(cluster.read("c", id(1), file).await.unwrap() == content(1));
    assert_eq!((cluster.bodies("c").state().damaged, cluster.bodies("b").state().damaged), (1, 1));
    let repaired = || std::fs::read(cluster.path("b", id(1))).is_ok_and(|bytes| bytes == content(1));
    until("the damaged copy is replaced", repaired).await;
}

#[tokio::test]
async fn what_nobody_has_is_lost_and_what_cannot_be_asked_for_is_not() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    let file = cluster.enqueue("a", id(1), &content(1)).await;
    for name in ["a", "b", "c"] {
        cluster.until_files(name, &[id(1).to_string()]).await;
    }
    for name in ["a", "b", "c"] {
        std::fs::remove_file(cluster.path(name, id(1))).unwrap();
    }
    assert_eq!(cluster.read("a", id(1), file).await, Err(Missing::Nowhere));
    cluster.kill("c").await;
    assert_eq!(cluster.read("a", id(1), file).await, Err(Missing::Unreachable));
}
