//! One gateway node's process: the production store and the workers of the queue and of jobs on a runtime and a clock of their own. Dropping it
//! is `kill -9`: every task of it, Raft's included, ends where it stands.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use slimfaas_gateway::bodies::{self, Bodies};
use slimfaas_gateway::clock::{self, Instant, Tick};
use slimfaas_gateway::cluster::jobs::JobRunner;
use slimfaas_gateway::cluster::seen_runs::SeenRuns;
use slimfaas_gateway::config::JobLimits;
use slimfaas_gateway::config::jobs::JobsConfiguration;
use slimfaas_gateway::drain;
use slimfaas_gateway::jobs;
use slimfaas_gateway::jobs::definitions::Definitions;
use slimfaas_gateway::jobs::handle::Jobs;
use slimfaas_gateway::model::peer::Peer;
use slimfaas_gateway::proxy::deliver::Delivery;
use slimfaas_gateway::proxy::wake::Wake;
use slimfaas_gateway::queue::command::Command;
use slimfaas_gateway::queue::worker::Worker;
use slimfaas_gateway::store::{DiskWriter, Effect, Effects, Options, Running, Store};
use slimfaas_gateway::table::Table;
use slimfaas_gateway::table::view::Function;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::dice::Dice;
use crate::disk::{Crash, Disk};
use crate::function::{self, Functions};
use crate::jobs::{Runner, Runs};
use crate::journal::{Event, Journal};
use crate::network::{Calls, Content, Outbox, Packet, Port};

/// As in production: how long an empty list of peers is not believed.
const FOUND_AFTER: Duration = Duration::from_secs(2);

/// So little that nodes which are away for a few seconds need a snapshot.
const LOG_BYTES: u64 = 64 << 10;

pub struct Node {
    pub name: Arc<str>,
    pub at: SocketAddr,
    pub store: Store,
    pub table: Arc<Table>,
    pub peers: watch::Sender<Arc<[Peer]>>,
    /// The runs of jobs that it has seen.
    pub runs: watch::Sender<Option<Arc<SeenRuns>>>,
    runtime: Runtime,
    disk: Disk,
    outbox: Outbox,
    calls: Arc<Mutex<Calls>>,
    journal: Journal,
    /// When its process began: by its own clock, and by the simulation's.
    began: (Instant, u64),
    triggers: Option<Triggers>,
}

/// What a process is made of.
pub struct Parts {
    pub name: Arc<str>,
    pub at: SocketAddr,
    pub disk: Disk,
    pub peers: Vec<Peer>,
    pub dice: Dice,
    pub journal: Journal,
    pub functions: Functions,
    pub runs: Runs,
    /// Of the next syncs, in milliseconds; changed while it runs.
    pub disk_pace: Arc<AtomicU64>,
    pub now_ms: u64,
    pub skew_ms: i64,
    /// A planted bug: the worker is told of some deliveries twice.
    pub repeats_effects: bool,
}

/// The stages of a polite end.
struct Triggers {
    leaving: drain::Trigger,
    end: drain::Trigger,
}

impl Node {
    /// Fails when the store cannot be opened.
    pub fn start(parts: Parts) -> Result<Self, String> {
        let Parts {
            name,
            at,
            disk,
            peers,
            dice,
            journal,
            functions,
            runs,
            disk_pace,
            now_ms,
            skew_ms,
            repeats_effects,
        } = parts;
        let runtime = runtime(&dice);
        let peers = watch::Sender::new(peers.into());
        let (outbox, calls) = (Outbox::default(), Arc::<Mutex<Calls>>::default());
        let port = Port { at, outbox: Arc::clone(&outbox), calls: Arc::clone(&calls) };
        let pace = move || {
            let most = disk_pace.load(Ordering::Relaxed);
            Duration::from_millis(dice.within(most / 2..=most))
        };
        let options = Options {
            name: Arc::clone(&name),
            folder: std::path::PathBuf::new(),
            backend: Some(disk.backend()),
            writer: DiskWriter::Task(Arc::new(pace)),
            transport: Arc::new(port),
            peers: peers.subscribe(),
            found_after: FOUND_AFTER,
            log_bytes: LOG_BYTES,
        };
        let began = (runtime.block_on(async { clock::now() }), now_ms);
        let opened = runtime.block_on(async {
            show_wall_clock(began, skew_ms);
            Store::open(options).await
        });
        let (store, running, effects) = opened.map_err(|error| error.to_string())?;
        let table = Table::new("demo");
        let (store_of, table_of) = (store.clone(), Arc::clone(&table));
        let shown = watch::Sender::new(None);
        let runner = Arc::new(runs.runner(shown.subscribe()));
        let process = Process { store: store_of, table: table_of, runner, name: Arc::clone(&name), repeats_effects };
        let triggers = process.spawn(&runtime, running, effects, &journal, functions);
        let triggers = Some(triggers);
        Ok(Self { name, at, store, table, peers, runs: shown, runtime, disk, outbox, calls, journal, began, triggers })
    }

