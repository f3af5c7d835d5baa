//! Those without the key, with another one, and with one that changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use slimfaas_gateway::clock;
use slimfaas_gateway::net::TcpStream;
use slimfaas_gateway::peer::key::KeySource;
use slimfaas_gateway::peer::{CallError, Kind, NotDone};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::nodes::{Echo, KEY, Running, bind, echo, run, soon, until};

async fn call(from: &Running, to: &Running) -> Result<Bytes, CallError> {
    from.client.call(to.address, Kind::Raft, Bytes::from_static(b"hello"), soon()).await
}

#[tokio::test]
async fn another_key_is_refused_both_ways() {
    let (one, other) = (echo("one", KEY), echo("other", &format!("{KEY}!")));
    for (from, to) in [(&one, &other), (&other, &one)] {
        let refused = call(from, to).await;
        let Err(CallError::NotDone(NotDone::Unreachable(why))) = refused else { panic!("{refused:?}") };
        assert_eq!(&*why, "the peer does not accept this node's key; check that both have the same key file");
        assert_eq!(from.stats.handshakes_failed_outgoing.load(Ordering::Relaxed), 1);
        assert_eq!(to.stats.handshakes_failed_incoming.load(Ordering::Relaxed), 1);
        assert_eq!(to.stats.served[1].load(Ordering::Relaxed), 0);
    }
}

/// What a stranger who sends `bytes` is answered until the connection closes, and how long that took.
async fn answer(to: &Running, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let mut stream = TcpStream::connect(to.address).await.expect("connects");
    stream.write_all(bytes).await.expect("writes");
    let began = clock::now();
    let mut answer = Vec::new();
    // A reset is an end as good as any.
    stream.read_to_end(&mut answer).await.ok();
    (answer, began.elapsed())
}

#[tokio::test]
async fn a_stranger_learns_nothing_and_does_not_stay() {
    let node = echo("node", KEY);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 48], &[0, 1, 0], &[0; 400], b"", &[0xff, 0xff, 1]] {
        let (answer, took) = answer(&node, bytes).await;
        assert_eq!(answer, b"", "{bytes:?}");
        assert!(took < Duration::from_secs(8), "{bytes:?}: {took:?}");
    }
    // Whole, of the right length, and made without the key.
    let (answer, took) = answer(&node, &[&[0, 60][..], &[9; 60]].concat()).await;
    assert_eq!(answer, b"");
    assert!(took < Duration::from_secs(2), "refused at once: {took:?}");
    let other = echo("other", KEY);
    assert_eq!(call(&other, &node).await, Ok(Bytes::from_static(b"hello")));
}

#[tokio::test]
async fn strangers_cannot_keep_nodes_out() {
    let (one, other) = (echo("one", KEY), echo("other", KEY));
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(one.address).await.expect("connects"));
    }
    let began = clock::now();
    assert_eq!(call(&other, &one).await, Ok(Bytes::from_static(b"hello")));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("the oldest are closed", || one.stats.handshakes_failed_incoming.load(Ordering::Relaxed) >= 68).await;
    // And the rest when their time is over.
    until("all are closed", || one.stats.handshakes_failed_incoming.load(Ordering::Relaxed) == 100).await;
}

/// A Secret is looked at less often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn from_file(name: &str, file: &std::path::Path) -> Running {
    let node = bind(name, KeySource::FileEvery(file.to_owned(), LOOK_EVERY));
    node.register(Kind::Raft, Arc::new(Echo));
    run(node)
}

#[tokio::test]
async fn keys_change_without_a_stop() {
    let folder = std::env::temp_dir().join(format!("slimfaas-peer-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = ["one", "two"].map(|name| folder.join(name));
    let (old, new) = (KEY.to_owned(), format!("{KEY}, anew"));
    std::fs::write(&files[0], &old).unwrap();
    let [one, two] = [from_file("one", &files[0]), from_file("two", &files[1])];
    for (from, to) in [(&one, &two), (&two, &one)] {
        assert!(call(from, to).await.is_err_and(|error| error.is_repeatable()), "one has no key yet");
    }
    std::fs::write(&files[1], &old).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let hello = Ok(Bytes::from_static(b"hello"));
    // In any order, as nodes get a changed Secret at different times; a call after each step and many in between.
    let both = format!("{new}\n{old}");
    for (file, text) in [(0, &both), (1, &both), (1, &new), (0, &new)] {
        // Swapped, as the kubelet does it.
        let next = folder.join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &files[file]).unwrap();
        let end = clock::now() + Duration::from_millis(300);
        while clock::now() < end {
            for (from, to) in [(&one, &two), (&two, &one)] {
                assert_eq!(call(from, to).await, hello, "file {file} is {text}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let late = echo("late", &old);
    assert!(call(&late, &one).await.is_err_and(|error| error.is_repeatable()));
    // A file that has become bad changes nothing.
    std::fs::write(&files[0], "short").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(call(&two, &one).await, hello);
    std::fs::remove_dir_all(&folder).unwrap();
}
