//! The worker against a cluster in memory, on paused time: every instant asserted here is exact.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::*;
use crate::cluster::ClusterFuture;
use crate::model::function::WorkloadKind;
use crate::model::schedule::Schedule;
use crate::model::spec::{Dependency, FunctionSpec};
use crate::table::FunctionReport;
use crate::table::view::{Address, Function, Pod, PodState};

/// Takes note of what is asked of it; pods start only when a test says so.
struct MemoryCluster {
    table: Arc<Table>,
    began: Instant,
    /// Each asked scaling: milliseconds since the start, function, replicas.
    asked: Mutex<Vec<(u64, String, u32)>>,
    /// Refuses as many scalings as this.
    refusals: AtomicU32,
    /// What scaling a function called `name` does instead of answering at once.
    odd: Option<(&'static str, Odd)>,
    /// Others than functions that exist, and whether they are ready.
    others: Mutex<BTreeMap<String, bool>>,
}

#[derive(Clone, Copy)]
enum Odd {
    Unsupported,
    Panics,
    /// Accepts after this time.
    Slow(Duration),
    /// Accepts, and nothing comes of it.
    Ignores,
}

impl Cluster for MemoryCluster {
    fn scale<'a>(&'a self, scaling: &'a Scaling) -> ClusterFuture<'a, Result<(), ScaleError>> {
        let (function, replicas) = (&scaling.function, scaling.to);
        let at = u64::try_from(clock::now().duration_since(self.began).as_millis()).expect("a short test");
        self.asked.lock().unwrap().push((at, function.name.to_string(), replicas));
        Box::pin(async move {
            match self.odd {
                Some((name, Odd::Unsupported)) if name == &*function.name => return Err(ScaleError::Unsupported),
                Some((name, Odd::Panics)) if name == &*function.name => panic!("as asked"),
                Some((name, Odd::Slow(time))) if name == &*function.name => tokio::time::sleep(time).await,
                Some((name, Odd::Ignores)) if name == &*function.name => return Ok(()),
                _ => {}
            }
            let refuse = |left: u32| left.checked_sub(1);
            if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
                return Err(ScaleError::Refused("quota".to_owned()));
            }
            self.put(&function.name, replicas, 0);
            Ok(())
        })
    }

    fn dependency_ready(&self, _function: &FunctionId, name: &Dependency) -> Option<bool> {
        let (Dependency::Workload(name) | Dependency::Process(name)) = name;
        self.others.lock().unwrap().get(name).copied()
    }
}

impl MemoryCluster {
    fn put(&self, name: &str, requested: u32, ready: u32) {
        let function = self.function(name);
        self.report(name, &function.spec, requested, ready);
    }

    fn report(&self, name: &str, spec: &Arc<FunctionSpec>, requested: u32, ready: u32) {
        let pod = |number: u32| Pod {
            base_path: None,
            name: format!("{name}-{number}").into(),
            address: Some(Address::Socket(([127, 0, 0, 1], 1).into())),
            state: if number < ready { PodState::Ready } else { PodState::Starting },
        };
        self.table.put(FunctionReport {
            id: FunctionId::new("default", name),
            kind: WorkloadKind::Deployment,
            spec: Arc::clone(spec),
            problems: Arc::new([]),
            replicas_requested: requested,
            pods: (0..requested).map(pod).collect(),
        });
    }

    fn function(&self, name: &str) -> Arc<Function> {
        Arc::clone(self.table.view().route(name).expect("a function of the test"))
    }

    fn requested(&self, name: &str) -> u32 {
        self.function(name).replicas_requested
    }

    /// Scalings since the last look.
    fn asked(&self) -> Vec<(u64, String, u32)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    #[track_caller]
    fn check_asked(&self, expected: &[(u64, &str, u32)]) {
        let expected: Vec<_> = expected.iter().map(|(at, name, to)| (*at, (*name).to_owned(), *to)).collect();
        assert_eq!(self.asked(), expected);
    }
}

