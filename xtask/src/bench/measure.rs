//! One measurement: the load as a process of its own, and what others use meanwhile.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::{MEASURING, Outcome};
use super::usage::{Usage, of_tree};
use crate::process::{Running, bound, check_interrupted, interrupted, terminate};

/// Between two readings of the memory under load.
const SAMPLING: Duration = Duration::from_millis(50);

/// What came of one load.
pub(crate) struct Sample {
    pub(crate) outcome: Outcome,
    /// Of all watched processes while it was measured.
    pub(crate) cpu_micros: u64,
    /// The most memory that each watched process held.
    pub(crate) resident_max: Vec<u64>,
}

impl Sample {
    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.outcome.requests as f64 / (self.outcome.elapsed as f64 / 1e9)
    }

    /// Microseconds of CPU per request, of all watched processes together.
    pub(crate) fn cpu_per_request(&self) -> f64 {
        self.cpu_micros as f64 / self.outcome.requests as f64
    }
}

/// Runs the load with these arguments while the processes `watched`, each with its children, are looked at.
pub(crate) fn measure(load: &[OsString], watched: &[u32]) -> Result<Sample> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = bound(own)?;
    command.arg("bench-load").args(load).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut load = Running::start("the load", &mut command)?;
    let load_id = load.id();
    let mut lines = BufReader::new(load.child().stdout.take().context("the load has no output")?).lines();
    let mut next = || lines.next().transpose()?.context("the load ended early: its reason is above");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample_memory(watched, load_id, &done));
        let measured = (|| {
            let first = next()?;
            ensure!(first == MEASURING, "the load said {first}");
            let before = cpu_micros(watched)?;
            let outcome = Outcome::from_json(&next()?)?;
            anyhow::Ok((outcome, cpu_micros(watched)? - before))
        })();
        done.store(true, Ordering::Relaxed);
        let resident_max = sampler.join().expect("the sampler does not panic");
        check_interrupted()?;
        let (outcome, cpu_micros) = measured?;
        ensure!(load.wait()?.success(), "the load failed");
        Ok(Sample { outcome, cpu_micros, resident_max })
    })
}

fn cpu_micros(watched: &[u32]) -> Result<u64> {
    watched.iter().map(|id| Ok(of_tree(*id)?.cpu_micros)).sum()
}

/// The most memory that each held until `done`. An interrupt ends the load, and so what waits for it.
fn sample_memory(watched: &[u32], load: u32, done: &AtomicBool) -> Vec<u64> {
    let mut most = vec![0; watched.len()];
    while !done.load(Ordering::Relaxed) {
        for (most, id) in most.iter_mut().zip(watched) {
            // One that is gone fails the measurement by itself.
            let Usage { resident_bytes, .. } = of_tree(*id).unwrap_or_default();
            *most = resident_bytes.max(*most);
        }
        if interrupted() {
            terminate(load);
            break;
        }
        std::thread::sleep(SAMPLING);
    }
    most
}
