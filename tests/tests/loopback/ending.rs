//! How the process starts and ends.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use slimfaas_tests::process::{Scratch, run};
use slimfaas_tests::tools;

use super::backend::{Backend, ok};
use super::client::{Connection, eventually, status_of};
use super::gateway::{Fixed, start_example};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs the program to its end; returns its exit code and what it said.
fn outcome(arguments: &[&str], environment: &[(&str, &str)], manifest: Option<&str>) -> Result<(i32, String)> {
    let scratch = Scratch::new("ending")?;
    if let Some(manifest) = manifest {
        std::fs::write(scratch.path().join("slimfaas.local.yaml"), manifest)?;
    }
    let code = scratch.path().join("code");
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", "/usr/bin:/bin").envs(environment.iter().copied()).current_dir(scratch.path());
    command.args(["-c", r#""$@"; echo $? >code"#, "sh"]).arg(tools::gateway_binary()?).args(arguments);
    let (_, text) = run("gateway", &mut command, LIMIT, scratch.path())?;
    Ok((std::fs::read_to_string(code)?.trim().parse()?, text))
}

#[test]
fn every_problem_of_the_configuration_is_said_at_once() -> Result<()> {
    let environment = [
        ("SLIMFAAS_PORTS", "1,x"),
        ("SlimFaas__Limits__HeaderBytes", "1"),
        ("SlimFaas__TrafficThreads", "none"),
        ("MOCK_KUBERNETES_FUNCTIONS", r#"{"Functions":[]}"#),
    ];
    let (code, text) = outcome(&["gateway"], &environment, None)?;
    assert_eq!(code, 64, "{text}");
    for name in ["SLIMFAAS_PORTS", "SlimFaas__Limits__HeaderBytes", "SlimFaas__TrafficThreads"] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    let (code, text) = outcome(&["gateway"], &[("MOCK_KUBERNETES_FUNCTIONS", "{")], None)?;
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("MOCK_KUBERNETES_FUNCTIONS"), "{text}");
    Ok(())
}

#[test]
fn a_manifest_that_cannot_be_used_is_said_before_anything_starts() -> Result<()> {
    let manifest = "schemaVersion: 1\nfunctions:\n  one: { command: [], annotations: { SlimFaas/Function: \"true\" } }\n  \
        two: { comand: [x] }\n";
    for command in ["up", "validate"] {
        let (code, text) = outcome(&["local", command], &[], Some(manifest))?;
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("functions.one") && text.contains("functions.two"), "{text}");
    }
    let (code, text) = outcome(&["local", "up"], &[], None)?;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("slimfaas.local.yaml"), "{text}");
    Ok(())
}

#[test]
fn a_port_in_use_is_an_error() -> Result<()> {
    let other = TcpListener::bind("127.0.0.1:0")?;
    let port = other.local_addr()?.port().to_string();
    let environment = [
        ("SLIMFAAS_PORTS", port.as_str()),
        ("SlimFaas__Listen__Address", "127.0.0.1"),
        ("MOCK_KUBERNETES_FUNCTIONS", r#"{"Functions":[]}"#),
    ];
    let (code, text) = outcome(&["gateway"], &environment, None)?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{text}");
    Ok(())
}

#[test]
fn options_without_effect_are_warned_of() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let gateway = Fixed::at(backend.address).set("SLIMFAAS_PORT", 1).set("SLIMDATA_CONFIGURATION", "{}").start()?;
    let log = gateway.log();
    let warned = |name: &str| log.lines().any(|line| line.contains(" WARN ") && line.contains(name));
    assert!(warned("SLIMFAAS_PORT") && warned("SLIMDATA_CONFIGURATION"), "{log}");
    Ok(())
}

#[test]
fn unused_connections_do_not_keep_the_process_alive() -> Result<()> {
    let backend = Backend::start(|_| ok("x"))?;
    let mut gateway = Fixed::at(backend.address).start()?;
    let mut used = Connection::open(gateway.address)?;
    used.send("GET /function/f/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
    assert_eq!(used.answer()?.status, 200);
    let mut fresh = Connection::open(gateway.address)?;
    eventually("both accepted, and the one that asks", LIMIT, || {
        Ok((gateway.metric("slimfaas_client_connections", &[])? == 3).then_some(()))
    })?;
    let begin = Instant::now();
    assert_eq!(gateway.terminate()?.code(), Some(0), "{}", gateway.log());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    for connection in [&mut used, &mut fresh] {
        assert_eq!(connection.rest()?, b"");
    }
    Ok(())
}

#[test]
fn what_does_not_finish_in_time_is_cut() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let mut gateway = Fixed::at(function.address).set("SlimFaas__DrainTimeoutSeconds", 1).start()?;
    let mut connection = Connection::open(gateway.address)?;
    connection.send("GET /function/f/stream?chunks=1000&delay_ms=100 HTTP/1.1\r\nHost: h\r\n\r\n")?;
    assert_eq!(status_of(&connection.head()?)?, 200);
    let begin = Instant::now();
    gateway.terminate()?;
    let took = begin.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(15)).contains(&took), "{took:?}");
    assert!(!connection.rest()?.ends_with(b"0\r\n\r\n"), "the response ends as if it were whole");
    assert!(gateway.log().contains("requests were still running at the deadline"), "{}", gateway.log());
    Ok(())
}

#[test]
fn a_client_of_a_draining_gateway_is_told_to_connect_anew() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let mut gateway = Fixed::at(function.address).start()?;
    let address = gateway.address;
    let mut connection = Connection::open(address)?;
    connection.send("GET /function/f/slow?ms=1500 HTTP/1.1\r\nHost: h\r\n\r\n")?;
    eventually("the call in flight", LIMIT, || {
        Ok((gateway.metric("slimfaas_function_requests_in_flight", &[])? == 1).then_some(()))
    })?;
    assert_eq!(gateway.terminate()?.code(), Some(0), "{}", gateway.log());
    let answer = connection.answer()?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "waited 1500 ms\n"));
    assert_eq!(answer.header("connection"), Some("close"));
    Ok(())
}

#[test]
fn a_gateway_that_leaves_says_so_before_it_refuses() -> Result<()> {
    let (function, _scratch) = start_example("f")?;
    let mut gateway = Fixed::at(function.address).set("SlimFaas__DrainDelaySeconds", 2).start()?;
    let address = gateway.address;
    let mut kept = Connection::open(address)?;
    kept.send("GET /function/f/hello/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
    assert_eq!(kept.answer()?.header("connection"), None);
    let ended = std::thread::spawn(move || (gateway.terminate().map(|status| status.code()), gateway));
    eventually("not ready any more", LIMIT, || {
        Ok((super::client::get(address, "/ready")?.status == 503).then_some(()))
    })?;
    // New and old connections are served, and told to go elsewhere.
    let answer = super::client::get(address, "/function/f/hello/x")?;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    kept.send("GET /function/f/hello/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
    let answer = kept.answer()?;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let (code, gateway) = ended.join().expect("no panic");
    assert_eq!(code?, Some(0), "{}", gateway.log());
    Ok(())
}
