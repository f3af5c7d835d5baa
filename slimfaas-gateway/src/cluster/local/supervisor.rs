//! The local [`Cluster`]: which replicas there shall be, and what the table says of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::caller::LocalCallers;
use super::companion;
use super::jobs::{self, LocalJobs};
use super::manifest::{FunctionEntry, Manifest, Runs};
use super::output::{Output, Source};
use super::ports::Ports;
use super::process::Launcher;
use super::replica::{self, Replica, SHUTDOWN_TIMEOUT, Stop};
use super::state::StateDirectory;
use crate::cluster::{Cluster, ClusterFuture, ScaleError, Scaling};
use crate::model::function::{FunctionId, WorkloadKind};
use crate::model::spec::{Dependency, FunctionSpec};
use crate::table::view::{Address, Endpoint, Pod, PodState};
use crate::table::{FunctionReport, Table};

/// Replicas of one function, whatever its `ReplicaMax`: the size of the default pool of ports.
const REPLICAS_MAX: u32 = 1000;

/// For what is left after every process's own time to end is over.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// What the caller of [`LocalCluster::new`] decides.
pub struct LocalOptions {
    /// Where the lines of all processes go.
    pub output: Output,
    /// The `slimfaas` program, normally the running one: ties the life of each process to this one's (see `child`).
    /// `None`: processes are started directly.
    pub wrapper: Option<PathBuf>,
}

/// The functions and processes of one manifest. Starts nothing before [`LocalCluster::run`].
pub struct LocalCluster {
    pub(super) manifest: Manifest,
    namespace: Arc<str>,
    table: Arc<Table>,
    functions: BTreeMap<FunctionId, LocalFunction>,
    processes: BTreeMap<String, AtomicBool>,
    pub(super) ports: Arc<Ports>,
    pub(super) launcher: Launcher,
    pub(super) callers: Arc<LocalCallers>,
    output: Output,
    /// Columns of the longest name, so that the log's bars line up.
    name_width: usize,
    /// To `run`, which starts them. Bounded by `REPLICAS_MAX` for each function.
    starts: mpsc::UnboundedSender<Replica>,
    starting: Mutex<Option<mpsc::UnboundedReceiver<Replica>>>,
    pub(super) local_jobs: LocalJobs,
    /// Generation of the answers of `dependency_ready`.
    dependencies: watch::Sender<u64>,
}

struct LocalFunction {
    entry: FunctionEntry,
    replicas_max: u32,
    state: Mutex<FunctionState>,
}

struct FunctionState {
    requested: u32,
    /// The oldest first.
    replicas: Vec<ReplicaState>,
}

struct ReplicaState {
    index: u32,
    pod: Pod,
    /// Those in which requests may still run: the present one is not among them.
    former_endpoints: Vec<Arc<Endpoint>>,
    /// To the replica's task.
    stop: watch::Sender<Stop>,
}

impl LocalCluster {
    /// Writes every function into `table`, at its `ReplicasMin`.
    pub fn new(
        manifest: Manifest,
        state: StateDirectory,
        table: Arc<Table>,
        namespace: &str,
        options: LocalOptions,
    ) -> Arc<Self> {
        let functions = manifest.functions.iter().map(|(name, entry)| {
            let state = Mutex::new(FunctionState { requested: entry.spec.replicas_min, replicas: Vec::new() });
            let replicas_max = replicas_max(&entry.spec);
            (FunctionId::new(namespace, name), LocalFunction { entry: entry.clone(), replicas_max, state })
        });
        let functions: BTreeMap<FunctionId, LocalFunction> = functions.collect();
        let (starts, starting) = mpsc::unbounded_channel();
        let widths = manifest.functions.keys().map(|name| name.len() + "-0".len());
        let others = manifest.processes.keys().chain(manifest.jobs.keys());
        let name_width = widths.chain(others.map(String::len)).max().unwrap_or(0);
        let cluster = Arc::new(Self {
            namespace: namespace.into(),
            table,
            functions,
            processes: manifest.processes.keys().map(|name| (name.clone(), AtomicBool::new(false))).collect(),
            ports: Ports::new(manifest.process_ports.clone()),
            launcher: Launcher { wrapper: options.wrapper, state: Arc::new(state) },
            callers: Arc::default(),
            output: options.output,
            name_width,
            starts,
            starting: Mutex::new(Some(starting)),
            local_jobs: LocalJobs::new(namespace, &manifest.jobs),
            dependencies: watch::Sender::new(0),
            manifest,
        });
        for (id, function) in &cluster.functions {
            match &function.entry.runs {
                Runs::Processes(_) => cluster.resize(id, function, function.entry.spec.replicas_min),
                Runs::Elsewhere(address) => cluster.add_virtual_replica(id, function, address),
            }
        }
        cluster
    }

    /// Says which of the cluster's processes calls.
    pub fn callers(&self) -> Arc<LocalCallers> {
        Arc::clone(&self.callers)
    }

