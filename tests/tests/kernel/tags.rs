//! Who calls, as the kernel tells the one who is called.

use anyhow::Result;
use slimfaas_ebpf::contract::{Counter, Identity, IdentityFlags, TagKeys, Verdict};

use super::actor::{Actor, Caller};
use super::site::{BANK, KEY, Node, OTHER_KEY, SHOP, Site, on_site, only};

const WEB: Identity = Identity(100);
const ORDERS: Identity = Identity(101);

/// Connects from one to the other and says who it was.
#[track_caller]
fn call(from: &mut Actor, to: &mut Actor, address: &str) -> Caller {
    assert_eq!(from.tell(&format!("connect {address}")).expect("an answer"), "connected");
    to.accept().expect("a caller")
}

#[track_caller]
fn check(caller: &Caller, identity: Identity, verdict: Verdict) {
    assert_eq!((caller.identity, caller.verdict), (identity.0, verdict.as_u32()), "{caller:?}");
    if verdict != Verdict::Known {
        assert_eq!((caller.namespace, caller.flags), (0, 0), "{caller:?}");
    }
}

fn counted(node: &Node, counter: Counter) -> Result<u64> {
    Ok(node.kernel.counters()?.counted[&counter])
}

#[test]
fn a_caller_is_who_its_cgroup_says() {
    on_site("a_caller_is_who_its_cgroup_says", |site| {
        let (network, mut node) = (site.network("a")?, site.node("a")?);
        node.know(WEB, SHOP, IdentityFlags::UNTRUSTED)?;
        let server = node.pod("server", ORDERS)?;
        let mut server = server.actor(&network)?;
        for bind in ["127.0.0.1", "[::1]", "[::]"] {
            let port = server.tell(&format!("listen {bind}:0"))?;
            let addresses: &[&str] = if bind == "[::]" { &["127.0.0.1", "[::1]"] } else { &[bind] };
            for address in addresses {
                let address = format!("{address}:{port}");
                let mut known = node.pod("web", WEB)?.actor(&network)?;
                let caller = call(&mut known, &mut server, &address);
                check(&caller, WEB, Verdict::Known);
                assert_eq!((caller.namespace, caller.flags), (SHOP.0, IdentityFlags::UNTRUSTED.0));
                let mut foreign = node.pod("foreign", Identity(999))?.actor(&network)?;
                check(&call(&mut foreign, &mut server, &address), Identity(999), Verdict::Foreign);
                let mut stranger = node.unknown_pod("stranger")?.actor(&network)?;
                check(&call(&mut stranger, &mut server, &address), Identity::NONE, Verdict::Untagged);
                let mut system = Actor::start(&network.name, &node.system())?;
                check(&call(&mut system, &mut server, &address), Identity::NODE, Verdict::Foreign);
            }
        }
        Ok(())
    });
}

#[test]
fn established_connections_work_and_a_retransmitted_syn_keeps_its_tag() {
    on_site("established_connections_work", |site| {
        let (network, mut node) = (site.network("a")?, site.node("a")?);
        node.know(WEB, SHOP, IdentityFlags(0))?;
        let mut server = node.pod("server", ORDERS)?.actor(&network)?;
        let mut web = node.pod("web", WEB)?.actor(&network)?;
        let port = server.tell("listen 127.0.0.1:0")?;
        check(&call(&mut web, &mut server, &format!("127.0.0.1:{port}")), WEB, Verdict::Known);
        web.begin("exchange")?;
        assert_eq!(server.tell("echo")?, "echoed");
        assert_eq!(web.read()?, "exchanged");
        assert_eq!(counted(&node, Counter::TagWritten)?, 1);
        // The first SYN is lost, once; the second one comes after a second.
        network.rules(
            "table inet lossy { set seen { type inet_service; flags dynamic; size 16; }
             chain in { type filter hook input priority 0; tcp flags syn / syn,ack tcp sport != @seen add @seen { tcp sport } drop; }
             }",
        )?;
        check(&call(&mut web, &mut server, &format!("127.0.0.1:{port}")), WEB, Verdict::Known);
        assert_eq!(counted(&node, Counter::TagWritten)?, 3);
        assert_eq!(counted(&node, Counter::TagVerified)?, 2);
        Ok(())
    });
}

