//! Asynchronous calls on three gateways: from zero, spread over all of them, through the loss of the leader.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slimfaas_tests::{http1, report};

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

const SOON: Duration = Duration::from_secs(60);
const CALLS: usize = 200;

#[test]
fn accepted_calls_are_delivered_though_the_leader_dies() -> Result<()> {
    let Some(site) = Site::install("asynchronous", &Install { replicas: 3, ..Install::default() })? else {
        return Ok(());
    };
    let idle = ("SlimFaas/TimeoutSecondBeforeSetReplicasMin", "5");
    let retries = (
        "SlimFaas/Configuration",
        r#"{"DefaultAsync":{"HttpTimeout":10,"TimeoutRetries":[1,1,1],"HttpStatusRetries":[500,503]}}"#,
    );
    site.apply(&Workload { annotations: &[FUNCTION, idle, retries], ..Workload::default() }.yaml())?;
    site.wait_known("fibonacci")?;

    let mut accepted = BTreeSet::new();
    let mut refused = 0;
    for number in 0..CALLS {
        // Slow enough that much is still stored when the leader goes.
        let answer = site.request("POST", "/async-function/fibonacci/slow?ms=100", "");
        match answer {
            Ok(answer) if answer.status == 202 => {
                let id = answer.header("slimfaas-element-id").context("an id")?;
                accepted.insert(id.to_owned());
            }
            // Between two leaders nothing is accepted; nothing is lost either.
            Ok(answer) => {
                ensure!(answer.status == 503, "{}", answer.head);
                refused += 1;
            }
            Err(_broken) => refused += 1,
        }
        if number == CALLS / 2 {
            let leader = wait("a leader", SOON, || leader(&site))?;
            site.kubectl(&["delete", "pod", &leader, "--grace-period=0", "--force"])?;
        }
    }
    report::line(format_args!("{} of {CALLS} accepted, {refused} refused while there was no leader", accepted.len()));
    ensure!(accepted.len() > CALLS / 2, "{} of {CALLS} were accepted", accepted.len());
    // The totals last for as long as the function is up.
    let delivered = wait("every accepted call is delivered", SOON, || {
        let metrics = site.call("/metrics")?.text();
        let left = total(&metrics, "slimfaas_function_queue_");
        Ok((left == 0).then(|| total(&metrics, "slimfaas_async_succeeded_total")))
    })?;
    ensure!(delivered >= accepted.len() as u64, "{delivered} of {} were delivered", accepted.len());
    site.wait_replicas("deployment", "fibonacci", 0, SOON)?;
    site.wait_ready("slimfaas", 3)
}

/// The pod that leads the store, as it says itself.
fn leader(site: &Site) -> Result<Option<String>> {
    for pod in site.list("pods", "app.kubernetes.io/name=slimfaas")? {
        let (Some(name), Some(ip)) = (pod["metadata"]["name"].as_str(), pod["status"]["podIP"].as_str()) else {
            continue;
        };
        let metrics = http1::get(SocketAddr::new(ip.parse()?, 5000), "/metrics")?.text();
        if total(&metrics, "slimfaas_store_leads") == 1 {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// The sum of all series that begin like this.
fn total(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}
