//! The cluster starts each run of a job once, never more than the job has slots, one for each instant of a schedule, and
//! none that was refused. In the end each run that was acknowledged has had its turn, or somebody deleted it.

use std::collections::{BTreeMap, BTreeSet};

use slimfaas_gateway::jobs::command::JobCommand;
use slimfaas_gateway::jobs::plan::{JobsView, Phase};
use slimfaas_gateway::queue::command::Command;
use slimfaas_gateway::queue::element::ElementId;
use slimfaas_gateway::store::command::decode_entry;

use super::{Seen, Verdict, violated};
use crate::journal::Event;
use crate::oracle::Oracle;

#[derive(Default)]
pub(super) struct Runs {
    started: BTreeSet<ElementId>,
    /// Deleted by somebody else, of which the gateway may learn only by finding nothing where it was about to start.
    vanished: BTreeSet<ElementId>,
    refused: BTreeSet<ElementId>,
    /// What each run that was proposed by a schedule is for.
    firings: BTreeMap<ElementId, Firing>,
    /// The run that was started for it.
    fired: BTreeMap<Firing, ElementId>,
}

/// A schedule and an instant, in milliseconds.
type Firing = (ElementId, u64);

impl Runs {
    pub(super) fn check_event(&mut self, oracle: &Oracle, event: &Event) -> Verdict {
        match event {
            Event::RunStarted { run, active, most } => self.started(oracle, *run, *active, *most),
            Event::RunGone { run, by_others: true } => {
                self.vanished.insert(*run);
                Ok(())
            }
            Event::RunRefused { run } => {
                self.refused.insert(*run);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn started(&mut self, oracle: &Oracle, run: ElementId, active: u64, most: u64) -> Verdict {
        if !self.started.insert(run) && !self.vanished.contains(&run) {
            return violated("runs", format!("{run} was started again"));
        }
        if active > most {
            return violated("runs", format!("{active} are started with {run}, of {most} that may be"));
        }
        if oracle.runs.get(&run).is_some_and(|life| !life.may_be_stored) {
            return violated("runs", format!("{run} was started; it was not accepted"));
        }
        let Some(firing) = self.firings.get(&run) else { return Ok(()) };
        match self.fired.insert(*firing, run) {
            Some(other) if other != run => {
                let (schedule, planned_ms) = firing;
                violated("runs", format!("{other} and {run} were started for {planned_ms} of schedule {schedule}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check(&mut self, seen: &Seen<'_>) {
        for (_, content) in seen.applied.iter().flat_map(|applied| &applied.entries) {
            let Ok((_, batches)) = decode_entry(content.clone()) else { continue };
            for command in batches.into_iter().flat_map(|batch| batch.commands) {
                if let Command::Job(JobCommand::Fire { schedule, planned_ms, run: Some(run) }) = command {
                    self.firings.insert(run.id, (schedule, planned_ms));
                }
            }
        }
    }

    pub(super) fn end(&self, node: &str, view: &JobsView, oracle: &Oracle) -> Verdict {
        for (id, life) in &oracle.runs {
            let had_its_turn = self.started.contains(id) || self.vanished.contains(id) || self.refused.contains(id);
            if life.is_acknowledged && !had_its_turn && !life.may_be_deleted {
                return violated("runs", format!("{id} was acknowledged and never started"));
            }
        }
        // A schedule may have fired just now.
        let asked = view.runs.iter().filter(|(id, _)| oracle.runs.contains_key(id));
        let unfinished = asked.into_iter().find(|(_, run)| !matches!(run.phase, Phase::Finished { .. }));
        match unfinished {
            Some((id, run)) => violated("runs", format!("{id} is still {:?} on {node}", run.phase)),
            None => Ok(()),
        }
    }
}
