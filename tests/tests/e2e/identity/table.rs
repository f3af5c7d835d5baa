//! Who gets what: each cell of the table, on each node.

use anyhow::{Result, ensure};

use super::scene::{CALLERS, PATH, Scene};

/// How to get to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// By the gateway's Service; from outside by its NodePort.
    Gateway,
    /// By the function's own Service; from outside by its NodePort.
    Service,
    /// To its pod's address, on each node.
    Pod,
}

use Route::{Gateway, Pod, Service};

/// Where a SYN is dropped.
const NO: &str = "ignored";

/// What each of [`CALLERS`] gets: the status of the answer, or nothing.
#[rustfmt::skip]
const TABLE: &[(&str, Route, [&str; CALLERS.len()])] = &[
    //                    neighbour  excluded untrusted host-net. watched  foreign  node     outside
    ("public",  Gateway, ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    ("public",  Service, ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    ("public",  Pod,     ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    ("private", Gateway, ["200",     "404",   "404",    "200",    "404",   "404",   "404",   "404"]),
    ("private", Service, ["200",     NO,      NO,       "200",    NO,      NO,      "200",   NO]),
    ("private", Pod,     ["200",     NO,      NO,       "200",    NO,      NO,      "200",   NO]),
    // Public, with this path private: the gateway's matter alone.
    ("mixed",   Gateway, ["200",     "404",   "404",    "200",    "404",   "404",   "404",   "404"]),
    ("mixed",   Service, ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    ("mixed",   Pod,     ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    // Private, with DirectAccess: Open.
    ("open",    Gateway, ["200",     "404",   "404",    "200",    "404",   "404",   "404",   "404"]),
    ("open",    Service, ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    ("open",    Pod,     ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    // Public, with DirectAccess: Guarded.
    ("closed",  Gateway, ["200",     "200",   "200",    "200",    "200",   "200",   "200",   "200"]),
    ("closed",  Service, [NO,        NO,      NO,       NO,       NO,      NO,      "200",   NO]),
    ("closed",  Pod,     [NO,        NO,      NO,       NO,       NO,      NO,      "200",   NO]),
];

/// Compares every cell, and says all that differ. `forwarded` is what requests say of where they come from.
pub(super) fn check(scene: &mut Scene, forwarded: &str) -> Result<()> {
    let mut wrong = Vec::new();
    for (target, route, expected) in TABLE {
        let path = if *route == Gateway { format!("/function/{target}{PATH}") } else { PATH.to_owned() };
        // A pod on each node; a Service takes whom it likes.
        for node in 0..if *route == Pod { 2 } else { 1 } {
            let inside = match route {
                Gateway => scene.site.address,
                Service => scene.service(target)?.inside,
                Pod => scene.pod(target, node)?.at(8080),
            };
            let outside = match route {
                Gateway => scene.service("slimfaas")?.outside,
                Service => scene.service(target)?.outside,
                Pod => [inside; 2],
            };
            column(
                scene,
                &format!("{target} {route:?} {node}"),
                expected,
                inside,
                outside,
                &format!("{path} {forwarded}"),
                &mut wrong,
            )?;
        }
    }
    // Only gateways and agents have business there.
    for node in 0..2 {
        let peer_port = scene.gateway_pod(node)?.at(3262);
        let name = format!("peer port {node}");
        column(scene, &name, &[NO; CALLERS.len()], peer_port, [peer_port; 2], "/ -", &mut wrong)?;
    }
    ensure!(wrong.is_empty(), "with {forwarded} as its origin:\n{}", wrong.join("\n"));
    Ok(())
}

/// All callers at once: who is ignored takes its time.
fn column(
    scene: &mut Scene,
    name: &str,
    expected: &[&str],
    inside: std::net::SocketAddr,
    outside: [std::net::SocketAddr; 2],
    request: &str,
    wrong: &mut Vec<String>,
) -> Result<()> {
    for caller in &mut scene.callers {
        let address = if caller.kind == "outside" { outside[caller.node] } else { inside };
        caller.actor.begin(&format!("get {address} {request}"))?;
    }
    for caller in &mut scene.callers {
        let got = caller.actor.read()?;
        let place = CALLERS.iter().position(|kind| *kind == caller.kind).expect("every caller is of a kind");
        if got != expected[place] {
            let (kind, node) = (caller.kind, caller.node);
            wrong.push(format!("{name}: {kind} of node {node} gets {got}, not {}", expected[place]));
        }
    }
    Ok(())
}
