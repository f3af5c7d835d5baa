//! The state machine against a naive model of what a person would expect of it, over arbitrary commands.

use proptest::prelude::*;

use super::*;
use crate::queue::tables::MemoryTables;

const JOBS: [&str; 2] = ["a", "b"];
const JOB_MAX: u32 = 3;
const TOTAL_MAX: u32 = 4;

fn id(number: u8) -> ElementId {
    ElementId([number; 16])
}

fn job(number: u8) -> FunctionId {
    FunctionId::new("demo", JOBS[usize::from(number) % JOBS.len()])
}

fn new_run(number: u8) -> NewRun {
    let spec = Bytes::from(vec![number]);
    NewRun { id: id(number), job: job(number), spec, ttl_ms: 1000, job_max: JOB_MAX, total_max: TOTAL_MAX }
}

/// A list, searched from one end to the other.
#[derive(Default)]
struct Model {
    /// In the order in which they came: id, job, phase by name.
    runs: Vec<(u8, FunctionId, &'static str)>,
    /// Id, job, last, whether somebody asked for it.
    schedules: Vec<(u8, FunctionId, u64, bool)>,
}

impl Model {
    fn holding(&self, job: &FunctionId) -> usize {
        let holds = |phase: &str| matches!(phase, "started" | "created" | "deleting with slot");
        self.runs.iter().filter(|(_, of, phase)| of == job && holds(phase)).count()
    }

    fn run(&mut self, number: u8, job: FunctionId) -> Reply {
        if self.runs.iter().any(|run| run.0 == number) {
            return Reply::Done;
        }
        let waits = |run: &&(u8, FunctionId, &str)| run.2 == "queued";
        if self.runs.iter().filter(waits).filter(|run| run.1 == job).count() >= JOB_MAX as usize {
            return Reply::Refused(Limit::JobRuns);
        }
        if self.runs.iter().filter(waits).count() >= TOTAL_MAX as usize {
            return Reply::Refused(Limit::AllJobRuns);
        }
        self.runs.push((number, job, "queued"));
        Reply::Done
    }

    fn step(&mut self, number: u8, from: &[&str], to: &'static str) -> Reply {
        match self.runs.iter_mut().find(|run| run.0 == number && from.contains(&run.2)) {
            Some(run) => {
                run.2 = to;
                Reply::Done
            }
            None => Reply::Stale,
        }
    }

    fn drop_run(&mut self, number: u8, from: &[&str]) -> Reply {
        let before = self.runs.len();
        self.runs.retain(|run| run.0 != number || !from.contains(&run.2));
        if self.runs.len() < before { Reply::Done } else { Reply::Stale }
    }

