//! What docs/events.md shows, with real functions of several replicas.

use std::process::Command;

use anyhow::{Context, Result};
use slimfaas_tests::process::{self, Scratch};
use slimfaas_tests::tools;

use super::super::client::eventually;
use super::super::gateway::Gateway;
use super::{LIMIT, deliveries, outcomes, publish};

/// Three replicas that listen to public and private events, one function that events wake and one that they do not.
const FUNCTIONS: &str = r#"
  listener:
    command: ["${SLIMFAAS_EXE}", example-function]
    environment: { FUNCTION_NAME: listener }
    annotations:
      SlimFaas/Function: "true"
      SlimFaas/ReplicasMin: "3"
      SlimFaas/SubscribeEvents: "Public:reload,Private:secret"
    health: { path: /health }
  sleeper:
    command: ["${SLIMFAAS_EXE}", example-function]
    environment: { FUNCTION_NAME: sleeper }
    annotations:
      SlimFaas/Function: "true"
      SlimFaas/SubscribeEvents: "com.example.wake"
      SlimFaas/WakeOnEvent: "true"
      SlimFaas/ReplicasAtStart: "2"
    health: { path: /health }
  dormant:
    command: ["${SLIMFAAS_EXE}", example-function]
    environment: { FUNCTION_NAME: dormant }
    annotations:
      SlimFaas/Function: "true"
      SlimFaas/SubscribeEvents: "reload,com.example.wake"
    health: { path: /health }
"#;

fn start() -> Result<Gateway> {
    let gateway = Gateway::local(FUNCTIONS)?;
    eventually("three replicas", LIMIT, || Ok((ready(&gateway, "listener")? == 3).then_some(())))?;
    Ok(gateway)
}

fn ready(gateway: &Gateway, function: &str) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_slice(&gateway.get(format!("/status-function/{function}"))?.body)?;
    status["NumberReady"].as_u64().context("a number of replicas")
}

