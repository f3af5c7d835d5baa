//! What the leader has to do about runs and schedules, as a function of what the log and the cluster show. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::command::End;
use super::plan::{JobsView, Phase, Run};
use crate::cluster::seen_runs::SeenRuns;
use crate::model::cron::Cron;
use crate::model::function::FunctionId;
use crate::model::job::{JobSpec, RunState, ScheduleRequest};
use crate::queue::element::ElementId;

/// One thing to do about a run. The first four change the log, the others the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    Start {
        id: ElementId,
        parallel: u32,
    },
    Created {
        id: ElementId,
    },
    Finish {
        id: ElementId,
        end: End,
    },
    Adopt {
        id: ElementId,
    },
    /// Have the cluster create it.
    Create {
        id: ElementId,
    },
    /// Have the cluster start the one that it holds.
    LetGo {
        id: ElementId,
    },
    /// Have the cluster remove it.
    Remove {
        id: ElementId,
    },
    /// Ask the cluster whether it is gone for good: then it has failed, or is forgotten.
    Check {
        id: ElementId,
    },
}

/// What the duties follow from.
pub struct Situation<'a> {
    pub view: &'a JobsView,
    pub seen: &'a SeenRuns,
    pub now_ms: u64,
    /// By job: how many runs may hold a slot. Jobs that are not defined are not there.
    pub parallel: &'a BTreeMap<FunctionId, u32>,
    /// Waiting runs whose dependencies are not ready.
    pub blocked: &'a BTreeSet<ElementId>,
    /// Something is being done about them, or was refused a moment ago.
    pub busy: &'a BTreeSet<ElementId>,
    /// Created runs that the cluster has not shown for a while.
    pub missing: &'a BTreeSet<ElementId>,
}

/// All that is to be done, and when there may be more, in milliseconds of the wall clock.
pub fn of_runs(situation: &Situation<'_>) -> (Vec<Duty>, Option<u64>) {
    let Situation { view, seen, now_ms, busy, .. } = situation;
    let mut duties = starts(situation);
    let mut next: Option<u64> = None;
    for (id, run) in view.runs.iter().filter(|(id, _)| !busy.contains(id)) {
        let shown = seen.get(id);
        match &run.phase {
            Phase::Queued => {}
            Phase::Started { is_created, .. } => duties.extend(of_started(*id, *is_created, situation)),
            Phase::Finished { at_ms, .. } if at_ms.saturating_add(run.ttl_ms) > *now_ms => {
                let expiry = at_ms.saturating_add(run.ttl_ms);
                next = Some(next.map_or(expiry, |next| next.min(expiry)));
            }
            Phase::Finished { .. } | Phase::Deleting { .. } => duties.extend(match shown {
                Some(shown) if shown.is_leaving => None,
                Some(_) => Some(Duty::Remove { id: *id }),
                None => Some(Duty::Check { id: *id }),
            }),
        }
    }
    let strangers = seen.iter().filter(|(id, shown)| {
        !view.runs.contains_key(id) && !shown.is_leaving && !shown.state.is_over() && !busy.contains(id)
    });
    // One that is held was created by a late request: the log has had its run, and has forgotten it.
    duties.extend(strangers.map(|(id, shown)| match shown.held {
        Some(_) => Duty::Remove { id: *id },
        None => Duty::Adopt { id: *id },
    }));
    (duties, next)
}

fn of_started(id: ElementId, is_created: bool, situation: &Situation<'_>) -> Option<Duty> {
    let Some(shown) = situation.seen.get(&id) else {
        let check = situation.missing.contains(&id).then_some(Duty::Check { id });
        return if is_created { check } else { Some(Duty::Create { id }) };
    };
    match &shown.state {
        RunState::Succeeded => Some(Duty::Finish { id, end: End::Succeeded }),
        RunState::Failed(reason) => Some(Duty::Finish { id, end: End::failed(reason) }),
        // The log knows of it before it starts. So a second one of a run is never let go, however late it is created.
        _ if !is_created => Some(Duty::Created { id }),
        _ if shown.held.is_some() && !shown.is_leaving => Some(Duty::LetGo { id }),
        _ => None,
    }
}

