//! Going round the gateway: SYNs to a guarded port.

use anyhow::Result;
use slimfaas_ebpf::contract::{ExclusionKey, GuardFlags, Identity, IdentityFlags};
use slimfaas_ebpf::policy::GuardOutcome;

use super::actor::Actor;
use super::network::Network;
use super::site::{BANK, FUNCTION, Node, OTHER_KEY, SHOP, Site, on_site, only};

const GATEWAY: Identity = Identity(200);
const WEB: Identity = Identity(201);
const THIEF: Identity = Identity(202);
const SHADY: Identity = Identity(203);
const TRACKER: Identity = Identity(204);
const AGENT: Identity = Identity(205);

/// A function's node that knows everybody, and the node of those who call it.
struct Scene {
    network: Network,
    callers: Node,
    functions: Node,
    function: Actor,
    port: u16,
}

fn scene(site: &Site, bind: &str, flags: GuardFlags) -> Result<Scene> {
    let network = site.network("n")?;
    let (callers, mut functions) = (site.node("callers")?, site.node("functions")?);
    for (identity, namespace, flags) in [
        (GATEWAY, BANK, IdentityFlags::GATEWAY),
        (AGENT, BANK, IdentityFlags::AGENT),
        (WEB, SHOP, IdentityFlags(0)),
        (THIEF, BANK, IdentityFlags(0)),
        (SHADY, SHOP, IdentityFlags::UNTRUSTED),
        (TRACKER, SHOP, IdentityFlags(0)),
        (FUNCTION, SHOP, IdentityFlags(0)),
    ] {
        functions.know(identity, namespace, flags)?;
    }
    functions.change(|state| _ = state.exclusions.insert(ExclusionKey { function: FUNCTION, caller: TRACKER }))?;
    let pod = functions.pod("function", FUNCTION)?;
    let mut function = pod.actor(&network)?;
    let port = function.tell(&format!("listen {bind}:0"))?.parse()?;
    functions.guard(&pod, port, SHOP, flags)?;
    Ok(Scene { network, callers, functions, function, port })
}

impl Scene {
    fn caller(&mut self, identity: Option<Identity>) -> Result<Actor> {
        match identity {
            Some(Identity::NODE) => Actor::start(&self.network.name, &self.callers.system()),
            Some(identity) => self.callers.pod(&format!("p{}", identity.0), identity)?.actor(&self.network),
            None => self.callers.unknown_pod("unknown")?.actor(&self.network),
        }
    }

    /// A connection from this identity's pod has this outcome, and the outcome is counted once.
    fn check(&mut self, identity: Option<Identity>, host: &str, outcome: GuardOutcome) -> Result<()> {
        let mut caller = self.caller(identity)?;
        let before = self.functions.kernel.counters()?.outcomes[&outcome];
        let expected = if outcome.allows() { "connected" } else { "ignored" };
        let answer = caller.tell(&format!("connect {host}:{}", self.port))?;
        assert_eq!(answer, expected, "{identity:?} {host} {outcome:?}");
        let counted = self.functions.kernel.counters()?.outcomes[&outcome] - before;
        // A SYN that is dropped is sent again after a second.
        assert!(counted == 1 || !outcome.allows() && counted == 2, "{identity:?} {host} {outcome:?} {counted}");
        if outcome.allows() {
            self.function.accept()?;
        }
        Ok(())
    }
}

#[test]
fn only_who_may_call_gets_through() {
    on_site("only_who_may_call_gets_through", |site| {
        let mut scene = scene(site, "[::]", GuardFlags(0))?;
        for host in ["127.0.0.1", "[::1]"] {
            for (identity, outcome) in [
                (Some(GATEWAY), GuardOutcome::Gateway),
                (Some(WEB), GuardOutcome::Neighbour),
                (Some(Identity::NODE), GuardOutcome::Node),
                (None, GuardOutcome::Untagged),
                (Some(Identity(999)), GuardOutcome::Foreign),
                (Some(THIEF), GuardOutcome::OtherNamespace),
                (Some(SHADY), GuardOutcome::Untrusted),
                (Some(TRACKER), GuardOutcome::Excluded),
            ] {
                scene.check(identity, host, outcome)?;
            }
            scene.callers.change(|state| state.keys = only(OTHER_KEY))?;
            scene.check(Some(GATEWAY), host, GuardOutcome::Forged)?;
            scene.callers.change(|state| state.keys = only(super::site::KEY))?;
        }
        Ok(())
    });
}

