use proptest::prelude::*;

use super::*;
use crate::model::spec::Dependency;
use crate::scaler::depends::BlockerKind;

const TIMEOUT: Duration = Duration::from_secs(300);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn spec(replicas_min: u32, replicas_at_start: u32) -> FunctionSpec {
    FunctionSpec { replicas_min, replicas_at_start, idle_timeout: TIMEOUT, ..FunctionSpec::default() }
}

/// A function that has been known for long, has no replicas and was never called.
fn quiet(spec: &FunctionSpec) -> Reading<'_> {
    Reading {
        spec,
        replicas_requested: 0,
        replicas_ready: 0,
        waiting: 0,
        in_flight: 0,
        since_call: None,
        since_seen: secs(1_000_000),
        since_any_call: None,
        awake_when_never_called: false,
        schedule: ScheduleAges::default(),
        dependents: Dependents::default(),
        blocked_by: None,
        unschedulable: false,
    }
}

fn blocker(kind: BlockerKind) -> Blocker {
    Blocker { dependency: Dependency::Workload("mysql".to_owned()), kind }
}

fn dependent() -> FunctionId {
    FunctionId::new("default", "front")
}

/// The decision for a quiet function of this spec after `change`, as (replicas, reason, seconds to the deadline).
#[track_caller]
fn check(spec: &FunctionSpec, change: impl FnOnce(&mut Reading<'_>), expected: (u32, &str, Option<u64>)) {
    let mut reading = quiet(spec);
    change(&mut reading);
    let decision = decide(&reading);
    let got = (decision.replicas, decision.reason.to_string(), decision.next);
    assert_eq!(got, (expected.0, expected.1.to_owned(), expected.2.map(secs)), "{reading:?}");
}

#[test]
fn what_is_not_needed_goes_to_the_minimum() {
    check(&spec(0, 1), |_| {}, (0, "idle", None));
    check(&spec(0, 1), |r| r.replicas_requested = 3, (0, "idle", None));
    check(&spec(2, 1), |r| r.replicas_requested = 5, (2, "idle", None));
    check(&spec(2, 1), |r| r.replicas_requested = 2, (2, "replicas_min", None));
}

#[test]
fn a_minimum_is_reached_without_any_call() {
    check(&spec(2, 1), |_| {}, (2, "replicas_min", None));
    check(&spec(2, 1), |r| r.replicas_requested = 1, (2, "replicas_min", None));
}

#[test]
fn a_call_wakes_and_keeps_awake_for_the_timeout() {
    check(&spec(0, 2), |r| r.since_call = Some(secs(0)), (2, "call", Some(300)));
    let called = |age: Duration| {
        move |r: &mut Reading<'_>| {
            r.since_call = Some(age);
            r.replicas_requested = 2;
        }
    };
    check(&spec(0, 2), called(secs(299)), (2, "call", Some(1)));
    check(&spec(0, 2), called(secs(300)), (0, "idle", None));
    check(&spec(0, 2), called(secs(301)), (0, "idle", None));
}

#[test]
fn waiting_requests_wake_whatever_the_last_call() {
    check(&spec(0, 1), |r| r.waiting = 1, (1, "waiting_requests", Some(300)));
    let zero = FunctionSpec { idle_timeout: Duration::ZERO, ..spec(0, 1) };
    check(&zero, |r| r.waiting = 1, (1, "waiting_requests", Some(1)));
    check(&zero, |r| r.since_call = Some(secs(0)), (0, "idle", None));
}

#[test]
fn nothing_goes_down_while_a_request_is_answered() {
    let busy = |r: &mut Reading<'_>| {
        r.in_flight = 1;
        r.replicas_requested = 3;
        r.since_call = Some(secs(100_000));
    };
    check(&spec(0, 1), busy, (3, "busy", Some(300)));
}

