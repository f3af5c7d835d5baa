//! The life of one entry of `processes`: something that functions need, outside of the gateway's control.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::expand::Placeholders;
use super::manifest::{ProcessEntry, ProcessPort, RestartPolicy};
use super::output::Source;
use super::ports::Lease;
use super::replica::SHUTDOWN_TIMEOUT;
use super::supervisor::LocalCluster;
use crate::clock;
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::visibility::Trust;
use crate::table::probe::{self, Probe, StartPolicy};
use crate::table::view::Address;

/// A day: a database that restores itself takes long, and is not restarted for it.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(86_400);

enum Ended {
    Stopped,
    ByItself { ran: Duration, success: bool },
}

/// Runs the process by its restart policy until `stopping` turns true.
pub(super) async fn run(cluster: Arc<LocalCluster>, name: String, output: Source, stopping: watch::Receiver<bool>) {
    let Some(entry) = cluster.manifest.processes.get(&name) else { return };
    let mut backoff = Backoff::new();
    loop {
        let ended = run_once(&cluster, &name, entry, &output, &stopping).await;
        cluster.set_process_ready(&name, false);
        let Ended::ByItself { ran, success } = ended else { return };
        let again = match entry.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !success,
            RestartPolicy::Never => false,
        };
        if !again {
            return;
        }
        tokio::select! {
            biased;
            () = stopped(&stopping) => return,
            () = sleep(backoff.after(ran)) => {}
        }
    }
}

async fn stopped(stopping: &watch::Receiver<bool>) {
    stopping.clone().wait_for(|stopping| *stopping).await.ok();
}

async fn run_once(
    cluster: &Arc<LocalCluster>,
    name: &str,
    entry: &ProcessEntry,
    output: &Source,
    stopping: &watch::Receiver<bool>,
) -> Ended {
    let exhausted = || tracing::warn!(process = name, "waits for a port: processPorts are all in use");
    let lease: Option<Lease> = tokio::select! {
        biased;
        () = stopped(stopping) => return Ended::Stopped,
        lease = async {
            match entry.port {
                ProcessPort::Auto => Some(cluster.ports.wait(exhausted).await),
                ProcessPort::Absent | ProcessPort::Fixed(_) => None,
            }
        } => lease,
    };
    let port = match entry.port {
        ProcessPort::Fixed(port) => Some(port),
        ProcessPort::Absent | ProcessPort::Auto => lease.as_ref().map(Lease::port),
    };
    let begin = clock::now();
    let mut process = match cluster.launcher.start(&entry.launch, Placeholders { port, replica: 0 }, output) {
        Ok(process) => process,
        Err(error) => {
            tracing::error!(process = name, program = entry.launch.command[0], %error, "cannot be started");
            return Ended::ByItself { ran: begin.elapsed(), success: false };
        }
    };
    // Like a pod of the namespace that is no function.
    let caller = Caller::Pod { workload: FunctionId::new(cluster.namespace(), name), trust: Trust::Trusted };
    let _registration = cluster.callers.register(process.pid(), caller);
    tracing::info!(process = name, pid = process.pid().as_raw_nonzero(), port, "started");
    tokio::select! {
        biased;
        () = stopped(stopping) => {
            process.end(None, SHUTDOWN_TIMEOUT).await;
            Ended::Stopped
        }
        status = process.ended() => {
            let success = status.as_ref().is_ok_and(std::process::ExitStatus::success);
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!(process = name, status, "ended by itself");
            Ended::ByItself { ran: begin.elapsed(), success }
        }
        never = watch_readiness(cluster, name, port) => match never {},
    }
}

/// Ready once its port accepts connections; at once if it has none.
async fn watch_readiness(cluster: &LocalCluster, name: &str, port: Option<u16>) -> std::convert::Infallible {
    if let Some(port) = port {
        let address = Address::Socket(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let policy = StartPolicy { startup_timeout: STARTUP_TIMEOUT, answer_timeout: Duration::from_secs(1) };
        while let Err(error) = probe::wait_ready(&address, &Probe::Tcp, policy).await {
            tracing::warn!(process = name, %error, "still waited for");
        }
    }
    cluster.set_process_ready(name, true);
    std::future::pending().await
}
