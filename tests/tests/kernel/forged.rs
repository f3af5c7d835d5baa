//! What a pod that may send raw packets can do, and what it cannot.

use anyhow::Result;
use slimfaas_ebpf::contract::{Counter, GuardFlags, Identity, IdentityFlags, Verdict};
use slimfaas_ebpf::tag::Tag;
use slimfaas_tests::forge::to_hex;

use super::actor::Actor;
use super::network::Network;
use super::site::{KEY, OTHER_KEY, SHOP, Site, on_site};

const WEB: Identity = Identity(300);
const SERVER: Identity = Identity(301);
const ISN: u32 = 0x0A0B_0C0D;

struct Scene {
    _network: Network,
    server: Actor,
    node: super::site::Node,
    pod: super::site::Pod,
    attacker: Actor,
    port: u16,
    next_port: u16,
}

/// The attacker is in no node of ours at all: nothing is written into what it sends.
fn scene(site: &Site) -> Result<Scene> {
    let network = site.network("n")?;
    let mut node = site.node("node")?;
    node.know(WEB, SHOP, IdentityFlags(0))?;
    let pod = node.pod("server", SERVER)?;
    let mut server = pod.actor(&network)?;
    let port = server.tell("listen 127.0.0.1:0")?.parse()?;
    // The attacker's kernel knows nothing of its connections, and would reset them.
    network
        .rules("table inet raw { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }\n}")?;
    let elsewhere = site.bare_node("elsewhere", None)?;
    let attacker = Actor::start(&network.name, &elsewhere.system())?;
    Ok(Scene { _network: network, server, node, pod, attacker, port, next_port: 50_000 })
}

impl Scene {
    /// Opens a connection with this option in the SYN; whether it was answered.
    fn forge(&mut self, isn: u32, option: &[u8]) -> Result<String> {
        self.next_port += 1;
        let option = if option.is_empty() { "-".to_owned() } else { to_hex(option) };
        self.attacker.tell(&format!("forge 127.0.0.1:{} 127.0.0.1:{} {isn} {option}", self.next_port, self.port))
    }

    #[track_caller]
    fn check(&mut self, isn: u32, option: &[u8], identity: Identity, verdict: Verdict) {
        assert_eq!(self.forge(isn, option).expect("an answer"), "answered");
        let caller = self.server.accept().expect("a caller");
        assert_eq!((caller.identity, caller.verdict), (identity.0, verdict.as_u32()), "{caller:?}");
    }
}

#[test]
fn a_tag_is_worth_nothing_without_the_key() {
    on_site("a_tag_is_worth_nothing_without_the_key", |site| {
        let mut scene = scene(site)?;
        let good = Tag::sign(WEB, ISN, KEY).encode();
        scene.check(ISN, &[], Identity::NONE, Verdict::Untagged);
        // So the connections made here are such as can be believed.
        scene.check(ISN, &good, WEB, Verdict::Known);
        let mut flipped = good;
        flipped[15] ^= 1;
        scene.check(ISN, &flipped, WEB, Verdict::Forged);
        let mut renamed = good;
        renamed[7] ^= 1;
        scene.check(ISN, &renamed, Identity(WEB.0 ^ 1), Verdict::Forged);
        scene.check(ISN, &Tag::sign(WEB, ISN, OTHER_KEY).encode(), WEB, Verdict::Forged);
        // Replayed under another initial sequence number.
        scene.check(ISN + 1, &good, WEB, Verdict::Forged);
        // Nobody signs for nobody.
        scene.check(ISN, &Tag::sign(Identity::NONE, ISN, KEY).encode(), Identity::NONE, Verdict::Forged);
        assert_eq!(scene.node.kernel.counters()?.counted[&Counter::TagForged], 5);
        Ok(())
    });
}

#[test]
fn an_option_of_another_form_is_no_tag() {
    on_site("an_option_of_another_form_is_no_tag", |site| {
        let mut scene = scene(site)?;
        let good = Tag::sign(WEB, ISN, KEY).encode();
        // Cut short, drawn out, another experiment, and behind the end of the list.
        let short = [&[254, 12], &good[2..12]].concat();
        let long = [&[254, 20], &good[2..], &[0; 4]].concat();
        let mut other = good;
        other[3] ^= 1;
        scene.check(ISN, &short, Identity::NONE, Verdict::Forged);
        scene.check(ISN, &long, Identity::NONE, Verdict::Forged);
        scene.check(ISN, &other, Identity::NONE, Verdict::Untagged);
        scene.check(ISN, &[&[0][..], &good].concat(), Identity::NONE, Verdict::Untagged);
        // Of two the first counts.
        let strange = Tag::sign(SERVER, ISN, OTHER_KEY).encode();
        scene.check(ISN, &[&strange[..], &good].concat(), SERVER, Verdict::Forged);
        scene.check(ISN, &[&good[..], &strange].concat(), WEB, Verdict::Known);
        Ok(())
    });
}

/// The guard reads the same packets with its own eyes, and comes to the same answers.
#[test]
fn the_guard_drops_forgeries() {
    on_site("the_guard_drops_forgeries", |site| {
        let mut scene = scene(site)?;
        let pod = scene.node.unknown_pod("server")?;
        assert_eq!(pod.id, scene.pod.id);
        scene.node.guard(&pod, scene.port, SHOP, GuardFlags(0))?;
        let good = Tag::sign(WEB, ISN, KEY).encode();
        let strange = Tag::sign(WEB, ISN, OTHER_KEY).encode();
        let short = [&[254, 12], &good[2..12]].concat();
        let mut other = good;
        other[3] ^= 1;
        for (isn, option, expected) in [
            (ISN, &good[..], "answered"),
            (ISN + 1, &good, "ignored"),
            (ISN, &strange, "ignored"),
            (ISN, &short, "ignored"),
            (ISN, &other, "ignored"),
            (ISN, &[], "ignored"),
            (ISN, &[&[0][..], &good].concat(), "ignored"),
            (ISN, &[&[1, 1, 1][..], &good].concat(), "answered"),
            (ISN, &[&strange[..], &good].concat(), "ignored"),
            (ISN, &[&good[..], &strange].concat(), "answered"),
        ] {
            assert_eq!(scene.forge(isn, option)?, expected, "{isn} {option:?}");
        }
        Ok(())
    });
}
