//! Several gateways that replicate asynchronous calls among each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use slimfaas_tests::process::Scratch;

use super::backend::{Backend, ok};
use super::client::{self, eventually};
use super::gateway::{Fixed, Gateway, claim_ports, loopback};

const LIMIT: Duration = Duration::from_secs(60);

/// Of no use to anybody else: it lives for one test.
const KEY: &str = "loopback-loopback-loopback-loopback";

const CALL: &str = "/async-function/f/x";

/// Three gateways in front of `function`, each with a folder in `scratch`.
pub(super) struct Nodes<'a> {
    function: SocketAddr,
    scratch: &'a Scratch,
    peers: String,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(function: SocketAddr, scratch: &'a Scratch) -> Result<Self> {
        std::fs::write(scratch.path().join("key"), KEY)?;
        let first = claim_ports(3)?;
        let peer = |node: u16| format!("slimfaas-{node}={}", loopback(first + node));
        Ok(Self { function, scratch, peers: [0, 1, 2].map(peer).join(",") })
    }

    pub(super) fn start(&self, node: u16) -> Result<Gateway> {
        let peer_port = self.peers.split(',').nth(usize::from(node)).and_then(|peer| peer.rsplit(':').next());
        let retries = json!({"DefaultAsync": {"HttpTimeout": 5, "TimeoutRetries": [1, 1, 1]}}).to_string();
        Fixed::new()
            .function("f", format!("http://{}", self.function), &json!({"SlimFaas/Configuration": retries}))
            .set("SlimFaas__Hostname", format!("slimfaas-{node}"))
            .set("SlimFaas__Peer__Nodes", &self.peers)
            .set("SlimFaas__Peer__Port", peer_port.context("a peer port")?)
            .set("SlimFaas__Peer__KeyFile", self.scratch.path().join("key").display())
            .set("SlimFaas__Store__Directory", self.scratch.path().join(node.to_string()).display())
            .start()
    }
}

fn wait_ready(gateway: &Gateway) -> Result<()> {
    eventually("ready", LIMIT, || Ok((gateway.get("/ready")?.status == 200).then_some(())))
}

pub(super) fn wait_voters(gateway: &Gateway, voters: u64) -> Result<()> {
    let seen = eventually(&format!("{voters} voters"), LIMIT, || {
        Ok((gateway.metric("slimfaas_store_voters", &[])? == voters).then_some(()))
    });
    seen.with_context(|| gateway.log())
}

/// Enqueues until it is accepted, and returns the element's id.
fn enqueue(address: SocketAddr, target: &str) -> Result<String> {
    eventually("accepted", LIMIT, || {
        let answer = client::get(address, target)?;
        match answer.status {
            202 => Ok(answer.header("slimfaas-element-id").map(str::to_owned)),
            503 => Ok(None),
            _ => anyhow::bail!("{}", answer.head),
        }
    })
}

fn delivered(backend: &Backend) -> BTreeSet<String> {
    let requests = backend.requests();
    requests.iter().filter_map(|request| request.header("slimfaas-element-id").map(str::to_owned)).collect()
}

#[test]
fn what_one_of_three_accepts_is_delivered_though_it_dies() -> Result<()> {
    let (backend, scratch) = (Backend::start(|_| ok("done"))?, Scratch::new("nodes")?);
    let nodes = Nodes::new(backend.address, &scratch)?;
    let mut gateways = [0, 1, 2].map(|node| nodes.start(node).map(Some));
    let running = |gateways: &[Result<Option<Gateway>>; 3]| -> Vec<SocketAddr> {
        gateways.iter().flatten().flatten().map(|gateway| gateway.address).collect()
    };
    for gateway in gateways.iter().flatten().flatten() {
        wait_ready(gateway)?;
        wait_voters(gateway, 3)?;
    }
    let mut accepted = BTreeSet::new();
    for number in 0..60 {
        let addresses = running(&gateways);
        accepted.insert(enqueue(addresses[number % addresses.len()], CALL)?);
        if number == 30 {
            // Whether or not it leads: both must be survived. Dropping it is kill -9.
            drop(std::mem::replace(&mut gateways[0], Ok(None)));
        }
    }
    let seen = eventually("every accepted call is delivered", LIMIT, || {
        Ok(accepted.is_subset(&delivered(&backend)).then_some(()))
    });
    let log = || gateways.iter().flatten().flatten().map(Gateway::log).collect::<String>();
    seen.with_context(log)?;

    // It comes back with nothing on its disk, and becomes one of three again.
    std::fs::remove_dir_all(scratch.path().join("0"))?;
    let back = nodes.start(0)?;
    wait_ready(&back)?;
    wait_voters(&back, 3)?;
    let id = enqueue(back.address, CALL)?;
    eventually("its call is delivered", LIMIT, || Ok(delivered(&backend).contains(&id).then_some(())))
}

#[test]
fn a_local_manifest_runs_three_nodes() -> Result<()> {
    let manifest = "schemaVersion: 1\nname: three\ncluster: { nodes: 3 }\nfunctions:\n  fib:\n    command: \
                    [\"${SLIMFAAS_EXE}\", example-function]\n    environment: { FUNCTION_NAME: fib }\n    annotations:\n      \
                    SlimFaas/Function: \"true\"\n      SlimFaas/ReplicasMin: \"0\"\n";
    let mut gateway = Gateway::local_manifest(manifest, &[])?;
    wait_voters(&gateway, 3)?;
    let node = |number: u16| loopback(gateway.address.port() + number);
    for number in [0, 1, 2, 0, 1, 2] {
        enqueue(node(number), "/async-function/fib/hello/you")?;
    }
    // From zero, through the function's own process.
    eventually("six deliveries", LIMIT, || {
        Ok((gateway.metric("slimfaas_async_succeeded_total", &[])? == 6).then_some(()))
    })?;
    for number in 0..3 {
        let answer = client::get(node(number), "/function/fib/hello/node")?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello node from fib-0\n"));
    }
    assert!(gateway.terminate()?.success(), "{}", gateway.log());
    Ok(())
}
