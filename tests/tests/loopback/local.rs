//! `slimfaas local up`: processes that are started by a call and are gone when nobody calls any more.

use std::time::Duration;

use anyhow::{Context, Result};

use super::client::{self, eventually};
use super::gateway::Gateway;

/// For a process to start or end, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The repository's example, with the seconds after which its functions go back to zero.
fn example(seconds: u32) -> Result<Gateway> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../slimfaas.local.yaml");
    let text = std::fs::read_to_string(file)?;
    let (timeout, shorter) = ("ReplicasMin: \"30\"", format!("ReplicasMin: \"{seconds}\""));
    assert_eq!(text.matches(timeout).count(), 3, "the example's functions have another timeout now");
    Gateway::local_manifest(&text.replace(timeout, &shorter), &[])
}

/// What `/status-functions` answers when this many replicas of each function run.
fn statuses(replicas: [u32; 3]) -> String {
    let [one, two, three] = replicas;
    format!(
        "[{},{},{}]",
        status(one, "Public", "fibonacci1"),
        status(two, "Private", "fibonacci2"),
        status(three, "Public", "fibonacci3")
    )
}

fn status(replicas: u32, visibility: &str, name: &str) -> String {
    format!(
        r#"{{"NumberReady":{replicas},"NumberRequested":{replicas},"PodType":"Deployment","Visibility":"{visibility}","Name":"{name}"}}"#
    )
}

fn wait_for_statuses(gateway: &Gateway, replicas: [u32; 3]) -> Result<()> {
    let expected = statuses(replicas);
    let mut last = String::new();
    let seen = eventually("the expected status", LIMIT, || {
        last = gateway.get("/status-functions")?.text();
        Ok((last == expected).then_some(()))
    });
    seen.with_context(|| format!("expected {expected}, got {last}"))
}

/// The process of a replica (`fibonacci1-0`), from the log.
fn process_of(gateway: &Gateway, pod: &str) -> Result<u32> {
    let log = gateway.log();
    let line = log.lines().rev().find(|line| line.contains("started pod=") && line.contains(pod));
    let pid = line.and_then(|line| line.split_once(" pid=")).and_then(|(_, rest)| rest.split(' ').next());
    pid.with_context(|| format!("no process of {pod} in {log}"))?.parse().context("no pid")
}

fn is_running(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).is_dir()
}

#[test]
fn a_call_starts_the_process_and_silence_ends_it() -> Result<()> {
    let gateway = example(2)?;
    let before = gateway.get("/status-functions")?;
    assert_eq!((before.status, before.text()), (200, statuses([0, 0, 0])));
    assert_eq!(before.header("content-type"), Some("application/json; charset=utf-8"));

    let answer = gateway.get("/function/fibonacci1/hello/guillaume")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello guillaume from fibonacci1-0\n"));
    assert_eq!(gateway.get("/status-functions")?.text(), statuses([1, 0, 0]));
    let one = gateway.get("/status-function/fibonacci1")?;
    assert_eq!((one.status, one.text()), (200, status(1, "Public", "fibonacci1")));
    let pid = process_of(&gateway, "fibonacci1-0")?;
    assert!(is_running(pid));

    wait_for_statuses(&gateway, [0, 0, 0])?;
    eventually("the end of the process", LIMIT, || Ok((!is_running(pid)).then_some(())))?;

    let again = gateway.get("/function/fibonacci1/hello/again")?;
    assert_eq!((again.status, again.text().as_str()), (200, "Hello again from fibonacci1-0\n"));
    assert_ne!(process_of(&gateway, "fibonacci1-0")?, pid);
    Ok(())
}

#[test]
fn both_ports_answer_and_say_that_they_are_ready() -> Result<()> {
    let gateway = example(30)?;
    for address in [gateway.address, gateway.entrypoint()] {
        for (path, expected) in [("/health", "OK"), ("/ready", "READY")] {
            let answer = client::get(address, path)?;
            assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{path} on {address}");
        }
        assert_eq!(client::get(address, "/status-functions")?.text(), statuses([0, 0, 0]));
    }
    Ok(())
}

#[test]
fn a_head_is_that_of_a_get() -> Result<()> {
    let gateway = example(30)?;
    for path in ["/health", "/ready", "/status-functions", "/status-function/fibonacci1"] {
        let whole = gateway.get(path)?;
        let mut connection = client::Connection::open(gateway.address)?;
        connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))?;
        let head = connection.head()?;
        assert_eq!(client::header(&head, "content-length"), Some(whole.body.len().to_string().as_str()), "{path}");
        assert_eq!(connection.rest()?, b"", "{path}");
    }
    Ok(())
}