    /// Lets the process run until `now_ms`. Its wall clock is `skew_ms` off.
    pub fn run_until(&self, now_ms: u64, skew_ms: i64) {
        let until = self.instant(now_ms);
        self.runtime.block_on(async {
            show_wall_clock(self.began, skew_ms);
            tokio::time::sleep_until(until).await;
        });
    }

    /// The process was stopped until now: its clock jumps, and every timer that was due meanwhile fires at once.
    pub fn resume(&self, now_ms: u64, skew_ms: i64) {
        let until = self.instant(now_ms);
        self.runtime.block_on(async {
            show_wall_clock(self.began, skew_ms);
            tokio::time::advance(until.saturating_duration_since(clock::now())).await;
        });
    }

    fn instant(&self, now_ms: u64) -> Instant {
        self.began.0 + Duration::from_millis(now_ms - self.began.1)
    }

    pub fn take_sent(&self) -> Vec<Packet> {
        std::mem::take(&mut *self.outbox.lock().expect("one thread, which does not panic here"))
    }

    pub fn receive(&self, packet: Packet) {
        match packet.content {
            Content::Call(payload) => {
                let (store, outbox) = (self.store.clone(), Arc::clone(&self.outbox));
                let (from, to, call) = (packet.to, packet.from, packet.call);
                self.runtime.spawn(async move {
                    let answer = store.serve(payload).await;
                    let packet = Packet { from, to, call, content: Content::Answer(answer) };
                    outbox.lock().expect("one thread, which does not panic here").push(packet);
                });
            }
            answer => self.calls.lock().expect("one thread, which does not panic here").answer(packet.call, answer),
        }
    }

    /// Proposes, and notes the reply under `operation`.
    pub fn propose(&self, operation: u64, command: Command, timeout: Duration) {
        let (store, journal, node) = (self.store.clone(), self.journal.clone(), Arc::clone(&self.name));
        self.runtime.spawn(async move {
            let reply = store.propose(command, timeout).await;
            journal.note(Event::Replied { node, operation, reply });
        });
    }

    /// Ends the process politely; the journal tells when it has ended.
    pub fn stop(&mut self) {
        let Some(Triggers { leaving, end }) = self.triggers.take() else { return };
        self.runtime.spawn(async move {
            leaving.drain(Duration::from_secs(1)).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            end.drain(Duration::from_secs(5)).await;
        });
    }

    /// Ends the process at once, and gives back what is on its disk.
    pub fn crash(self, crash: Crash, dice: &Dice) -> Disk {
        let disk = self.disk.crash(crash, dice);
        drop(self.runtime);
        disk
    }
}

/// 14 November 2023, 22:13:54 UTC: a few seconds before a schedule fires.
fn wall_clock_origin() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_034, 0).expect("it is a valid date")
}

/// As a process sees it that began then.
fn show_wall_clock((began, began_ms): (Instant, u64), skew_ms: i64) {
    let at = clock::now();
    let began_ms = i64::try_from(began_ms).expect("a simulation is short");
    let since = TimeDelta::from_std(at - began).expect("a simulation is short");
    clock::simulate_utc(at, wall_clock_origin() + TimeDelta::milliseconds(began_ms + skew_ms) + since);
}

