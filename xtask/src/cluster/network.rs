//! The cluster's networks on this machine.
//!
//! ```text
//!   this machine = node-1 (10.245.0.1)                 network namespace = node-2 (10.245.0.2)
//!     sfpods ── pods 10.244.1.0/24                       sfpods ── pods 10.244.2.0/24
//!     sfnodes ── sfnode2 ───────────── cable ─────────── eth0
//! ```
//!
//! Pods reach each other, and the machine, with their own addresses: only what leaves the cluster's networks is
//! masqueraded. Each node is routed to, so no tunnel hides a source address either.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::plan::{NAME, NODE_BRIDGE, NODE_NETWORK, Node, POD_BRIDGE, POD_NETWORK, SERVICE_NETWORK};
use crate::process::POLL;

/// For the cables of ended pods to vanish: the kernel takes network namespaces down in the background.
const VANISH_TIMEOUT: Duration = Duration::from_secs(3);

/// Tables that the cluster's parts make: ours, and those of kube-proxy.
const TABLES: &[(&str, &str)] = &[("ip", NAME), ("ip", "kube-proxy"), ("ip6", "kube-proxy")];

/// How containerd connects the node's pods.
pub(crate) fn pod_network_config(node: Node) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "bridge",
            "bridge": POD_BRIDGE,
            "isGateway": true,
            // Masquerading here would hide a pod from the pods of other nodes; our table does what is needed.
            "ipMasq": false,
            // A pod may reach itself through its Service.
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": node.pod_network() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    })
}

/// `ip -batch` of the machine: its own address as a node, and a way to Services from processes outside any pod.
fn machine_links() -> String {
    let address = Node::FIRST.address();
    format!(
        "link add {NODE_BRIDGE} type bridge\n\
         addr add {address}/24 dev {NODE_BRIDGE}\n\
         link set {NODE_BRIDGE} up\n\
         route add {SERVICE_NETWORK} dev {NODE_BRIDGE} src {address}\n"
    )
}

/// `ip -batch` of the machine: the cable to a further node, whose namespace process `anchor` holds.
fn cable(node: Node, anchor: u32) -> String {
    let (cable, pods, address) = (node.cable(), node.pod_network(), node.address());
    format!(
        "link add {cable} type veth peer name eth0 netns {anchor}\n\
         link set {cable} master {NODE_BRIDGE} up\n\
         route add {pods} via {address}\n"
    )
}

/// `ip -batch` within a further node.
fn node_links(node: Node) -> String {
    let (address, machine) = (node.address(), Node::FIRST.address());
    format!(
        "link set lo up\n\
         addr add {address}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {machine}\n"
    )
}

/// `nft` of the machine.
fn masquerading() -> String {
    format!(
        "table ip {NAME} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat;\n\
         \t\tip saddr {POD_NETWORK} ip daddr != {{ {POD_NETWORK}, {NODE_NETWORK}, {SERVICE_NETWORK} }} masquerade\n\
         \t}}\n\
         }}\n"
    )
}

/// Fails when the machine already uses an address of ours for something else.
pub(crate) fn check_free() -> Result<()> {
    let routes: Value = serde_json::from_str(&ask("ip", &["-json", "-4", "route", "show", "table", "all"])?)
        .context("ip lists no routes")?;
    let used = routes.as_array().into_iter().flatten().filter_map(|route| route["dst"].as_str());
    for network in [NODE_NETWORK, POD_NETWORK, SERVICE_NETWORK] {
        if let Some(route) = used.clone().find(|route| overlap(route, network)) {
            bail!("the cluster needs {network}, and this machine has a route to {route}");
        }
    }
    for (family, table) in TABLES {
        ensure!(!has_table(family, table)?, "nftables table {family} {table} exists: this machine is a node already");
    }
    Ok(())
}

/// Whether two networks (`10.1.0.0/16`, or an address alone) share an address. What is neither shares none.
fn overlap(one: &str, other: &str) -> bool {
    let parse = |network: &str| -> Option<(u32, u32)> {
        let (address, bits) = network.split_once('/').unwrap_or((network, "32"));
        let mask = u32::MAX.checked_shl(32 - bits.parse::<u32>().ok().filter(|bits| *bits <= 32)?).unwrap_or(0);
        Some((u32::from(address.parse::<Ipv4Addr>().ok()?), mask))
    };
    let (Some((one, one_mask)), Some((other, other_mask))) = (parse(one), parse(other)) else { return false };
    let mask = one_mask & other_mask;
    one & mask == other & mask
}

