//! The life of one replica: a port, a process, readiness, restarts, and an end in which no request is lost.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::expand::Placeholders;
use super::manifest::{FunctionEntry, Health, Launch, Runs};
use super::process::{AskToEnd, Process};
use super::supervisor::LocalCluster;
use crate::clock;
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::table::probe::{self, HealthPolicy, NeverReady, Probe, StartPolicy};
use crate::table::view::{Address, Endpoint, PodState};

/// From SIGTERM to SIGKILL when the manifest does not say.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at the running requests of a replica that ends. Only then is there anything to look at.
const DRAIN_PERIOD: Duration = Duration::from_millis(10);

/// Shortest time for running requests to finish; a function whose calls may take longer gets that much.
const DRAIN_TIMEOUT_MIN: Duration = Duration::from_secs(30);

/// One replica that shall run.
pub(super) struct Replica {
    pub(super) function: FunctionId,
    pub(super) index: u32,
    pub(super) pod: Arc<str>,
    /// From the supervisor. Closed: it is gone, which counts as `Now`.
    pub(super) stop: watch::Receiver<Stop>,
}

/// What the supervisor wants of a replica.
#[derive(Clone)]
pub(super) enum Stop {
    No,
    /// Once the requests that run on it are done. It is in no view any more.
    Drain(Vec<Arc<Endpoint>>),
    /// The gateway ends; its requests are done or given up.
    Now,
}

enum Ended {
    Stopped,
    /// After that long.
    ByItself(Duration),
}

/// Runs the replica until it is stopped, starting its process again whenever that ends.
pub(super) async fn run(cluster: Arc<LocalCluster>, replica: Replica) {
    if let Some(entry) = cluster.entry(&replica.function) {
        match &entry.runs {
            Runs::Processes(launch) => keep_running(&cluster, &replica, entry, launch).await,
            Runs::Elsewhere(address) => watch_elsewhere(&cluster, &replica, entry, address).await,
        }
    }
    cluster.remove_pod(&replica);
}

async fn keep_running(cluster: &Arc<LocalCluster>, replica: &Replica, entry: &FunctionEntry, launch: &Launch) {
    let mut backoff = Backoff::new();
    loop {
        let Ended::ByItself(ran) = run_once(cluster, replica, entry, launch).await else { return };
        let delay = backoff.after(ran);
        tracing::warn!(pod = %replica.pod, seconds = delay.as_secs(), "starts again after a delay");
        cluster.set_pod(replica, PodState::Failed("CrashLoopBackOff".into()), None);
        tokio::select! {
            biased;
            () = replica.stopped() => return,
            () = sleep(delay) => {}
        }
    }
}

async fn run_once(cluster: &Arc<LocalCluster>, replica: &Replica, entry: &FunctionEntry, launch: &Launch) -> Ended {
    let exhausted = || cluster.set_pod(replica, PodState::Pending(Some("PortRangeExhausted".into())), None);
    let lease = tokio::select! {
        biased;
        () = replica.stopped() => return Ended::Stopped,
        lease = cluster.ports.wait(exhausted) => lease,
    };
    let fill = Placeholders { port: Some(lease.port()), replica: replica.index };
    let address = Address::Socket(SocketAddr::from((Ipv4Addr::LOCALHOST, lease.port())));
    let begin = clock::now();
    let mut process = match cluster.launcher.start(launch, fill, &cluster.replica_source(replica)) {
        Ok(process) => process,
        Err(error) => {
            tracing::error!(pod = %replica.pod, program = launch.command[0], %error, "cannot be started");
            return Ended::ByItself(begin.elapsed());
        }
    };
    cluster.set_pod(replica, PodState::Starting, Some(address.clone()));
    let caller = Caller::Pod { workload: replica.function.clone(), trust: entry.spec.trust };
    let _registration = cluster.callers.register(process.pid(), caller);
    tracing::info!(pod = %replica.pod, pid = process.pid().as_raw_nonzero(), port = lease.port(), "started");
    tokio::select! {
        // The stop first: an end that we asked for is no crash.
        biased;
        () = replica.stopped() => {
            end(replica, process, entry, &address, fill).await;
            Ended::Stopped
        }
        status = process.ended() => {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!(pod = %replica.pod, status, "ended by itself");
            Ended::ByItself(begin.elapsed())
        }
        never = watch_readiness(cluster, replica, entry, &address, fill) => {
            let Err(error) = never;
            tracing::warn!(pod = %replica.pod, %error, "is ended");
            cluster.set_pod(replica, PodState::Failed("CrashLoopBackOff".into()), None);
            process.end(None, SHUTDOWN_TIMEOUT).await;
            // Being slow is no stability, however long it took.
            Ended::ByItself(Duration::ZERO)
        }
    }
}

