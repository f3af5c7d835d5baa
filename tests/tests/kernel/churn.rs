//! Many pods, one after the other, at one and the same address: nobody is taken for who was there before.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use slimfaas_ebpf::contract::{Identity, IdentityFlags, Verdict};

use super::actor::Actor;
use super::site::{Node, SHOP, on_site};

const SERVER: Identity = Identity(900);
/// Of workloads: pods of one follow pods of another.
const WORKLOADS: u32 = 7;
const PODS: u32 = 10_000;
/// For a change to be in the kernel, from when it is known, of 99 in 100.
const IN_FORCE_WITHIN: Duration = Duration::from_millis(50);

fn workload(pod: u32) -> Identity {
    Identity(1000 + pod % WORKLOADS)
}

/// Whose the connection is that `mover` opens from the cgroup of a new pod, after the pod of another workload had the
/// same address and, but for the cgroup, everything else.
fn churn(node: &mut Node, mover: &mut Actor, server: &mut Actor, pod: u32, address: &str) -> Result<Duration> {
    let place = node.unknown_pod(&format!("churn{pod}"))?;
    ensure!(mover.tell(&format!("join {}", place.cgroup.display()))? == "joined");
    // Every tenth is quicker than its agent.
    if pod.is_multiple_of(10) {
        ensure!(mover.tell(&format!("connect {address}"))? == "connected");
        let caller = server.accept()?;
        ensure!((caller.identity, caller.verdict) == (0, Verdict::Untagged.as_u32()), "{pod}: {caller:?}");
    }
    let known = Instant::now();
    node.change(|state| _ = state.cgroups.insert(place.id, workload(pod)))?;
    let took = known.elapsed();
    ensure!(mover.tell(&format!("connect {address}"))? == "connected");
    let caller = server.accept()?;
    let expected = (workload(pod).0, Verdict::Known.as_u32());
    ensure!((caller.identity, caller.verdict) == expected, "{pod}: {caller:?}");
    ensure!(mover.tell("close")? == "closed");
    ensure!(mover.tell(&format!("join {}", node.system().display()))? == "joined");
    node.change(|state| _ = state.cgroups.remove(&place.id))?;
    fs::remove_dir(&place.cgroup)?;
    fs::remove_dir(place.cgroup.parent().expect("a pod's cgroup"))?;
    Ok(took)
}

#[test]
fn an_address_that_changes_hands_proves_nothing() {
    on_site("an_address_that_changes_hands_proves_nothing", |site| {
        let (network, mut node) = (site.network("n")?, site.node("node")?);
        for pod in 0..WORKLOADS {
            node.know(workload(pod), SHOP, IdentityFlags(0))?;
        }
        // Closed connections would keep the few ports of the one address busy.
        network.sysctl("net.ipv4.tcp_tw_reuse=1")?;
        let mut server = node.pod("server", SERVER)?.actor(&network)?;
        let address = format!("127.0.0.1:{}", server.tell("listen 127.0.0.1:0")?);
        let mut mover = Actor::start(&network.name, &node.system())?;
        let mut times = Vec::new();
        for pod in 0..PODS {
            times.push(churn(&mut node, &mut mover, &mut server, pod, &address)?);
        }
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        ensure!(p99 < IN_FORCE_WITHIN, "a change is in the kernel after {p99:?}");
        Ok(())
    });
}

/// A change of policy is answered to the very next question, on a connection that was open all the time.
#[test]
fn a_change_of_policy_is_in_force_at_once() {
    on_site("a_change_of_policy_is_in_force_at_once", |site| {
        let (network, mut node) = (site.network("n")?, site.node("node")?);
        let caller = workload(0);
        node.know(caller, SHOP, IdentityFlags(0))?;
        let mut server = node.pod("server", SERVER)?.actor(&network)?;
        let address = format!("127.0.0.1:{}", server.tell("listen 127.0.0.1:0")?);
        let mut web = node.pod("web", caller)?.actor(&network)?;
        assert_eq!(web.tell(&format!("connect {address}"))?, "connected");
        server.accept()?;
        let mut times = Vec::new();
        for round in 0..1000 {
            let flags = if round % 2 == 0 { IdentityFlags::UNTRUSTED } else { IdentityFlags(0) };
            let known = Instant::now();
            node.know(caller, SHOP, flags)?;
            let told = server.ask()?;
            times.push(known.elapsed());
            ensure!(told.flags == flags.0, "round {round}: {told:?}");
        }
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        ensure!(p99 < IN_FORCE_WITHIN, "a change is in force after {p99:?}");
        Ok(())
    });
}
