//! The API server goes away for a minute: traffic does not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use slimfaas_tests::report;

use super::functions::{FUNCTION, Workload};
use super::load::Load;
use super::site::{Install, Site};

/// The API server's process, where the cluster is one of `cargo xtask cluster`.
const PROCESS: &str = "SLIMFAAS_APISERVER_PID";
const OUTAGE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(60);

#[test]
fn traffic_goes_on_without_the_api_server_and_scaling_catches_up() -> Result<()> {
    let Some(site) = Site::install("outage", &Install { replicas: 2, ..Install::default() })? else { return Ok(()) };
    let Some(process) = std::env::var(PROCESS).ok().and_then(|pid| Pid::from_raw(pid.parse().ok()?)) else {
        slimfaas_tests::require::skip_or_fail("e2e", "outage", format_args!("{PROCESS} is not set"));
        return Ok(());
    };
    let min = ("SlimFaas/ReplicasMin", "1");
    let idle = ("SlimFaas/TimeoutSecondBeforeSetReplicasMin", "20");
    site.apply(&Workload { replicas: 1, annotations: &[FUNCTION, min], ..Workload::default() }.yaml())?;
    site.apply(&Workload { name: "idle", annotations: &[FUNCTION, idle], ..Workload::default() }.yaml())?;
    site.apply(&Workload { name: "asleep", ..Workload::default() }.yaml())?;
    site.wait_known("asleep")?;
    assert_eq!(site.call("/function/fibonacci/hello/x")?.status, 200);
    assert_eq!(site.call("/function/idle/hello/x")?.status, 200);

    let load = Load::new(site.address, "/function/fibonacci", 200);
    let outcome = std::thread::scope(|scope| {
        let clients = load.start(scope);
        // Stopped, not ended: its connections stay open and silent, which is worse than refusing.
        let stopped = Stopped::new(process)?;
        let woken = scope.spawn(|| site.call("/function/asleep/hello/x"));
        std::thread::sleep(OUTAGE);
        drop(stopped);
        let outcome = load.stop(clients)?;
        // What was wanted meanwhile happens now.
        let woken = woken.join().map_err(|_panic| anyhow::anyhow!("the call panicked"))??;
        assert_eq!(woken.status, 200, "{}", woken.head);
        anyhow::Ok(outcome)
    })?;
    report::line(format_args!(
        "API server away for {OUTAGE:?}: {} requests, slowest {:?}",
        outcome.requests, outcome.slowest
    ));
    ensure!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
    site.wait_replicas("deployment", "idle", 0, SOON).context("the scale-down that was due")
}

/// A process that is stopped until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Result<Self> {
        kill_process(process, Signal::STOP).context("cannot stop the API server")?;
        Ok(Self(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _continued = kill_process(self.0, Signal::CONT);
    }
}
