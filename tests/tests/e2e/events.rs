//! Events on a cluster: to every pod of a subscriber, from inside only where private, and from zero.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use slimfaas_tests::http1::{self, Connection};
use slimfaas_tests::report;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn every_pod_gets_an_event_and_a_cloud_event_starts_a_function() -> Result<()> {
    let Some(site) = Site::install("events", &Install::default())? else { return Ok(()) };
    let subscribes = ("SlimFaas/SubscribeEvents", "Public:reload,Private:secret");
    let three = ("SlimFaas/ReplicasMin", "3");
    let listener =
        Workload { name: "listener", replicas: 3, annotations: &[FUNCTION, three, subscribes], ..Workload::default() };
    let wakes = [FUNCTION, ("SlimFaas/SubscribeEvents", "com.example.wake"), ("SlimFaas/WakeOnEvent", "true")];
    let sleeper = Workload { name: "sleeper", annotations: &wakes, ..Workload::default() };
    // An ordinary pod of the namespace.
    let caller = Workload { name: "caller", replicas: 1, annotations: &[], ..Workload::default() };
    for workload in [listener, sleeper, caller] {
        site.apply(&workload.yaml())?;
    }
    site.wait_known("sleeper")?;
    wait("three listeners", SOON, || Ok((site.status("listener")?["NumberReady"] == 3).then_some(())))?;

    let deliveries = publish(&site, "/publish-event/reload/hello/you", "")?;
    let pods: BTreeSet<String> = site
        .list("pods", "app=listener")?
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    let reached: BTreeSet<String> =
        deliveries.iter().filter_map(|delivery| delivery["Target"].as_str().map(str::to_owned)).collect();
    ensure!(deliveries.iter().all(|delivery| delivery["Status"] == 200), "{deliveries:?}");
    assert_eq!((reached, deliveries.len()), (pods, 3));

    // This process is outside; a pod of the namespace is inside.
    assert_eq!(site.request("POST", "/publish-event/secret", "x")?.status, 404);
    let caller = wait("the caller", SOON, || {
        let pods = site.list("pods", "app=caller")?;
        let ready = pods.iter().find(|pod| pod["status"]["containerStatuses"][0]["ready"] == true);
        Ok(ready.and_then(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)))
    })?;
    let url = format!("http://{}/publish-event/secret/hello/inside", site.address);
    let inside = http1::get(SocketAddr::new(caller.parse()?, 8080), format!("/call?method=POST&url={url}"))?;
    assert_eq!(inside.status, 204, "{}", inside.text());

    // From zero, by a CloudEvent.
    assert_eq!(site.replicas("deployment", "sleeper")?, 0);
    let attributes = "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /e2e\r\nce-type: com.example.wake\r\n";
    let began = Instant::now();
    let deliveries = publish(&site, "/events", attributes)?;
    let took = began.elapsed();
    let [delivery] = &deliveries[..] else { anyhow::bail!("one delivery, not {deliveries:?}") };
    assert_eq!((&delivery["Function"], &delivery["Outcome"]), (&"sleeper".into(), &"delivered".into()), "{delivery}");
    report::line(format_args!("a CloudEvent started a function and reached it in {took:.2?}"));
    assert_eq!(site.replicas("deployment", "sleeper")?, 1);
    site.wait_event("Deployment", "sleeper", "ScaledUp", "from 0 to 1 replicas")
}

/// What became of an event everywhere.
fn publish(site: &Site, target: &str, headers: &str) -> Result<Vec<Value>> {
    let mut connection = Connection::open(site.address)?;
    connection.stream().set_read_timeout(Some(Duration::from_secs(180)))?;
    connection.send(format!(
        "POST {target} HTTP/1.1\r\nhost: e2e\r\ncontent-length: 1\r\nprefer: return=representation\r\n{headers}\r\nx"
    ))?;
    let answer = connection.answer()?;
    ensure!(answer.status == 200, "{}{}", answer.head, answer.text());
    let report: Value = serde_json::from_slice(&answer.body)?;
    report["Deliveries"].as_array().cloned().context("deliveries")
}