#[test]
fn at_start_below_the_minimum_is_the_minimum() {
    check(&spec(3, 1), |r| r.waiting = 1, (3, "waiting_requests", Some(300)));
    let below = |r: &mut Reading<'_>| {
        r.replicas_requested = 1;
        r.since_call = Some(secs(10));
    };
    check(&spec(3, 2), below, (3, "call", Some(290)));
}

#[test]
fn at_start_of_zero_is_one_when_needed() {
    check(&spec(0, 0), |r| r.waiting = 1, (1, "waiting_requests", Some(300)));
    check(&spec(0, 0), |_| {}, (0, "idle", None));
    assert_eq!(replicas_to_be_ready(&spec(0, 0)), 1);
}

#[test]
fn a_function_at_its_minimum_goes_to_its_start_count_when_called() {
    // Its dependents wait for that count, so it must be reached.
    let at_min = |r: &mut Reading<'_>| {
        r.replicas_requested = 1;
        r.since_call = Some(secs(0));
    };
    check(&spec(1, 3), at_min, (3, "call", Some(300)));
}

#[test]
fn more_than_asked_for_at_start_is_kept_while_needed() {
    let scaled_by_hand = |age| {
        move |r: &mut Reading<'_>| {
            r.replicas_requested = 7;
            r.since_call = Some(secs(age));
        }
    };
    check(&spec(0, 2), scaled_by_hand(100), (7, "call", Some(200)));
    check(&spec(0, 2), scaled_by_hand(300), (0, "idle", None));
}

#[test]
fn a_schedule_wakes_and_replaces_the_timeout() {
    let woken = |r: &mut Reading<'_>| {
        r.schedule = ScheduleAges { since_wake: Some(secs(60)), idle_timeout: None, change_in: Some(secs(86_340)) };
    };
    check(&spec(0, 1), woken, (1, "schedule", Some(240)));
    let shorter = |r: &mut Reading<'_>| {
        r.schedule =
            ScheduleAges { since_wake: Some(secs(60)), idle_timeout: Some(secs(60)), change_in: Some(secs(7)) };
        r.replicas_requested = 1;
    };
    check(&spec(0, 1), shorter, (0, "idle", Some(7)));
    // The timeout may become shorter before it ends.
    let soon = |r: &mut Reading<'_>| {
        r.since_call = Some(secs(0));
        r.schedule.change_in = Some(secs(7));
    };
    check(&spec(0, 1), soon, (1, "call", Some(7)));
    // The more recent of the two counts.
    let both = |r: &mut Reading<'_>| {
        r.since_call = Some(secs(10));
        r.schedule.since_wake = Some(secs(60));
    };
    check(&spec(0, 1), both, (1, "call", Some(290)));
}

#[test]
fn dependents_wake_what_they_depend_on() {
    let waiting = |r: &mut Reading<'_>| r.dependents.waiting = Some(dependent());
    check(&spec(0, 1), waiting, (1, "dependent_waiting default/front", Some(300)));
    let called = |r: &mut Reading<'_>| r.dependents.called = Some((secs(100), dependent()));
    check(&spec(0, 1), called, (1, "dependent_called default/front", Some(200)));
    let long_ago = |r: &mut Reading<'_>| r.dependents.called = Some((secs(300), dependent()));
    check(&spec(0, 1), long_ago, (0, "idle", None));
}

#[test]
fn any_call_wakes_those_that_ask_for_it() {
    let any = |r: &mut Reading<'_>| r.since_any_call = Some(secs(1));
    check(&spec(0, 1), any, (0, "idle", None));
    check(&FunctionSpec { wakes_with_any: true, ..spec(0, 1) }, any, (1, "any_called", Some(299)));
}

#[test]
fn never_called_counts_as_called_where_the_operator_says_so() {
    let new = |r: &mut Reading<'_>| {
        r.awake_when_never_called = true;
        r.since_seen = secs(5);
    };
    check(&spec(0, 1), new, (1, "never_called", Some(295)));
    let later = |r: &mut Reading<'_>| r.awake_when_never_called = true;
    check(&spec(0, 1), later, (0, "idle", None));
    // Once it was called that is what counts.
    let called = |r: &mut Reading<'_>| {
        new(r);
        r.since_call = Some(secs(400));
    };
    check(&spec(0, 1), called, (0, "idle", None));
}

