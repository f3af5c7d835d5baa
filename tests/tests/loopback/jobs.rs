//! Jobs of a local manifest: real processes, asked for over HTTP and by schedules.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::client::{self, Answer, Connection, eventually};
use super::gateway::Gateway;

/// For a process to start and end, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// `script` is the whole program of a run; its arguments are `$0`, `$1`, ….
fn job(name: &str, script: &str, more: &str) -> String {
    // A manifest has a meaning of its own for dollars.
    let command = json!(["/bin/sh", "-c", script.replace('$', "$$")]);
    format!(
        "  {name}:\n    command: {command}\n    annotations: {{ SlimFaas/Job: \"true\", SlimFaas/DefaultVisibility: Public{more}\n"
    )
}

fn gateway(jobs: &str) -> Result<Gateway> {
    gateway_with("", jobs, &[])
}

fn gateway_with(functions: &str, jobs: &str, environment: &[(&str, &str)]) -> Result<Gateway> {
    let manifest = format!("schemaVersion: 1\nname: jobs\n{functions}jobs:\n{jobs}");
    Gateway::local_manifest(&manifest, environment)
}

pub(super) fn send(gateway: &Gateway, method: &str, path: &str, body: &str) -> Result<Answer> {
    let mut connection = Connection::open(gateway.address)?;
    let length = body.len();
    connection.send(format!("{method} {path} HTTP/1.1\r\nhost: jobs\r\ncontent-length: {length}\r\n\r\n{body}"))?;
    connection.answer()
}

fn run(gateway: &Gateway, name: &str, body: &str) -> Result<String> {
    let answer = send(gateway, "POST", &format!("/job/{name}"), body)?;
    assert_eq!(answer.status, 202, "{}{}", answer.head, answer.text());
    let id: Value = serde_json::from_slice(&answer.body)?;
    Ok(id["Id"].as_str().context("an Id")?.to_owned())
}

fn rows(gateway: &Gateway, name: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_slice(&gateway.get(format!("/job/{name}"))?.body)?)
}

fn wait_status(gateway: &Gateway, name: &str, id: &str, status: &str) -> Result<Value> {
    let mut last = Vec::new();
    let seen = eventually(&format!("{status} of {name}"), LIMIT, || {
        last = rows(gateway, name)?;
        Ok(last.iter().find(|row| row["Id"] == id && row["Status"] == status).cloned())
    });
    seen.with_context(|| format!("{last:?}\n{}", gateway.log()))
}

fn wait_gone(gateway: &Gateway, name: &str, id: &str) -> Result<()> {
    eventually("the run is forgotten", LIMIT, || {
        Ok(rows(gateway, name)?.iter().all(|row| row["Id"] != id).then_some(()))
    })
}

fn logs(gateway: &Gateway, name: &str, id: &str) -> Result<String> {
    Ok(gateway.get(format!("/job/{name}/{id}/logs"))?.text())
}

#[test]
fn a_run_is_a_process_with_its_arguments_and_variables_and_is_forgotten_later() -> Result<()> {
    let script = "echo \"$0 $1 $WORD $SLIMFAAS_JOB_NAME\"; sleep 1; echo done >&2";
    let more = " }\n    environment: { WORD: manifest }\n    ttlSecondsAfterFinished: 2";
    let gateway = gateway(&job("report", script, more))?;
    let body = r#"{"Args": ["one", "two words"], "Environments": [{"Name": "WORD", "Value": "asked"}]}"#;
    let id = run(&gateway, "REPORT", body)?;
    let row = wait_status(&gateway, "report", &id, "Running")?;
    assert_eq!(row["PositionInQueue"], -1);
    assert!(row["Name"].as_str().is_some_and(|name| name.starts_with("report-slimfaas-job-")), "{row}");
    let row = wait_status(&gateway, "report", &id, "Succeeded")?;
    assert!(row["StartTimestamp"].as_i64() >= row["InQueueTimestamp"].as_i64(), "{row}");
    assert_eq!(logs(&gateway, "report", &id)?, "one two words asked report\ndone\n");
    wait_gone(&gateway, "report", &id)?;
    assert_eq!(gateway.get(format!("/job/report/{id}/logs"))?.status, 404);
    Ok(())
}