#[test]
fn metrics_are_prometheus_text() -> Result<()> {
    let gateway = example(30)?;
    assert_eq!(gateway.get("/function/fibonacci1/hello/you")?.status, 200);
    let answer = gateway.get("/metrics")?;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    let mut series = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
        value.parse::<f64>().with_context(|| format!("no number: {line}"))?;
        assert!(series.insert(name), "twice: {name}");
    }
    let labels = r#"function="fibonacci1",namespace="default""#;
    for expected in [
        format!("slimfaas_function_requests_total{{code=\"2xx\",{labels}}} 1"),
        format!("slimfaas_function_cold_start_duration_seconds_count{{{labels}}} 1"),
        format!("slimfaas_function_requests_in_flight{{{labels}}} 0"),
        format!("slimfaas_autoscaler_ready_replicas{{{labels}}} 1"),
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} is not in {text}");
    }
    Ok(())
}

#[test]
fn functions_can_be_woken_without_a_call() -> Result<()> {
    let gateway = example(30)?;
    for (method, target, status) in [
        ("GET", "/wake-function/unknown", 404),
        ("POST", "/wake-function/unknown", 404),
        ("DELETE", "/wake-function/fibonacci1", 405),
        ("GET", "/wake-function/fibonacci1", 204),
        ("POST", "/wake-function/fibonacci1", 204),
    ] {
        let answer = client::call(gateway.address, method, target)?;
        assert_eq!((answer.status, answer.header("content-length")), (status, expected_length(&answer)), "{target}");
    }
    wait_for_statuses(&gateway, [1, 0, 0])?;
    assert_eq!(client::call(gateway.address, "POST", "/wake-functions")?.status, 204);
    wait_for_statuses(&gateway, [1, 1, 1])?;
    assert_eq!(client::get(gateway.address, "/wake-functions")?.status, 204);
    Ok(())
}

/// A 204 has no length; every other answer has that of its body.
fn expected_length(answer: &client::Answer) -> Option<&str> {
    if answer.status == 204 { None } else { answer.header("content-length") }
}

#[test]
fn a_dependency_starts_first() -> Result<()> {
    let gateway = example(30)?;
    let answer = gateway.get("/function/fibonacci3/hello/you")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello you from fibonacci3-0\n"));
    wait_for_statuses(&gateway, [0, 1, 1])?;
    let log = gateway.log();
    let position = |pod: &str| log.find(&format!("started pod={pod}")).with_context(|| log.clone());
    assert!(position("fibonacci2-0")? < position("fibonacci3-0")?, "{log}");
    Ok(())
}

#[test]
fn a_private_function_is_for_functions_only() -> Result<()> {
    let gateway = example(30)?;
    assert_eq!(gateway.get("/function/fibonacci2/hello/outside")?.status, 404);
    // Looking at its name must not have started it.
    assert_eq!(gateway.get("/status-functions")?.text(), statuses([0, 0, 0]));
    let inner = format!("http://{}/function/fibonacci2/hello/inside", gateway.entrypoint());
    let answer = gateway.get(format!("/function/fibonacci1/call?url={inner}"))?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello inside from fibonacci2-0\n"));
    assert_eq!(gateway.get("/function/fibonacci2/hello/outside")?.status, 404, "also while it runs");
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let mut gateway = example(30)?;
    assert_eq!(gateway.get("/function/fibonacci3/hello/you")?.status, 200);
    let pids = [process_of(&gateway, "fibonacci2-0")?, process_of(&gateway, "fibonacci3-0")?];
    assert!(pids.into_iter().all(is_running));
    assert_eq!(gateway.terminate()?.code(), Some(0), "{}", gateway.log());
    assert!(!pids.into_iter().any(is_running));
    Ok(())
}

#[test]
fn a_process_that_crashes_is_started_again() -> Result<()> {
    let gateway = example(30)?;
    assert_eq!(gateway.get("/function/fibonacci1/hello/you")?.status, 200);
    let pid = process_of(&gateway, "fibonacci1-0")?;
    let crashed = gateway.get("/function/fibonacci1/crash")?;
    assert_eq!((crashed.status, crashed.header("retry-after")), (503, Some("1")));
    // Until its end is known, a call may still be sent to it and get the 503 that it deserves.
    eventually("started again", LIMIT, || {
        Ok((gateway.log().matches("started pod=fibonacci1-0").count() == 2).then_some(()))
    })?;
    let answer = gateway.get("/function/fibonacci1/hello/again")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello again from fibonacci1-0\n"));
    assert_ne!(process_of(&gateway, "fibonacci1-0")?, pid);
    Ok(())
}
