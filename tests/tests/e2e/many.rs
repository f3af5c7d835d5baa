//! Five hundred functions at zero cost next to nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use slimfaas_tests::report;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

const COUNT: usize = 500;

#[test]
fn five_hundred_functions_at_rest() -> Result<()> {
    let Some(site) = Site::install("many", &Install::default())? else { return Ok(()) };
    let empty = usage(&site)?;
    let names: Vec<String> = (0..COUNT).map(|number| format!("f{number}")).collect();
    let manifests: String =
        names.iter().map(|name| Workload { name, annotations: &[FUNCTION], ..Workload::default() }.yaml()).collect();
    site.apply(&manifests)?;
    let functions = || -> Result<usize> {
        let list: serde_json::Value = serde_json::from_slice(&site.call("/status-functions")?.body)?;
        Ok(list.as_array().map_or(0, Vec::len))
    };
    wait("all are known", Duration::from_secs(60), || Ok((functions()? == COUNT).then_some(())))?;
    std::thread::sleep(Duration::from_secs(3));
    let before = usage(&site)?;
    let rest = Duration::from_secs(10);
    std::thread::sleep(rest);
    let after = usage(&site)?;

    // From an annotation to its effect.
    let mut delays = Vec::new();
    for (round, name) in names.iter().step_by(COUNT / 10).enumerate() {
        let visibility = "Private";
        let patch = format!(
            r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{"SlimFaas/DefaultVisibility":"{visibility}"}}}}}}}}}}"#
        );
        site.kubectl(&["patch", "deployment", name, "--patch", &patch])?;
        // kubectl returns after the API server has taken note, so this is at most what is left.
        let began = Instant::now();
        while site.status(name)?["Visibility"] != visibility {
            ensure!(began.elapsed() < Duration::from_secs(5), "no effect in round {round}");
        }
        delays.push(began.elapsed());
    }
    delays.sort();
    let cpu = (after.cpu - before.cpu).as_secs_f64() / rest.as_secs_f64() * 100.0;
    report::line(format_args!(
        "RSS {:.1} MiB without functions, {:.1} MiB with {COUNT}; CPU at rest {cpu:.2} % of a core; \
         annotation to effect (after kubectl returned): median {:?}, worst {:?}",
        empty.rss_mib,
        after.rss_mib,
        delays[delays.len() / 2],
        delays[delays.len() - 1]
    ));
    ensure!(after.rss_mib < 76.0, "more memory than the manifest asks for: {} MiB", after.rss_mib);
    ensure!(cpu < 5.0, "{cpu} % of a core at rest");
    ensure!(delays[delays.len() - 1] < Duration::from_secs(1), "{delays:?}");
    Ok(())
}

struct Usage {
    rss_mib: f64,
    cpu: Duration,
}

/// Of the gateway's process, which runs on this machine: found by the pod's name in its environment.
fn usage(site: &Site) -> Result<Usage> {
    let namespace = format!("SlimFaas__Namespace={}", site.namespace);
    let is_ours = |pid: &str| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == namespace.as_bytes())
    };
    let pids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ours = pids.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && is_ours(pid));
    let pid = ours.next().context("the gateway does not run on this machine")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let rss: f64 = rss.trim().trim_end_matches(" kB").trim().parse()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("an odd stat")?.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // The kernel counts in hundredths of a second here whatever its own clock.
    Ok(Usage { rss_mib: rss / 1024.0, cpu: Duration::from_millis(ticks * 10) })
}
