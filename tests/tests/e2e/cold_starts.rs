//! How long a cold start takes on a real cluster, and whose time it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use slimfaas_tests::report;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

/// Overrides how many cold starts are measured.
const COUNT: &str = "SLIMFAAS_E2E_COLD_STARTS";
const COUNT_DEFAULT: usize = 8;

const SOON: Duration = Duration::from_secs(60);

/// The kubelet's own default is ten seconds between two probes: what the gateway does not wait for.
const PROBE_PERIOD: u32 = 10;
/// Of a program that has something to load.
const SLOW_START_MS: u32 = 1500;

#[test]
fn a_cold_start_costs_what_the_cluster_takes_and_little_more() -> Result<()> {
    let Some(site) = Site::install("cold_starts", &Install::default())? else { return Ok(()) };
    let count = std::env::var(COUNT).ok().and_then(|text| text.parse().ok()).unwrap_or(COUNT_DEFAULT);
    let idle = ("SlimFaas/TimeoutSecondBeforeSetReplicasMin", "1");
    let annotations = [FUNCTION, idle];
    let function = Workload { annotations: &annotations, probe_period: Some(PROBE_PERIOD), ..Workload::default() };
    site.apply(&function.yaml())?;
    site.apply(&Workload { name: "slow-starter", start_delay: SLOW_START_MS, ..function }.yaml())?;
    site.wait_known("fibonacci")?;
    site.wait_known("slow-starter")?;
    report::line("a function that listens at once");
    let early = measure(&site, "fibonacci", count)?;
    report::line(format_args!("answered before Kubernetes called the pod ready: {early} of {count}"));
    report::line(format_args!("a function that listens {SLOW_START_MS} ms after its container starts"));
    let slow = (count / 4).max(2);
    let early = measure(&site, "slow-starter", slow)?;
    report::line(format_args!("answered before Kubernetes called the pod ready: {early} of {slow}"));
    // The kubelet asks it once in vain and again after its period, or earlier by chance: whenever it brings the pod's
    // status up to date it asks out of turn (`UpdatePodStatus` of its prober).
    ensure!(early > 0, "{early} of {slow} were answered before Kubernetes called the pod ready");
    Ok(())
}

/// Cold starts one after the other; returns how many were answered before the pod was Ready in Kubernetes' eyes.
fn measure(site: &Site, name: &str, count: usize) -> Result<usize> {
    let selector = format!("app={name}");
    let mut rows: Vec<Vec<(String, f64)>> = Vec::new();
    let mut before_ready = 0;
    for _ in 0..count {
        wait("no pod is left", SOON, || Ok(site.list("pods", &selector)?.is_empty().then_some(())))?;
        let began = Instant::now();
        let answer = site.call(&format!("/function/{name}/hello/x"))?;
        let took = began.elapsed();
        let pods = site.list("pods", &selector)?;
        assert_eq!(answer.status, 200);
        let is_ready = pods.iter().any(|pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        before_ready += usize::from(!is_ready);
        let mut row = receipt(answer.header("server-timing").context("a cold start has a receipt")?);
        row.push(("total".to_owned(), took.as_secs_f64() * 1000.0));
        rows.push(row);
    }
    print_table(&rows);
    let worst = |part: &str| quantile(&rows, part, 1.0);
    // The aims are 5 and 10 ms at the 99th percentile; the machine of a test may be busy with other things.
    ensure!(worst("decision") < 50.0, "the decision took up to {} ms", worst("decision"));
    ensure!(worst("forwarded") < 100.0, "forwarding took up to {} ms", worst("forwarded"));
    let half_a_period = f64::from(PROBE_PERIOD) * 500.0;
    ensure!(worst("total") < half_a_period, "a call waited for {} ms, as for the kubelet's probe", worst("total"));
    Ok(before_ready)
}

/// Names and milliseconds of a `Server-Timing` header.
fn receipt(header: &str) -> Vec<(String, f64)> {
    let parts = header.split(',').filter_map(|part| part.trim().split_once(";dur="));
    parts.filter_map(|(name, ms)| Some((name.to_owned(), ms.parse().ok()?))).collect()
}

fn quantile(rows: &[Vec<(String, f64)>], part: &str, q: f64) -> f64 {
    let mut values: Vec<f64> =
        rows.iter().flatten().filter(|(name, _)| name == part).map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "few rows"
    )]
    let index = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn print_table(rows: &[Vec<(String, f64)>]) {
    report::line(format_args!("{} cold starts, milliseconds", rows.len()));
    report::line(format_args!("{:<10} {:>9} {:>9} {:>9}", "part", "p50", "p99", "max"));
    for part in ["decision", "scale", "scheduled", "started", "listening", "forwarded", "gateway", "total"] {
        let of = |q| quantile(rows, part, q);
        report::line(format_args!("{part:<10} {:>9.2} {:>9.2} {:>9.2}", of(0.5), of(0.99), of(1.0)));
    }
}
