//! Small calls beside a transfer, and what the port can do (`SHOW_SPEED=1 cargo test --release …  -- --nocapture`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slimfaas_gateway::clock;
use slimfaas_gateway::peer::{Client, Kind};
use tokio::task::JoinSet;

use crate::nodes::{KEY, Size, bind, echo, fixed, run, soon};

/// A node with a thread of its own, as another process has it; it lasts as long as this process.
fn elsewhere() -> SocketAddr {
    let node = bind("other", fixed(KEY));
    node.register(Kind::Raft, Arc::new(Size));
    node.register(Kind::Snapshot, Arc::new(Size));
    let address = node.address();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(async { run(node).tasks.join_all().await })
    });
    address
}

async fn transfer(client: Client, address: SocketAddr, mib: usize) {
    // Ends in four zeros, which ask for an empty reply.
    let part = Bytes::from(vec![0; 1 << 20]);
    let mut parts = JoinSet::new();
    for _ in 0..mib {
        let (client, part) = (client.clone(), part.clone());
        parts.spawn(async move { client.call(address, Kind::Snapshot, part, soon()).await.expect("arrives") });
    }
    parts.join_all().await;
}

#[tokio::test]
async fn a_transfer_of_64_mib_does_not_hold_up_small_calls() {
    let (one, other) = (echo("one", KEY), elsewhere());
    let mut bulk = JoinSet::new();
    bulk.spawn(transfer(one.client.clone(), other, 64));
    let mut latencies = Vec::new();
    let began = clock::now();
    while !bulk.is_empty() {
        let began = clock::now();
        one.client.call(other, Kind::Raft, Bytes::from(vec![0; 100]), soon()).await.expect("answers");
        latencies.push(began.elapsed());
        if let Some(transferred) = bulk.try_join_next() {
            transferred.expect("arrives");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = began.elapsed();
    latencies.sort();
    let median = latencies[latencies.len() / 2];
    // Sending the transfer as one would put its whole time before each call.
    assert!(latencies.len() >= 3 && median < took / 4, "{} calls, median {median:?} of {took:?}", latencies.len());
}

#[tokio::test]
async fn show_how_fast_it_is() {
    if std::env::var_os("SHOW_SPEED").is_none() {
        return;
    }
    let (one, other) = (echo("one", KEY), elsewhere());
    for outstanding in [1, 16, 256] {
        let end = clock::now() + Duration::from_secs(3);
        let mut callers = JoinSet::new();
        for _ in 0..outstanding {
            let (client, address) = (one.client.clone(), other);
            callers.spawn(async move {
                let mut calls = 0_u32;
                let payload = Bytes::from(vec![0; 1024]);
                while clock::now() < end {
                    client.call(address, Kind::Raft, payload.clone(), soon()).await.expect("answers");
                    calls += 1;
                }
                calls
            });
        }
        let calls: u32 = callers.join_all().await.into_iter().sum();
        let micros = 3e6 * f64::from(outstanding) / f64::from(calls);
        println!("1 KiB, {outstanding} outstanding: {} calls/s, mean {micros:.0} µs", calls / 3);
    }
    let began = clock::now();
    transfer(one.client.clone(), other, 2048).await;
    println!("bulk: {:.0} MiB/s", 2048.0 / began.elapsed().as_secs_f64());
    let mut bulk = JoinSet::new();
    bulk.spawn(transfer(one.client.clone(), other, 2048));
    let mut latencies = Vec::new();
    while bulk.try_join_next().is_none() {
        let began = clock::now();
        one.client.call(other, Kind::Raft, Bytes::from(vec![0; 1024]), soon()).await.expect("answers");
        latencies.push(began.elapsed());
    }
    latencies.sort();
    let at = |percent: usize| latencies[latencies.len() * percent / 100];
    println!("beside it, 1 KiB: p50 {:?}, p99 {:?}, {} calls", at(50), at(99), latencies.len());
}
