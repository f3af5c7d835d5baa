//! Events: one request to every replica of every subscriber, whoever of them is slow, asleep or gone.

mod bad_input;
mod cloud_events;
mod delivery;
mod limits;
mod many;
mod walkthrough;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::client::{Answer, Connection};
use super::gateway::{Fixed, Gateway};

const LIMIT: Duration = Duration::from_secs(30);

const CLOUD_EVENT: &str = "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /tests\r\nce-type: reload\r\n";

/// The annotations of a subscriber of `reload` that is tried once, with a timeout of some seconds.
fn subscriber(timeout: u32) -> Value {
    annotations("reload", &json!({"HttpTimeout": timeout, "TimeoutRetries": [], "HttpStatusRetries": [500]}))
}

fn annotations(events: &str, publish: &Value) -> Value {
    json!({
        "SlimFaas/SubscribeEvents": events,
        "SlimFaas/Configuration": json!({"DefaultPublish": publish}).to_string(),
    })
}

/// A gateway in front of one subscriber.
fn gateway(address: std::net::SocketAddr, annotations: &Value) -> Fixed<'static> {
    Fixed::new().function("f", format!("http://{address}"), annotations)
}

/// One request, with these headers (each with its line end) besides the necessary ones.
fn publish(gateway: &Gateway, target: &str, headers: &str, body: &[u8]) -> Result<Answer> {
    let mut connection = Connection::open(gateway.address)?;
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{headers}\r\n");
    connection.send(head)?;
    connection.send(body)?;
    connection.answer()
}

/// The deliveries of an event that ended all.
fn deliveries(gateway: &Gateway, target: &str, headers: &str, body: &[u8]) -> Result<Vec<Value>> {
    let answer = publish(gateway, target, &format!("Prefer: return=representation\r\n{headers}"), body)?;
    ensure!(answer.status == 200, "{}{}", answer.head, answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("preference-applied"), Some("return=representation"));
    let report: Value = serde_json::from_slice(&answer.body)?;
    assert_eq!(report["Complete"], true, "{report}");
    Ok(report["Deliveries"].as_array().cloned().unwrap_or_default())
}

fn outcomes(deliveries: &[Value]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery["Outcome"].as_str().unwrap_or_default()).collect()
}

/// Deliveries that have ended in this way.
fn counted(gateway: &Gateway, outcome: &str) -> Result<u64> {
    gateway.metric("slimfaas_event_deliveries_total", &[r#"event="reload""#, &format!("outcome=\"{outcome}\"")])
}
