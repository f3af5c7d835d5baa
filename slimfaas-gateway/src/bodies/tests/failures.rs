//! Nodes that are away, and disks that are full.

use std::time::Duration;

use super::cluster::{Cluster, content, id, until, upload};
use crate::bodies::{UPLOADS_MAX, UploadError};
use crate::clock;

#[tokio::test]
async fn a_minority_that_is_away_holds_up_nothing() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    cluster.kill("c").await;
    let file = cluster.enqueue("a", id(1), &content(1)).await;
    let places = || cluster.bodies("a").0.places.available_permits() == UPLOADS_MAX;
    let began = clock::now();
    until("the upload gives its place back", places).await;
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for a node that does not answer");
    assert_eq!((cluster.files("a"), cluster.files("b")), (vec![id(1).to_string()], vec![id(1).to_string()]));
    // And then the one that it was sent to is lost.
    cluster.start("c").await;
    cluster.kill("a").await;
    assert!(cluster.read("c", id(1), file).await.unwrap() == content(1));
}

#[tokio::test]
async fn without_a_majority_nothing_is_stored() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    cluster.kill("b").await;
    cluster.kill("c").await;
    let refused = upload(cluster.bodies("a"), id(1), &content(1)).await.err();
    assert_eq!(refused, Some(UploadError::NoMajority));
    cluster.until_files("a", &[]).await;
    assert!(cluster.bodies("a").state().refused.contains(&("not-stored", 1)));
}

#[tokio::test]
async fn a_full_disk_refuses_uploads_only() {
    let mut cluster = Cluster::of(&["a", "b", "c"]).await;
    let kept = cluster.enqueue("a", id(1), &content(1)).await;
    for name in ["b", "c"] {
        cluster.until_files(name, &[id(1).to_string()]).await;
    }
    cluster.kill("c").await;
    cluster.start_with("c", u64::MAX).await;
    cluster.until_voters(3).await;
    assert_eq!(upload(cluster.bodies("c"), id(2), &content(2)).await.err(), Some(UploadError::Full));
    assert!(!cluster.bodies("c").has_room(0));
    // The others do without it, and it keeps what it has.
    cluster.enqueue("a", id(3), &content(3)).await;
    assert!(cluster.read("c", id(1), kept).await.unwrap() == content(1));
    cluster.kill("b").await;
    cluster.start_with("b", u64::MAX).await;
    cluster.until_voters(3).await;
    assert_eq!(upload(cluster.bodies("a"), id(4), &content(4)).await.err(), Some(UploadError::Full));
    cluster.until_files("a", &[id(1).to_string(), id(3).to_string()]).await;
}

#[tokio::test]
async fn uploads_are_bounded_in_number() {
    let cluster = Cluster::of(&["a"]).await;
    let bodies = cluster.bodies("a");
    let mut begun = Vec::new();
    for number in 1..=UPLOADS_MAX {
        begun.push(bodies.upload(id(u8::try_from(number).unwrap()), None).await.unwrap());
    }
    assert_eq!(bodies.upload(id(100), None).await.err(), Some(UploadError::Busy));
    assert!(bodies.state().refused.contains(&("busy", 1)));
    begun.pop();
    assert!(bodies.upload(id(100), None).await.is_ok());
    assert!(bodies.0.has_limit_of_incoming());
}