#[test]
fn a_failing_run_is_tried_again_as_often_as_it_says() -> Result<()> {
    let gateway = gateway(&job("flaky", "echo try; exit 3", " }\n    backoffLimit: 2"))?;
    let id = run(&gateway, "flaky", "{}")?;
    let row = wait_status(&gateway, "flaky", &id, "Failed")?;
    let reason = row["Reason"].as_str().context("a reason")?;
    assert!(reason.starts_with("exit status: 3") && reason.ends_with("after 3 tries"), "{reason}");
    assert_eq!(logs(&gateway, "flaky", &id)?, "try\ntry\ntry\n");
    Ok(())
}

#[test]
fn a_run_is_deleted_whether_it_waits_or_runs() -> Result<()> {
    let gateway = gateway(&job("long", "echo $$; exec sleep 1000", " }"))?;
    let (first, second) = (run(&gateway, "long", "{}")?, run(&gateway, "long", "{}")?);
    wait_status(&gateway, "long", &first, "Running")?;
    let waiting = wait_status(&gateway, "long", &second, "Queued")?;
    assert_eq!((&waiting["PositionInQueue"], &waiting["StartTimestamp"]), (&json!(0), &json!(-1)));
    assert_eq!(logs(&gateway, "long", &second)?, "", "it has not started");
    assert_eq!(send(&gateway, "DELETE", &format!("/job/long/{second}"), "")?.status, 200);
    assert_eq!(send(&gateway, "DELETE", &format!("/job/long/{second}"), "")?.status, 404);
    let pid = eventually("its output", LIMIT, || {
        let text = logs(&gateway, "long", &first)?;
        Ok(text.trim().parse::<u32>().ok())
    })?;
    let is_running = || std::path::Path::new(&format!("/proc/{pid}")).is_dir();
    assert!(is_running());
    assert_eq!(send(&gateway, "DELETE", &format!("/job/long/{first}"), "")?.status, 200);
    wait_gone(&gateway, "long", &first)?;
    eventually("its process has ended", LIMIT, || Ok((!is_running()).then_some(())))
}

#[test]
fn no_more_run_at_once_than_may() -> Result<()> {
    // Each run counts those beside it.
    let script = "mkdir -p runs; touch runs/$$; ls runs | wc -l; sleep 0.3; rm runs/$$";
    let gateway = gateway(&job("many", script, ", SlimFaas/NumberParallelJob: \"3\" }"))?;
    let ids: Vec<String> = (0..20).map(|_| run(&gateway, "many", "{}")).collect::<Result<_>>()?;
    let mut most = 0;
    eventually("all have succeeded", Duration::from_secs(60), || {
        let rows = rows(&gateway, "many")?;
        let count = |status: &str| rows.iter().filter(|row| row["Status"] == status).count();
        most = most.max(count("Running") + count("Pending"));
        Ok((count("Succeeded") == ids.len()).then_some(()))
    })?;
    assert!(most <= 3, "{most} ran at once");
    let beside: Vec<u32> =
        ids.iter().map(|id| Ok(logs(&gateway, "many", id)?.trim().parse()?)).collect::<Result<_>>()?;
    assert_eq!(beside.iter().max(), Some(&3), "{beside:?}");
    Ok(())
}

#[test]
fn a_log_is_followed_while_it_is_written() -> Result<()> {
    let gateway = gateway(&job("talker", "for i in 1 2 3; do echo $i; sleep 0.5; done", " }"))?;
    let id = run(&gateway, "talker", "{}")?;
    wait_status(&gateway, "talker", &id, "Running")?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send(format!("GET /job/talker/{id}/logs?follow=true HTTP/1.1\r\nhost: jobs\r\n\r\n"))?;
    let head = connection.head()?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut chunks = Vec::new();
    while let Some(chunk) = connection.chunk()? {
        chunks.push(String::from_utf8(chunk)?);
    }
    assert_eq!(chunks.concat(), "1\n2\n3\n");
    assert!(chunks.len() >= 2, "it came at once, at its end: {chunks:?}");
    Ok(())
}

