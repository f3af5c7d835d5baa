//! Ends of connections that no node makes: of other versions, silent, or greedy. Over real sockets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use super::frame::{Frame, Frames, Head, Violation};
use super::handshake::{Agreed, HandshakeError};
use super::limits::{BULK_BYTES_MAX, CALLS_MAX, CONNECTIONS_MAX, IDLE_MAX, bulk_bytes};
use super::link::Enqueued;
use super::noise::Handshake;
use super::pipe::{Reader, Writer};
use super::service::Outcome;
use super::serving::Serving;
use super::*;
use crate::clock;
use crate::net::TcpStream;

const NEXT: Versions = Versions { newest: 2, oldest: 2 };

fn keys() -> Keys {
    Keys::parse(&"k".repeat(32)).unwrap()
}

/// Never answers.
struct Silent;

impl Service for Silent {
    fn serve(&self, _from: Arc<str>, _request: Bytes) -> Answer<'_> {
        Box::pin(std::future::pending())
    }
}

struct Running {
    address: SocketAddr,
    client: Client,
    stats: Arc<PeerStats>,
    _drain: drain::Trigger,
    _tasks: JoinSet<()>,
}

fn node(versions: Versions) -> Running {
    let listen = ([127, 0, 0, 1], 0).into();
    let options = NodeOptions { listen, name: "node".into(), keys: KeySource::Fixed(keys()) };
    let node = Node { versions, ..Node::bind(options).unwrap() };
    [Kind::Raft, Kind::BodyRead].into_iter().for_each(|kind| node.register(kind, Arc::new(Silent)));
    let (drain, watch) = drain::channel();
    let (address, client, stats) = (node.address(), node.client(), node.stats());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { node.run(watch::Sender::new(Arc::from([])).subscribe(), watch).await.unwrap() });
    Running { address, client, stats, _drain: drain, _tasks: tasks }
}

async fn dial(address: SocketAddr) -> (Reader, Writer) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let Agreed { session, .. } =
        handshake::call(&mut stream, keys().present().unwrap(), "raw", VERSIONS).await.unwrap();
    pipe::split(stream, session, &Arc::default())
}

async fn send(writer: &mut Writer, frames: &[Frame<'_>]) {
    let mut frames = Some(frames);
    let fill = |record: &mut Vec<u8>| frames.take().into_iter().flatten().for_each(|frame| frame.write(record));
    writer.flush(fill).await.unwrap();
}

fn begin(id: u32, kind: Kind, total: u32, data: &[u8]) -> Frame<'_> {
    Frame::Begin { id, head: Head { code: kind as u8, millis: 60_000, total }, data }
}