/// The machine's part, before any node.
pub(crate) fn create() -> Result<()> {
    feed(&["ip", "-batch", "-"], &machine_links())?;
    feed(&["nft", "-f", "-"], &masquerading())
}

/// Connects a further node.
pub(crate) fn connect(node: Node, anchor: u32) -> Result<()> {
    feed(&["ip", "-batch", "-"], &cable(node, anchor))?;
    let inside = super::node::inside(anchor, ["ip", "-batch", "-"].map(str::to_owned));
    let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
    feed(&inside, &node_links(node))
}

/// Removes what is there of it. The cluster's processes must be gone.
pub(crate) fn remove() -> Result<()> {
    let deadline = Instant::now() + VANISH_TIMEOUT;
    for bridge in [POD_BRIDGE, NODE_BRIDGE].into_iter().filter(|bridge| has_link(bridge)) {
        // With the namespace of its other end, a cable goes by itself, a moment after the namespace's last process.
        while !ports(bridge)?.is_empty() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        // A connection that its pod left half open keeps the namespace for minutes; nobody waits for it here.
        for cable in ports(bridge)? {
            ask("ip", &["link", "delete", &cable])?;
        }
        ask("ip", &["link", "delete", bridge])?;
    }
    for (family, table) in TABLES {
        if has_table(family, table)? {
            ask("nft", &["delete", "table", family, table])?;
        }
    }
    Ok(())
}

/// Names of what is left of the networks.
pub(crate) fn left() -> Result<Vec<String>> {
    let links = [POD_BRIDGE, NODE_BRIDGE].into_iter().filter(|bridge| has_link(bridge));
    let mut left: Vec<String> = links.map(|link| format!("link {link}")).collect();
    for (family, table) in TABLES {
        if has_table(family, table)? {
            left.push(format!("nftables table {family} {table}"));
        }
    }
    Ok(left)
}

fn has_link(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).is_dir()
}

fn ports(bridge: &str) -> Result<Vec<String>> {
    let listed: Value =
        serde_json::from_str(&ask("ip", &["-json", "link", "show", "master", bridge])?).context("ip lists no links")?;
    let names = listed.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn has_table(family: &str, table: &str) -> Result<bool> {
    let wanted = format!("table {family} {table}");
    Ok(ask("nft", &["list", "tables"])?.lines().any(|line| line.trim() == wanted))
}

fn ask(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {}", arguments.join(" "), told.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn feed(command: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command[0]))?;
    let mut pipe = child.stdin.take().context("the command has no input")?;
    pipe.write_all(input.as_bytes()).with_context(|| format!("{} does not read", command.join(" ")))?;
    drop(pipe);
    let output = child.wait_with_output().context("cannot wait for a command")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", command.join(" "), told.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_overlap_when_one_holds_the_other() {
        let check = |one, other, expected| {
            assert_eq!(overlap(one, other), expected, "{one} and {other}");
            assert_eq!(overlap(other, one), expected, "{other} and {one}");
        };
        check("10.244.1.0/24", POD_NETWORK, true);
        check("10.0.0.0/8", POD_NETWORK, true);
        check("10.96.0.1", SERVICE_NETWORK, true);
        check("10.97.0.1", SERVICE_NETWORK, false);
        check("192.0.2.0/24", POD_NETWORK, false);
        check("0.0.0.0/0", POD_NETWORK, true);
        // The default route goes everywhere that nothing else does: no reason to refuse.
        check("default", POD_NETWORK, false);
        check("10.244.0.0/33", POD_NETWORK, false);
    }

    #[test]
    fn every_node_has_its_own_pods_and_nobody_hides_them() {
        let (one, two) = (pod_network_config(Node(1)), pod_network_config(Node(2)));
        assert_eq!(one["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.1.0/24");
        assert_eq!(two["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.2.0/24");
        assert_eq!(one["plugins"][0]["ipMasq"], false);
    }

    #[test]
    fn a_further_node_is_routed_to() {
        let expected = "link add sfnode2 type veth peer name eth0 netns 42\n\
                        link set sfnode2 master sfnodes up\n\
                        route add 10.244.2.0/24 via 10.245.0.2\n";
        assert_eq!(cable(Node(2), 42), expected);
    }
}
