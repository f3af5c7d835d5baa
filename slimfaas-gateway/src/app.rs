//! The composition root: `build` wires and binds, `run` starts everything and ends it in order.

mod agents;
mod asynchronous;
mod jobs;
mod peers;
pub mod source;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::Api;
pub use crate::app::asynchronous::AsynchronousError;
use crate::app::asynchronous::{Asynchronous, Shown, channels};
use crate::app::peers::Channel;
pub use crate::app::peers::PeersError;
use crate::app::source::Source;
use crate::clock::Tick;
use crate::config::Config;
use crate::drain;
use crate::model::function::FunctionId;
use crate::net;
use crate::proxy::admin::AdminToken;
use crate::proxy::deliver::Deliveries;
use crate::proxy::publish::{Events, EventsError};
use crate::proxy::wake::Wake;
use crate::proxy::{Gateway, listener};
use crate::readiness::Readiness;
use crate::scaler::decide::Reason;
use crate::scaler::{Authority, ScaleObserver, Scaler, WakeHandle};
use crate::table::view::Function;
use crate::telemetry::metrics::{Metrics, MetricsError};
use crate::telemetry::traffic::TrafficStats;

/// A gateway that is bound and wired, and serves nothing yet.
pub struct App {
    config: Config,
    gateway: Arc<Gateway>,
    listeners: Vec<Vec<std::net::TcpListener>>,
    addresses: Vec<SocketAddr>,
    scaler: Scaler,
    source: Source,
    channel: Option<Channel>,
    wake: Arc<dyn Wake>,
    asynchronous: Option<Asynchronous>,
    jobs: Option<(jobs::Worker, jobs::Streamer)>,
    readiness: Readiness,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot listen on {address}: {source} (is another program using the port?)")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Peers(#[from] PeersError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error("asynchronous calls: {0}")]
    Asynchronous(#[from] AsynchronousError),
}

impl App {
    /// Binds every port on every core, and opens the store.
    pub async fn build(config: Config, source: Source) -> Result<Self, BuildError> {
        let (listeners, addresses) = bind(&config)?;
        let table = Arc::clone(&source.table);
        let stats = Arc::new(TrafficStats::default());
        let metrics = Metrics::new(&table, &stats)?;
        let readiness = Readiness::default();
        let wake = WakeHandle::default();
        let channel = match &source.peers {
            Some(peers) => Some(Channel::bind(&config, peers, &table, &metrics, wake.clone())?),
            None => None,
        };
        if let (Some(channel), Some(identities)) = (&channel, &source.identities) {
            channel.serve_agents(identities.table.clone());
        }
        let authority = match (&channel, &source.peers) {
            (Some(channel), Some(peers)) => channel.authority(peers),
            _ => Authority::sole(),
        };
        let scaler = Scaler::new(
            Arc::clone(&table),
            Arc::clone(&source.cluster),
            Arc::new(ScaleMetrics(Arc::clone(&metrics))),
            authority,
            wake.clone(),
            config.awake_when_never_called,
        );
        let wake: Arc<dyn Wake> = Arc::new(ScalerWake(wake));
        let asynchronous = match config.store_directory.clone() {
            Some(folder) => Some(Asynchronous::open(&config, folder, channel.as_ref()).await?),
            None => None,
        };
        if let Some(asynchronous) = &asynchronous {
            let stored = Arc::new(Shown(asynchronous.store.clone(), asynchronous.bodies.clone()));
            metrics.add_store(stored, Arc::clone(&asynchronous.stats))?;
        }
        let events = Arc::new(Events::open(&config)?);
        metrics.add_events(events.stats())?;
        let kernel_tells_callers = show_identity(&source, &metrics)?;
        let (jobs, streamer) = jobs::open(&config, &source, asynchronous.as_ref(), &metrics)?.unzip();
        let api = Api {
            table: Arc::clone(&table),
            cluster: Arc::clone(&source.cluster),
            wake: Arc::clone(&wake),
            readiness: readiness.clone(),
            metrics,
            kernel_tells_callers,
            store: asynchronous.as_ref().map(|asynchronous| asynchronous.store.clone()),
            jobs: jobs.clone(),
            job_request_bytes: config.jobs.request_bytes,
        };
        let jobs = jobs.zip(streamer).map(|((jobs, _), streamer)| {
            let (table, cluster) = (Arc::clone(&table), Arc::clone(&source.cluster));
            (jobs::Worker::new(jobs, table, cluster, Arc::clone(&wake)), streamer)
        });
        let gateway = Arc::new(Gateway {
            table,
            callers: Arc::clone(&source.callers),
            identities: source.identities.as_ref().map(|identities| Arc::clone(&identities.index)),
            wake: Arc::clone(&wake),
            own: Arc::new(api),
            intake: asynchronous.as_ref().map(Asynchronous::intake),
            events,
            admin: config.admin_token_file.clone().map(AdminToken::in_file),
            cors: config.cors.clone(),
            limits: config.limits.clone(),
            stats,
            leaving: AtomicBool::new(false),
        });
        Ok(Self { config, gateway, listeners, addresses, scaler, source, channel, wake, asynchronous, jobs, readiness })
    }