#[test]
fn what_runs_when_first_seen_gets_one_timeout() {
    let found = |seen, requested| {
        move |r: &mut Reading<'_>| {
            r.since_seen = secs(seen);
            r.replicas_requested = requested;
        }
    };
    check(&spec(0, 2), found(0, 1), (1, "found_running", Some(300)));
    check(&spec(0, 2), found(299, 1), (1, "found_running", Some(1)));
    check(&spec(0, 2), found(300, 1), (0, "idle", None));
    check(&spec(0, 2), found(0, 0), (0, "idle", None));
    check(&spec(2, 2), found(0, 1), (2, "replicas_min", None));
}

#[test]
fn a_dependency_that_is_not_ready_holds_the_start_back() {
    let blocked = |kind| {
        move |r: &mut Reading<'_>| {
            r.waiting = 1;
            r.blocked_by = Some(blocker(kind));
        }
    };
    check(&spec(0, 1), blocked(BlockerKind::Function), (0, "blocked_by_dependency mysql", Some(300)));
    check(&spec(0, 1), blocked(BlockerKind::Unknown), (0, "blocked_by_dependency mysql", Some(5)));
    let mut reading = Reading { waiting: 1, blocked_by: Some(blocker(BlockerKind::Other)), ..quiet(&FUNCTION) };
    assert_eq!(decide(&reading).next, Some(Duration::from_millis(200)));
    // It does not stop what runs, nor keep it.
    reading.replicas_requested = 1;
    assert_eq!((decide(&reading).replicas, decide(&reading).reason), (1, Reason::WaitingRequests));
    reading.waiting = 0;
    assert_eq!((decide(&reading).replicas, decide(&reading).reason), (0, Reason::Idle));
    // Nor is a dependency asked for ever when nothing is wanted.
    reading.replicas_requested = 0;
    assert_eq!(decide(&reading).next, None);
    let below_min = |r: &mut Reading<'_>| r.blocked_by = Some(blocker(BlockerKind::Function));
    check(&spec(2, 1), below_min, (0, "blocked_by_dependency mysql", None));
}

#[test]
fn no_more_is_asked_for_while_there_is_no_place() {
    let no_place = |requested| {
        move |r: &mut Reading<'_>| {
            r.waiting = 1;
            r.unschedulable = true;
            r.replicas_requested = requested;
        }
    };
    check(&spec(0, 3), no_place(1), (1, "unschedulable", Some(300)));
    check(&spec(0, 3), no_place(3), (3, "waiting_requests", Some(300)));
    // A pod of zero replicas is on its way out and says nothing.
    check(&spec(0, 3), no_place(0), (3, "waiting_requests", Some(300)));
}

#[test]
fn a_function_asks_for_its_dependencies_until_it_is_up() {
    let check = |spec: &FunctionSpec, change: &dyn Fn(&mut Reading<'_>), expected: (bool, bool, Option<u64>)| {
        let mut reading = quiet(spec);
        change(&mut reading);
        let (busy, starting, age) = expected;
        assert_eq!(own(&reading), Own { busy, starting, since_used: age.map(secs) }, "{reading:?}");
    };
    let replicas = |r: &mut Reading<'_>, requested, ready| {
        r.replicas_requested = requested;
        r.replicas_ready = ready;
    };
    check(&spec(0, 1), &|_| {}, (false, false, None));
    check(&spec(0, 1), &|r| r.waiting = 1, (true, true, None));
    check(&spec(0, 1), &|r| r.since_call = Some(secs(9)), (false, true, Some(9)));
    check(&spec(0, 1), &|r| r.since_call = Some(secs(300)), (false, false, Some(300)));
    check(&spec(1, 1), &|_| {}, (false, true, None));
    check(&spec(1, 1), &|r| replicas(r, 1, 0), (false, true, None));
    check(&spec(1, 1), &|r| replicas(r, 1, 1), (false, false, None));
    let scheduled = |r: &mut Reading<'_>| r.schedule.since_wake = Some(secs(7));
    check(&spec(0, 1), &scheduled, (false, true, Some(7)));
    let up = |r: &mut Reading<'_>| {
        replicas(r, 1, 1);
        r.since_call = Some(secs(9));
        r.in_flight = 1;
    };
    check(&spec(0, 1), &up, (true, false, Some(9)));
    // What its own dependents ask is theirs to ask.
    check(&spec(0, 1), &|r| r.dependents.waiting = Some(dependent()), (false, false, None));
}