#[test]
fn the_peer_port_is_for_gateways_and_agents() {
    on_site("the_peer_port_is_for_gateways_and_agents", |site| {
        let mut scene = scene(site, "127.0.0.1", GuardFlags::PEER_PORT)?;
        scene.check(Some(GATEWAY), "127.0.0.1", GuardOutcome::Gateway)?;
        scene.check(Some(AGENT), "127.0.0.1", GuardOutcome::Agent)?;
        scene.check(Some(WEB), "127.0.0.1", GuardOutcome::NotAPeer)?;
        scene.check(Some(Identity::NODE), "127.0.0.1", GuardOutcome::NotAPeer)?;
        scene.check(None, "127.0.0.1", GuardOutcome::Untagged)
    });
}

/// `SlimFaas/DirectAccess: Guarded`: not even neighbours go round the gateway.
#[test]
fn a_guarded_function_is_for_gateways_and_probes() {
    on_site("a_guarded_function_is_for_gateways_and_probes", |site| {
        let mut scene = scene(site, "127.0.0.1", GuardFlags::GATEWAYS_ONLY)?;
        scene.check(Some(GATEWAY), "127.0.0.1", GuardOutcome::Gateway)?;
        scene.check(Some(Identity::NODE), "127.0.0.1", GuardOutcome::Node)?;
        scene.check(Some(WEB), "127.0.0.1", GuardOutcome::NotAGateway)?;
        scene.check(Some(Identity(999)), "127.0.0.1", GuardOutcome::Foreign)?;
        scene.check(None, "127.0.0.1", GuardOutcome::Untagged)
    });
}

/// Other ports of the pod, and the same port of other pods, are open to everybody.
#[test]
fn only_the_port_of_the_pod_is_guarded() {
    on_site("only_the_port_of_the_pod_is_guarded", |site| {
        let mut scene = scene(site, "127.0.0.1", GuardFlags(0))?;
        let mut stranger = scene.caller(None)?;
        let open = scene.function.tell("listen 127.0.0.1:0")?;
        assert_eq!(stranger.tell(&format!("connect 127.0.0.1:{open}"))?, "connected");
        let mut other = scene.functions.pod("other", WEB)?.actor(&scene.network)?;
        other.tell(&format!("listen 127.0.0.2:{}", scene.port))?;
        assert_eq!(stranger.tell(&format!("connect 127.0.0.2:{}", scene.port))?, "connected");
        Ok(())
    });
}

/// The guard is of connections: what is established goes on when the caller's right ends, and a new one is refused.
#[test]
fn a_right_that_ends_closes_the_door_behind_open_connections() {
    on_site("a_right_that_ends", |site| {
        let mut scene = scene(site, "127.0.0.1", GuardFlags(0))?;
        let mut web = scene.caller(Some(WEB))?;
        let address = format!("127.0.0.1:{}", scene.port);
        assert_eq!(web.tell(&format!("connect {address}"))?, "connected");
        scene.function.accept()?;
        scene.functions.know(WEB, SHOP, IdentityFlags::UNTRUSTED)?;
        assert_eq!(web.tell(&format!("connect {address}"))?, "ignored");
        scene.functions.know(WEB, SHOP, IdentityFlags(0))?;
        assert_eq!(web.tell(&format!("connect {address}"))?, "connected");
        // Another exchange on the first connection: the last one opened is not accepted yet.
        scene.functions.know(WEB, SHOP, IdentityFlags::UNTRUSTED)?;
        scene.function.accept()?;
        web.begin("exchange")?;
        assert_eq!(scene.function.tell("echo")?, "echoed");
        assert_eq!(web.read()?, "exchanged");
        Ok(())
    });
}