/// The oldest first, each job for itself. A blocked one holds up nobody. Neither does one whose image cannot be pulled;
/// of these a job has as many as it has slots, since a wrong image would otherwise fill the cluster with Jobs.
fn starts(situation: &Situation<'_>) -> Vec<Duty> {
    let Situation { view, seen, parallel, blocked, busy, .. } = situation;
    let (mut holding, mut stuck): (BTreeMap<&FunctionId, u32>, BTreeMap<&FunctionId, u32>) = Default::default();
    for (id, run) in view.runs.iter().filter(|(_, run)| run.holds_slot()) {
        *holding.entry(&run.job).or_default() += 1;
        let is_stuck = seen.get(id).is_some_and(|shown| shown.state == RunState::ImagePullBackOff);
        *stuck.entry(&run.job).or_default() += u32::from(is_stuck);
    }
    let mut duties = Vec::new();
    for (id, run) in in_order(view).into_iter().filter(|(_, run)| run.phase == Phase::Queued) {
        let Some(slots) = parallel.get(&run.job) else { continue };
        let parallel = slots + stuck.get(&run.job).map_or(0, |stuck| *stuck.min(slots));
        let held = holding.entry(&run.job).or_default();
        if *held < parallel && !blocked.contains(&id) && !busy.contains(&id) {
            *held += 1;
            duties.push(Duty::Start { id, parallel });
        }
    }
    duties
}

/// As they came.
pub fn in_order(view: &JobsView) -> Vec<(ElementId, &Run)> {
    let mut runs: Vec<(ElementId, &Run)> = view.runs.iter().map(|(id, run)| (*id, run)).collect();
    runs.sort_by_key(|(_, run)| run.order);
    runs
}

/// One thing to do about a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum ScheduleDuty {
    /// A definition has it, and the log does not know it yet.
    See {
        id: ElementId,
        job: FunctionId,
    },
    /// No definition has it any more.
    Unschedule {
        id: ElementId,
    },
    Fire(Box<Firing>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    pub schedule: ElementId,
    pub job: FunctionId,
    pub planned_ms: u64,
    pub request: ScheduleRequest,
    /// Written by the job's owner, not asked for over HTTP.
    pub is_configured: bool,
}

