//! What identity costs: `cargo xtask bench identity`. In cgroups and network namespaces of its own, over loopback, and
//! over a cable between two namespaces, as from pod to pod of one node. Everything is measured in turns, so that what else the machine does falls on all alike.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]
#![expect(clippy::print_stdout, reason = "numbers are for reading")]
#![expect(dead_code, reason = "the tests use more of a site than this does")]

#[path = "../tests/kernel/actor.rs"]
mod actor;
#[path = "../tests/kernel/api_server.rs"]
mod api_server;
#[path = "identity/by_address.rs"]
mod by_address;
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
const CONNECTS: usize = 2000;
const PUMP_MILLIS: u64 = 150;
const QUESTIONS: u32 = 20_000;

/// One way to connect, and what was measured of it.
struct Variant {
    name: &'static str,
    /// The place of what it is compared with.
    base: usize,
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
    fn new(name: &'static str, base: usize, way: Way<'_>, client: &Pod, function: &Pod) -> Result<Self> {
        let (mut client, mut server) = (client.actor(way.from)?, function.actor(way.to)?);
        let (ip, listen) = (way.ip, format!("{} {}:0", way.listen, way.ip));
        let address = format!("{ip}:{}", server.tell(&listen)?);
        server.tell("serve")?;
        let mut asked = function.actor(way.to)?;
        let other = format!("connect {ip}:{}", asked.tell(&listen)?);
        client.tell(&other)?;
        asked.tell("accept")?;
        let empty = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (connects, medians, rates, bytes) = empty;
        Ok(Self { name, base, client, server, address, asked, connects, medians, rates, bytes, questions: Vec::new() })
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

/// From where to where.
#[derive(Clone, Copy)]
struct Way<'a> {
    from: &'a Network,
    to: &'a Network,
    /// Of `to`.
    ip: &'static str,
    /// Whether the server is a gateway to its kernel.
    listen: &'static str,
}

fn middle<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(|one, other| one.partial_cmp(other).expect("numbers"));
    sorted[sorted.len() / 2]
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip_while(|argument| argument != by_address::ARGUMENT).skip(1);
    if let Some(pods) = arguments.next() {
        return by_address::measure(pods.parse()?);
    }
    measure_kernel();
    by_address::report()
}

fn measure_kernel() {
    on_site("bench", |site| {
        let (one, two) = (site.network("one")?, site.network("two")?);
        one.connect("sfbench", &["10.77.0.1/24"], &two, &["10.77.0.2/24"])?;
        let mut variants = variants(site, &one, &two)?;
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
fn variants(site: &Site, one: &Network, two: &Network) -> Result<(Vec<Node>, Vec<Variant>)> {
    let loopback = Way { from: one, to: one, ip: "127.0.0.1", listen: "listen" };
    let cable = Way { from: one, to: two, ip: "10.77.0.2", listen: "listen" };
    let [plain, plain_cable] = [loopback, cable].map(|way| Way { listen: "listen-plainly", ..way });
    let mut bare = site.bare_node("bare", None)?;
    let mut node = site.node("node")?;
    node.know(WEB, SHOP, IdentityFlags(0))?;
    let (bare_client, bare_server) = (bare.pod("client", WEB)?, bare.pod("server", FUNCTION)?);
    let stranger = node.unknown_pod("stranger")?;
    let web = node.pod("web", WEB)?;
    let open = node.pod("open", FUNCTION)?;
    let guarded = node.pod("guarded", FUNCTION)?;
    let all = vec![
        // What a gateway without an agent has: its question is not answered, and it goes by the address.
        Variant::new("nothing attached", 0, loopback, &bare_client, &bare_server)?,
        Variant::new("attached, untagged", 0, loopback, &stranger, &open)?,
        // Most connections of a node: to what is no gateway and has no guard.
        Variant::new("tagged", 0, plain, &web, &open)?,
        Variant::new("tagged, to a guarded function", 0, plain, &web, &guarded)?,
        Variant::new("tagged, to a gateway", 0, loopback, &web, &open)?,
        // As from gateway to gateway, whose connections are few and stay.
        Variant::new("tagged, to a gateway's guarded port", 0, loopback, &web, &guarded)?,
        // What the machine alone makes of two equal things.
        Variant::new("nothing, again", 0, loopback, &bare_client, &bare_server)?,
        Variant::new("pod to pod, nothing attached", 7, cable, &bare_client, &bare_server)?,
        Variant::new("pod to pod, tagged, to a guarded function", 7, plain_cable, &web, &guarded)?,
        Variant::new("pod to pod, tagged, to a gateway", 7, cable, &web, &open)?,
    ];
    for guard in [3, 5, 8] {
        node.guard(&guarded, all[guard].port(), SHOP, GuardFlags(0))?;
    }
    Ok((vec![bare, node], all))
}

fn report(variants: &mut [Variant]) {
    println!("{ROUNDS} rounds of {CONNECTS} connects and {PUMP_MILLIS} ms of sending, in turns; medians of rounds\n");
    println!("| | connects/s | p50 | p99 | p50 to nothing, by rounds | sent | question |");
    println!("|---|---|---|---|---|---|---|");
    let bases: Vec<_> = variants.iter().map(|variant| (variant.medians.clone(), variant.bytes.clone())).collect();
    for variant in variants {
        let (base, base_bytes) = &bases[variant.base];
        variant.connects.sort_unstable();
        let at = |percent: usize| variant.connects[(variant.connects.len() - 1) * percent / 100] as f64 / 1000.0;
        let ratios: Vec<f64> = variant.medians.iter().zip(base).map(|(one, base)| *one as f64 / *base as f64).collect();
        let sent: Vec<f64> = variant.bytes.iter().zip(base_bytes).map(|(one, base)| one / base).collect();
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