#[test]
fn only_what_a_call_would_raise_is_asleep() {
    let asleep = |spec: &FunctionSpec, requested: u32, call: Option<u64>| {
        let since_call = call.map(secs);
        decide(&Reading { replicas_requested: requested, since_call, ..quiet(spec) }).asleep
    };
    assert!(asleep(&spec(0, 1), 0, None));
    assert!(asleep(&spec(0, 1), 1, Some(300)));
    assert!(!asleep(&spec(0, 1), 0, Some(0)));
    assert!(!asleep(&spec(1, 1), 1, None));
    assert!(asleep(&spec(1, 2), 1, None));
}

#[test]
fn reasons_have_stable_texts() {
    assert_eq!(Reason::BlockedByDependency(blocker(BlockerKind::Other)).as_str(), "blocked_by_dependency");
    assert_eq!(Reason::DependentCalled(dependent()).as_str(), "dependent_called");
    assert_eq!(Reason::ReplicasMin.to_string(), "replicas_min");
}

static FUNCTION: std::sync::LazyLock<FunctionSpec> = std::sync::LazyLock::new(|| spec(0, 1));

/// Everything of a reading but what it borrows.
#[derive(Clone, Debug)]
struct Case {
    spec: FunctionSpec,
    reading: Reading<'static>,
}

impl Case {
    fn reading(&self) -> Reading<'_> {
        Reading { spec: &self.spec, ..self.reading.clone() }
    }

    /// The same, some time later, if nothing happens meanwhile.
    fn aged(&self, by: Duration) -> Self {
        let mut case = self.clone();
        let reading = &mut case.reading;
        reading.since_seen += by;
        for age in [&mut reading.since_call, &mut reading.since_any_call, &mut reading.schedule.since_wake] {
            *age = age.map(|age| age + by);
        }
        if let Some((age, _)) = &mut reading.dependents.called {
            *age += by;
        }
        case
    }
}

fn age() -> impl Strategy<Value = Option<Duration>> {
    proptest::option::of((0..900_000_u64).prop_map(Duration::from_millis))
}

fn few() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 1 => 1..5_u32]
}

