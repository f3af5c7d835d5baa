//! Three nodes with real stores, workers and processes, on a wall clock that a test sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;

use super::definitions::Definitions;
use super::handle::Jobs;
use super::logs;
use super::plan::Phase;
use super::worker::Worker;
use crate::clock::{self, Tick};
use crate::cluster::jobs::{JobError, JobRunner, RunName};
use crate::cluster::local::{LocalCluster, LocalOptions, Output, StateDirectory, manifest};
use crate::config::JobLimits;
use crate::config::jobs::JobsConfiguration;
use crate::drain;
use crate::jobs::command::End;
use crate::model::function::FunctionId;
use crate::model::job::{RunSpec, ScheduleRequest};
use crate::proxy::wake::Wake;
use crate::queue::element::ElementId;
use crate::store::Store;
use crate::store::tests::cluster::{Cluster, WAIT};
use crate::table::Table;
use crate::table::view::Function;

const NODES: [&str; 3] = ["a", "b", "c"];

/// No job of these tests depends on a function.
struct NothingToWake;

impl Wake for NothingToWake {
    fn called(&self, _function: &Function, _at: Tick) {}

    fn wake(&self, _function: &Function, _at: Tick) {}
}

/// The nodes, their workers, and the one cluster of processes that they share.
struct Site {
    stores: Cluster,
    processes: Arc<LocalCluster>,
    table: Arc<Table>,
    workers: BTreeMap<&'static str, JoinSet<()>>,
    running: JoinSet<()>,
    /// Of the workers, which are never told to end.
    _end: (drain::Trigger, drain::Watch),
    _folder: tempfile::TempDir,
}

impl Site {
    async fn new(jobs: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("slimfaas.local.yaml");
        std::fs::write(&file, format!("schemaVersion: 1\njobs:\n{jobs}")).unwrap();
        let (manifest, _) = manifest::load(&[file], &[], &BTreeMap::new()).unwrap();
        let state = StateDirectory::open(&manifest, false).unwrap();
        let table = Table::new("default");
        let options = LocalOptions { output: Output::new(std::io::sink(), false), wrapper: None };
        let processes = LocalCluster::new(manifest, state, Arc::clone(&table), "default", options);
        let mut running = JoinSet::new();
        running.spawn(Arc::clone(&processes).run(std::future::pending()));
        let stores = Cluster::of(&NODES).await;
        let (end, _folder) = (drain::channel(), folder);
        let mut site = Self { stores, processes, table, workers: BTreeMap::new(), running, _end: end, _folder };
        for node in NODES {
            site.start_worker(node);
        }
        site
    }

    fn jobs(&self, node: &str) -> Jobs {
        let limits =
            JobLimits { request_bytes: 1000, waiting_per_job: 10, waiting: 20, schedules_per_job: 5, schedules: 5 };
        let definitions = Definitions::new(JobsConfiguration::default(), self.processes.jobs(), "default");
        let runner: Arc<dyn JobRunner> = Arc::<LocalCluster>::clone(&self.processes);
        Jobs { store: self.stores.store(node), definitions, runner, limits, stats: Arc::default() }
    }

    fn start_worker(&mut self, node: &'static str) {
        let cluster = Arc::<LocalCluster>::clone(&self.processes);
        let worker = Worker::new(self.jobs(node), Arc::clone(&self.table), cluster, Arc::new(NothingToWake));
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.run(self._end.1.clone()));
        self.workers.insert(node, tasks);
    }

    /// As `kill -9`: neither the worker nor the store says a word.
    async fn kill(&mut self, node: &str) {
        if let Some(mut worker) = self.workers.remove(node) {
            worker.shutdown().await;
        }
        self.stores.kill(node).await;
    }

    fn survivor(&self) -> Store {
        let name = self.stores.nodes.keys().next().expect("two are left").clone();
        self.stores.store(&name)
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, looking).await.is_ok(), "not {what}");
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn millis(instant: DateTime<Utc>) -> u64 {
    u64::try_from(instant.timestamp_millis()).expect("after 1970")
}

const ANNOTATIONS: &str = "    annotations:\n      SlimFaas/Job: \"true\"\n";

const JOB: &str = "  report:\n    command: [/bin/true]\n    ttlSecondsAfterFinished: 600\n    annotations:\n      \
                   SlimFaas/Job: \"true\"\n      SlimFaas/NumberParallelJob: \"4\"\n      SlimFaas/Schedules: \
                   '[{\"Schedule\": \"30 2 * * *\", \"TimeZone\": \"Europe/Paris\"}]'\n";

