//! The power goes at every sync of a run, one after the other. What was acknowledged before is there afterwards.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::cluster::{Net, Port, WAIT, budget, enqueue, function, id};
use super::disk::{Half, Luck, PowerDisk};
use crate::queue::command::{Command, Reply};
use crate::queue::element::{End, Phase};
use crate::store::{DiskWriter, Effects, Options, Store};

pub(super) struct Alone {
    pub(super) store: Store,
    effects: Effects,
    _stop: oneshot::Sender<()>,
    _tasks: JoinSet<()>,
}

pub(super) async fn start(disk: &PowerDisk, writer: DiskWriter) -> Result<Alone, crate::store::StoreError> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let options = Options {
        name: "a".into(),
        folder: std::path::PathBuf::new(),
        backend: Some(disk.backend()),
        writer,
        transport: Arc::new(Port { net: Arc::new(Net::default()), at }),
        peers: watch::Sender::new(Arc::new([]) as _).subscribe(),
        found_after: Duration::ZERO,
        log_bytes: 1 << 20,
    };
    let (store, running, effects) = Store::open(options).await?;
    let (stop, stopped) = oneshot::channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(running.run(async {
        let _dropped = stopped.await.is_err();
    }));
    Ok(Alone { store, effects, _stop: stop, _tasks: tasks })
}

/// What the script was told before the power went.
#[derive(Debug, Default)]
struct Acknowledged {
    stored: BTreeSet<u64>,
    /// Done, so they are no more.
    done: BTreeSet<u64>,
    /// Asked to be done, without an answer.
    perhaps_done: BTreeSet<u64>,
}

const ELEMENTS: u64 = 12;

/// Proposes until everything is done or the store fails.
async fn run(node: &mut Alone, told: &mut Acknowledged) {
    let timeout = Duration::from_secs(5);
    for number in 1..=ELEMENTS {
        if node.store.propose(enqueue(number, "f"), timeout).await != Ok(Reply::Done) {
            return;
        }
        told.stored.insert(number);
        if number == ELEMENTS / 2 && node.store.propose(budget("f", 2), timeout).await.is_err() {
            return;
        }
    }
    for _ in 0..ELEMENTS / 3 {
        let Ok(Some(effect)) = tokio::time::timeout(WAIT, node.effects.recv()).await else { return };
        let crate::store::Effect::Deliver(delivery) = effect else { continue };
        let (element, attempt) = (delivery.assignment.element, delivery.assignment.attempt);
        let number = u128::from_be_bytes(element.0) as u64;
        told.perhaps_done.insert(number);
        let complete = Command::Complete { element, attempt, end: End::Status(200) };
        if node.store.propose(complete, timeout).await != Ok(Reply::Done) {
            return;
        }
        told.done.insert(number);
    }
}

async fn check(disk: &PowerDisk, told: &Acknowledged, context: &str) {
    let node = start(disk, DiskWriter::Inline).await.unwrap_or_else(|error| panic!("{context}: {error}"));
    // The log is applied as soon as the node leads again.
    assert_eq!(node.store.propose(enqueue(99, "f"), WAIT).await, Ok(Reply::Done), "{context}");
    for number in &told.stored {
        let found = node.store.element(id(*number)).unwrap();
        if told.done.contains(number) {
            assert_eq!(found, None, "{context}: {number} was done");
        } else if !told.perhaps_done.contains(number) {
            assert!(found.is_some(), "{context}: {number} was acknowledged and is lost");
            let request = node.store.request(id(*number)).unwrap().unwrap();
            assert_eq!(request, number.to_be_bytes().repeat(128), "{context}");
        }
    }
    let running = node.store.queue(&function("f")).unwrap().running;
    let held = (1..=ELEMENTS).filter(|number| {
        let found = node.store.element(id(*number)).unwrap();
        found.is_some_and(|found| matches!(found.element.phase, Phase::Running { .. }))
    });
    let held = held.count() as u64
        + u64::from(matches!(node.store.element(id(99)).unwrap().unwrap().element.phase, Phase::Running { .. }));
    assert_eq!(held, running, "{context}");
    assert_eq!(*node.store.failure().borrow(), None, "{context}");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_at_any_sync() {
    let steps = lose_power_at_every_sync(DiskWriter::Inline).await;
    assert!(steps as u64 >= ELEMENTS + ELEMENTS / 3, "each step was the last of some run: {steps}");
}

/// How jobs meet in a transaction is up to the threads here, so a run has fewer or more syncs each time.
#[tokio::test]
async fn nothing_acknowledged_is_lost_at_any_sync_of_a_thread() {
    let steps = lose_power_at_every_sync(DiskWriter::Thread).await;
    assert!(steps as u64 >= ELEMENTS / 2, "{steps}");
}

/// Returns after how many different steps the power went.
async fn lose_power_at_every_sync(writer: DiskWriter) -> usize {
    // A new file gets its name when it is whole, so the power goes later.
    let new = PowerDisk::default();
    crate::store::raft::tests::make(new.database());
    let whole = new.after_power_failure(Luck::Everything);
    let mut told = Acknowledged::default();
    run(&mut start(&whole, writer.clone()).await.unwrap(), &mut told).await;
    assert_eq!(told.done.len() as u64, ELEMENTS / 3, "the script runs to its end while there is power");
    let syncs = whole.syncs();
    let mut steps = BTreeSet::new();
    for sync in 1..=syncs {
        let disk = new.after_power_failure(Luck::Everything);
        disk.fail_at(sync);
        let mut told = Acknowledged::default();
        if let Ok(mut node) = start(&disk, writer.clone()).await {
            run(&mut node, &mut told).await;
        }
        steps.insert((told.stored.len(), told.done.len()));
        let parts = [Luck::Some(0), Luck::Some(1), Luck::Some(2), Luck::Torn(Half::First), Luck::Torn(Half::Second)];
        for luck in [Luck::Nothing, Luck::Everything].into_iter().chain(parts) {
            let found = disk.after_power_failure(luck);
            check(&found, &told, &format!("power lost at sync {sync} of {syncs}, {luck:?} of the rest written")).await;
        }
    }
    steps.len()
}

#[tokio::test]
async fn a_disk_that_fails_is_never_answered_with_success() {
    for writer in [DiskWriter::Thread, DiskWriter::Inline] {
        let disk = PowerDisk::default();
        let node = start(&disk, writer).await.unwrap();
        assert_eq!(node.store.propose(enqueue(1, "f"), WAIT).await, Ok(Reply::Done));
        disk.fail_at(1);
        let refused = node.store.propose(enqueue(2, "f"), WAIT).await;
        assert!(refused.is_err(), "{refused:?}");
        let mut failure = node.store.failure();
        let failure = tokio::time::timeout(WAIT, failure.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        assert!(failure.unwrap().contains("the disk has no power"));
        assert!(node.store.propose(enqueue(3, "f"), Duration::from_secs(1)).await.is_err());
    }
}
