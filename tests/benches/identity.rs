//! What identity costs: `cargo xtask bench identity`. In cgroups and a network namespace of its own, over loopback.
//! Everything is measured in turns, so that what else the machine does falls on all alike.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]
#![expect(clippy::print_stdout, reason = "numbers are for reading")]
#![expect(dead_code, reason = "the tests use more of a site than this does")]

#[path = "../tests/kernel/actor.rs"]
mod actor;
#[path = "../tests/kernel/network.rs"]
mod network;
#[path = "../tests/kernel/site.rs"]
mod site;

use anyhow::Result;
use slimfaas_ebpf::contract::{GuardFlags, Identity, IdentityFlags};

use actor::Actor;
use network::Network;
use site::{FUNCTION, Node, Pod, SHOP, Site, on_site};

const WEB: Identity = Identity(600);
const ROUNDS: usize = 40;
const CONNECTS: usize = 250;
const PUMP_MILLIS: u64 = 250;
const QUESTIONS: u32 = 20_000;

/// One way to connect, and what was measured of it.
struct Variant {
    name: &'static str,
    client: Actor,
    server: Actor,
    address: String,
    /// For the question who calls: a server that does not serve everybody.
    asked: Actor,
    connects: Vec<u64>,
    medians: Vec<u64>,
    rates: Vec<f64>,
    bytes: Vec<f64>,
    questions: Vec<f64>,
}

impl Variant {
    fn new(name: &'static str, network: &Network, client: &Pod, function: &Pod) -> Result<Self> {
        let (mut client, mut server) = (client.actor(network)?, function.actor(network)?);
        let address = format!("127.0.0.1:{}", server.tell("listen 127.0.0.1:0")?);
        server.tell("serve")?;
        let mut asked = function.actor(network)?;
        let other = format!("connect 127.0.0.1:{}", asked.tell("listen 127.0.0.1:0")?);
        client.tell(&other)?;
        asked.tell("accept")?;
        let empty = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (connects, medians, rates, bytes) = empty;
        Ok(Self { name, client, server, address, asked, connects, medians, rates, bytes, questions: Vec::new() })
    }

    fn port(&self) -> u16 {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address has a port")
    }

    fn measure(&mut self) -> Result<()> {
        let answer = self.client.tell(&format!("measure {} {CONNECTS}", self.address))?;
        let mut times: Vec<u64> = answer.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        self.rates.push(CONNECTS as f64 * 1e9 / times.iter().sum::<u64>() as f64);
        times.sort_unstable();
        self.medians.push(times[times.len() / 2]);
        self.connects.extend(times);
        self.bytes.push(self.client.tell(&format!("pump {} {PUMP_MILLIS}", self.address))?.parse()?);
        self.questions.push(self.asked.tell(&format!("question {QUESTIONS}"))?.parse()?);
        Ok(())
    }
}

fn middle<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|one, other| one.partial_cmp(other).expect("numbers"));
    sorted[sorted.len() / 2]
}

fn main() {
    on_site("bench", |site| {
        let network = site.network("n")?;
        let mut variants = variants(site, &network)?;
        let nodes = &variants.0;
        for _ in 0..ROUNDS {
            variants.1.iter_mut().try_for_each(Variant::measure)?;
        }
        let tagged: u64 = nodes[1].kernel.counters()?.counted.values().sum();
        report(&mut variants.1);
        println!("\ntags written and verified: {tagged}");
        Ok(())
    });
}

/// Returns the nodes too: what is attached goes with them.
fn variants(site: &Site, network: &Network) -> Result<(Vec<Node>, Vec<Variant>)> {
    let mut bare = site.bare_node("bare", None)?;
    let mut node = site.node("node")?;
    node.know(WEB, SHOP, IdentityFlags(0))?;
    let (bare_client, bare_server) = (bare.pod("client", WEB)?, bare.pod("server", FUNCTION)?);
    let stranger = node.unknown_pod("stranger")?;
    let web = node.pod("web", WEB)?;
    let open = node.pod("open", FUNCTION)?;
    let guarded = node.pod("guarded", FUNCTION)?;
    let all = vec![
        Variant::new("nothing attached", network, &bare_client, &bare_server)?,
        Variant::new("attached, untagged", network, &stranger, &open)?,
        Variant::new("tagged", network, &web, &open)?,
        Variant::new("tagged and guarded", network, &web, &guarded)?,
        // What the machine alone makes of two equal things.
        Variant::new("nothing, again", network, &bare_client, &bare_server)?,
    ];
    node.guard(&guarded, all[3].port(), SHOP, GuardFlags(0))?;
    Ok((vec![bare, node], all))
}

fn report(variants: &mut [Variant]) {
    println!("{ROUNDS} rounds of {CONNECTS} connects and {PUMP_MILLIS} ms of sending, in turns; medians of rounds\n");
    println!("| | connects/s | p50 | p99 | p50 to nothing, by rounds | sent | question |");
    println!("|---|---|---|---|---|---|---|");
    let base = variants[0].medians.clone();
    let base_bytes = variants[0].bytes.clone();
    for variant in variants {
        variant.connects.sort_unstable();
        let at = |percent: usize| variant.connects[(variant.connects.len() - 1) * percent / 100] as f64 / 1000.0;
        let ratios: Vec<f64> =
            variant.medians.iter().zip(&base).map(|(one, base)| *one as f64 / *base as f64).collect();
        let sent: Vec<f64> = variant.bytes.iter().zip(&base_bytes).map(|(one, base)| one / base).collect();
        println!(
            "| {} | {:.0} | {:.1} µs | {:.1} µs | {:+.1} % | {:.2} GB/s ({:+.1} %) | {:.0} ns |",
            variant.name,
            middle(&variant.rates),
            at(50),
            at(99),
            (middle(&ratios) - 1.0) * 100.0,
            middle(&variant.bytes) / 1e9,
            (middle(&sent) - 1.0) * 100.0,
            middle(&variant.questions),
        );
    }
}