/// Two nodes with maps of their own, and a router between them that rewrites addresses as Kubernetes does.
#[test]
fn a_tag_survives_address_translation_between_nodes() {
    on_site("a_tag_survives_address_translation", |site| {
        let (client, router, server) = (site.network("c")?, site.network("r")?, site.network("s")?);
        client.connect("vc", &["10.90.1.2/24", "fd90:1::2/64"], &router, &["10.90.1.1/24", "fd90:1::1/64"])?;
        server.connect("vs", &["10.90.2.2/24", "fd90:2::2/64"], &router, &["10.90.2.1/24", "fd90:2::1/64"])?;
        client.run(&["ip", "route", "add", "default", "via", "10.90.1.1"])?;
        client.run(&["ip", "-6", "route", "add", "default", "via", "fd90:1::1"])?;
        router.sysctl("net.ipv4.ip_forward=1")?;
        router.sysctl("net.ipv6.conf.all.forwarding=1")?;
        // A service's address to a pod's, and everybody behind the router's own. The server has no route back to the
        // client: only what was rewritten can come.
        router.rules(
            "table inet nat {
             chain pre { type nat hook prerouting priority -100;
               ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.90.2.2:8080;
               ip6 daddr fd96::1 tcp dport 80 dnat ip6 to [fd90:2::2]:8080; }
             chain post { type nat hook postrouting priority 100; oifname \"vs1\" masquerade; }
             }",
        )?;
        let (mut here, mut there) = (site.node("here")?, site.node("there")?);
        there.know(WEB, SHOP, IdentityFlags(0))?;
        let mut server = there.pod("server", ORDERS)?.actor(&server)?;
        let mut web = here.pod("web", WEB)?.actor(&client)?;
        server.tell("listen [::]:8080")?;
        for (address, seen_from) in [
            ("10.96.0.1:80", "10.90.2.1"),
            ("10.90.2.2:8080", "10.90.2.1"),
            ("[fd96::1]:80", "fd90:2::1"),
            ("[fd90:2::2]:8080", "fd90:2::1"),
        ] {
            let caller = call(&mut web, &mut server, address);
            check(&caller, WEB, Verdict::Known);
            assert_eq!(caller.address, seen_from);
        }
        assert_eq!(counted(&here, Counter::TagWritten)?, 4);
        assert_eq!(counted(&there, Counter::TagVerified)?, 4);
        Ok(())
    });
}

/// A client's node and a server's node on one network.
fn two_nodes(site: &Site) -> Result<(super::network::Network, Node, Node, Actor, Actor, String)> {
    let network = site.network("n")?;
    let (mut here, mut there) = (site.node("here")?, site.node("there")?);
    there.know(WEB, SHOP, IdentityFlags(0))?;
    let mut server = there.pod("server", ORDERS)?.actor(&network)?;
    let web = here.pod("web", WEB)?.actor(&network)?;
    let port = server.tell("listen 127.0.0.1:0")?;
    Ok((network, here, there, web, server, format!("127.0.0.1:{port}")))
}

#[test]
fn a_key_of_another_cluster_forges() {
    on_site("a_key_of_another_cluster_forges", |site| {
        let (_network, mut here, mut there, mut web, mut server, address) = two_nodes(site)?;
        here.change(|state| state.keys = only(OTHER_KEY))?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Forged);
        assert_eq!(counted(&there, Counter::TagForged)?, 1);
        let forgers = there.kernel.forgers()?;
        assert_eq!(forgers.len(), 1);
        assert_eq!((forgers[0].address.to_string().as_str(), forgers[0].count), ("127.0.0.1", 1));
        // Without a key nothing is signed, and nothing verified.
        here.change(|state| state.keys = TagKeys::default())?;
        check(&call(&mut web, &mut server, &address), Identity::NONE, Verdict::Untagged);
        here.change(|state| state.keys = only(KEY))?;
        there.change(|state| state.keys = TagKeys::default())?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Forged);
        Ok(())
    });
}