#[test]
fn every_replica_gets_an_event() -> Result<()> {
    let gateway = start()?;
    assert_eq!(
        publish(&gateway, "/publish-event/reload", "", b"now")?.without_date(),
        "HTTP/1.1 204 No Content\r\ndate: \r\n\r\n"
    );
    let all = deliveries(&gateway, "/publish-event/reload/hello/you", "", b"")?;
    let shown: Vec<String> = all
        .iter()
        .map(|one| {
            format!("{} {} {} {} {}", one["Function"], one["Target"], one["Outcome"], one["Status"], one["Attempts"])
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#""dormant" null "asleep" null 0"#,
            r#""listener" "listener-0" "delivered" 200 1"#,
            r#""listener" "listener-1" "delivered" 200 1"#,
            r#""listener" "listener-2" "delivered" 200 1"#,
        ]
    );
    // It has no WakeOnEvent, so it still sleeps.
    assert_eq!(ready(&gateway, "dormant")?, 0);
    assert_eq!(gateway.metric("slimfaas_events_published_total", &[r#"event="reload""#])?, 2);
    let delivered = [r#"event="reload""#, r#"outcome="delivered""#];
    assert_eq!(gateway.metric("slimfaas_event_deliveries_total", &delivered)?, 6);
    assert_eq!(gateway.metric("slimfaas_event_delivery_duration_seconds_count", &[])?, 8);
    Ok(())
}

#[test]
fn private_events_come_from_inside() -> Result<()> {
    let gateway = start()?;
    let outside = publish(&gateway, "/publish-event/secret", "X-Forwarded-For: 127.0.0.1\r\n", b"")?;
    let unknown = publish(&gateway, "/publish-event/unknown", "", b"")?;
    assert_eq!((outside.status, outside.without_date()), (404, unknown.without_date()));
    let inner = format!("http://{}/publish-event/secret/hello/inside", gateway.entrypoint());
    // The function `listener` publishes, and gets it itself.
    let inside = gateway.get(format!("/function/listener/call?method=POST&url={inner}"))?;
    assert_eq!(inside.status, 204, "{}", inside.text());
    assert_eq!(gateway.metric("slimfaas_event_deliveries_total", &[r#"event="secret""#, r#"outcome="delivered""#])?, 3);
    Ok(())
}

#[test]
fn a_cloud_event_wakes_a_function_from_zero() -> Result<()> {
    let gateway = start()?;
    assert_eq!(ready(&gateway, "sleeper")?, 0);
    let event = r#"{"specversion":"1.0","id":"1","source":"/tests","type":"com.example.wake","data":{"why":"dawn"}}"#;
    let structured = "Content-Type: application/cloudevents+json\r\n";
    let all = deliveries(&gateway, "/events", structured, event.as_bytes())?;
    let dormant = all.iter().filter(|one| one["Function"] == "dormant").collect::<Vec<_>>();
    assert_eq!((dormant.len(), &dormant[0]["Outcome"]), (1, &"asleep".into()));
    let sleeper: Vec<_> = all.iter().filter(|one| one["Function"] == "sleeper").cloned().collect();
    // Whatever of it was ready first; all of it afterwards.
    assert!(!sleeper.is_empty() && outcomes(&sleeper).iter().all(|outcome| *outcome == "delivered"), "{all:?}");
    eventually("both replicas", LIMIT, || Ok((ready(&gateway, "sleeper")? == 2).then_some(())))?;
    let binary = "ce-specversion: 1.0\r\nce-id: 2\r\nce-source: /tests\r\nce-type: com.example.wake\r\n";
    let all = deliveries(&gateway, "/events", binary, b"")?;
    assert_eq!(outcomes(&all), ["asleep", "delivered", "delivered"]);
    assert_eq!(ready(&gateway, "dormant")?, 0);
    Ok(())
}

/// Every event that came while the function slept is delivered once it runs, by its own replicas.
#[test]
fn events_to_a_sleeping_function_wait_for_it() -> Result<()> {
    const EVENTS: u64 = 20;
    let gateway = start()?;
    for _ in 0..EVENTS {
        let left = publish(&gateway, "/publish-event/com.example.wake/hello/you", "Prefer: respond-async\r\n", b"")?;
        assert_eq!(left.status, 202);
    }
    let ended = |outcome: &str| {
        let labels = [r#"event="com.example.wake""#, &format!("outcome=\"{outcome}\"")];
        gateway.metric("slimfaas_event_deliveries_total", &labels)
    };
    eventually("no event is under way", LIMIT, || {
        Ok((gateway.metric("slimfaas_events_in_progress", &[])? == 0).then_some(()))
    })?;
    // Each to one replica at least, and to both if both ran by then; `dormant` got none.
    let delivered = ended("delivered")?;
    assert!((EVENTS..=2 * EVENTS).contains(&delivered), "{delivered}");
    assert_eq!((ended("asleep")?, ended("not-woken")?, ended("overloaded")?), (EVENTS, 0, 0));
    Ok(())
}

#[test]
fn the_command_line_publishes() -> Result<()> {
    let (gateway, scratch) = (start()?, Scratch::new("publish")?);
    let to = format!("http://{}", gateway.address);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(tools::gateway_binary()?);
        command.env_clear().args(["publish", "--to", &to]).args(arguments);
        process::run("publish", &mut command, LIMIT, scratch.path())
    };
    let (succeeded, output) = run(&["com.example.wake", "--data", "{}", "--attribute", "trace=1"])?;
    assert!(!succeeded, "{output}");
    assert!(output.contains("dormant: asleep (0 attempts, "), "{output}");
    // Whichever of its two replicas was ready first.
    let delivered = |replica: u8| output.contains(&format!("sleeper-{replica}: delivered 200 (1 attempts, "));
    assert!(delivered(0) || delivered(1), "{output}");
    assert!(output.contains("slimfaas: 1 of ") && output.contains(" deliveries failed"), "{output}");
    let file = scratch.path().join("data");
    std::fs::write(&file, "plain")?;
    let (_, output) = run(&["reload", "--data-file", &file.display().to_string(), "--content-type", "text/plain"])?;
    assert_eq!(output.matches("listener-").count(), 3, "{output}");
    for (arguments, message) in [
        (&["unheard-of"][..], "slimfaas: nobody whom you may publish to subscribes to this event"),
        (&["reload", "--source", "a b"], "the gateway answered 400 Bad Request: the attribute source is \"a b\""),
        (&["reload", "--attribute", "Trace=1"], "\"Trace\" cannot be an attribute"),
        (&["reload", "--attribute", "trace"], "an attribute is written NAME=VALUE"),
        (&["reload", "--data-file", "/nowhere"], "cannot read /nowhere"),
    ] {
        let (succeeded, output) = run(arguments)?;
        assert!(!succeeded && output.contains(message), "{arguments:?}: {output}");
    }
    Ok(())
}
