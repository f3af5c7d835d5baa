//! Everything that happens to pods in ordinary life, under load: nobody's request fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use slimfaas_tests::report;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::load::Load;
use super::site::{Install, Site};

const PER_SECOND: u32 = 200;
const SOON: Duration = Duration::from_secs(60);
/// Between two disruptions.
const CALM: Duration = Duration::from_secs(2);

#[test]
fn rollouts_scaling_and_restarts_fail_no_request() -> Result<()> {
    let Some(site) = Site::install("disruptions", &Install { replicas: 2, ..Install::default() })? else {
        return Ok(());
    };
    let min = ("SlimFaas/ReplicasMin", "1");
    site.apply(&Workload { replicas: 2, annotations: &[FUNCTION, min], ..Workload::default() }.yaml())?;
    site.wait_known("fibonacci")?;
    ready(&site, 2)?;

    undisturbed(&site, "a rolling update of the function", || {
        site.kubectl(&["rollout", "restart", "deployment/fibonacci"])?;
        site.kubectl(&["rollout", "status", "deployment/fibonacci", "--timeout=60s"]).map(drop)
    })?;
    undisturbed(&site, "scaling to 1, to 5, down to 1 and back to 2", || {
        for replicas in [1, 5, 1, 2] {
            site.kubectl(&["scale", "deployment/fibonacci", &format!("--replicas={replicas}")])?;
            ready(&site, replicas)?;
            std::thread::sleep(CALM);
        }
        Ok(())
    })?;
    undisturbed(&site, "a pod of the function is deleted", || {
        let pods = site.list("pods", "app=fibonacci")?;
        let name = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).context("no pod")?;
        site.kubectl(&["delete", "pod", name, "--wait=true"])?;
        ready(&site, 2)
    })?;
    undisturbed(&site, "a rolling restart of the gateway", || {
        site.kubectl(&["rollout", "restart", "statefulset/slimfaas"])?;
        site.kubectl(&["rollout", "status", "statefulset/slimfaas", "--timeout=120s"]).map(drop)
    })?;

    // A pod that dies without a word: only what it was working on may fail.
    let killed = under_load(&site, || {
        let crash = site.call("/function/fibonacci/crash")?;
        assert_eq!(crash.status, 503, "{}", crash.text());
        ready(&site, 2)
    })?;
    report::line(format_args!("a pod is killed: {} requests, failed: {:#?}", killed.requests, killed.failures));
    // 200 requests a second that take 20 ms: 4 run at once, 2 of them in one pod; a few more may just have begun.
    ensure!(killed.failures.len() <= 8, "{:#?}", killed.failures);
    Ok(())
}

fn ready(site: &Site, replicas: u64) -> Result<()> {
    wait(&format!("{replicas} ready pods of fibonacci"), SOON, || {
        Ok((site.get("deployment", "fibonacci")?["status"]["readyReplicas"] == replicas).then_some(()))
    })?;
    wait(&format!("the gateway sees {replicas}"), SOON, || {
        Ok((site.status("fibonacci")?["NumberReady"] == replicas).then_some(()))
    })
}

fn under_load(site: &Site, disrupt: impl FnOnce() -> Result<()>) -> Result<super::load::Outcome> {
    let load = Load::new(site.address, "/function/fibonacci", PER_SECOND);
    std::thread::scope(|scope| {
        let clients = load.start(scope);
        std::thread::sleep(CALM);
        let disrupted = disrupt();
        std::thread::sleep(CALM);
        let outcome = load.stop(clients);
        disrupted?;
        outcome
    })
}

fn undisturbed(site: &Site, what: &str, disrupt: impl FnOnce() -> Result<()>) -> Result<()> {
    let outcome = under_load(site, disrupt).with_context(|| what.to_owned())?;
    report::line(format_args!(
        "{what}: {} requests, {} failed, slowest {:?}",
        outcome.requests,
        outcome.failures.len(),
        outcome.slowest
    ));
    let few: Vec<&String> = outcome.failures.iter().take(10).collect();
    ensure!(outcome.failures.is_empty(), "{what}: {} of {} failed: {few:#?}", outcome.failures.len(), outcome.requests);
    Ok(())
}