/// Every order in which two nodes can hear of each of the rotation's steps.
#[test]
fn keys_rotate_without_a_gap() {
    on_site("keys_rotate_without_a_gap", |site| {
        let (_network, mut here, mut there, mut web, mut server, address) = two_nodes(site)?;
        let announced = TagKeys { next: OTHER_KEY, present: TagKeys::HAS_CURRENT | TagKeys::HAS_NEXT, ..only(KEY) };
        let rotated =
            TagKeys { previous: KEY, present: TagKeys::HAS_CURRENT | TagKeys::HAS_PREVIOUS, ..only(OTHER_KEY) };
        let steps = [only(KEY), announced, rotated, only(OTHER_KEY)];
        for pair in steps.windows(2) {
            for (sender, receiver) in [(pair[0], pair[1]), (pair[1], pair[0]), (pair[1], pair[1])] {
                here.change(|state| state.keys = sender)?;
                there.change(|state| state.keys = receiver)?;
                check(&call(&mut web, &mut server, &address), WEB, Verdict::Known);
            }
        }
        // And after it the old key is worth nothing.
        here.change(|state| state.keys = only(KEY))?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Forged);
        Ok(())
    });
}

/// Cookies leave no room for options: such a connection is nobody's, and works.
#[test]
fn a_syn_cookie_makes_the_caller_unknown() {
    on_site("a_syn_cookie_makes_the_caller_unknown", |site| {
        let (network, _here, _there, mut web, mut server, address) = two_nodes(site)?;
        network.sysctl("net.ipv4.tcp_syncookies=2")?;
        check(&call(&mut web, &mut server, &address), Identity::NONE, Verdict::Untagged);
        web.begin("exchange")?;
        assert_eq!(server.tell("echo")?, "echoed");
        assert_eq!(web.read()?, "exchanged");
        network.sysctl("net.ipv4.tcp_syncookies=1")?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Known);
        Ok(())
    });
}

/// The answer follows the table, for connections that are open too; the identity stays what it was.
#[test]
fn a_change_of_policy_reaches_open_connections() {
    on_site("a_change_of_policy_reaches_open_connections", |site| {
        let (_network, _here, mut there, mut web, mut server, address) = two_nodes(site)?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Known);
        there.know(WEB, BANK, IdentityFlags::UNTRUSTED)?;
        let caller = server.ask()?;
        check(&caller, WEB, Verdict::Known);
        assert_eq!((caller.namespace, caller.flags), (BANK.0, IdentityFlags::UNTRUSTED.0));
        there.know(WEB, BANK, IdentityFlags::CONTESTED)?;
        check(&server.ask()?, WEB, Verdict::Foreign);
        there.change(|state| _ = state.known.remove(&WEB))?;
        check(&server.ask()?, WEB, Verdict::Foreign);
        Ok(())
    });
}

/// A pod that starts again has another cgroup: the old one's right ends with it, the new one's begins with its entry.
#[test]
fn a_restarted_pod_is_unknown_until_its_new_cgroup_is_known() {
    on_site("a_restarted_pod_is_unknown", |site| {
        let (network, mut here, _there, mut web, mut server, address) = two_nodes(site)?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Known);
        drop(web);
        let old = here.unknown_pod("web")?;
        std::fs::remove_dir(&old.cgroup)?;
        std::fs::remove_dir(old.cgroup.parent().expect("a pod's cgroup"))?;
        let new = here.unknown_pod("web")?;
        assert_ne!(new.id, old.id, "cgroups' numbers are not used again");
        let mut web = new.actor(&network)?;
        check(&call(&mut web, &mut server, &address), Identity::NONE, Verdict::Untagged);
        here.change(|state| {
            state.cgroups.remove(&old.id);
            state.cgroups.insert(new.id, WEB);
        })?;
        check(&call(&mut web, &mut server, &address), WEB, Verdict::Known);
        Ok(())
    });
}
