//! `slimfaas publish`: one CloudEvent to a gateway, and what became of it.

use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use http::{StatusCode, Uri};
use serde_json::Value;
use slimfaas_gateway::clock;
use slimfaas_gateway::events::publisher::{self, CloudEvent};
use tokio::runtime::Runtime;

use super::Failure;

/// What the data is when nobody says so.
const JSON: &str = "application/json";

#[derive(Args)]
pub(super) struct Publish {
    /// The event's type: what functions subscribe to (annotation SlimFaas/SubscribeEvents).
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// The gateway, as http://host:port.
    #[arg(long, env = "SLIMFAAS_URL", default_value = "http://localhost:30021")]
    to: Uri,
    /// What it happened at: a URI, or a path of your own.
    #[arg(long, default_value = "/slimfaas/cli")]
    source: String,
    /// Tells events of one source apart; a random one when not given.
    #[arg(long)]
    id: Option<String>,
    /// What of the source it is about.
    #[arg(long)]
    subject: Option<String>,
    /// A further attribute; may be given several times.
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// The event's data.
    #[arg(long, conflicts_with = "data_file")]
    data: Option<String>,
    /// A file with the event's data; - is standard input.
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// What the data is; application/json when there is data and nothing is given.
    #[arg(long)]
    content_type: Option<String>,
    /// Seconds until it gives up; functions at zero start meanwhile, and failed deliveries are tried again.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

pub(super) fn run(runtime: &Runtime, event: Publish) -> Result<(), Failure> {
    let (to, timeout) = (event.to.clone(), Duration::from_secs(event.timeout));
    let event = cloud_event(event)?;
    let answer = runtime.block_on(publisher::publish(&to, event, timeout)).map_err(anyhow::Error::from)?;
    Ok(show(answer.status, &answer.body)?)
}

fn cloud_event(event: Publish) -> anyhow::Result<CloudEvent> {
    let data = match (event.data, event.data_file) {
        (Some(text), _) => Some(text.into_bytes()),
        (None, Some(path)) => Some(read(&path).with_context(|| format!("cannot read {}", path.display()))?),
        (None, None) => None,
    };
    let id = event.id.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let time = clock::utc().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let mut attributes = vec![
        ("type".to_owned(), event.event_type),
        ("source".to_owned(), event.source),
        ("id".to_owned(), id),
        ("time".to_owned(), time),
    ];
    attributes.extend(event.subject.map(|subject| ("subject".to_owned(), subject)));
    for attribute in event.attributes {
        let (name, value) = attribute.split_once('=').context("an attribute is written NAME=VALUE")?;
        attributes.push((name.to_owned(), value.to_owned()));
    }
    let content_type = event.content_type.or_else(|| data.is_some().then(|| JSON.to_owned()));
    Ok(CloudEvent { attributes, content_type, data: data.unwrap_or_default().into() })
}

fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    if path.as_os_str() != "-" {
        return std::fs::read(path);
    }
    let mut data = Vec::new();
    io::stdin().read_to_end(&mut data)?;
    Ok(data)
}

/// A line for each delivery. An error unless every one succeeded.
fn show(status: StatusCode, body: &[u8]) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    ensure!(status != StatusCode::NOT_FOUND, "nobody whom you may publish to subscribes to this event");
    let detail = answer["detail"].as_str().unwrap_or("the answer says nothing more");
    ensure!(status == StatusCode::OK, "the gateway answered {status}: {detail}");
    let deliveries = answer["Deliveries"].as_array().context("the gateway's answer is not that of a gateway")?;
    let mut out = io::stdout();
    let mut failed = 0;
    for delivery in deliveries {
        let text = |name: &str| delivery[name].as_str().unwrap_or_default();
        let target = if text("Target").is_empty() { text("Function") } else { text("Target") };
        let status = delivery["Status"].as_u64().map_or_else(String::new, |status| format!(" {status}"));
        let (attempts, millis) = (&delivery["Attempts"], &delivery["Milliseconds"]);
        writeln!(out, "{target}: {}{status} ({attempts} attempts, {millis} ms)", text("Outcome"))?;
        failed += usize::from(text("Outcome") != "delivered");
    }
    ensure!(failed == 0, "{failed} of {} deliveries failed", deliveries.len());
    Ok(())
}
