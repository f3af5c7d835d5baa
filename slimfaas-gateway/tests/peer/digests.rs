//! What three nodes know of each other's functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use slimfaas_gateway::clock::{self, Tick};
use slimfaas_gateway::drain;
use slimfaas_gateway::model::function::{FunctionId, WorkloadKind};
use slimfaas_gateway::model::peer::Peer;
use slimfaas_gateway::peer::Kind;
use slimfaas_gateway::peer::activity::Activity;
use slimfaas_gateway::table::activity::Live;
use slimfaas_gateway::table::{FunctionReport, Table};
use tokio::sync::watch;

use crate::nodes::{KEY, Running, bind, fixed, run_with, until};

struct Member {
    node: Running,
    table: Arc<Table>,
    complete: watch::Receiver<bool>,
    wakes: Arc<AtomicU32>,
    _drain: drain::Trigger,
}

impl Member {
    fn live(&self, name: &str) -> Arc<Live> {
        Arc::clone(&self.table.view().function(&FunctionId::new("demo", name)).expect("it is there").live)
    }

    /// In flight and waiting, on all nodes.
    fn counts(&self, name: &str) -> (u32, u32) {
        (self.live(name).in_flight(), self.live(name).waiting())
    }
}

fn report(name: &str) -> FunctionReport {
    FunctionReport {
        id: FunctionId::new("demo", name),
        kind: WorkloadKind::Deployment,
        spec: Arc::default(),
        problems: Arc::default(),
        replicas_requested: 0,
        pods: Vec::new(),
    }
}

fn member(name: &str) -> Member {
    let node = bind(name, fixed(KEY));
    let table = Table::new("demo");
    ["f", "g"].into_iter().for_each(|name| table.put(report(name)));
    let members = watch::Sender::new(Arc::from([]));
    let wakes = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&wakes);
    let wake = move || {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let activity = Activity::new(&node, Arc::clone(&table), members.subscribe(), wake);
    let complete = activity.is_complete();
    let (trigger, watch) = drain::channel();
    let mut node = run_with(node, members);
    node.tasks.spawn(activity.run(watch));
    Member { node, table, complete, wakes, _drain: trigger }
}

fn introduce(members: &[&Member], ready: bool) {
    for member in members {
        let others = members.iter().filter(|other| other.node.address != member.node.address);
        let peer = |other: &&Member| {
            let name = other.node.name.as_str().into();
            Peer { name, address: other.node.address, ready }
        };
        member.node.members.send_replace(others.map(peer).collect());
    }
}

#[tokio::test]
async fn calls_on_one_node_are_known_on_all_and_gone_with_it() {
    let [one, two, three] = ["one", "two", "three"].map(member);
    introduce(&[&one, &two, &three], true);
    for member in [&one, &two, &three] {
        until("it knows all", || *member.complete.borrow()).await;
    }
    // The scaler sleeps and wants to hear of the next call; a first call is told at once.
    assert!(three.live("f").await_call());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = clock::now();
    one.live("f").waiting.fetch_add(2, Ordering::SeqCst);
    one.live("f").note_call(Tick::of(began));
    until("it is told", || three.counts("f") == (0, 2) && two.counts("f") == (0, 2)).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "a first call is news, or it would wait for 5 seconds: {took:?}");
    assert_eq!(three.wakes.load(Ordering::SeqCst), 1);
    let told = three.live("f").last_call();
    assert!(told >= Tick::of(began) && Tick::of(began).until(told) < Duration::from_secs(1), "{told:?}");
    assert_eq!(three.live("f").last_local_call(), Tick::NEVER);
    assert_eq!(three.live("g").last_call(), Tick::NEVER);

    one.live("f").waiting.fetch_sub(2, Ordering::SeqCst);
    one.live("f").in_flight.fetch_add(1, Ordering::SeqCst);
    two.live("f").in_flight.fetch_add(4, Ordering::SeqCst);
    two.live("f").note_call(Tick::of(clock::now()));
    until("the sum is known", || three.counts("f") == (5, 0)).await;
    assert_eq!((one.counts("f"), two.counts("f")), ((5, 0), (5, 0)));

    // A function that appears later gets what was told before.
    three.table.remove(&FunctionId::new("demo", "f"));
    three.table.put(report("f"));
    until("it is known again", || three.counts("f") == (5, 0)).await;

    // A killed node: silent, and then gone.
    let Member { mut node, .. } = two;
    node.tasks.shutdown().await;
    let killed = clock::now();
    until("it is missed", || !*three.complete.borrow()).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert_eq!(three.counts("f"), (5, 0), "it may still be working");
    introduce(&[&one, &three], true);
    until("it is gone", || three.counts("f") == (1, 0) && *three.complete.borrow()).await;
    assert_eq!(three.node.stats.silent.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn with_nothing_going_on_little_is_told_and_calls_do_not_get_younger() {
    let [one, two] = ["one", "two"].map(member);
    introduce(&[&one, &two], true);
    one.live("f").note_call(Tick::of(clock::now()));
    until("it is told", || two.live("f").last_call() != Tick::NEVER).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let called = two.live("f").last_call();
    let told = || one.node.stats.calls[Kind::Activity as usize - 1][0].load(Ordering::Relaxed);
    let before = told();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!((2..=3).contains(&(told() - before)), "everything each five seconds: {}", told() - before);
    assert_eq!(two.live("f").last_call(), called);
    assert_eq!(one.live("f").last_call(), one.live("f").last_local_call(), "it comes back from nowhere");
}

#[tokio::test]
async fn only_ready_peers_are_missed() {
    let [one, two] = ["one", "two"].map(member);
    let stranger = Peer { name: "nobody".into(), address: ([127, 0, 0, 1], 1).into(), ready: false };
    one.node.members.send_replace(Arc::from([stranger.clone()]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(*one.complete.borrow());
    one.node.members.send_replace(Arc::from([Peer { ready: true, ..stranger }]));
    until("it is missed", || !*one.complete.borrow()).await;
    introduce(&[&one, &two], true);
    until("all is known", || *one.complete.borrow()).await;
}