/// A definition's schedule and one that was asked for come due at `planned`; the leader is killed `kill_after_ms` from
/// then. Each must fire for that instant, once.
async fn fires_once(planned: DateTime<Utc>, kill_after_ms: i64) {
    // Everything is known a second before.
    clock::simulate_utc(clock::now(), planned - chrono::TimeDelta::seconds(30));
    let mut site = Site::new(JOB).await;
    let leader = site.stores.leader().await;
    let job = FunctionId::new("default", "report");
    let asked = ScheduleRequest {
        schedule: "30 2 * * *".to_owned(),
        time_zone: Some("Europe/Paris".to_owned()),
        ..ScheduleRequest::default()
    };
    site.jobs(&leader).schedule(&job, &asked).await.unwrap();
    let store = site.stores.store(&leader);
    until("both schedules are known", || store.jobs().unwrap().schedules.len() == 2).await;
    // The worker sleeps until the firing by the clock of before: it has to notice the new one.
    let now = clock::utc();
    let begin = planned - chrono::TimeDelta::milliseconds(1500);
    assert!(now < begin, "the machine is too slow for this test: {now}");
    clock::simulate_utc(clock::now(), begin);
    // Anything that changes makes it look; here a third schedule, far away.
    let far = ScheduleRequest { schedule: "0 0 1 7 *".to_owned(), ..ScheduleRequest::default() };
    site.jobs(&leader).schedule(&job, &far).await.unwrap();
    let wait = planned + chrono::TimeDelta::milliseconds(kill_after_ms) - clock::utc();
    tokio::time::sleep(wait.to_std().unwrap_or_default()).await;
    site.kill(&leader).await;

    let store = site.survivor();
    let done = || {
        let view = store.jobs().unwrap();
        view.runs.values().filter(|run| matches!(run.phase, Phase::Finished { end: End::Succeeded, .. })).count() >= 2
    };
    until("both have fired and run", done).await;
    // What would fire twice has done so by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let view = store.jobs().unwrap();
    assert_eq!(view.runs.len(), 2, "killed {kill_after_ms} ms after: {view:#?}");
    let last: Vec<u64> = view.schedules.values().map(|schedule| schedule.last_ms).collect();
    assert_eq!(last.iter().filter(|last| **last == millis(planned)).count(), 2, "{view:#?}");
    let seen = site.processes.runs().borrow().clone().unwrap_or_default();
    let of_processes: Vec<ElementId> = seen.keys().copied().collect();
    assert_eq!(of_processes, view.runs.keys().copied().collect::<Vec<_>>(), "each was one process");
    site.running.shutdown().await;
}

#[test]
fn across_clock_changes_a_schedule_fires_once_though_the_leader_is_killed_at_that_moment() {
    // 02:30 does not exist on 29 March 2026 in Paris, and exists twice on 25 October.
    let planned = [at("2026-03-29T01:00:00Z"), at("2026-10-25T00:30:00Z")];
    std::thread::scope(|scope| {
        for planned in planned {
            for kill_after_ms in [-20, 0, 15, 40, 150] {
                // A thread each: the simulated clock is a thread's.
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(fires_once(planned, kill_after_ms));
                });
            }
        }
    });
}

#[tokio::test]
async fn as_many_logs_are_read_as_may_be_and_who_leaves_makes_room() {
    let script = "echo begun; exec sleep 600";
    let site = Site::new(&format!("  report:\n    command: [/bin/sh, -c, '{script}']\n{ANNOTATIONS}")).await;
    let jobs = site.jobs(&site.stores.leader().await);
    let job = FunctionId::new("default", "report");
    let id = jobs.run(&job, &RunSpec { image: "none".to_owned(), ..RunSpec::default() }).await.unwrap();
    let is_running = || site.processes.runs().borrow().as_ref().is_some_and(|runs| runs.contains_key(&id));
    until("it runs", is_running).await;
    let (logs, streamer) = logs::channel(jobs.runner);
    let mut tasks = JoinSet::new();
    tasks.spawn(streamer.run(site._end.1.clone()));
    let run = RunName { id, job };
    let mut readers = Vec::new();
    for _ in 0..logs::STREAMS_MAX {
        let mut reader = logs.read(run.clone(), true).await.unwrap();
        assert_eq!(reader.recv().await.as_deref(), Some(&b"begun\n"[..]));
        readers.push(reader);
    }
    let refused = JobError::Unavailable("64 logs are being read already".to_owned());
    assert_eq!(logs.read(run.clone(), true).await.unwrap_err(), refused);
    readers.pop();
    let room = async {
        while logs.read(run.clone(), true).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, room).await.is_ok(), "who leaves makes room");
    let nobodys = RunName { id: ElementId([1; 16]), job: run.job };
    drop(readers);
    let unknown = async {
        while logs.read(nobodys.clone(), false).await.err() != Some(JobError::Unknown) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, unknown).await.is_ok(), "what is not there has no log");
}

#[tokio::test]
async fn what_was_missed_while_nobody_ran_fires_once() {
    clock::simulate_utc(clock::now(), at("2026-01-01T00:00:00Z"));
    let site = Site::new(JOB).await;
    let store = site.survivor();
    until("the schedule is known", || store.jobs().unwrap().schedules.len() == 1).await;
    // Four days later by the clock, and something to look for.
    clock::simulate_utc(clock::now(), at("2026-01-05T12:00:00Z"));
    let far = ScheduleRequest { schedule: "0 0 1 7 *".to_owned(), ..ScheduleRequest::default() };
    let leader = site.stores.leader().await;
    site.jobs(&leader).schedule(&FunctionId::new("default", "report"), &far).await.unwrap();
    until("it has fired", || store.jobs().unwrap().runs.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view = store.jobs().unwrap();
    assert_eq!(view.runs.len(), 1, "{view:#?}");
    let last = view.schedules.values().map(|schedule| schedule.last_ms).min();
    assert_eq!(last, Some(millis(at("2026-01-05T01:30:00Z"))), "the last of those that were missed");
}