#[test]
fn a_run_waits_for_the_functions_it_depends_on() -> Result<()> {
    let functions = "functions:\n  fib:\n    command: [\"${SLIMFAAS_EXE}\", example-function]\n    environment: { FUNCTION_NAME: fib, \
                     START_DELAY_MS: \"1500\" }\n    annotations: { SlimFaas/Function: \"true\" }\n";
    let jobs =
        job("report", "echo ran", ", SlimFaas/DependsOn: fib }") + &job("typo", "true", ", SlimFaas/DependsOn: fob }");
    let gateway = gateway_with(functions, &jobs, &[])?;
    let (id, never) = (run(&gateway, "report", "{}")?, run(&gateway, "typo", "{}")?);
    wait_status(&gateway, "report", &id, "Queued")?;
    wait_status(&gateway, "report", &id, "Succeeded")?;
    let status: Value = serde_json::from_slice(&gateway.get("/status-function/fib")?.body)?;
    assert_eq!(status["NumberReady"], 1);
    wait_status(&gateway, "typo", &never, "Queued")?;
    Ok(())
}

#[test]
fn what_waits_and_what_is_scheduled_outlives_the_gateway() -> Result<()> {
    let jobs = job("report", "sleep 1000", " }");
    let mut gateway = gateway(&jobs)?;
    let (running, waiting) = (run(&gateway, "report", "{}")?, run(&gateway, "report", "{}")?);
    wait_status(&gateway, "report", &running, "Running")?;
    let schedule = send(&gateway, "POST", "/job-schedules/report", r#"{"Schedule": "0 4 1 1 *"}"#)?;
    assert_eq!(schedule.status, 201);
    let schedules = gateway.get("/job-schedules/report")?.text();
    gateway.restart()?;
    // Its process is gone, which is seen in the end; then the other's turn has come.
    let row = wait_status(&gateway, "report", &running, "Failed")?;
    assert!(row["Reason"].as_str().is_some_and(|reason| reason.contains("vanished")), "{row}");
    wait_status(&gateway, "report", &waiting, "Running")?;
    assert_eq!(gateway.get("/job-schedules/report")?.text(), schedules);
    Ok(())
}

#[test]
fn schedules_of_all_kinds_fire_each_minute() -> Result<()> {
    let annotation = r#", SlimFaas/Schedules: '[{"Schedule": "* * * * *", "Args": ["configured"]}]' }"#;
    let gateway = gateway(&job("ticker", "echo $0", annotation))?;
    let body = r#"{"Schedule": "* * * * *", "TimeZone": "Europe/Paris", "Args": ["asked"]}"#;
    assert_eq!(send(&gateway, "POST", "/job-schedules/ticker", body)?.status, 201);
    let mut outputs = eventually("both have fired and run", Duration::from_secs(75), || {
        let rows = rows(&gateway, "ticker")?;
        let done: Vec<_> = rows.iter().filter(|row| row["Status"] == "Succeeded").collect();
        if done.len() < 2 {
            return Ok(None);
        }
        let output = |row: &&Value| logs(&gateway, "ticker", row["Id"].as_str().unwrap_or_default());
        done.iter().map(output).collect::<Result<Vec<String>>>().map(Some)
    })?;
    outputs.sort();
    assert_eq!(outputs, ["asked\n", "configured\n"]);
    assert_eq!(gateway.metric("slimfaas_job_schedules_fired_total", &[])?, 2);
    Ok(())
}

#[test]
fn three_nodes_run_each_run_once() -> Result<()> {
    let manifest = format!(
        "schemaVersion: 1\nname: three\ncluster: {{ nodes: 3 }}\njobs:\n{}",
        job("report", "echo $0", ", SlimFaas/NumberParallelJob: \"2\" }")
    );
    let gateway = Gateway::local_manifest(&manifest, &[])?;
    super::nodes::wait_voters(&gateway, 3)?;
    let mut ids = Vec::new();
    for number in 0..6_u16 {
        let address = super::gateway::loopback(gateway.address.port() + number % 3);
        let mut connection = Connection::open(address)?;
        let body = format!(r#"{{"Args": ["{number}"]}}"#);
        let length = body.len();
        connection
            .send(format!("POST /job/report HTTP/1.1\r\nhost: jobs\r\ncontent-length: {length}\r\n\r\n{body}"))?;
        let id: Value = serde_json::from_slice(&connection.answer()?.body)?;
        ids.push(id["Id"].as_str().context("an Id")?.to_owned());
    }
    for (number, id) in ids.iter().enumerate() {
        wait_status(&gateway, "report", id, "Succeeded")?;
        assert_eq!(logs(&gateway, "report", id)?, format!("{number}\n"));
    }
    assert_eq!(gateway.log().matches("a try of a run started").count(), 6);
    let other = client::get(super::gateway::loopback(gateway.address.port() + 2), "/job/report")?;
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&other.body)?.len(), 6);
    Ok(())
}
