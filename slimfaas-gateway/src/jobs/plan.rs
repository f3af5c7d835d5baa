//! The state machine of jobs: which runs wait, which may run, how they ended, and how far each schedule has come.
//!
//! A run waits, is started (it then holds one of its job's slots, and the leader has the cluster create it), has ended,
//! and is forgotten. Its slot is free as soon as its end is known. A schedule knows the last instant that it was fired
//! for, so that the same instant never fires twice. The limits of what waits bound the memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::command::{End, JobCommand, NewRun};
use crate::model::function::FunctionId;
use crate::queue::codec::{DecodeError, Reader, Writer};
use crate::queue::command::{Limit, Reply};
use crate::queue::element::ElementId;
use crate::queue::tables::{Reading, Result, Table, TableError, Tables};

const META_KEY: &[u8] = b"jobs";

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub job: FunctionId,
    /// Runs of a job start in this order.
    pub order: u64,
    pub queued_ms: u64,
    /// After its end.
    pub ttl_ms: u64,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Queued,
    /// `is_created`: the cluster has had it.
    Started {
        at_ms: u64,
        is_created: bool,
    },
    Finished {
        started_ms: u64,
        at_ms: u64,
        end: End,
    },
    /// The cluster is to remove it.
    Deleting {
        started_ms: u64,
        holds_slot: bool,
    },
}

impl Run {
    pub fn holds_slot(&self) -> bool {
        matches!(self.phase, Phase::Started { .. } | Phase::Deleting { holds_slot: true, .. })
    }

    /// `None`: it has not.
    pub fn started_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Queued => None,
            Phase::Started { at_ms, .. } => Some(at_ms),
            Phase::Finished { started_ms, .. } | Phase::Deleting { started_ms, .. } => Some(started_ms),
        }
    }
}

/// One schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub job: FunctionId,
    /// The last instant that it was fired for, else when it was made.
    pub last_ms: u64,
    /// A `model::job::ScheduleRequest` as JSON; empty: a definition says what it is.
    pub spec: Bytes,
}

/// The part of the state that is in memory: all but the specs of runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Counts changes, so that readers see at a glance whether there was one.
    generation: u64,
    next_order: u64,
    runs: BTreeMap<ElementId, Run>,
    schedules: BTreeMap<ElementId, Schedule>,
    /// Of the above.
    counts: BTreeMap<FunctionId, Counts>,
    queued: u32,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    queued: u32,
    holding: u32,
}

/// Everything of jobs at one moment, but for the specs of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobsView {
    pub runs: BTreeMap<ElementId, Run>,
    pub schedules: BTreeMap<ElementId, Schedule>,
}

impl Jobs {
    pub fn load(tables: &impl Reading) -> Result<Self> {
        let JobsView { runs, schedules } = view(tables)?;
        let mut jobs = Self { schedules, ..Self::default() };
        (jobs.generation, jobs.next_order) = meta(tables)?;
        for (id, run) in runs {
            jobs.count(&run, true);
            jobs.runs.insert(id, run);
        }
        Ok(jobs)
    }

    /// `now_ms` is the time of the log entry.
    pub fn apply(&mut self, command: JobCommand, now_ms: u64, tables: &mut impl Tables) -> Result<Reply> {
        let before = self.generation;
        let reply = match command {
            JobCommand::Run(run) => self.run(run, now_ms, tables)?,
            JobCommand::Start { id, parallel } => self.start(id, parallel, now_ms, tables)?,
            JobCommand::Created { id } => self.created(id, tables)?,
            JobCommand::Finish { id, end } => self.finish(id, end, now_ms, tables)?,
            JobCommand::Delete { id } => self.delete(id, now_ms, tables)?,
            JobCommand::Forget { id } => match self.runs.get(&id).map(|run| &run.phase) {
                Some(Phase::Finished { .. } | Phase::Deleting { .. }) => self.forget(id, tables)?,
                _ => Reply::Stale,
            },
            JobCommand::Adopt { id, job, queued_ms, started_ms, ttl_ms } => {
                let phase = Phase::Started { at_ms: started_ms, is_created: true };
                let run = Run { job, order: self.next_order, queued_ms, ttl_ms, phase };
                if self.runs.contains_key(&id) { Reply::Stale } else { self.put(id, run, tables)? }
            }
            JobCommand::Schedule { id, job, spec, job_max, total_max } => {
                self.schedule(id, Schedule { job, last_ms: now_ms, spec }, (job_max, total_max), tables)?
            }
            JobCommand::See { id, job } if !self.schedules.contains_key(&id) => {
                self.put_schedule(id, Schedule { job, last_ms: now_ms, spec: Bytes::new() }, tables)?
            }
            JobCommand::See { .. } => Reply::Stale,
            JobCommand::Unschedule { id } => self.unschedule(id, tables)?,
            JobCommand::Fire { schedule, planned_ms, run } => self.fire(schedule, planned_ms, run, now_ms, tables)?,
        };
        if self.generation != before {
            let mut row = Writer::default();
            row.number(self.generation);
            row.number(self.next_order);
            tables.put(Table::Meta, META_KEY, &row.0)?;
        }
        Ok(reply)
    }