/// All that is to be done now, and when the next schedule fires. Of several instants that were missed, the last fires.
///
/// `complete`: `jobs` are all that there are.
pub fn of_schedules(
    view: &JobsView,
    jobs: &BTreeMap<FunctionId, Arc<JobSpec>>,
    complete: bool,
    now: DateTime<Utc>,
) -> (Vec<ScheduleDuty>, Option<DateTime<Utc>>) {
    let configured = configured(jobs);
    let mut duties = Vec::new();
    let mut next: Option<DateTime<Utc>> = None;
    for (id, (job, _)) in configured.iter().filter(|(id, _)| !view.schedules.contains_key(id)) {
        duties.push(ScheduleDuty::See { id: *id, job: (*job).clone() });
    }
    for (id, known) in &view.schedules {
        let is_configured = known.spec.is_empty();
        let request = match configured.get(id) {
            Some((_, request)) => (*request).clone(),
            None if !is_configured => serde_json::from_slice(&known.spec).unwrap_or_default(),
            None => {
                duties.extend(complete.then_some(ScheduleDuty::Unschedule { id: *id }));
                continue;
            }
        };
        // What cannot be read was refused before it came here.
        let Ok(cron) = Cron::parse(&request.schedule, request.time_zone.as_deref()) else { continue };
        let last = i64::try_from(known.last_ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(now);
        let missed = cron.last(last, now).and_then(|due| u64::try_from(due.timestamp_millis()).ok());
        if let Some(planned_ms) = missed {
            let (schedule, job) = (*id, known.job.clone());
            duties.push(ScheduleDuty::Fire(Box::new(Firing { schedule, job, planned_ms, request, is_configured })));
        }
        let coming = cron.next(now.max(last));
        next = [next, coming].into_iter().flatten().min();
    }
    (duties, next)
}

/// The schedules that definitions have.
pub fn configured(jobs: &BTreeMap<FunctionId, Arc<JobSpec>>) -> BTreeMap<ElementId, (&FunctionId, &ScheduleRequest)> {
    jobs.iter()
        .flat_map(|(job, spec)| {
            spec.schedules.iter().map(move |schedule| (ElementId(schedule.id), (job, &schedule.request)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::TimeDelta;

    use super::*;
    use crate::cluster::seen_runs::SeenRun;
    use crate::config::jobs::configured as configured_schedule;
    use crate::jobs::plan::Schedule;

    fn id(number: u8) -> ElementId {
        ElementId([number; 16])
    }

    fn job() -> FunctionId {
        FunctionId::new("demo", "report")
    }

    fn run(order: u64, phase: Phase) -> Run {
        Run { job: job(), order, queued_ms: 1, ttl_ms: 100, phase }
    }

    fn seen(state: RunState, is_leaving: bool) -> SeenRun {
        SeenRun { job: job(), state, queued_ms: 1, started_ms: 2, ttl_ms: 100, is_leaving, held: None }
    }

    fn held(is_leaving: bool) -> SeenRun {
        SeenRun { held: Some("u".into()), ..seen(RunState::Pending, is_leaving) }
    }

    const STARTED: Phase = Phase::Started { at_ms: 10, is_created: false };
    const CREATED: Phase = Phase::Started { at_ms: 10, is_created: true };

    /// What is to be done about one run in this phase that the cluster shows so, 1000 ms after 1970.
    fn about(phase: Phase, shown: Option<SeenRun>, missing: bool) -> Vec<Duty> {
        let view = JobsView { runs: BTreeMap::from([(id(1), run(0, phase))]), ..JobsView::default() };
        let seen: SeenRuns = shown.into_iter().map(|shown| (id(1), shown)).collect();
        let missing = if missing { BTreeSet::from([id(1)]) } else { BTreeSet::new() };
        let situation = Situation {
            view: &view,
            seen: &seen,
            now_ms: 1000,
            parallel: &BTreeMap::from([(job(), 1)]),
            blocked: &BTreeSet::new(),
            busy: &BTreeSet::new(),
            missing: &missing,
        };
        of_runs(&situation).0
    }

    #[test]
    fn a_run_is_followed_through_its_life() {
        let ended = |at_ms| Phase::Finished { started_ms: 10, at_ms, end: End::Succeeded };
        let deleting = Phase::Deleting { started_ms: 10, holds_slot: true };
        let failed = RunState::Failed("exit code 3".to_owned());
        let finish = Duty::Finish { id: id(1), end: End::failed("exit code 3") };
        let (remove, check) = (Duty::Remove { id: id(1) }, Duty::Check { id: id(1) });
        for (phase, shown, missing, expected) in [
            (Phase::Queued, None, false, Some(Duty::Start { id: id(1), parallel: 1 })),
            (STARTED, None, false, Some(Duty::Create { id: id(1) })),
            (STARTED, Some(seen(RunState::Pending, false)), false, Some(Duty::Created { id: id(1) })),
            (STARTED, Some(seen(failed.clone(), false)), false, Some(finish.clone())),
            (STARTED, Some(held(false)), false, Some(Duty::Created { id: id(1) })),
            (CREATED, Some(held(false)), false, Some(Duty::LetGo { id: id(1) })),
            (CREATED, Some(held(true)), false, None),
            (CREATED, None, false, None),
            (CREATED, None, true, Some(check.clone())),
            (CREATED, Some(seen(RunState::ImagePullBackOff, false)), false, None),
            (
                CREATED,
                Some(seen(RunState::Succeeded, false)),
                false,
                Some(Duty::Finish { id: id(1), end: End::Succeeded }),
            ),
            (CREATED, Some(seen(failed, false)), false, Some(finish)),
            (ended(901), Some(seen(RunState::Succeeded, false)), false, None),
            (ended(900), Some(seen(RunState::Succeeded, false)), false, Some(remove.clone())),
            (ended(900), Some(seen(RunState::Succeeded, true)), false, None),
            (ended(901), Some(held(false)), false, None),
            (ended(900), Some(held(false)), false, Some(remove.clone())),
            (ended(900), None, false, Some(check.clone())),
            (deleting.clone(), Some(seen(RunState::Running, false)), false, Some(remove)),
            (deleting.clone(), Some(seen(RunState::Running, true)), false, None),
            (deleting, None, false, Some(check)),
        ] {
            let duties = about(phase.clone(), shown.clone(), missing);
            assert_eq!(duties, Vec::from_iter(expected), "{phase:?} {shown:?}");
        }
    }

    #[test]
    fn the_oldest_start_first_up_to_the_limit_and_blocked_ones_hold_up_nobody() {
        let phases = [CREATED, Phase::Queued, Phase::Queued, Phase::Queued, Phase::Queued];
        let runs =
            phases.into_iter().zip(0_u8..).map(|(phase, number)| (id(number), run(u64::from(10 - number), phase)));
        let view = JobsView { runs: runs.collect(), ..JobsView::default() };
        let running = || seen(RunState::Running, false);
        let shown = SeenRuns::from([(id(0), running()), (id(7), held(true)), (id(8), held(false)), (id(9), running())]);
        let situation = Situation {
            view: &view,
            seen: &shown,
            now_ms: 1000,
            parallel: &BTreeMap::from([(job(), 3)]),
            blocked: &BTreeSet::from([id(4)]),
            busy: &BTreeSet::new(),
            missing: &BTreeSet::new(),
        };
        let start = |number| Duty::Start { id: id(number), parallel: 3 };
        let of_strangers = [Duty::Remove { id: id(8) }, Duty::Adopt { id: id(9) }];
        assert_eq!(of_runs(&situation).0, [&[start(3), start(2)], &of_strangers[..]].concat());
        let undefined = Situation { parallel: &BTreeMap::new(), ..situation };
        assert_eq!(of_runs(&undefined).0, of_strangers);
    }

    #[test]
    fn runs_without_an_image_leave_their_slots_to_as_many_others() {
        let started = |slots: u32, states: &[RunState]| {
            let shown = states.iter().cloned().zip(0_u8..).map(|(state, number)| (id(number), seen(state, false)));
            let queued = states.len()..states.len() + 9;
            let phases = states.iter().map(|_| CREATED).chain(queued.map(|_| Phase::Queued));
            let runs = phases.zip(0_u8..).map(|(phase, number)| (id(number), run(u64::from(number), phase)));
            let view = JobsView { runs: runs.collect(), ..JobsView::default() };
            let situation = Situation {
                view: &view,
                seen: &shown.collect(),
                now_ms: 1000,
                parallel: &BTreeMap::from([(job(), slots)]),
                blocked: &BTreeSet::new(),
                busy: &BTreeSet::new(),
                missing: &BTreeSet::new(),
            };
            of_runs(&situation).0.len()
        };
        let (stuck, runs) = (RunState::ImagePullBackOff, RunState::Running);
        for (slots, states, expected) in [
            (1, vec![stuck.clone()], 1),
            (1, vec![stuck.clone(), runs.clone()], 0),
            (1, vec![stuck.clone(), stuck.clone()], 0),
            (2, vec![stuck.clone(), runs.clone()], 1),
            (2, vec![stuck.clone(), stuck.clone()], 2),
            (2, vec![stuck.clone(), stuck.clone(), stuck, runs], 0),
        ] {
            assert_eq!(started(slots, &states), expected, "{slots} {states:?}");
        }
    }

    #[test]
    fn schedules_fire_for_the_last_instant_that_was_missed() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let ms = |text: &str| u64::try_from(at(text).timestamp_millis()).unwrap();
        let request = ScheduleRequest { schedule: "0 2 * * *".to_owned(), ..ScheduleRequest::default() };
        let own = configured_schedule("report", request.clone());
        let spec = JobSpec { schedules: vec![own.clone()], ..JobSpec::default() };
        let jobs = BTreeMap::from([(job(), Arc::new(spec))]);
        let (own, asked, gone) = (ElementId(own.id), id(2), id(3));
        let text = Bytes::from(serde_json::to_string(&request).unwrap());
        let known = |last: &str, spec: &Bytes| Schedule { job: job(), last_ms: ms(last), spec: spec.clone() };
        let now = at("2026-03-03T01:00:00Z");
        let (duties, next) = of_schedules(&JobsView::default(), &jobs, true, now);
        assert_eq!((duties, next), (vec![ScheduleDuty::See { id: own, job: job() }], None));
        let schedules = BTreeMap::from([
            (own, known("2026-02-27T02:00:00Z", &Bytes::new())),
            (asked, known("2026-03-02T02:00:00Z", &text)),
            (gone, known("2026-02-27T02:00:00Z", &Bytes::new())),
        ]);
        let view = JobsView { schedules, ..JobsView::default() };
        let fire = |schedule, is_configured, planned: &str| {
            let (job, planned_ms, request) = (job(), ms(planned), request.clone());
            ScheduleDuty::Fire(Box::new(Firing { schedule, job, planned_ms, request, is_configured }))
        };
        let (duties, next) = of_schedules(&view, &jobs, true, now);
        assert_eq!(next, Some(now + TimeDelta::hours(1)));
        let unschedule = ScheduleDuty::Unschedule { id: gone };
        let mut expected = vec![fire(own, true, "2026-03-02T02:00:00Z"), unschedule.clone()];
        let by_id = |duty: &ScheduleDuty| match duty {
            ScheduleDuty::See { id, .. } | ScheduleDuty::Unschedule { id } => *id,
            ScheduleDuty::Fire(firing) => firing.schedule,
        };
        expected.sort_by_key(by_id);
        assert_eq!(duties, expected);
        // Before the cluster's definitions are known, nothing is forgotten.
        let (duties, _) = of_schedules(&view, &jobs, false, now + TimeDelta::hours(1));
        let mut expected = vec![fire(own, true, "2026-03-03T02:00:00Z"), fire(asked, false, "2026-03-03T02:00:00Z")];
        expected.sort_by_key(by_id);
        assert_eq!(duties, expected);
    }
}