/// Keeps the pod's state true from the start of its process on.
async fn watch_readiness(
    cluster: &LocalCluster,
    replica: &Replica,
    entry: &FunctionEntry,
    address: &Address,
    fill: Placeholders,
) -> Result<Infallible, NeverReady> {
    let probe = Probe::Http { path: fill.fill(&entry.health.path), protocol: entry.spec.protocol };
    let Health { timeout, startup_timeout, .. } = entry.health;
    probe::wait_ready(address, &probe, StartPolicy { startup_timeout, answer_timeout: timeout }).await?;
    cluster.set_pod(replica, PodState::Ready, Some(address.clone()));
    Ok(watch_ready(cluster, replica, entry, address, &probe).await)
}

async fn watch_ready(
    cluster: &LocalCluster,
    replica: &Replica,
    entry: &FunctionEntry,
    address: &Address,
    probe: &Probe,
) -> Infallible {
    let policy = HealthPolicy { period: entry.health.period, timeout: entry.health.timeout };
    let changed = |ready: bool| {
        tracing::warn!(pod = %replica.pod, ready, "health changed");
        let state = if ready { PodState::Ready } else { PodState::Starting };
        cluster.set_pod(replica, state, Some(address.clone()));
    };
    probe::watch_health(address, probe, policy, changed).await
}

/// Drains and ends the process, unless it ends by itself first.
async fn end(replica: &Replica, mut process: Process, entry: &FunctionEntry, address: &Address, fill: Placeholders) {
    let drain_timeout = entry.spec.sync_calls.http_timeout.max(DRAIN_TIMEOUT_MIN);
    let has_ended = tokio::select! {
        _ = process.ended() => true,
        drained = timeout(drain_timeout, replica.drained()) => {
            if drained.is_err() {
                tracing::warn!(pod = %replica.pod, "ends with requests that did not finish in time");
            }
            false
        }
    };
    if !has_ended {
        let shutdown = entry.shutdown.as_ref();
        let ask = shutdown.map(|s| AskToEnd { address: address.clone(), path: fill.fill(&s.path) });
        process.end(ask, shutdown.map_or(SHUTDOWN_TIMEOUT, |s| s.timeout)).await;
    }
    tracing::info!(pod = %replica.pod, "stopped");
}

impl Replica {
    /// Resolves once the replica shall end, in whatever way.
    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        stop.wait_for(|stop| !matches!(stop, Stop::No)).await.ok();
    }

    /// Resolves once no request runs on the replica, or none matters any more.
    async fn drained(&self) {
        let mut stop = self.stop.clone();
        let Stop::Drain(endpoints) = stop.borrow_and_update().clone() else { return };
        // A retired endpoint takes no further request, so its count only falls.
        let idle = async {
            while endpoints.iter().any(|endpoint| endpoint.in_flight() > 0) {
                sleep(DRAIN_PERIOD).await;
            }
        };
        tokio::select! {
            () = idle => {}
            _ = stop.wait_for(|stop| matches!(stop, Stop::Now)) => {}
        }
    }
}

/// The replica of a `debugUrl` is ready whenever somebody runs it.
async fn watch_elsewhere(cluster: &LocalCluster, replica: &Replica, entry: &FunctionEntry, address: &Address) {
    let fill = Placeholders { port: None, replica: 0 };
    let probe = Probe::Http { path: fill.fill(&entry.health.path), protocol: entry.spec.protocol };
    let watching = async {
        cluster.set_pod(replica, PodState::Starting, Some(address.clone()));
        while probe::check(address, &probe, entry.health.timeout).await.is_err() {
            sleep(entry.health.period).await;
        }
        cluster.set_pod(replica, PodState::Ready, Some(address.clone()));
        watch_ready(cluster, replica, entry, address, &probe).await
    };
    tokio::select! {
        () = replica.stopped() => {}
        never = watching => match never {},
    }
}