fn specs() -> impl Strategy<Value = FunctionSpec> {
    (0..4_u32, 0..4_u32, 0..600_u64, any::<bool>()).prop_map(|(min, start, timeout, any)| FunctionSpec {
        idle_timeout: secs(timeout),
        wakes_with_any: any,
        ..spec(min, start)
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let counts = (0..6_u32, 0..6_u32, few(), few());
    let ages = (age(), (0..900_000_u64).prop_map(Duration::from_millis), age(), age());
    let others = (any::<bool>(), any::<bool>(), age(), proptest::option::of(0..600_u64));
    (specs(), counts, ages, others).prop_map(|(spec, counts, ages, others)| {
        let (replicas_requested, replicas_ready, waiting, in_flight) = counts;
        let (since_call, since_seen, since_any_call, since_wake) = ages;
        let (awake_when_never_called, dependent_waits, dependent_called, idle_timeout) = others;
        let schedule = ScheduleAges { since_wake, idle_timeout: idle_timeout.map(secs), change_in: None };
        let waiting_dependent = (dependent_waits && since_call.is_none()).then(dependent);
        let called = dependent_called.map(|age| (age, dependent()));
        let reading = Reading {
            replicas_requested,
            replicas_ready: replicas_ready.min(replicas_requested),
            waiting,
            in_flight,
            since_call,
            since_seen,
            since_any_call,
            awake_when_never_called,
            schedule,
            dependents: Dependents { waiting: waiting_dependent, called },
            ..quiet(&FUNCTION)
        };
        Case { spec, reading }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn never_below_the_minimum(case in cases()) {
        prop_assert!(decide(&case.reading()).replicas >= case.spec.replicas_min);
    }

    #[test]
    fn never_down_while_needed(mut case in cases(), waiting in 0..3_u32, in_flight in 1..3_u32) {
        case.reading.waiting = waiting;
        case.reading.in_flight = in_flight;
        let decision = decide(&case.reading());
        prop_assert!(decision.replicas >= case.reading.replicas_requested);
        prop_assert!(decision.replicas >= 1);
    }

    #[test]
    fn applying_a_decision_settles_it(case in cases()) {
        let decision = decide(&case.reading());
        let mut applied = case;
        applied.reading.replicas_requested = decision.replicas;
        let again = decide(&applied.reading());
        prop_assert_eq!(again.replicas, decision.replicas);
    }

    #[test]
    fn more_activity_never_means_fewer_replicas(case in cases(), sooner in 0..900_000_u64, waiting in 0..2_u32) {
        let before = decide(&case.reading()).replicas;
        let mut more = case;
        // No call is older than the function.
        let call = Duration::from_millis(sooner).min(more.reading.since_seen);
        more.reading.since_call = Some(more.reading.since_call.map_or(call, |age| age.min(call)));
        more.reading.waiting += waiting;
        prop_assert!(decide(&more.reading()).replicas >= before);
    }

    #[test]
    fn nothing_changes_before_the_deadline(case in cases(), part in 0.0..1.0_f64) {
        let mut settled = case;
        settled.reading.replicas_requested = decide(&settled.reading()).replicas;
        let decision = decide(&settled.reading());
        // Without one, never.
        let next = decision.next.unwrap_or(secs(1_000_000));
        let just_before = next.saturating_sub(Duration::from_millis(1));
        for later in [just_before, just_before.mul_f64(part)] {
            prop_assert_eq!(decide(&settled.aged(later).reading()).replicas, decision.replicas);
        }
    }

    #[test]
    fn at_the_last_deadline_it_is_idle(case in cases()) {
        let mut settled = case;
        settled.reading.waiting = 0;
        settled.reading.in_flight = 0;
        settled.reading.dependents.waiting = None;
        // Each use that ends may leave another reason to stay; each is a deadline of its own.
        for _use in 0..6 {
            let decision = decide(&settled.reading());
            settled.reading.replicas_requested = decision.replicas;
            let Some(next) = decision.next else { break };
            prop_assert!(!next.is_zero());
            settled = settled.aged(next);
        }
        let decision = decide(&settled.reading());
        prop_assert_eq!((decision.replicas, decision.next), (settled.spec.replicas_min, None));
    }

    #[test]
    fn a_blocked_function_never_rises(mut case in cases()) {
        case.reading.blocked_by = Some(blocker(BlockerKind::Function));
        let blocked = decide(&case.reading());
        prop_assert!(blocked.replicas <= case.reading.replicas_requested);
        case.reading.blocked_by = None;
        let free = decide(&case.reading());
        prop_assert_eq!(blocked.replicas, free.replicas.min(case.reading.replicas_requested));
    }

    #[test]
    fn asleep_means_that_a_call_raises_it(case in cases()) {
        let mut settled = case;
        settled.reading.replicas_requested = decide(&settled.reading()).replicas;
        let before = decide(&settled.reading());
        settled.reading.waiting += 1;
        let raised = decide(&settled.reading()).replicas > before.replicas;
        prop_assert_eq!(before.asleep, raised);
    }
}