    /// Where it listens, with real port numbers.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `termination`, which names its reason, or until the store fails, which is an error: first the traffic
    /// ends, then what it needs. Returns whether requests were cut.
    pub async fn run(self, termination: impl Future<Output = &'static str>) -> io::Result<bool> {
        let (traffic, traffic_watch) = drain::channel();
        let (control, control_watch) = drain::channel();
        // The last to end: everything else may have to tell its peers something.
        let (peers, peers_watch) = drain::channel();
        let mut channel = JoinSet::new();
        match self.channel {
            Some(peers) => {
                channel.spawn(peers.run(peers_watch));
            }
            // What nobody holds has ended.
            None => drop(peers_watch),
        }
        let mut workers = JoinSet::new();
        workers.spawn((self.source.worker)(self.readiness.clone(), control_watch.clone()));
        if let Some(mut changes) = self.source.dependency_changes {
            let (wake, mut end) = (self.scaler.wake_handle(), control_watch.clone());
            workers.spawn(async move {
                let forward = async {
                    while changes.changed().await.is_ok() {
                        wake.request()
                    }
                };
                tokio::select! {
                    biased; // nothing is woken any more once the process ends
                    () = end.signaled() => {}
                    () = forward => {}
                }
            });
        }
        let (senders, deliveries) = channels(self.listeners.len());
        let failure = self.asynchronous.as_ref().map(|asynchronous| asynchronous.store.failure());
        if let Some(asynchronous) = self.asynchronous {
            let table = Arc::clone(&self.gateway.table);
            let follows = self.readiness.block("a leader among the gateway nodes");
            let (leaving, end) = (traffic_watch.clone(), control_watch.clone());
            workers.spawn(asynchronous.run(table, self.wake, senders, follows, leaving, end));
        }
        if let Some(jobs) = self.jobs {
            workers.spawn(jobs::run(jobs, control_watch.clone()));
        }
        let mut scaler_end = control_watch;
        workers.spawn(self.scaler.run(async move { scaler_end.signaled().await }));
        let cores =
            spawn_cores(self.listeners, deliveries, &self.gateway, self.config.limits.connections, &traffic_watch)?;
        drop(traffic_watch);

        let (reason, failed) = tokio::select! {
            biased; // ending is what is wanted: then a failure no longer matters
            signal = termination => (signal.to_owned(), None),
            failure = failed(failure) => (failure.clone(), Some(failure)),
        };
        let Config { drain_delay, drain_timeout, .. } = self.config;
        tracing::info!(reason, delay = ?drain_delay, timeout = ?drain_timeout, "ending: running requests finish first");
        let _draining = self.readiness.block("the process to end");
        // Whoever sends requests here must learn of it before connections are refused.
        self.gateway.leaving.store(true, Ordering::Relaxed);
        tokio::time::sleep(drain_delay).await;
        let cut = traffic.drain(drain_timeout).await;
        if cut {
            tracing::warn!("requests were still running at the deadline and have been cut");
        }
        control.drain(drain_timeout).await;
        while workers.join_next().await.is_some() {}
        peers.drain(PEERS_DRAIN).await;
        while channel.join_next().await.is_some() {}
        for core in cores {
            core.join().map_err(|_panic| io::Error::other("a traffic thread panicked"))??;
        }
        match failed {
            None => Ok(cut),
            Some(failure) => Err(io::Error::other(failure)),
        }
    }
}

/// Resolves with the reason why the store, if there is one, can neither keep nor deliver requests any more.
async fn failed(failure: Option<watch::Receiver<Option<Arc<str>>>>) -> String {
    let Some(mut failure) = failure else { return std::future::pending().await };
    match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
        Ok(Some(failure)) => format!("the store has failed: {failure}"),
        // It has ended, as it does with the process.
        _ => std::future::pending().await,
    }
}

