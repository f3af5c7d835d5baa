//! From zero and back under load: every call is answered.

use std::thread::scope;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::client::{self, Answer, eventually};
use super::gateway::Gateway;

const CALLS: usize = 50;

/// One example function; `annotations` are lines of YAML.
fn example(annotations: &[&str]) -> Result<Gateway> {
    let lines: String = annotations.iter().map(|line| format!("      {line}\n")).collect();
    Gateway::local(&format!(
        "  fun:\n    command: [\"${{SLIMFAAS_EXE}}\", example-function]\n    environment: {{ FUNCTION_NAME: fun }}\n    \
         annotations:\n      SlimFaas/Function: \"true\"\n{lines}"
    ))
}

/// This many calls at once, each on a connection of its own.
fn call_at_once(gateway: &Gateway, count: usize, target: &str) -> Vec<Result<Answer>> {
    scope(|scope| {
        let calls: Vec<_> = (0..count).map(|_| scope.spawn(|| gateway.get(target))).collect();
        calls.into_iter().map(|call| call.join().unwrap_or_else(|_panic| Err(anyhow!("a call panicked")))).collect()
    })
}

fn scalings(gateway: &Gateway, direction: &str) -> Result<u64> {
    gateway.metric("slimfaas_scale_decisions_total", &[&format!("direction=\"{direction}\"")])
}

#[test]
fn fifty_first_calls_start_one_process() -> Result<()> {
    let gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"60\""])?;
    for answer in call_at_once(&gateway, CALLS, "/function/fun/hello/all") {
        let answer = answer?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Hello all from fun-0\n"));
    }
    assert_eq!(scalings(&gateway, "up")?, 1);
    assert_eq!(scalings(&gateway, "down")?, 0);
    assert_eq!(gateway.log().matches("started pod=").count(), 1, "{}", gateway.log());
    assert_eq!(gateway.metric("slimfaas_function_requests_total", &["code=\"2xx\""])?, CALLS as u64);
    Ok(())
}

#[test]
fn calls_longer_than_the_inactivity_timeout_finish() -> Result<()> {
    let gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"1\"", "SlimFaas/ReplicasAtStart: \"2\""])?;
    for answer in call_at_once(&gateway, CALLS, "/function/fun/slow?ms=3000") {
        let answer = answer?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "waited 3000 ms\n"));
    }
    assert_eq!(scalings(&gateway, "down")?, 0, "it went down under its calls");
    eventually("back at zero", Duration::from_secs(20), || Ok((scalings(&gateway, "down")? == 1).then_some(())))
}

#[test]
fn calls_at_the_moment_of_scaling_down_are_answered() -> Result<()> {
    let gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"1\""])?;
    // Gaps around the second after which the function goes to zero: some hit the very moment.
    for step in 0..14 {
        let answer = gateway.get("/function/fun/hello/there")?;
        let text = answer.text();
        // The next replica may start while the last one still ends, and then has another name.
        let greets = text.starts_with("Hello there from fun-");
        assert!(answer.status == 200 && greets, "{} {text}: {}", answer.status, gateway.log());
        std::thread::sleep(Duration::from_millis(980 + step * 5));
    }
    let downs = scalings(&gateway, "down")?;
    assert!(downs >= 3, "the function went down only {downs} times");
    Ok(())
}

#[test]
fn a_burst_at_the_moment_of_scaling_down_is_answered() -> Result<()> {
    let gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"1\""])?;
    for round in 0..8_u64 {
        for answer in call_at_once(&gateway, 8, "/function/fun/slow?ms=20") {
            let answer = answer?;
            assert_eq!((answer.status, answer.text().as_str()), (200, "waited 20 ms\n"), "{}", gateway.log());
        }
        std::thread::sleep(Duration::from_millis(985 + round * 5));
    }
    Ok(())
}

#[test]
fn running_calls_finish_when_the_gateway_ends() -> Result<()> {
    let mut gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"60\""])?;
    assert_eq!(gateway.get("/function/fun/hello/first")?.status, 200);
    let address = gateway.address;
    let answers: Result<Vec<Answer>> = scope(|scope| {
        let call = || client::get(address, "/function/fun/slow?ms=2000");
        let calls: Vec<_> = (0..CALLS).map(|_| scope.spawn(call)).collect();
        eventually("every call in flight", Duration::from_secs(20), || {
            let in_flight = gateway.metric("slimfaas_function_requests_in_flight", &[])?;
            Ok((in_flight == CALLS as u64).then_some(()))
        })?;
        assert_eq!(gateway.terminate()?.code(), Some(0), "{}", gateway.log());
        calls.into_iter().map(|call| call.join().unwrap_or_else(|_panic| Err(anyhow!("a call panicked")))).collect()
    });
    for answer in answers? {
        assert_eq!((answer.status, answer.text().as_str()), (200, "waited 2000 ms\n"));
    }
    assert!(std::net::TcpStream::connect(address).is_err(), "something still listens");
    Ok(())
}

#[test]
fn a_replica_that_dies_takes_no_other_calls_with_it() -> Result<()> {
    let gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"60\"", "SlimFaas/ReplicasAtStart: \"2\""])?;
    let names = || -> Result<Option<()>> {
        let ready = gateway.metric("slimfaas_autoscaler_ready_replicas", &[])?;
        Ok((ready == 2).then_some(()))
    };
    assert_eq!(gateway.get("/function/fun/hello/first")?.status, 200);
    eventually("two replicas", Duration::from_secs(30), names)?;
    assert_eq!(gateway.get("/function/fun/crash")?.status, 503);
    eventually("the end known", Duration::from_secs(30), || {
        let ready = gateway.metric("slimfaas_autoscaler_ready_replicas", &[])?;
        let is_started_again = gateway.log().matches("started pod=").count() == 3;
        Ok((ready == 1 || is_started_again).then_some(()))
    })?;
    for _ in 0..50 {
        assert_eq!(gateway.get("/function/fun/hello/again")?.status, 200);
    }
    Ok(())
}

#[test]
fn a_gateway_with_nothing_to_do_computes_nothing() -> Result<()> {
    let gateway = example(&["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"3600\""])?;
    assert_eq!(gateway.metric("slimfaas_function_requests_in_flight", &[])?, 0);
    // Connections of the start and of the last look end first.
    std::thread::sleep(Duration::from_secs(1));
    let before = gateway.cpu_ticks()?;
    std::thread::sleep(Duration::from_secs(3));
    let spent = gateway.cpu_ticks()? - before;
    assert!(spent <= 1, "{spent} ticks of 10 ms in 3 s");
    Ok(())
}
