//! Calls between nodes that hold the key.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use slimfaas_gateway::clock;
use slimfaas_gateway::model::peer::Peer;
use slimfaas_gateway::net::{TcpListener, listen};
use slimfaas_gateway::peer::{Answer, CallError, Failure, Kind, Lost, NotDone, Service};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::nodes::{KEY, Size, bind, echo, fixed, run, soon, until};

#[tokio::test]
async fn requests_and_replies_of_every_size_arrive_whole() {
    let (one, other) = (echo("one", KEY), bind("other", fixed(KEY)));
    other.register(Kind::Raft, Arc::new(Size));
    other.register(Kind::BodyRead, Arc::new(Size));
    let other = run(other);
    for size in [0, 1, 15_999, 16_000, 16_001, 65_519, 1 << 20] {
        let mut request = vec![1; size];
        request.extend_from_slice(&64_u32.to_be_bytes());
        let reply = one.client.call(other.address, Kind::Raft, request.into(), soon()).await;
        assert_eq!(reply, Ok(Bytes::from(vec![7; 64])), "{size}");
        let request = Bytes::copy_from_slice(&(size as u32).to_be_bytes());
        let reply = one.client.call(other.address, Kind::BodyRead, request, soon()).await;
        assert_eq!(reply, Ok(Bytes::from(vec![7; size])), "{size}");
    }
    assert_eq!(one.stats.outgoing.load(Ordering::Relaxed), 1);
    assert_eq!(other.stats.incoming.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn payloads_have_limits_each_way() {
    let (one, other) = (echo("one", KEY), bind("other", fixed(KEY)));
    other.register(Kind::Raft, Arc::new(Size));
    other.register(Kind::BodyRead, Arc::new(Size));
    let other = run(other);
    let limits = Kind::Raft.limits();
    let call = |kind, request: Vec<u8>| one.client.call(other.address, kind, request.into(), soon());
    assert_eq!(call(Kind::Raft, vec![0; limits.request]).await, Ok(Bytes::new()));
    let refused = call(Kind::Raft, vec![0; limits.request + 1]).await;
    assert_eq!(refused, Err(CallError::NotDone(NotDone::TooLarge)));
    let limit = u32::try_from(Kind::BodyRead.limits().reply).unwrap();
    let reply = call(Kind::BodyRead, limit.to_be_bytes().to_vec()).await;
    assert_eq!(reply.map(|reply| reply.len()), Ok(limit as usize));
    let failed = call(Kind::BodyRead, (limit + 1).to_be_bytes().to_vec()).await;
    assert_eq!(failed, Err(CallError::Failed(Failure("the reply is larger than its kind allows".to_owned()))));
    assert_eq!(one.stats.outgoing.load(Ordering::Relaxed), 1, "neither costs the connection");
}

/// Fails, panics or never answers, as it is told.
struct Moody {
    seen: AtomicU32,
    dropped: Arc<AtomicU32>,
}

struct CountDrop(Arc<AtomicU32>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service for Moody {
    fn serve(&self, from: Arc<str>, request: Bytes) -> Answer<'_> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let dropped = CountDrop(Arc::clone(&self.dropped));
        Box::pin(async move {
            let _dropped = dropped;
            match &request[..] {
                b"fail" => Err(Failure(format!("not for {from}"))),
                b"panic" => panic!("on purpose"),
                b"long failure" => Err(Failure("é".repeat(1000))),
                _ => std::future::pending().await,
            }
        })
    }
}

#[tokio::test]
async fn failures_and_silence_are_told_apart() {
    let moody = Arc::new(Moody { seen: AtomicU32::new(0), dropped: Arc::default() });
    let (one, other) = (echo("one", KEY), bind("other", fixed(KEY)));
    other.register(Kind::Raft, Arc::<Moody>::clone(&moody));
    let other = run(other);
    let call = |kind, request: &'static str, millis| {
        let deadline = clock::now() + Duration::from_millis(millis);
        one.client.call(other.address, kind, Bytes::from_static(request.as_bytes()), deadline)
    };
    let failed = |text: &str| Err(CallError::Failed(Failure(text.to_owned())));
    assert_eq!(call(Kind::Raft, "fail", 9000).await, failed("not for one"));
    assert_eq!(call(Kind::Raft, "panic", 9000).await, failed("the service panicked"));
    assert_eq!(call(Kind::Raft, "long failure", 9000).await, failed(&"é".repeat(256)));
    assert_eq!(call(Kind::Agent, "", 9000).await, Err(CallError::NotDone(NotDone::NoService)));
    assert_eq!(call(Kind::Raft, "wait", 300).await, Err(CallError::Unknown(Lost::Deadline)));
    // Who gives up takes the peer's work with it.
    until("the service is dropped", || moody.dropped.load(Ordering::SeqCst) == 4).await;
    {
        let given_up = call(Kind::Raft, "wait", 60_000);
        tokio::pin!(given_up);
        tokio::select! {
            biased;
            result = &mut given_up => panic!("{result:?}"),
            () = until("it is seen", || moody.seen.load(Ordering::SeqCst) == 5) => {}
        }
    }
    until("it is dropped too", || moody.dropped.load(Ordering::SeqCst) == 5).await;
    let counts = one.stats.calls[1].each_ref().map(|count| count.load(Ordering::Relaxed));
    assert_eq!(counts, [0, 3, 0, 1]);
}

#[tokio::test]
async fn a_peer_that_dies_leaves_what_was_sent_unknown_and_comes_back() {
    let moody = Arc::new(Moody { seen: AtomicU32::new(0), dropped: Arc::default() });
    let (one, node) = (echo("one", KEY), bind("other", fixed(KEY)));
    node.register(Kind::Raft, Arc::<Moody>::clone(&moody));
    let mut other = run(node);
    let address = other.address;
    let (seen, client) = (Arc::clone(&moody), one.client.clone());
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.call(address, Kind::Raft, Bytes::from_static(b"wait"), soon()).await });
    until("it is seen", || seen.seen.load(Ordering::SeqCst) == 1).await;
    other.tasks.shutdown().await;
    let ended = calls.join_next().await.expect("one call").expect("does not panic");
    assert_eq!(ended, Err(CallError::Unknown(Lost::Disconnected)));
    let began = clock::now();
    let refused = one.client.call(address, Kind::Raft, Bytes::new(), soon()).await;
    assert!(matches!(refused, Err(CallError::NotDone(NotDone::Unreachable(_)))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "it fails at once");
    // Another process at the same address.
    let options = slimfaas_gateway::peer::NodeOptions { listen: address, name: "other".into(), keys: fixed(KEY) };
    let node = slimfaas_gateway::peer::Node::bind(options).expect("binds");
    node.register(Kind::Raft, Arc::new(Size));
    let _other = run(node);
    let end = soon();
    while one.client.call(address, Kind::Raft, Bytes::new(), soon()).await != Ok(Bytes::new()) {
        assert!(clock::now() < end, "it is never reached again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_half_open_peer_is_given_up() {
    // It accepts and says nothing: a handshake that hangs.
    let silent = TcpListener::from_std(listen(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
    let one = echo("one", KEY);
    let address = silent.local_addr().unwrap();
    let began = clock::now();
    let refused = one.client.call(address, Kind::Raft, Bytes::new(), soon()).await;
    let Err(CallError::NotDone(NotDone::Unreachable(why))) = refused else { panic!("{refused:?}") };
    assert_eq!(&*why, "it took too long");
    assert!(began.elapsed() < Duration::from_secs(6));
    let short = one.client.call(address, Kind::Raft, Bytes::new(), clock::now() + Duration::from_millis(1500)).await;
    assert!(short.is_err_and(|error| error.is_repeatable()));
}

/// Holds every call until it is told.
#[derive(Default)]
struct Gate {
    inside: AtomicU32,
    open: Notify,
}

impl Service for Gate {
    fn serve(&self, _from: Arc<str>, _request: Bytes) -> Answer<'_> {
        Box::pin(async move {
            let open = self.open.notified();
            self.inside.fetch_add(1, Ordering::SeqCst);
            open.await;
            Ok(Bytes::new())
        })
    }
}

#[tokio::test]
async fn calls_under_way_have_a_limit_and_the_next_ones_wait() {
    let gate = Arc::new(Gate::default());
    let (one, node) = (echo("one", KEY), bind("other", fixed(KEY)));
    node.register(Kind::Raft, Arc::<Gate>::clone(&gate));
    node.register(Kind::BodyRead, Arc::<Gate>::clone(&gate));
    let other = run(node);
    let mut calls = JoinSet::new();
    let begin = |calls: &mut JoinSet<_>, kind, count| {
        for _ in 0..count {
            let (client, address) = (one.client.clone(), other.address);
            calls.spawn(async move { client.call(address, kind, Bytes::new(), soon()).await });
        }
    };
    begin(&mut calls, Kind::BodyRead, 20);
    // 16 MiB hold 15 replies of 1 MiB and 4 KiB.
    until("the bulk is full", || gate.inside.load(Ordering::SeqCst) == 15).await;
    begin(&mut calls, Kind::Raft, 1024);
    until("the calls are full", || gate.inside.load(Ordering::SeqCst) == 1024).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(gate.inside.load(Ordering::SeqCst), 1024);
    let late = one.client.call(other.address, Kind::Raft, Bytes::new(), clock::now() + Duration::from_millis(50)).await;
    assert_eq!(late, Err(CallError::NotDone(NotDone::Deadline)));
    while !calls.is_empty() {
        gate.open.notify_waiters();
        if let Ok(Some(result)) = tokio::time::timeout(Duration::from_millis(20), calls.join_next()).await {
            assert_eq!(result.expect("does not panic"), Ok(Bytes::new()));
        }
    }
}

#[tokio::test]
async fn connections_to_peers_that_left_are_closed_and_a_drain_waits_for_calls() {
    let gate = Arc::new(Gate::default());
    let (one, node) = (echo("one", KEY), bind("other", fixed(KEY)));
    node.register(Kind::Raft, Arc::<Gate>::clone(&gate));
    node.register(Kind::Agent, Arc::new(Size));
    let other = run(node);
    let peer = Peer { name: "other".into(), address: other.address, ready: true };
    one.members.send_replace(Arc::from([peer]));
    one.client.call(other.address, Kind::Agent, Bytes::new(), soon()).await.expect("answers");
    one.members.send_replace(Arc::from([]));
    until("it is closed", || one.stats.outgoing.load(Ordering::Relaxed) == 0).await;

    let (client, address) = (one.client.clone(), other.address);
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.call(address, Kind::Raft, Bytes::new(), soon()).await });
    until("it runs", || gate.inside.load(Ordering::SeqCst) == 1).await;
    let mut ends = JoinSet::new();
    ends.spawn(other.drain.drain(Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = one.client.call(address, Kind::Agent, Bytes::new(), soon()).await;
    assert_eq!(refused, Err(CallError::NotDone(NotDone::Closing)));
    gate.open.notify_waiters();
    assert_eq!(calls.join_next().await.expect("a call").expect("does not panic"), Ok(Bytes::new()));
    let forced = ends.join_next().await.expect("a drain").expect("does not panic");
    assert!(!forced, "nothing had to be cut");
}

#[tokio::test]
async fn callers_are_named() {
    struct Names(Mutex<Vec<Arc<str>>>);
    impl Service for Names {
        fn serve(&self, from: Arc<str>, _request: Bytes) -> Answer<'_> {
            self.0.lock().unwrap().push(from);
            Box::pin(async { Ok(Bytes::new()) })
        }
    }
    let names = Arc::new(Names(Mutex::default()));
    let node = bind("zero", fixed(KEY));
    node.register(Kind::Raft, Arc::<Names>::clone(&names));
    let zero = run(node);
    for name in ["one", "two"] {
        echo(name, KEY).client.call(zero.address, Kind::Raft, Bytes::new(), soon()).await.expect("answers");
    }
    assert_eq!(*names.0.lock().unwrap(), ["one".into(), Arc::<str>::from("two")]);
}