    fn run(&mut self, run: NewRun, now_ms: u64, tables: &mut impl Tables) -> Result<Reply> {
        let NewRun { id, job, spec, ttl_ms, job_max, total_max } = run;
        if self.runs.contains_key(&id) {
            return Ok(Reply::Done);
        }
        if self.counts.get(&job).map_or(0, |counts| counts.queued) >= job_max {
            return Ok(Reply::Refused(Limit::JobRuns));
        }
        if self.queued >= total_max {
            return Ok(Reply::Refused(Limit::AllJobRuns));
        }
        tables.put(Table::JobSpecs, &id.0, &spec)?;
        self.put(id, Run { job, order: self.next_order, queued_ms: now_ms, ttl_ms, phase: Phase::Queued }, tables)
    }

    fn start(&mut self, id: ElementId, parallel: u32, now_ms: u64, tables: &mut impl Tables) -> Result<Reply> {
        let Some(run) = self.runs.get(&id).filter(|run| run.phase == Phase::Queued) else { return Ok(Reply::Stale) };
        if self.counts.get(&run.job).map_or(0, |counts| counts.holding) >= parallel {
            return Ok(Reply::Stale);
        }
        let phase = Phase::Started { at_ms: now_ms, is_created: false };
        self.put(id, Run { phase, ..run.clone() }, tables)
    }

    fn created(&mut self, id: ElementId, tables: &mut impl Tables) -> Result<Reply> {
        match self.runs.get(&id) {
            Some(run @ Run { phase: Phase::Started { at_ms, is_created: false }, .. }) => {
                let phase = Phase::Started { at_ms: *at_ms, is_created: true };
                self.put(id, Run { phase, ..run.clone() }, tables)
            }
            _ => Ok(Reply::Stale),
        }
    }

    fn finish(&mut self, id: ElementId, end: End, now_ms: u64, tables: &mut impl Tables) -> Result<Reply> {
        match self.runs.get(&id) {
            Some(run @ Run { phase: Phase::Started { at_ms, .. }, .. }) => {
                let phase = Phase::Finished { started_ms: *at_ms, at_ms: now_ms, end };
                let run = Run { phase, ..run.clone() };
                // Nobody starts it any more.
                tables.remove(Table::JobSpecs, &id.0)?;
                self.put(id, run, tables)
            }
            _ => Ok(Reply::Stale),
        }
    }

    fn delete(&mut self, id: ElementId, now_ms: u64, tables: &mut impl Tables) -> Result<Reply> {
        let Some(run) = self.runs.get(&id) else { return Ok(Reply::Stale) };
        match run.phase {
            Phase::Queued => self.forget(id, tables),
            Phase::Deleting { .. } => Ok(Reply::Done),
            Phase::Started { .. } | Phase::Finished { .. } => {
                let started_ms = run.started_ms().unwrap_or(now_ms);
                let phase = Phase::Deleting { started_ms, holds_slot: run.holds_slot() };
                self.put(id, Run { phase, ..run.clone() }, tables)
            }
        }
    }

    fn schedule(
        &mut self,
        id: ElementId,
        schedule: Schedule,
        (job_max, total_max): (u32, u32),
        tables: &mut impl Tables,
    ) -> Result<Reply> {
        if self.schedules.contains_key(&id) {
            return Ok(Reply::Done);
        }
        let asked = self.schedules.values().filter(|known| !known.spec.is_empty());
        let (of_job, of_all) =
            asked.fold((0, 0), |(of_job, of_all), known| (of_job + u32::from(known.job == schedule.job), of_all + 1));
        if of_job >= job_max || of_all >= total_max {
            return Ok(Reply::Refused(Limit::JobSchedules));
        }
        self.put_schedule(id, schedule, tables)
    }

    fn unschedule(&mut self, id: ElementId, tables: &mut impl Tables) -> Result<Reply> {
        if self.schedules.remove(&id).is_none() {
            return Ok(Reply::Stale);
        }
        self.generation += 1;
        tables.remove(Table::JobSchedules, &id.0)?;
        Ok(Reply::Done)
    }

    fn fire(
        &mut self,
        id: ElementId,
        planned_ms: u64,
        run: Option<NewRun>,
        now_ms: u64,
        tables: &mut impl Tables,
    ) -> Result<Reply> {
        let Some(schedule) = self.schedules.get(&id).cloned() else { return Ok(Reply::Stale) };
        // A clock that is ahead of the log's waits for it, so that a later clock cannot plan the same instant again.
        if planned_ms <= schedule.last_ms || planned_ms > now_ms {
            cov_mark::hit!(schedule_does_not_fire_twice);
            return Ok(Reply::Stale);
        }
        if let Some(run) = run {
            let reply = self.run(run, now_ms, tables)?;
            if reply != Reply::Done {
                return Ok(reply);
            }
        }
        self.put_schedule(id, Schedule { last_ms: planned_ms, ..schedule }, tables)
    }