    fn apply(&mut self, step: &Step, now_ms: u64) -> Reply {
        match *step {
            Step::Run(number) => self.run(number, job(number)),
            Step::Start(number, parallel) => match self.runs.iter().find(|run| run.0 == number).cloned() {
                Some((_, job, "queued")) if self.holding(&job) < parallel as usize => {
                    self.step(number, &["queued"], "started")
                }
                _ => Reply::Stale,
            },
            Step::Created(number) => self.step(number, &["started"], "created"),
            Step::Finish(number, _) => self.step(number, &["started", "created"], "finished"),
            Step::Delete(number) => match self.runs.iter().find(|run| run.0 == number).map(|run| run.2) {
                Some("queued") => self.drop_run(number, &["queued"]),
                Some("started" | "created") => self.step(number, &["started", "created"], "deleting with slot"),
                Some("finished") => self.step(number, &["finished"], "deleting"),
                Some(_) => Reply::Done,
                None => Reply::Stale,
            },
            Step::Forget(number) => self.drop_run(number, &["finished", "deleting", "deleting with slot"]),
            Step::Adopt(number) if self.runs.iter().any(|run| run.0 == number) => Reply::Stale,
            Step::Adopt(number) => {
                self.runs.push((number, job(number), "created"));
                Reply::Done
            }
            Step::Schedule(number) => {
                if self.schedules.iter().any(|known| known.0 == number) {
                    return Reply::Done;
                }
                let of_job = self.schedules.iter().filter(|known| known.3 && known.1 == job(number)).count();
                if of_job >= 1 {
                    return Reply::Refused(Limit::JobSchedules);
                }
                self.schedules.push((number, job(number), now_ms, true));
                Reply::Done
            }
            Step::See(number) if self.schedules.iter().any(|known| known.0 == number) => Reply::Stale,
            Step::See(number) => {
                self.schedules.push((number, job(number), now_ms, false));
                Reply::Done
            }
            Step::Unschedule(number) => {
                let before = self.schedules.len();
                self.schedules.retain(|known| known.0 != number);
                if self.schedules.len() < before { Reply::Done } else { Reply::Stale }
            }
            Step::Fire(number, back_ms, run) => {
                let planned = now_ms.saturating_sub(back_ms);
                let Some(at) = self.schedules.iter().position(|known| known.0 == number && known.2 < planned) else {
                    return Reply::Stale;
                };
                let reply = self.run(run, job(run));
                if reply == Reply::Done {
                    self.schedules[at].2 = planned;
                }
                reply
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Run(u8),
    Start(u8, u32),
    Created(u8),
    Finish(u8, bool),
    Delete(u8),
    Forget(u8),
    Adopt(u8),
    Schedule(u8),
    See(u8),
    Unschedule(u8),
    Fire(u8, u64, u8),
}

impl Step {
    fn command(&self, now_ms: u64) -> JobCommand {
        match *self {
            Self::Run(number) => JobCommand::Run(new_run(number)),
            Self::Start(number, parallel) => JobCommand::Start { id: id(number), parallel },
            Self::Created(number) => JobCommand::Created { id: id(number) },
            Self::Finish(number, well) => {
                let end = if well { End::Succeeded } else { End::failed("exit code 1") };
                JobCommand::Finish { id: id(number), end }
            }
            Self::Delete(number) => JobCommand::Delete { id: id(number) },
            Self::Forget(number) => JobCommand::Forget { id: id(number) },
            Self::Adopt(number) => {
                JobCommand::Adopt { id: id(number), job: job(number), queued_ms: 1, started_ms: 2, ttl_ms: 3 }
            }
            Self::Schedule(number) => {
                let spec = Bytes::from_static(b"{}");
                JobCommand::Schedule { id: id(number), job: job(number), spec, job_max: 1, total_max: 10 }
            }
            Self::See(number) => JobCommand::See { id: id(number), job: job(number) },
            Self::Unschedule(number) => JobCommand::Unschedule { id: id(number) },
            Self::Fire(number, back_ms, run) => {
                let planned_ms = now_ms.saturating_sub(back_ms);
                JobCommand::Fire { schedule: id(number), planned_ms, run: Some(new_run(run)) }
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    let number = 0..12_u8;
    prop_oneof![
        4 => number.clone().prop_map(Step::Run),
        4 => (number.clone(), 0..4_u32).prop_map(|(number, parallel)| Step::Start(number, parallel)),
        2 => number.clone().prop_map(Step::Created),
        2 => (number.clone(), any::<bool>()).prop_map(|(number, well)| Step::Finish(number, well)),
        1 => number.clone().prop_map(Step::Delete),
        2 => number.clone().prop_map(Step::Forget),
        1 => number.clone().prop_map(Step::Adopt),
        2 => (20..23_u8).prop_map(Step::Schedule),
        1 => (20..23_u8).prop_map(Step::See),
        1 => (20..23_u8).prop_map(Step::Unschedule),
        4 => (20..23_u8, 0..300_u64, number).prop_map(|(number, back, run)| Step::Fire(number, back, run)),
    ]
}

fn phase(run: &Run) -> &'static str {
    match run.phase {
        Phase::Queued => "queued",
        Phase::Started { is_created: false, .. } => "started",
        Phase::Started { is_created: true, .. } => "created",
        Phase::Finished { .. } => "finished",
        Phase::Deleting { holds_slot: true, .. } => "deleting with slot",
        Phase::Deleting { holds_slot: false, .. } => "deleting",
    }
}

proptest! {
    #[test]
    fn it_does_what_the_model_does_and_what_is_loaded_is_what_was(steps in prop::collection::vec(steps(), 1..120)) {
        let (mut jobs, mut tables, mut model) = (Jobs::default(), MemoryTables::default(), Model::default());
        for (number, step) in steps.iter().enumerate() {
            let now_ms = 1000 + number as u64 * 100;
            let reply = jobs.apply(step.command(now_ms), now_ms, &mut tables).unwrap();
            prop_assert_eq!(reply, model.apply(step, now_ms), "{:?}", step);
        }
        prop_assert_eq!(&Jobs::load(&tables).unwrap(), &jobs);
        let shown = view(&tables).unwrap();
        let mut in_order: Vec<(&ElementId, &Run)> = shown.runs.iter().collect();
        in_order.sort_by_key(|(_, run)| run.order);
        let runs: Vec<_> = in_order.iter().map(|(id, run)| (id.0[0], run.job.clone(), phase(run))).collect();
        prop_assert_eq!(runs, model.runs.clone());
        let mut schedules = model.schedules.clone();
        schedules.sort();
        let shown_schedules: Vec<_> = shown.schedules.iter()
            .map(|(id, schedule)| (id.0[0], schedule.job.clone(), schedule.last_ms, !schedule.spec.is_empty()))
            .collect();
        prop_assert_eq!(shown_schedules, schedules);
        // A spec is kept exactly until nobody needs it to start its run.
        for (id, run) in &shown.runs {
            let has = spec(&tables, *id).unwrap().is_some();
            let over = matches!(run.phase, Phase::Finished { .. });
            prop_assert!(!(over && has), "{:?}", run);
            prop_assert!(has || run.phase != Phase::Queued, "{:?}", run);
        }
        prop_assert!(tables.count(Table::JobSpecs) <= shown.runs.len());
        prop_assert_eq!(generation(&tables).unwrap(), jobs.generation);
    }
}

#[test]
fn an_instant_fires_once_and_none_that_has_not_come() {
    cov_mark::check!(schedule_does_not_fire_twice);
    let (mut jobs, mut tables) = (Jobs::default(), MemoryTables::default());
    let mut apply = |command, now_ms| jobs.apply(command, now_ms, &mut tables).unwrap();
    let fire = |planned_ms, run| JobCommand::Fire { schedule: id(9), planned_ms, run: Some(new_run(run)) };
    assert_eq!(apply(JobCommand::See { id: id(9), job: job(0) }, 1000), Reply::Done);
    assert_eq!(apply(fire(1000, 0), 1500), Reply::Stale, "it was before the schedule");
    assert_eq!(apply(fire(2000, 0), 1999), Reply::Stale, "it has not come");
    assert_eq!(apply(fire(2000, 0), 2000), Reply::Done);
    assert_eq!(apply(fire(2000, 2), 2000), Reply::Stale, "another leader, another run");
    assert_eq!(apply(fire(1999, 2), 9000), Reply::Stale, "an instant before the last");
    // Seen again: nothing changes.
    assert_eq!(apply(JobCommand::See { id: id(9), job: job(0) }, 5000), Reply::Stale);
    assert_eq!(apply(fire(3000, 2), 5000), Reply::Done);
    assert_eq!(view(&tables).unwrap().runs.len(), 2);
}

#[test]
fn what_is_over_the_limit_is_refused_and_fires_later() {
    let (mut jobs, mut tables) = (Jobs::default(), MemoryTables::default());
    let mut apply = |command, now_ms| jobs.apply(command, now_ms, &mut tables).unwrap();
    apply(JobCommand::See { id: id(9), job: job(0) }, 1);
    for number in [0, 2, 4] {
        assert_eq!(apply(JobCommand::Run(new_run(number)), 1), Reply::Done);
    }
    assert_eq!(apply(JobCommand::Run(new_run(6)), 1), Reply::Refused(Limit::JobRuns));
    assert_eq!(apply(JobCommand::Run(new_run(1)), 1), Reply::Done);
    assert_eq!(apply(JobCommand::Run(new_run(3)), 1), Reply::Refused(Limit::AllJobRuns));
    let fire = || JobCommand::Fire { schedule: id(9), planned_ms: 5, run: Some(new_run(8)) };
    assert_eq!(apply(fire(), 9), Reply::Refused(Limit::JobRuns));
    assert_eq!(apply(JobCommand::Start { id: id(0), parallel: 1 }, 10), Reply::Done);
    assert_eq!(apply(fire(), 11), Reply::Done);
}