    /// Sees each change of what `dependency_ready` answers.
    pub fn dependency_changes(&self) -> watch::Receiver<u64> {
        self.dependencies.subscribe()
    }

    /// Runs until `stop`, then ends every process: each gets its own time, all of them together no more than the
    /// longest of these and a margin. To be called once, on a runtime whose threads live as long as the gateway.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut starting = starting.expect("run is called once");
        let runs = self.local_jobs.starting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut runs = runs.expect("run is called once");
        let mut stop = std::pin::pin!(stop);
        let stopping = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for (position, name) in self.manifest.processes.keys().enumerate() {
            let output = self.source(name, self.functions.len() + position);
            tasks.spawn(companion::run(Arc::clone(&self), name.clone(), output, stopping.subscribe()));
        }
        loop {
            tokio::select! {
                // The stop first, so that nothing is started after it.
                biased;
                () = &mut stop => break,
                Some(replica) = starting.recv() => {
                    tasks.spawn(replica::run(Arc::clone(&self), replica));
                }
                Some(run) = runs.recv() => {
                    tasks.spawn(jobs::run(Arc::clone(&self), run));
                }
                Some(ended) = tasks.join_next() => complain(ended),
            }
        }
        starting.close();
        runs.close();
        self.local_jobs.stop_all();
        while let Ok(replica) = starting.try_recv() {
            self.remove_pod(&replica);
        }
        stopping.send_replace(true);
        self.stop_replicas();
        let all = async {
            while let Some(ended) = tasks.join_next().await {
                complain(ended)
            }
        };
        if timeout(self.stop_deadline(), all).await.is_err() {
            tracing::warn!("some processes did not end in time: killed");
        }
        // What is left is dropped here, which kills its process.
        tasks.shutdown().await;
    }

    fn stop_deadline(&self) -> Duration {
        let timeouts = self.manifest.functions.values().filter_map(|f| f.shutdown.as_ref().map(|s| s.timeout));
        timeouts.chain([SHUTDOWN_TIMEOUT]).max().unwrap_or(SHUTDOWN_TIMEOUT) + STOP_MARGIN
    }

    fn stop_replicas(&self) {
        for (id, function) in &self.functions {
            let mut state = function.lock();
            state.requested = 0;
            for replica in &mut state.replicas {
                replica.pod.state = PodState::Terminating;
                replica.stop.send_replace(Stop::Now);
            }
            self.publish(id, function, &state);
        }
    }

    /// Brings the function to `replicas`, and the table with it.
    fn resize(&self, id: &FunctionId, function: &LocalFunction, replicas: u32) {
        let replicas = replicas.min(function.replicas_max);
        let mut state = function.lock();
        state.requested = replicas;
        let running = state.replicas.iter().filter(|replica| !replica.is_terminating()).count();
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        let starts: Vec<Replica> = (running..replicas).map(|_| state.add(id)).collect();
        let mut stops = Vec::new();
        for _ in replicas..running {
            let Some(position) = state.next_to_stop() else { break };
            let replica = &mut state.replicas[position];
            replica.pod.state = PodState::Terminating;
            self.keep_endpoint(id, replica);
            stops.push((replica.stop.clone(), std::mem::take(&mut replica.former_endpoints)));
        }
        // The table first: a replica that is told to end gets no new request.
        self.publish(id, function, &state);
        drop(state);
        for (stop, endpoints) in stops {
            stop.send_replace(Stop::Drain(endpoints));
        }
        for replica in starts {
            self.start(replica);
        }
    }

    /// The pod is about to leave the view: remembers where requests may still run.
    fn keep_endpoint(&self, id: &FunctionId, replica: &mut ReplicaState) {
        replica.former_endpoints.retain(|endpoint| endpoint.in_flight() > 0);
        let view = self.table.view();
        let endpoints = view.function(id).map(|function| &function.endpoints);
        let present = endpoints.and_then(|all| all.iter().find(|endpoint| endpoint.pod == replica.pod.name));
        replica.former_endpoints.extend(present.map(Arc::clone));
    }

    /// The replica of a `debugUrl`: it is only watched.
    fn add_virtual_replica(&self, id: &FunctionId, function: &LocalFunction, address: &Address) {
        let mut state = function.lock();
        let mut replica = state.add(id);
        let pod = &mut state.replicas[0].pod;
        pod.name = format!("{}-debug", id.name).into();
        pod.address = Some(address.clone());
        replica.pod = Arc::clone(&pod.name);
        self.publish(id, function, &state);
        drop(state);
        self.start(replica);
    }

    fn start(&self, replica: Replica) {
        if let Err(mpsc::error::SendError(replica)) = self.starts.send(replica) {
            // After the stop nothing starts.
            self.remove_pod(&replica);
        }
    }

    /// What a replica's task says of its pod. A terminating pod stays one.
    pub(super) fn set_pod(&self, replica: &Replica, pod_state: PodState, address: Option<Address>) {
        let Some(function) = self.functions.get(&replica.function) else { return };
        let mut state = function.lock();
        let Some(known) = state.replicas.iter_mut().find(|known| known.index == replica.index) else { return };
        if known.is_terminating() {
            return;
        }
        self.keep_endpoint(&replica.function, known);
        known.pod.state = pod_state;
        known.pod.address = address;
        self.publish(&replica.function, function, &state);
    }

    pub(super) fn remove_pod(&self, replica: &Replica) {
        let Some(function) = self.functions.get(&replica.function) else { return };
        let mut state = function.lock();
        state.replicas.retain(|known| known.index != replica.index);
        self.publish(&replica.function, function, &state);
    }

    /// Under the function's lock, so that the table sees changes in their order.
    fn publish(&self, id: &FunctionId, function: &LocalFunction, state: &FunctionState) {
        self.table.put(FunctionReport {
            id: id.clone(),
            kind: WorkloadKind::Deployment,
            spec: Arc::clone(&function.entry.spec),
            problems: Arc::clone(&function.entry.problems),
            replicas_requested: state.requested,
            pods: state.replicas.iter().map(|replica| replica.pod.clone()).collect(),
        });
    }

    pub(super) fn entry(&self, id: &FunctionId) -> Option<&FunctionEntry> {
        self.functions.get(id).map(|function| &function.entry)
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn set_process_ready(&self, name: &str, ready: bool) {
        if self.processes.get(name).is_some_and(|known| known.swap(ready, Ordering::SeqCst) != ready) {
            self.dependencies.send_modify(|generation| *generation += 1);
        }
    }

    /// Where the lines of one replica go: a colour for each function.
    pub(super) fn replica_source(&self, replica: &Replica) -> Source {
        let position = self.functions.keys().position(|id| *id == replica.function);
        self.source(&replica.pod, position.unwrap_or(0))
    }

    pub(super) fn job_source(&self, job: &FunctionId) -> Source {
        let position = self.manifest.jobs.keys().position(|name| **name == *job.name).unwrap_or(0);
        self.source(&job.name, self.functions.len() + self.processes.len() + position)
    }

    fn source(&self, name: &str, position: usize) -> Source {
        self.output.source(name, position, self.name_width)
    }
}

