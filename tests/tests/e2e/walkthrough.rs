//! What the README promises, line by line.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

const SOON: Duration = Duration::from_secs(30);

/// Seconds until a function that nobody calls goes.
const IDLE: (&str, &str) = ("SlimFaas/TimeoutSecondBeforeSetReplicasMin", "4");

#[test]
fn functions_are_called_from_zero_and_go_back_to_zero() -> Result<()> {
    let Some(site) = Site::install("walkthrough", &Install::default())? else { return Ok(()) };
    site.apply(&Workload { annotations: &[FUNCTION, IDLE], ..Workload::default() }.yaml())?;
    site.apply(
        &Workload { kind: "StatefulSet", name: "ledger", annotations: &[FUNCTION, IDLE], ..Workload::default() }.yaml(),
    )?;
    site.apply(&Workload { name: "plain", annotations: &[], ..Workload::default() }.yaml())?;
    site.wait_known("fibonacci")?;
    site.wait_known("ledger")?;

    // What is no function is not there; nor is what does not exist.
    for name in ["plain", "nothing"] {
        let answer = site.call(&format!("/function/{name}/hello/x"))?;
        assert_eq!((answer.status, answer.body.len()), (404, 0), "{name}");
    }
    let asleep = json!({
        "NumberReady": 0, "NumberRequested": 0, "PodType": "Deployment", "Visibility": "Public", "Name": "fibonacci",
    });
    let status = site.status("fibonacci")?;
    for (key, value) in asleep.as_object().context("an object")? {
        assert_eq!(&status[key], value, "{key}");
    }

    // From zero by a call, with a receipt.
    let answer = site.request("POST", "/function/fibonacci/fibonacci", r#"{"input": 10}"#)?;
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"result":55}"#));
    let receipt = answer.header("server-timing").context("a cold start has a receipt")?.to_owned();
    for part in ["decision", "scale", "scheduled", "started", "listening", "forwarded", "gateway"] {
        ensure!(receipt.contains(&format!("{part};dur=")), "{part} is not in {receipt}");
    }
    assert_eq!(site.status("fibonacci")?["NumberReady"], 1);
    let warm = site.call("/function/fibonacci/hello/world")?;
    assert_eq!((warm.status, warm.header("server-timing")), (200, None));
    ensure!(warm.text().starts_with("Hello world from fibonacci"), "{}", warm.text());

    // A StatefulSet, by the wake route.
    assert_eq!(site.request("POST", "/wake-function/ledger", "")?.status, 204);
    wait("ledger is ready", SOON, || Ok((site.status("ledger")?["NumberReady"] == 1).then_some(())))?;
    assert_eq!(site.status("ledger")?["PodType"], "StatefulSet");
    assert_eq!(site.call("/function/ledger/hello/x")?.status, 200);

    // Back to zero, and up again.
    site.wait_replicas("deployment", "fibonacci", 0, SOON)?;
    site.wait_replicas("statefulset", "ledger", 0, SOON)?;
    assert_eq!(site.call("/function/fibonacci/hello/again")?.status, 200);
    // For the call, or for the request that waits then: whichever the scaler sees first.
    let started = ["call", "waiting_requests"].map(|reason| format!("from 0 to 1 replicas: {reason}"));
    wait("the Event of a start", SOON, || {
        let events = site.events("Deployment", "fibonacci")?;
        Ok(events.iter().any(|(reason, note)| reason == "ScaledUp" && started.contains(note)).then_some(()))
    })?;
    site.wait_event("Deployment", "fibonacci", "ScaledDown", "from 1 to 0 replicas: idle")?;
    Ok(())
}

#[test]
fn what_a_function_depends_on_comes_first() -> Result<()> {
    let Some(site) = Site::install("depends", &Install::default())? else { return Ok(()) };
    // mysql is nobody's function; catalog is one; fibonacci needs both.
    site.apply(&Workload { kind: "StatefulSet", name: "mysql", annotations: &[], ..Workload::default() }.yaml())?;
    site.apply(&Workload { name: "catalog", ..Workload::default() }.yaml())?;
    let depends = ("SlimFaas/DependsOn", "mysql,catalog");
    site.apply(&Workload { annotations: &[FUNCTION, depends], ..Workload::default() }.yaml())?;
    site.wait_known("fibonacci")?;
    site.wait_known("catalog")?;

    std::thread::scope(|scope| {
        let began = Instant::now();
        let call = scope.spawn(|| site.call("/function/fibonacci/hello/x"));
        site.wait_replicas("deployment", "catalog", 1, SOON)?;
        wait("catalog is ready", SOON, || Ok((site.status("catalog")?["NumberReady"] == 1).then_some(())))?;
        // Not before mysql, which only its owner starts.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(site.replicas("deployment", "fibonacci")?, 0);
        site.kubectl(&["scale", "statefulset", "mysql", "--replicas=1"])?;
        let answer = call.join().map_err(|_panic| anyhow::anyhow!("the call panicked"))??;
        assert_eq!(answer.status, 200, "after {:?}", began.elapsed());
        let ready = site.get("statefulset", "mysql")?["status"]["readyReplicas"].as_u64();
        assert_eq!(ready, Some(1));
        Ok(())
    })
}

#[test]
fn a_schedule_wakes_a_function() -> Result<()> {
    let Some(site) = Site::install("schedule", &Install::default())? else { return Ok(()) };
    let hour_and_minute = |from_now: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let minutes = (now.as_secs() + from_now) / 60;
        format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
    };
    // A minute that begins in 5 to 65 seconds.
    let schedule = json!({"TimeZoneID": "Etc/UTC", "Default": {"WakeUp": [hour_and_minute(65)]}}).to_string();
    let annotations = [FUNCTION, ("SlimFaas/Schedule", &schedule)];
    site.apply(&Workload { annotations: &annotations, ..Workload::default() }.yaml())?;
    site.wait_known("fibonacci")?;
    assert_eq!(site.replicas("deployment", "fibonacci")?, 0);
    site.wait_replicas("deployment", "fibonacci", 1, Duration::from_secs(75))?;
    site.wait_event("Deployment", "fibonacci", "ScaledUp", "schedule")
}