    fn put(&mut self, id: ElementId, run: Run, tables: &mut impl Tables) -> Result<Reply> {
        tables.put(Table::JobRuns, &id.0, &run.encode())?;
        self.generation += 1;
        self.next_order = self.next_order.max(run.order + 1);
        self.count(&run, true);
        if let Some(former) = self.runs.insert(id, run) {
            self.count(&former, false);
        }
        Ok(Reply::Done)
    }

    fn forget(&mut self, id: ElementId, tables: &mut impl Tables) -> Result<Reply> {
        let Some(run) = self.runs.remove(&id) else { return Ok(Reply::Stale) };
        self.count(&run, false);
        self.generation += 1;
        tables.remove(Table::JobRuns, &id.0)?;
        tables.remove(Table::JobSpecs, &id.0)?;
        Ok(Reply::Done)
    }

    fn put_schedule(&mut self, id: ElementId, schedule: Schedule, tables: &mut impl Tables) -> Result<Reply> {
        tables.put(Table::JobSchedules, &id.0, &schedule.encode())?;
        self.generation += 1;
        self.schedules.insert(id, schedule);
        Ok(Reply::Done)
    }

    fn count(&mut self, run: &Run, comes: bool) {
        let counts = self.counts.entry(run.job.clone()).or_default();
        let change = |number: &mut u32| *number = if comes { *number + 1 } else { *number - 1 };
        if run.phase == Phase::Queued {
            change(&mut counts.queued);
            change(&mut self.queued);
        }
        if run.holds_slot() {
            change(&mut counts.holding);
        }
        if *counts == Counts::default() {
            self.counts.remove(&run.job);
        }
    }
}

/// Changes with each change of jobs.
pub fn generation(tables: &impl Reading) -> Result<u64> {
    Ok(meta(tables)?.0)
}

fn meta(tables: &impl Reading) -> Result<(u64, u64)> {
    let Some(row) = tables.value(Table::Meta, META_KEY)? else { return Ok((0, 0)) };
    let mut reader = Reader::new(row);
    let mut read = || Ok((reader.number()?, reader.number()?));
    read().map_err(TableError::undecodable(Table::Meta, META_KEY))
}

/// All runs and schedules.
pub fn view(tables: &impl Reading) -> Result<JobsView> {
    Ok(JobsView {
        runs: rows(tables, Table::JobRuns, Run::decode)?,
        schedules: rows(tables, Table::JobSchedules, Schedule::decode)?,
    })
}

/// What a run is to be, as it was stored; `None`: it is gone, or has ended.
pub fn spec(tables: &impl Reading, id: ElementId) -> Result<Option<Bytes>> {
    tables.value(Table::JobSpecs, &id.0)
}

fn rows<T>(
    tables: &impl Reading,
    table: Table,
    decode: fn(Bytes) -> std::result::Result<T, DecodeError>,
) -> Result<BTreeMap<ElementId, T>> {
    let mut all = BTreeMap::new();
    let mut next = Vec::new();
    while let Some((key, value)) = tables.first(table, &next)? {
        let id = <[u8; 16]>::try_from(&*key).map_err(|_length| TableError::damaged(table, &key, "is not an id"))?;
        all.insert(ElementId(id), decode(value).map_err(TableError::undecodable(table, &key))?);
        // The smallest key above this one.
        next = key;
        next.push(0);
    }
    Ok(all)
}

impl Run {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.function(&self.job);
        [self.order, self.queued_ms, self.ttl_ms].into_iter().for_each(|number| writer.number(number));
        match &self.phase {
            Phase::Queued => writer.byte(0),
            Phase::Started { at_ms, is_created } => {
                writer.byte(1);
                writer.number(*at_ms);
                writer.flag(*is_created);
            }
            Phase::Finished { started_ms, at_ms, end } => {
                writer.byte(2);
                writer.number(*started_ms);
                writer.number(*at_ms);
                end.write(&mut writer);
            }
            Phase::Deleting { started_ms, holds_slot } => {
                writer.byte(3);
                writer.number(*started_ms);
                writer.flag(*holds_slot);
            }
        }
        writer.0
    }

    fn decode(row: Bytes) -> std::result::Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        let run = Self {
            job: reader.function()?,
            order: reader.number()?,
            queued_ms: reader.number()?,
            ttl_ms: reader.number()?,
            phase: match reader.byte()? {
                0 => Phase::Queued,
                1 => Phase::Started { at_ms: reader.number()?, is_created: reader.flag()? },
                2 => Phase::Finished {
                    started_ms: reader.number()?,
                    at_ms: reader.number()?,
                    end: End::read(&mut reader)?,
                },
                3 => Phase::Deleting { started_ms: reader.number()?, holds_slot: reader.flag()? },
                _ => return Err(DecodeError("has an unknown phase of a run")),
            },
        };
        reader.end().map(|()| run)
    }
}

impl Schedule {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.function(&self.job);
        writer.number(self.last_ms);
        writer.bytes(&self.spec);
        writer.0
    }

    fn decode(row: Bytes) -> std::result::Result<Self, DecodeError> {
        let mut reader = Reader::new(row);
        let schedule = Self { job: reader.function()?, last_ms: reader.number()?, spec: reader.bytes()? };
        reader.end().map(|()| schedule)
    }
}

#[cfg(test)]
mod tests;
