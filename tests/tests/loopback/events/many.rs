//! Many replicas of which one hangs, and many large events: nobody waits for it, and memory stays small.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slimfaas_tests::report;

use super::super::backend::Backend;
use super::super::client::eventually;
use super::super::gateway::Gateway;
use super::{LIMIT, counted, gateway, publish, subscriber};

const REPLICAS: usize = 50;
const EVENTS: usize = 20;

/// Longer than all these events take.
const HANGING: &str = r#"{"DefaultPublish":{"HttpTimeout":20,"TimeoutRetries":[],"HttpStatusRetries":[]}}"#;

/// A function of this many processes.
fn fifty() -> Result<Gateway> {
    let manifest = format!(
        "schemaVersion: 1\nname: test\nfunctions:\n  many:\n    command: [\"${{SLIMFAAS_EXE}}\", example-function]\n    \
         annotations:\n      SlimFaas/Function: \"true\"\n      SlimFaas/ReplicasMin: \"{REPLICAS}\"\n      \
         SlimFaas/SubscribeEvents: reload\n      SlimFaas/Configuration: '{HANGING}'\n    \
         health: {{ path: /health, timeoutSeconds: 60 }}\n"
    );
    let gateway = Gateway::local_manifest_on(&manifest, &[], 64)?;
    eventually("every replica", Duration::from_secs(120), || {
        let status: Value = serde_json::from_slice(&gateway.get("/status-function/many")?.body)?;
        Ok((status["NumberReady"] == REPLICAS).then_some(()))
    })?;
    Ok(gateway)
}

/// Milliseconds until each of the others had answered, sorted; of all events together.
fn times(gateway: &Gateway, expected: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..EVENTS {
        // The publisher waits for a second where one hangs; at the same pace where none does, since processes that have
        // slept take longer to answer.
        let began = Instant::now();
        let prefer = "Prefer: return=representation, wait=1\r\n";
        let answer = publish(gateway, "/publish-event/reload", prefer, b"event")?;
        std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
        let report: Value = serde_json::from_slice(&answer.body)?;
        let deliveries = report["Deliveries"].as_array().context("deliveries")?;
        ensure!(deliveries.len() == expected, "{} deliveries instead of {expected}: {report}", deliveries.len());
        for delivery in deliveries {
            ensure!(delivery["Outcome"] == "delivered", "{delivery}");
            times.push(delivery["Milliseconds"].as_f64().context("a time")?);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(times: &[f64], percent: usize) -> f64 {
    times[(times.len() - 1) * percent / 100]
}

#[test]
fn one_of_fifty_hangs_and_the_others_do_not_notice() -> Result<()> {
    let gateway = fifty()?;
    let normal = times(&gateway, REPLICAS)?;
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("started pod=many-7 ")).context("the replica's start")?;
    let pid: i32 = line.split_once(" pid=").and_then(|(_, rest)| rest.split(' ').next()).context("a pid")?.parse()?;
    let pid = Pid::from_raw(pid).context("a pid")?;
    kill_process(pid, Signal::STOP)?;
    let beside = times(&gateway, REPLICAS - 1);
    kill_process(pid, Signal::CONT)?;
    let beside = beside?;
    for (what, times) in [("all well", &normal), ("one hangs", &beside)] {
        let [p50, p99, most] = [50, 99, 100].map(|percent| at(times, percent));
        report::line(format_args!(
            "{EVENTS} events to {REPLICAS} replicas, {what}: p50 {p50:.2} ms, p99 {p99:.2} ms, most {most:.2} ms"
        ));
    }
    // The machine is a busy one; waiting for the one that hangs would be 20 s.
    ensure!(at(&beside, 50) < at(&normal, 50) * 2.0 + 2.0, "the median is another one");
    ensure!(at(&beside, 99) < at(&normal, 99) * 2.0 + 20.0, "the slowest are slower");
    // The replica goes on: those that it had in hand, and those that waited for their turn.
    let total = (2 * EVENTS * REPLICAS - EVENTS) as u64;
    eventually("the one that hung has ended all of its own", LIMIT, || {
        let ended = counted(&gateway, "delivered")? + counted(&gateway, "timed-out")? + counted(&gateway, "failed")?;
        let overloaded = counted(&gateway, "overloaded")? + counted(&gateway, "gone")?;
        Ok((ended + overloaded >= total + EVENTS as u64).then_some(()))
    })?;
    ensure!(counted(&gateway, "delivered")? >= total, "the others lost something");
    Ok(())
}

#[test]
fn a_hundred_large_events_at_once_take_little_memory() -> Result<()> {
    const EVENTS: usize = 100;
    const BYTES: usize = 10 << 20;
    /// The bodies are 1000 MiB. Of each, 64 KiB stay in memory, and a piece for each connection that it goes through.
    const MEMORY_KIB_MAX: u64 = 160 * 1024;
    let count = Backend::raw(|mut stream, head| {
        let length = slimfaas_tests::http1::header(head, "content-length").and_then(|length| length.parse().ok());
        let mut body = std::io::Read::take(&stream, length.unwrap_or(0));
        let read = std::io::copy(&mut body, &mut std::io::sink()).unwrap_or(0);
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\nx-read: {read}\r\n\r\n");
        let _gone = std::io::Write::write_all(&mut stream, answer.as_bytes());
    })?;
    // Takes connections and reads nothing from them.
    let hanging = Backend::raw(|_stream, _| std::thread::sleep(Duration::from_secs(100)))?;
    let gateway = gateway(count.address, &subscriber(60))
        .function("hanging", format!("http://{}", hanging.address), &subscriber(15))
        .start()?;
    let before = gateway.peak_memory()?;
    let body = vec![7; BYTES];
    let began = Instant::now();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..EVENTS)
            .map(|_| {
                let (gateway, body) = (&gateway, &body);
                scope.spawn(move || publish(gateway, "/publish-event/reload", "Prefer: respond-async\r\n", body))
            })
            .collect();
        all.into_iter().try_for_each(|publisher| {
            let answer = publisher.join().expect("no publisher panics")?;
            ensure!(answer.status == 202, "{}{}", answer.head, answer.text());
            Ok(())
        })
    })?;
    let taken = began.elapsed();
    let spooled = gateway.metric("slimfaas_event_body_file_bytes", &[])?;
    eventually("every event at the one that reads", Duration::from_secs(120), || {
        Ok((counted(&gateway, "delivered")? == EVENTS as u64).then_some(()))
    })?;
    let (delivered, peak) = (began.elapsed(), gateway.peak_memory()?);
    report::line(format_args!(
        "{EVENTS} events of {} MiB at once: taken in {taken:.1?} ({} MiB in files then), delivered in {delivered:.1?}; \
         peak memory {} MiB ({} before)",
        BYTES >> 20,
        spooled >> 20,
        peak / 1024,
        before / 1024
    ));
    ensure!(peak < MEMORY_KIB_MAX, "{peak} KiB");
    Ok(())
}