/// The outcomes of the next record, by call.
async fn outcomes(reader: &mut Reader) -> Vec<(u32, Option<Outcome>)> {
    let record = tokio::time::timeout(Duration::from_secs(5), reader.record()).await.expect("in time").unwrap();
    let outcome = |frame: Result<Frame<'_>, Violation>| match frame.unwrap() {
        Frame::Begin { id, head, .. } => Some((id, Outcome::of(head.code))),
        _ => None,
    };
    Frames(record).filter_map(outcome).collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = clock::now() + Duration::from_secs(10);
    while !done() {
        assert!(clock::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn another_version_is_refused_with_a_reason_on_both_ends() {
    let (old, new) = (node(VERSIONS), node(NEXT));
    for (from, to, ours, theirs) in [(&old, &new, 1, 2), (&new, &old, 2, 1)] {
        let deadline = clock::now() + Duration::from_secs(5);
        let refused = from.client.call(to.address, Kind::Raft, Bytes::new(), deadline).await;
        let why = format!(
            "the peer speaks version {theirs} and this node version {ours} of the peer protocol; update the older one"
        );
        assert_eq!(refused, Err(CallError::NotDone(NotDone::Unreachable(why.into()))));
        assert_eq!(to.stats.handshakes_failed_incoming.load(Ordering::Relaxed), 1);
    }
    let mut stream = TcpStream::connect(new.address).await.unwrap();
    let refused = handshake::call(&mut stream, keys().present().unwrap(), "raw", VERSIONS).await;
    assert!(matches!(refused, Err(HandshakeError::Version { ours: VERSIONS, theirs: NEXT })));
}

#[tokio::test]
async fn a_recorded_first_message_gets_no_further() {
    let node = node(VERSIONS);
    let (_, first) = Handshake::call(keys().present().unwrap(), &[0, 1, 0, 1, b'x']);
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let framed = [&u16::try_from(first.len()).unwrap().to_be_bytes()[..], &first].concat();
    stream.write_all(&framed).await.unwrap();
    // A whole record, made without the secrets.
    stream.write_all(&[&[0, 40][..], &[9; 40]].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert_eq!(answer.len(), 2 + 48 + 6, "the second message, for which one needs the secrets too");
    assert_eq!(node.stats.incoming.load(Ordering::Relaxed), 0);
    until("it is counted", || node.stats.handshakes_failed_incoming.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn more_than_a_connection_may_hold_is_refused_and_costs_only_the_call() {
    let node = node(VERSIONS);
    let (mut reader, mut writer) = dial(node.address).await;
    let over = u32::try_from(Kind::Raft.limits().request + 1).unwrap();
    send(&mut writer, &[begin(1, Kind::Raft, over, b"x"), begin(2, Kind::Agent, 0, b"")]).await;
    let refused = outcomes(&mut reader).await;
    assert_eq!(refused, [(1, Some(Outcome::TooLarge)), (2, Some(Outcome::NoService))]);

    let fit = BULK_BYTES_MAX / bulk_bytes(Kind::BodyRead, 0);
    let bulk: Vec<Frame<'_>> = (10..).take(fit + 1).map(|id| begin(id, Kind::BodyRead, 0, b"")).collect();
    send(&mut writer, &bulk).await;
    assert_eq!(outcomes(&mut reader).await, [(10 + fit as u32, Some(Outcome::Busy))]);

    let small: Vec<Frame<'_>> = (100..).take(CALLS_MAX - fit + 1).map(|id| begin(id, Kind::Raft, 0, b"")).collect();
    send(&mut writer, &small).await;
    assert_eq!(outcomes(&mut reader).await, [(100 + (CALLS_MAX - fit) as u32, Some(Outcome::Busy))]);
    // What is cancelled makes room.
    send(&mut writer, &[Frame::Cancel { id: 10 }, begin(5000, Kind::BodyRead, 0, b""), Frame::Ping]).await;
    assert_eq!(outcomes(&mut reader).await, []);
}

#[tokio::test]
async fn who_breaks_the_protocol_or_is_silent_is_closed() {
    let node = node(VERSIONS);
    let open = || node.stats.incoming.load(Ordering::Relaxed);
    for frames in [
        &[Frame::Pong][..],
        &[begin(1, Kind::Raft, 0, b""), begin(1, Kind::Raft, 0, b"")],
        &[begin(1, Kind::Raft, 1, b"xx")],
        &[begin(1, Kind::Raft, 3, b"x"), Frame::More { id: 1, data: b"xxx" }],
    ] {
        let (_reader, mut writer) = dial(node.address).await;
        send(&mut writer, &[Frame::Ping]).await;
        until("it is open", || open() == 1).await;
        send(&mut writer, frames).await;
        until("it is closed", || open() == 0).await;
    }
    let began = clock::now();
    let (_reader, mut writer) = dial(node.address).await;
    send(&mut writer, &[Frame::Ping]).await;
    until("it is open", || open() == 1).await;
    until("its silence ends it", || open() == 0).await;
    assert!(began.elapsed() >= Duration::from_secs(5));
}

#[tokio::test]
async fn connections_have_a_limit() {
    let node = node(VERSIONS);
    let mut held = Vec::new();
    for count in 1..=CONNECTIONS_MAX {
        let (reader, mut writer) = dial(node.address).await;
        send(&mut writer, &[Frame::Ping]).await;
        held.push((reader, writer));
        until("it is open", || node.stats.incoming.load(Ordering::Relaxed) == count as i64).await;
    }
    let (mut reader, mut writer) = dial(node.address).await;
    send(&mut writer, &[Frame::Ping]).await;
    assert!(reader.record().await.is_err());
    assert_eq!(node.stats.incoming.load(Ordering::Relaxed), CONNECTIONS_MAX as i64);
}

#[tokio::test]
async fn a_peer_that_falls_silent_leaves_calls_unknown() {
    let listener = net::listen(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let node = node(VERSIONS);
    let mut mute = JoinSet::new();
    mute.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let agreed = handshake::answer(&mut stream, &keys(), VERSIONS).await.unwrap();
        let (mut reader, _writer) = pipe::split(stream, agreed.session, &Arc::default());
        while reader.record().await.is_ok() {}
    });
    let began = clock::now();
    let deadline = began + Duration::from_secs(60);
    let lost = node.client.call(address, Kind::Raft, Bytes::new(), deadline).await;
    assert_eq!(lost, Err(CallError::Unknown(Lost::Disconnected)));
    assert!((5..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn refusals_that_nobody_reads_have_a_limit() {
    let serving = Serving::new("raw".into(), &Arc::default(), &Arc::default());
    let mut tasks = JoinSet::new();
    let refused = |id: u32| {
        let mut record = Vec::new();
        begin(id, Kind::Raft, 0, b"").write(&mut record);
        record
    };
    for id in 0..CALLS_MAX as u32 {
        assert_eq!(serving.take(&refused(id), &mut tasks), Ok(()));
    }
    assert_eq!(serving.take(&refused(9999), &mut tasks), Err(Violation::TooManyRefused));
}

#[tokio::test(start_paused = true)]
async fn a_link_ends_when_nothing_was_called_for_a_while() {
    let link = Arc::new(Link::new(([127, 0, 0, 1], 1).into()));
    let deadline = clock::now() + Duration::from_secs(3600);
    let Ok(Enqueued::Waiting(call)) = link.enqueue(Kind::Raft, Bytes::new(), deadline, link.room(0).await) else {
        panic!("it is new");
    };
    tokio::time::sleep(IDLE_MAX - Duration::from_millis(1)).await;
    assert!(!link.is_unwanted());
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(link.is_unwanted() && !link.end_if_quiet(), "a call waits");
    drop(call);
    assert!(link.end_if_quiet());
    let late = link.enqueue(Kind::Raft, Bytes::new(), deadline, link.room(0).await);
    assert!(matches!(late, Ok(Enqueued::LinkEnded)));
}