#[derive(Default)]
struct Counts {
    passes: AtomicUsize,
    refusals: AtomicUsize,
    decided: Mutex<Vec<String>>,
}

impl ScaleObserver for Counts {
    fn decided(&self, function: &FunctionId, from: u32, to: u32, reason: &Reason) {
        self.decided.lock().unwrap().push(format!("{} {from} -> {to} {reason}", function.name));
    }

    fn refused(&self, _function: &FunctionId, _error: &ScaleError) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    fn passed(&self, _functions: usize, _took: Duration) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }
}

/// A scaler at work; dropping it ends it.
struct Running {
    cluster: Arc<MemoryCluster>,
    counts: Arc<Counts>,
    wake: WakeHandle,
    worker: JoinSet<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

const IDLE: Duration = Duration::from_secs(60);

/// An instant at which the wall clock of UTC shows 11:59:00.
const WALL_START: &str = "2026-06-01T11:59:00Z";

fn spec(depends_on: &str) -> FunctionSpec {
    let dependency = |name: &str| Dependency::Workload(name.to_owned());
    let depends_on = depends_on.split_whitespace().map(dependency).collect();
    FunctionSpec { idle_timeout: IDLE, depends_on, ..FunctionSpec::default() }
}

fn start(functions: &[(&str, FunctionSpec)]) -> Running {
    start_odd(functions, None)
}

fn start_odd(functions: &[(&str, FunctionSpec)], odd: Option<(&'static str, Odd)>) -> Running {
    let table = Table::new("default");
    let began = clock::now();
    let cluster = Arc::new(MemoryCluster {
        table: Arc::clone(&table),
        began,
        asked: Mutex::default(),
        refusals: AtomicU32::new(0),
        odd,
        others: Mutex::default(),
    });
    for (name, spec) in functions {
        cluster.report(name, &Arc::new(spec.clone()), 0, 0);
    }
    let counts = Arc::new(Counts::default());
    let observer: Arc<dyn ScaleObserver> = Arc::<Counts>::clone(&counts);
    let mut scaler = Scaler::new(
        table,
        Arc::<MemoryCluster>::clone(&cluster),
        observer,
        Authority::sole(),
        WakeHandle::default(),
        false,
    );
    let wall_start: DateTime<Utc> = WALL_START.parse().expect("an instant");
    scaler.wall_clock = Box::new(move || wall_start + clock::now().duration_since(began));
    let wake = scaler.wake_handle();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut worker = JoinSet::new();
    worker.spawn(scaler.run(async move {
        stopped.await.unwrap_or_default();
    }));
    Running { cluster, counts, wake, worker, stop: Some(stop) }
}

impl Running {
    /// One call's begin, as the proxy notes it, waking the scaler only if it asked for that.
    fn call(&self, name: &str) {
        self.wake.note_call(&self.cluster.function(name).live, Tick::of(clock::now()));
    }

    fn passes(&self) -> usize {
        self.counts.passes.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn check_decided(&self, expected: &[&str]) {
        assert_eq!(*self.counts.decided.lock().unwrap(), expected);
    }
}

/// To `millis` after the start.
async fn at(running: &Running, millis: u64) {
    tokio::time::sleep_until(running.cluster.began + Duration::from_millis(millis)).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_calls_at_once_scale_once() {
    let running = start(&[("a", spec(""))]);
    at(&running, 100).await;
    let live = Arc::clone(&running.cluster.function("a").live);
    for _call in 0..50 {
        live.waiting.fetch_add(1, Ordering::Relaxed);
        running.wake.note_call_and_wake(&live, Tick::of(clock::now()));
        task::yield_now().await;
    }
    at(&running, 200).await;
    running.cluster.check_asked(&[(100, "a", 1)]);
    running.check_decided(&["a 0 -> 1 waiting_requests"]);
}

#[tokio::test(start_paused = true)]
async fn it_goes_down_at_the_very_deadline() {
    let running = start(&[("a", FunctionSpec { replicas_at_start: 2, ..spec("") })]);
    at(&running, 1_000).await;
    running.call("a");
    at(&running, 1_500).await;
    running.cluster.put("a", 2, 2);
    // Calls to a function that is up do not reach the scaler; they move the deadline all the same.
    at(&running, 31_007).await;
    let passes = running.passes();
    running.call("a");
    at(&running, 61_000 - 1).await;
    assert_eq!(running.passes(), passes);
    at(&running, 91_006).await;
    assert_eq!(running.cluster.requested("a"), 2);
    at(&running, 91_010).await;
    running.cluster.check_asked(&[(1_000, "a", 2), (91_007, "a", 0)]);
    running.check_decided(&["a 0 -> 2 call", "a 2 -> 0 idle"]);
}

#[tokio::test(start_paused = true)]
async fn it_never_goes_down_under_a_long_request() {
    let running = start(&[("a", spec(""))]);
    at(&running, 1_000).await;
    running.call("a");
    let live = Arc::clone(&running.cluster.function("a").live);
    live.in_flight.fetch_add(1, Ordering::Relaxed);
    at(&running, 1_001).await;
    running.cluster.put("a", 1, 1);
    at(&running, 500_123).await;
    live.in_flight.fetch_sub(1, Ordering::Relaxed);
    running.call("a");
    at(&running, 700_000).await;
    running.cluster.check_asked(&[(1_000, "a", 1), (560_123, "a", 0)]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_hour_costs_nothing() {
    let functions: Vec<(String, FunctionSpec)> = (0..20).map(|i| (format!("f{i}"), spec("f0"))).collect();
    let functions: Vec<(&str, FunctionSpec)> = functions.iter().map(|(n, s)| (n.as_str(), s.clone())).collect();
    let running = start(&functions);
    at(&running, 100).await;
    // One, and one more because it asked to hear of calls.
    assert_eq!(running.passes(), 2);
    at(&running, 3_600_100).await;
    assert_eq!(running.passes(), 2);
    running.cluster.check_asked(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_minimum_is_started_at_once_and_kept() {
    let running = start(&[("a", FunctionSpec { replicas_min: 2, ..spec("") })]);
    at(&running, 3_600_000).await;
    running.cluster.check_asked(&[(0, "a", 2)]);
    running.check_decided(&["a 0 -> 2 replicas_min"]);
}

#[tokio::test(start_paused = true)]
async fn a_chain_starts_from_its_end() {
    let running = start(&[("a", spec("b")), ("b", spec("c")), ("c", spec(""))]);
    at(&running, 1_000).await;
    running.call("a");
    at(&running, 2_000).await;
    running.cluster.check_asked(&[(1_000, "c", 1)]);
    running.cluster.put("c", 1, 1);
    at(&running, 3_000).await;
    running.cluster.check_asked(&[(2_000, "b", 1)]);
    running.cluster.put("b", 1, 1);
    at(&running, 4_000).await;
    running.cluster.check_asked(&[(3_000, "a", 1)]);
    running.cluster.put("a", 1, 1);
    // A function goes down a timeout after its last use; being waited for by a starting dependent is one.
    at(&running, 200_000).await;
    running.cluster.check_asked(&[(61_000, "a", 0), (64_000, "b", 0), (64_000, "c", 0)]);
    running.check_decided(&[
        "c 0 -> 1 dependent_waiting default/a",
        "b 0 -> 1 dependent_waiting default/a",
        "a 0 -> 1 call",
        "a 1 -> 0 idle",
        "b 1 -> 0 idle",
        "c 1 -> 0 idle",
    ]);
}

#[tokio::test(start_paused = true)]
async fn a_dependency_slower_than_its_timeout_is_not_given_up() {
    let slow = FunctionSpec { idle_timeout: Duration::from_secs(5), ..spec("") };
    let running = start(&[("a", spec("b")), ("b", slow)]);
    at(&running, 1_000).await;
    running.call("a");
    at(&running, 40_000).await;
    running.cluster.check_asked(&[(1_000, "b", 1)]);
    running.cluster.put("b", 1, 1);
    at(&running, 41_000).await;
    running.cluster.check_asked(&[(40_000, "a", 1)]);
    running.cluster.put("a", 1, 1);
    at(&running, 50_000).await;
    running.cluster.check_asked(&[(46_000, "b", 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_what_is_up_wakes_what_it_needs() {
    let soon_idle = FunctionSpec { idle_timeout: Duration::from_secs(5), ..spec("") };
    let any = FunctionSpec { wakes_with_any: true, ..soon_idle.clone() };
    let running = start(&[("a", spec("b")), ("any", any), ("b", soon_idle)]);
    running.cluster.put("b", 1, 1);
    running.cluster.put("a", 1, 1);
    at(&running, 1_000).await;
    running.call("a");
    at(&running, 10_000).await;
    running.cluster.check_asked(&[(1_000, "any", 1), (6_000, "any", 0), (6_000, "b", 0)]);
    // Only the call is noted, as for any request to a function that is up.
    at(&running, 20_000).await;
    running.call("a");
    at(&running, 21_000).await;
    running.cluster.check_asked(&[(20_000, "any", 1), (20_000, "b", 1)]);
}

#[tokio::test(start_paused = true)]
async fn functions_in_a_circle_start() {
    let running = start(&[("a", spec("b")), ("b", spec("c")), ("c", spec("a"))]);
    at(&running, 1_000).await;
    running.call("b");
    at(&running, 2_000).await;
    running.cluster.check_asked(&[(1_000, "a", 1), (1_000, "b", 1), (1_000, "c", 1)]);
    for name in ["a", "b", "c"] {
        running.cluster.put(name, 1, 1);
    }
    at(&running, 200_000).await;
    running.cluster.check_asked(&[(61_000, "b", 0), (62_000, "a", 0), (62_000, "c", 0)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_function_is_asked_until_it_is_ready() {
    let running = start(&[("a", spec("mysql"))]);
    running.cluster.others.lock().unwrap().insert("mysql".to_owned(), false);
    at(&running, 1_000).await;
    running.call("a");
    at(&running, 2_500).await;
    running.cluster.check_asked(&[]);
    running.cluster.others.lock().unwrap().insert("mysql".to_owned(), true);
    at(&running, 3_000).await;
    running.cluster.check_asked(&[(2_600, "a", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_does_not_exist_blocks() {
    let running = start(&[("a", spec("typo"))]);
    at(&running, 1_000).await;
    running.call("a");
    at(&running, 200_000).await;
    running.cluster.check_asked(&[]);
    let problems = dependency_problems(running.cluster.table.view().functions(), &*running.cluster);
    let text = "DependsOn: no workload typo in namespace default; the function does not start until there is one";
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].1.to_string(), text);
    // Its making heals that: the table tells of a function, and nobody has to call again within the timeout.
    running.call("a");
    running.cluster.report("typo", &Arc::new(spec("")), 0, 0);
    at(&running, 200_010).await;
    running.cluster.check_asked(&[(200_000, "typo", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_retried_ever_more_slowly() {
    let running = start(&[("a", spec("")), ("b", spec(""))]);
    running.cluster.refusals.store(7, Ordering::SeqCst);
    let live = Arc::clone(&running.cluster.function("a").live);
    live.waiting.fetch_add(1, Ordering::Relaxed);
    running.call("a");
    at(&running, 200_000).await;
    let expected = [0, 1, 3, 7, 15, 31, 61, 91].map(|secs| (secs * 1_000, "a", 1));
    running.cluster.check_asked(&expected);
    assert_eq!(running.counts.refusals.load(Ordering::Relaxed), 7);
    running.check_decided(&["a 0 -> 1 waiting_requests"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_no_longer_matters_delays_nothing() {
    let running = start(&[("a", FunctionSpec { idle_timeout: Duration::from_secs(16), ..spec("") })]);
    running.cluster.refusals.store(5, Ordering::SeqCst);
    running.call("a");
    // The fifth refusal, at 15 s, asks for a pause until 31 s; at 16 s nobody needs the function any more.
    at(&running, 17_000).await;
    running.cluster.check_asked(&[0, 1, 3, 7, 15].map(|secs| (secs * 1_000, "a", 1)));
    running.call("a");
    at(&running, 18_000).await;
    running.cluster.check_asked(&[(17_000, "a", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_or_broken_scaling_holds_up_nobody_else() {
    for odd in [Odd::Slow(Duration::from_secs(40)), Odd::Panics] {
        let running = start_odd(&[("a", spec("")), ("b", spec(""))], Some(("a", odd)));
        at(&running, 1_000).await;
        running.call("a");
        at(&running, 1_100).await;
        running.call("b");
        at(&running, 1_500).await;
        running.cluster.check_asked(&[(1_000, "a", 1), (1_100, "b", 1)]);
        at(&running, 2_500).await;
        match odd {
            // One at a time for each function.
            Odd::Slow(_) => running.cluster.check_asked(&[]),
            _ => running.cluster.check_asked(&[(2_000, "a", 1)]),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_ignores_what_it_accepts_is_asked_once_a_second() {
    let running = start_odd(&[("a", spec(""))], Some(("a", Odd::Ignores)));
    running.call("a");
    at(&running, 3_500).await;
    running.cluster.check_asked(&[0, 1, 2, 3].map(|secs| (secs * 1_000, "a", 1)));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_cannot_scale_is_left_alone() {
    let mut running = start_odd(&[("a", spec(""))], Some(("a", Odd::Unsupported)));
    running.call("a");
    at(&running, 100_000).await;
    running.call("a");
    running.wake.request();
    at(&running, 200_000).await;
    running.cluster.check_asked(&[(0, "a", 1)]);
    running.stop.take().expect("once").send(()).expect("the worker waits for it");
    running.worker.join_next().await.expect("one worker").expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_wakes_at_its_time() {
    let noon = chrono::NaiveTime::from_hms_opt(12, 0, 0).expect("a time");
    let schedule = Schedule { zone: chrono_tz::UTC, wake_ups: vec![noon], idle_timeouts: Vec::new() };
    let running = start(&[("a", FunctionSpec { schedule: Some(schedule), ..spec("b") }), ("b", spec(""))]);
    at(&running, 60_500).await;
    running.cluster.check_asked(&[(60_000, "b", 1)]);
    running.cluster.put("b", 1, 1);
    at(&running, 61_000).await;
    running.cluster.put("a", 1, 1);
    at(&running, 200_000).await;
    running.cluster.check_asked(&[(60_500, "a", 1), (120_000, "a", 0), (121_000, "b", 0)]);
    // A day's wait costs a look every quarter of an hour, to notice a wall clock that was set.
    let passes = running.passes();
    at(&running, 3_800_000).await;
    assert_eq!(running.passes() - passes, 4);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_spec_is_followed() {
    let running = start(&[("a", spec(""))]);
    at(&running, 1_000).await;
    running.cluster.report("a", &Arc::new(FunctionSpec { replicas_min: 3, ..spec("") }), 0, 0);
    at(&running, 2_000).await;
    running.cluster.report("a", &Arc::new(FunctionSpec { replicas_min: 1, ..spec("") }), 3, 3);
    // It was never called, so what runs is kept for one timeout since it was first seen.
    at(&running, 100_000).await;
    running.cluster.check_asked(&[(1_000, "a", 3), (60_000, "a", 1)]);
    running.cluster.table.remove(&FunctionId::new("default", "a"));
    at(&running, 200_000).await;
    running.cluster.check_asked(&[]);
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_told() {
    let mut running = start(&[("a", spec(""))]);
    at(&running, 1_000).await;
    running.stop.take().expect("once").send(()).expect("the worker waits for it");
    running.worker.join_next().await.expect("one worker").expect("no panic");
    assert_eq!(clock::now().duration_since(running.cluster.began), Duration::from_secs(1));
}
