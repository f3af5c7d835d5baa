//! Who gets through to what, on two nodes with an agent each; what forgers get; and what stays when agents go.

mod scene;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slimfaas_ebpf::contract::Key;
use slimfaas_ebpf::identity::identity_of;
use slimfaas_ebpf::tag::Tag;
use slimfaas_tests::forge::{from_hex, to_hex};
use slimfaas_tests::report;

use super::cluster::wait;
use super::site::{SALT, TAG_KEY};
use scene::{PATH, Scene};

const SOON: Duration = Duration::from_secs(60);
/// For one agent to be killed and started again by its kubelet, with room.
const KNOCK_MILLIS: u64 = 6_000;

#[test]
fn every_caller_gets_what_it_may_with_agents_and_after_them() -> Result<()> {
    let Some(mut scene) = Scene::set("identity")? else { return Ok(()) };
    table::check(&mut scene, "-")?;
    // Every header that says where a request comes from, with the address of who may call.
    let neighbour = scene.pod("neighbour", 0)?.address;
    table::check(&mut scene, &neighbour.to_string())?;
    forged_tags_are_worth_nothing(&scene)?;
    killed_agents_leave_no_gap(&mut scene)?;
    without_agents_it_stays(&mut scene)?;
    scene.remove_agents()?;
    // The programs are gone, and so is what they did: nobody is told by the kernel, and nothing is guarded.
    let address = scene.pod("private", 0)?.at(8080);
    let caller = scene.caller("foreign", 0);
    ensure!(caller.actor.tell(&format!("get {address} {PATH} -"))? == "200", "still guarded");
    ensure!(scene.gateway_says("/ready")?.contains("by address"), "the gateway does not tell that nobody tells it");
    Ok(())
}

/// By a pod that may send raw packets, with everything right but the key, and with the right key for another SYN.
fn forged_tags_are_worth_nothing(scene: &Scene) -> Result<()> {
    let secret = |text: &str| -> Result<Key> {
        let bytes = from_hex(text).context("hexadecimal")?;
        Ok(Key::from_secret(bytes.as_slice().try_into()?))
    };
    let identity = identity_of(secret(SALT)?, &scene.site.namespace, "Deployment", "neighbour");
    let isn = 0x0A0B_0C0D_u32;
    let truth = to_hex(&Tag::sign(identity, isn, secret(TAG_KEY)?).encode());
    let other_key = to_hex(&Tag::sign(identity, isn, Key::from_secret([1; 16])).encode());
    let attacker = scene.pod("foreign", 0)?;
    let mut actor = scene.attacker(&attacker)?;
    let mut port = 40_000;
    for node in 0..2 {
        let by_gateway = (scene.gateway_pod(node)?.at(5000), format!("/function/private{PATH}"));
        let direct = (scene.pod("private", node)?.at(8080), PATH.to_owned());
        for (what, isn, option, expected) in [
            // So everything about these packets is such as can be believed.
            ("the right key", isn, truth.as_str(), ["200", "200"]),
            ("another key", isn, other_key.as_str(), ["404", "ignored"]),
            ("a tag of another SYN", isn + 1, truth.as_str(), ["404", "ignored"]),
            ("no tag", isn, "-", ["404", "ignored"]),
        ] {
            for ((to, path), expected) in [&by_gateway, &direct].into_iter().zip(expected) {
                port += 1;
                let from = attacker.at(port);
                let got = actor.tell(&format!("forge-get {from} {to} {isn} {option} {path}"))?;
                ensure!(got == expected, "{what} to {to}: {got} instead of {expected}");
            }
        }
    }
    let named = format!("slimfaas_agent_forged_tags{{address=\"{}\"}}", attacker.address);
    wait("an agent names the forger", SOON, || {
        let told =
            scene.agents()?.iter().map(|agent| scene.ask(agent.at(3263), "/metrics")).collect::<Result<String>>();
        Ok(told?.contains(&named).then_some(()))
    })
}

/// Strangers knock at private pods all the time while agents are killed and start again.
fn killed_agents_leave_no_gap(scene: &mut Scene) -> Result<()> {
    for node in 0..2 {
        let agent = scene.agent_of(node)?;
        let knocking = scene.begin_knocking(KNOCK_MILLIS)?;
        scene.kill(&agent)?;
        scene.end_knocking(knocking)?;
        wait("the agent is back", SOON, || {
            let back = scene.agent_of(node)?;
            Ok((back.restarts > agent.restarts && back.ready).then_some(()))
        })?;
    }
    Ok(())
}

/// The agents are away for as long as everything else takes, and come back.
fn without_agents_it_stays(scene: &mut Scene) -> Result<()> {
    let select = |selector: &Value| json!({"spec": {"template": {"spec": {"nodeSelector": selector}}}}).to_string();
    let patch = |scene: &Scene, selector: Value| {
        scene.site.kubectl(&["patch", "daemonset", "slimfaas-agent", "--patch", &select(&selector)]).map(drop)
    };
    patch(scene, json!({"nowhere": "yes"}))?;
    wait("no agent runs", SOON, || Ok(scene.agents()?.is_empty().then_some(())))?;
    table::check(scene, "-")?;
    // A pod that comes before its agent is nobody, and not its neighbour's equal.
    scene.apply_workload("late", &[], false)?;
    let mut late = Vec::new();
    for node in 0..2 {
        let pod = scene.pod("late", node)?;
        late.push(scene.enter(&pod)?);
    }
    let by_gateway = format!("get {} /function/private{PATH} -", scene.site.address);
    let direct = format!("get {} {PATH} -", scene.pod("private", 0)?.at(8080));
    for actor in &mut late {
        ensure!((actor.tell(&by_gateway)?, actor.tell(&direct)?) == ("404".to_owned(), "ignored".to_owned()));
    }
    let knocking = scene.begin_knocking(KNOCK_MILLIS)?;
    patch(scene, Value::Null)?;
    scene.end_knocking(knocking)?;
    scene.wait_agents()?;
    for actor in &mut late {
        wait("who came before its agent is known", SOON, || {
            Ok((actor.tell(&by_gateway)? == "200" && actor.tell(&direct)? == "200").then_some(()))
        })?;
    }
    report::line(format_args!("identity: {} callers on two nodes", scene.callers.len()));
    Ok(())
}
