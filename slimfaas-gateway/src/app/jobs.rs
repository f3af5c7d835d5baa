//! Jobs, wired: where the cluster can run them and there is a store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::app::asynchronous::Asynchronous;
use crate::app::source::Source;
use crate::config::Config;
use crate::drain;
use crate::jobs::definitions::Definitions;
use crate::jobs::handle::Jobs;
use crate::jobs::logs::{self, Logs};
use crate::jobs::plan::Phase;
use crate::model::function::FunctionId;
use crate::model::stats::{JobCounts, JobDepths};
use crate::telemetry::metrics::{Metrics, MetricsError, ShownJobs};

pub(super) use crate::jobs::logs::Streamer;
pub(super) use crate::jobs::worker::Worker;

/// What the routes ask, and who streams logs for them.
type Opened = ((Jobs, Logs), Streamer);

pub(super) fn open(
    config: &Config,
    source: &Source,
    asynchronous: Option<&Asynchronous>,
    metrics: &Metrics,
) -> Result<Option<Opened>, MetricsError> {
    let configured = config.jobs_configuration.clone();
    let (Some(runner), Some(asynchronous)) = (&source.jobs, asynchronous) else {
        if !configured.jobs.is_empty() {
            tracing::warn!("jobs are configured, but nothing here can run them: there are none");
        }
        return Ok(None);
    };
    let jobs = Jobs {
        store: asynchronous.store.clone(),
        definitions: Definitions::new(configured, runner.jobs(), &config.namespace),
        runner: Arc::clone(runner),
        limits: config.jobs,
        stats: Arc::default(),
    };
    let (logs, streamer) = logs::channel(Arc::clone(runner));
    metrics.add_jobs(Arc::new(Shown(jobs.clone())))?;
    Ok(Some(((jobs, logs), streamer)))
}

/// Works until `end`.
pub(super) async fn run((worker, streamer): (Worker, Streamer), end: drain::Watch) {
    tokio::join!(worker.run(end.clone()), streamer.run(end));
}

/// Jobs as metrics show them.
struct Shown(Jobs);

impl ShownJobs for Shown {
    fn depths(&self) -> Vec<JobDepths> {
        let mut of_jobs: BTreeMap<FunctionId, JobDepths> = BTreeMap::new();
        // A store that has failed says so elsewhere.
        for run in self.0.store.jobs().unwrap_or_default().runs.into_values() {
            let depths = of_jobs.entry(run.job.clone()).or_insert_with(|| JobDepths {
                job: run.job.name.to_string(),
                namespace: run.job.namespace.to_string(),
                queued: 0,
                started: 0,
                finished: 0,
            });
            match run.phase {
                Phase::Queued => depths.queued += 1,
                Phase::Finished { .. } => depths.finished += 1,
                Phase::Started { .. } | Phase::Deleting { .. } => depths.started += 1,
            }
        }
        of_jobs.into_values().collect()
    }

    fn counts(&self) -> JobCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &self.0.stats;
        JobCounts {
            asked: read(&stats.asked),
            refused: read(&stats.refused),
            fired: read(&stats.fired),
            succeeded: read(&stats.succeeded),
            failed: read(&stats.failed),
            not_taken: read(&stats.not_taken),
        }
    }
}