/// How to ask whether an agent's programs answer, where their word is understood; it is shown too.
fn show_identity(source: &Source, metrics: &Metrics) -> Result<Option<fn() -> bool>, MetricsError> {
    if source.identities.is_none() {
        return Ok(None);
    }
    metrics.add_identity(net::kernel_tells_callers)?;
    Ok(Some(net::kernel_tells_callers))
}

/// For what peers still ask of this node, or are asked.
const PEERS_DRAIN: Duration = Duration::from_secs(2);

fn bind(config: &Config) -> Result<(Vec<Vec<std::net::TcpListener>>, Vec<SocketAddr>), BuildError> {
    let mut cores: Vec<Vec<std::net::TcpListener>> = (0..config.traffic_threads).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for wanted in config.listen.addresses() {
        let failed = |source| BuildError::Listen { address: wanted, source };
        net::check_unused(wanted).map_err(failed)?;
        let mut address = wanted;
        for core in &mut cores {
            let listener = net::listen(address).map_err(failed)?;
            if config.identity_salt_file.is_some() {
                net::socket_options::keep_syns(&listener).map_err(failed)?;
            }
            // The first core settles which port "any" is.
            address = listener.local_addr().map_err(failed)?;
            core.push(listener);
        }
        addresses.push(address);
    }
    Ok((cores, addresses))
}

fn spawn_cores(
    listeners: Vec<Vec<std::net::TcpListener>>,
    deliveries: Vec<Deliveries>,
    gateway: &Arc<Gateway>,
    connections_max: usize,
    drain: &drain::Watch,
) -> io::Result<Vec<thread::JoinHandle<io::Result<()>>>> {
    let connections = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let spawn = |(core, (listeners, deliveries))| {
        let (gateway, connections, drain) = (Arc::clone(gateway), Arc::clone(&connections), drain.clone());
        thread::Builder::new()
            .name(format!("traffic-{core}"))
            .spawn(move || listener::run(listeners, gateway, connections, deliveries, drain))
    };
    listeners.into_iter().zip(deliveries).enumerate().map(spawn).collect()
}

/// What the traffic plane knows of the scaler.
struct ScalerWake(WakeHandle);

impl Wake for ScalerWake {
    fn called(&self, function: &Function, at: Tick) {
        self.0.note_call(&function.live, at);
    }

    fn wake(&self, function: &Function, at: Tick) {
        self.0.note_call_and_wake(&function.live, at);
    }
}

struct ScaleMetrics(Arc<Metrics>);

impl ScaleObserver for ScaleMetrics {
    fn decided(&self, function: &FunctionId, from: u32, to: u32, reason: &Reason) {
        self.0.scale_decided(function, from, to, reason.as_str());
    }
}