fn runtime(dice: &Dice) -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // Without it `select!` is not decided by the seed alone.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&dice.within(0..=u64::MAX).to_be_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = dice;
    builder.build().expect("a runtime without I/O needs nothing of the system")
}

struct Process {
    store: Store,
    table: Arc<Table>,
    runner: Arc<Runner>,
    name: Arc<str>,
    repeats_effects: bool,
}

impl Process {
    fn spawn(
        self,
        runtime: &Runtime,
        running: Running,
        effects: Effects,
        journal: &Journal,
        functions: Functions,
    ) -> Triggers {
        let (core, deliveries) = mpsc::unbounded_channel::<Delivery>();
        let (leaving, is_leaving) = drain::channel();
        let (end, is_end) = drain::channel();
        let (stop, stopped) = oneshot::channel();
        let tapped = self.tap(runtime, effects, journal.clone());
        let bodies = self.bodies();
        runtime.spawn(self.jobs_worker().run(is_end.clone()));
        let worker = Worker::new(self.store, bodies, self.table, Arc::new(NeverSleeps), vec![core], Arc::default());
        runtime.spawn(async move {
            worker.run(tapped, is_leaving, is_end).await;
            let _store_failed = stop.send(()).is_err();
        });
        runtime.spawn(function::serve(deliveries, Arc::clone(&self.name), journal.clone(), functions));
        let (node, journal) = (self.name, journal.clone());
        runtime.spawn(async move {
            running.run(async { drop(stopped.await) }).await;
            journal.note(Event::Ended { node });
        });
        Triggers { leaving, end }
    }

    fn jobs_worker(&self) -> jobs::worker::Worker {
        let runner: Arc<dyn JobRunner> = Arc::<Runner>::clone(&self.runner);
        let limits =
            JobLimits { request_bytes: 1000, waiting_per_job: 20, waiting: 20, schedules_per_job: 5, schedules: 5 };
        let definitions = Definitions::new(JobsConfiguration::default(), runner.jobs(), "demo");
        let handle = Jobs { store: self.store.clone(), definitions, runner, limits, stats: Arc::default() };
        let (table, cluster) = (Arc::clone(&self.table), Arc::<Runner>::clone(&self.runner));
        jobs::worker::Worker::new(handle, table, cluster, Arc::new(NeverSleeps))
    }

    /// Nothing that is simulated is large enough for a file, so the folder is removed again at once.
    fn bodies(&self) -> Bodies {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("slimfaas-sim-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        let options = bodies::Options {
            name: Arc::clone(&self.name),
            folder: folder.clone(),
            reserve: 0,
            store: self.store.clone(),
            client: None,
            peers: watch::Sender::new(Arc::from([])).subscribe(),
        };
        let bodies = Bodies::open(options).expect("a folder can be made for temporary files").0;
        std::fs::remove_dir(folder).expect("it is empty");
        bodies
    }

    /// Notes the effects on their way to the worker.
    fn tap(&self, runtime: &Runtime, mut effects: Effects, journal: Journal) -> Effects {
        let (forward, tapped) = mpsc::unbounded_channel();
        let (node, copies) = (Arc::clone(&self.name), 1 + usize::from(self.repeats_effects));
        runtime.spawn(async move {
            while let Some(effect) = effects.recv().await {
                for _ in 0..copies {
                    if let Effect::Deliver(delivery) = &effect {
                        let assignment = delivery.assignment.clone();
                        journal.note(Event::Assigned { node: Arc::clone(&node), assignment });
                    }
                    if forward.send(effect.clone()).is_err() {
                        return;
                    }
                }
            }
        });
        tapped
    }
}

/// Simulated functions have as many replicas as the scenario says.
struct NeverSleeps;

impl Wake for NeverSleeps {
    fn called(&self, _function: &Function, _at: Tick) {}

    fn wake(&self, _function: &Function, _at: Tick) {}
}

/// What every simulated request carries, so that a wrong body is seen.
pub fn body_of(number: u64) -> Bytes {
    number.to_be_bytes().repeat(16 + usize::try_from(number % 7).expect("less than seven") * 40).into()
}