impl Cluster for LocalCluster {
    /// More replicas than the function's maximum (`Scale.ReplicaMax`, or else the larger of `ReplicasMin` and
    /// `ReplicasAtStart`) count as that maximum.
    fn scale<'a>(&'a self, scaling: &'a Scaling) -> ClusterFuture<'a, Result<(), ScaleError>> {
        Box::pin(async move {
            let Scaling { function, to: replicas, .. } = scaling;
            let found = self.functions.get(function).ok_or_else(|| ScaleError::Unknown(function.clone()))?;
            match found.entry.runs {
                Runs::Processes(_) => self.resize(function, found, *replicas),
                Runs::Elsewhere(_) => {
                    let mut state = found.lock();
                    state.requested = (*replicas).min(found.replicas_max);
                    self.publish(function, found, &state);
                }
            }
            Ok(())
        })
    }

    fn dependency_ready(&self, _function: &FunctionId, name: &Dependency) -> Option<bool> {
        match name {
            Dependency::Process(name) => self.processes.get(name).map(|ready| ready.load(Ordering::SeqCst)),
            Dependency::Workload(_) => None,
        }
    }
}

impl LocalFunction {
    fn lock(&self) -> MutexGuard<'_, FunctionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FunctionState {
    /// A new replica with the lowest index that is not in use.
    fn add(&mut self, id: &FunctionId) -> Replica {
        let taken = |index: &u32| self.replicas.iter().any(|replica| replica.index == *index);
        let index = (0..).find(|index| !taken(index)).expect("fewer replicas than numbers");
        let name: Arc<str> = format!("{}-{index}", id.name).into();
        let (stop, stopped) = watch::channel(Stop::No);
        let pod = Pod { name: Arc::clone(&name), address: None, base_path: None, state: PodState::Pending(None) };
        self.replicas.push(ReplicaState { index, pod, former_endpoints: Vec::new(), stop });
        Replica { function: id.clone(), index, pod: name, stop: stopped }
    }

    /// The newest of those that do not serve, else the newest.
    fn next_to_stop(&self) -> Option<usize> {
        let last = |wanted: &dyn Fn(&ReplicaState) -> bool| self.replicas.iter().rposition(wanted);
        last(&|r| !r.is_terminating() && !r.pod.is_ready()).or_else(|| last(&|r| !r.is_terminating()))
    }
}

impl ReplicaState {
    fn is_terminating(&self) -> bool {
        self.pod.state == PodState::Terminating
    }
}

/// Reference §7.3.
fn replicas_max(spec: &FunctionSpec) -> u32 {
    let floor = spec.replicas_min.max(spec.replicas_at_start);
    spec.scale
        .as_ref()
        .and_then(|scale| scale.replicas_max)
        .unwrap_or(floor)
        .clamp(spec.replicas_min.min(REPLICAS_MAX), REPLICAS_MAX)
}

/// A task of ours that panicked took its process with it; the others go on.
fn complain(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "the task of a process failed");
    }
}
