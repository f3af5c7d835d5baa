//! Asynchronous calls on three gateways: from zero, spread over all of them, through the loss of the leader.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slimfaas_tests::{http1, metrics, report};

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
    // Long enough that the totals, which last for as long as the function is up, can be read.
    let idle = ("SlimFaas/TimeoutSecondBeforeSetReplicasMin", "600");
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
        let answer = site.call("/async-function/fibonacci/slow?ms=100");
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
    // A gateway that has just come back may know nothing yet: the one that knows most counts.
    let outcome = wait("every accepted call is delivered", SOON, || {
        // Of one look: what is delivered between two looks would be in neither.
        let scrapes = scrapes(&site)?;
        let most = |name: &str| -> Result<u64> {
            let all = scrapes.iter().map(|(_, text)| metrics::sum(text, name, &[])).collect::<Result<Vec<_>>>()?;
            Ok(all.into_iter().max().unwrap_or(0))
        };
        let delivered = most("slimfaas_async_succeeded_total")?;
        let mut stored = 0;
        for state in ["ready", "in_flight", "retry_pending"] {
            stored += most(&format!("slimfaas_function_queue_{state}_items"))?;
        }
        Ok((stored == 0 && delivered > 0).then_some(delivered))
    });
    let delivered = outcome.with_context(|| stored(&site))?;
    let voters = of_each(&site, "slimfaas_store_voters")?;
    report::line(format_args!("{delivered} delivered; the gateways see {voters:?} voters"));
    ensure!(delivered >= accepted.len() as u64, "{delivered} of {} were delivered", accepted.len());
    site.wait_ready("slimfaas", 3)
}

/// The pod that leads the store, as it says itself.
fn leader(site: &Site) -> Result<Option<String>> {
    for (name, text) in scrapes(site)? {
        if metrics::sum(&text, "slimfaas_store_leads", &[])? == 1 {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// One metric of each gateway that answers.
fn of_each(site: &Site, metric: &str) -> Result<Vec<u64>> {
    scrapes(site)?.iter().map(|(_, text)| metrics::sum(text, metric, &[])).collect()
}

/// All metrics of each gateway that answers, by its name.
fn scrapes(site: &Site) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for pod in site.list("pods", "app.kubernetes.io/name=slimfaas")? {
        let (Some(name), Some(ip)) = (pod["metadata"]["name"].as_str(), pod["status"]["podIP"].as_str()) else {
            continue;
        };
        if let Ok(answer) = http1::get(SocketAddr::new(ip.parse()?, 5000), "/metrics") {
            all.push((name.to_owned(), answer.text()));
        }
    }
    Ok(all)
}

/// What each gateway says of the store.
fn stored(site: &Site) -> String {
    let of_interest = |line: &&str| {
        ["slimfaas_store_", "slimfaas_async_", "slimfaas_function_queue_"].iter().any(|name| line.starts_with(name))
    };
    let lines = |(name, text): (String, String)| {
        std::iter::once(name).chain(text.lines().filter(of_interest).map(str::to_owned)).collect::<Vec<_>>()
    };
    let all = scrapes(site).into_iter().flatten().flat_map(lines).collect::<Vec<_>>().join("\n");
    format!("{all}\n{}", site.gateway_logs())
}
