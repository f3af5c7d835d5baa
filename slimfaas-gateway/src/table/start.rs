//! Where the time of a function's start goes: marks set by those who see each step, read once a call got through.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Instant;

/// Steps from a decision to a replica that serves, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StartPhase {
    /// The cluster is asked for replicas.
    Requested,
    /// It took note.
    Accepted,
    /// A replica has its place (a node).
    Scheduled,
    /// Its process runs.
    Started,
    /// It answers our probe.
    Listening,
}

const PHASES: usize = 5;

/// The marks of a function's present or last start.
#[derive(Default)]
pub struct StartTrace(Mutex<[Option<Instant>; PHASES]>);

impl StartTrace {
    /// A step was reached, and with it those between it and the request; the first time of each counts.
    pub fn reach(&self, phase: StartPhase, at: Instant) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = match phase {
            StartPhase::Requested => {
                *marks = [None; PHASES];
                phase
            }
            StartPhase::Accepted => phase,
            // Steps may be seen together: a replica that runs has been given a place.
            _ => StartPhase::Scheduled,
        };
        for mark in &mut marks[first as usize..=phase as usize] {
            mark.get_or_insert(at);
        }
    }

    /// The last replica is gone: the next start begins from nothing.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = [None; PHASES];
    }

    /// The receipt of a call that began at `began` and got its replica at `now`. Steps before it began cost it nothing.
    pub fn receipt(&self, began: Instant, now: Instant) -> ColdStart {
        let marks = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reached = began;
        let mut parts = [Duration::ZERO; ColdStart::PARTS.len()];
        for (part, mark) in parts.iter_mut().zip(marks.into_iter().chain([Some(now)])) {
            let at = mark.unwrap_or(reached).clamp(reached, now.max(reached));
            *part = at.duration_since(reached);
            reached = at;
        }
        ColdStart(parts)
    }
}

/// What a call waited for, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdStart([Duration; PHASES + 1]);

impl ColdStart {
    /// Each until its end: the decision (until the cluster is asked), its answer, a place for a replica, its process,
    /// its first good answer to a probe, and until the call was given to it.
    pub const PARTS: [&'static str; PHASES + 1] =
        ["decision", "scale", "scheduled", "started", "listening", "forwarded"];

    pub fn parts(&self) -> impl Iterator<Item = (&'static str, Duration)> + '_ {
        Self::PARTS.into_iter().zip(self.0)
    }

    /// The gateway's own share: everything that waits neither for the cluster nor for the function.
    pub fn own(&self) -> Duration {
        self.0[0] + self.0[PHASES]
    }

    /// As `Server-Timing` has it (W3C Server Timing): milliseconds.
    pub fn server_timing(&self) -> String {
        let mut text = String::with_capacity(160);
        for (name, time) in self.parts().chain([("gateway", self.own())]) {
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(name);
            text.push_str(&format!(";dur={:.3}", time.as_secs_f64() * 1000.0));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn every_part_of_a_wait_is_accounted_for() {
        let began = clock::now();
        let trace = StartTrace::default();
        for (phase, at) in [
            (StartPhase::Requested, 2),
            (StartPhase::Accepted, 5),
            (StartPhase::Scheduled, 20),
            (StartPhase::Started, 500),
            (StartPhase::Scheduled, 600),
            (StartPhase::Listening, 530),
        ] {
            trace.reach(phase, began + ms(at));
        }
        let receipt = trace.receipt(began, began + ms(531));
        assert_eq!(receipt.0, [ms(2), ms(3), ms(15), ms(480), ms(30), ms(1)]);
        assert_eq!(receipt.own(), ms(3));
        assert_eq!(
            receipt.server_timing(),
            "decision;dur=2.000, scale;dur=3.000, scheduled;dur=15.000, started;dur=480.000, listening;dur=30.000, \
             forwarded;dur=1.000, gateway;dur=3.000"
        );
        // A call that came when the process had just started.
        let late = trace.receipt(began + ms(510), began + ms(531));
        assert_eq!(late.0, [ms(0), ms(0), ms(0), ms(0), ms(20), ms(1)]);
        // A call that needed nothing of this start.
        assert_eq!(trace.receipt(began + ms(900), began + ms(901)).0, [ms(0), ms(0), ms(0), ms(0), ms(0), ms(1)]);
    }

    #[test]
    fn steps_seen_together_have_one_time() {
        let began = clock::now();
        let trace = StartTrace::default();
        trace.reach(StartPhase::Requested, began);
        trace.reach(StartPhase::Listening, began + ms(7));
        // The cluster's answer was never seen (another node asked): its time is part of the next step.
        assert_eq!(trace.receipt(began, began + ms(7)).0, [ms(0), ms(0), ms(7), ms(0), ms(0), ms(0)]);
        trace.clear();
        assert_eq!(trace.receipt(began, began + ms(9)).0, [ms(0), ms(0), ms(0), ms(0), ms(0), ms(9)]);
    }
}
