//! Metrics of jobs.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{Metrics, MetricsError, counter, counters, gauge, gauges, named};
use crate::model::stats::{JobCounts, JobDepths};

/// Jobs as metrics show them.
pub trait ShownJobs: Send + Sync + 'static {
    /// Of each job with runs.
    fn depths(&self) -> Vec<JobDepths>;

    fn counts(&self) -> JobCounts;
}

impl Metrics {
    /// Shows jobs too; once, where there are any.
    pub fn add_jobs(&self, shown: Arc<dyn ShownJobs>) -> Result<(), MetricsError> {
        self.add(JobCollector { name: named("slimfaas_jobs")?, shown })
    }
}

struct JobCollector {
    name: Desc,
    shown: Arc<dyn ShownJobs>,
}

impl Collector for JobCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut runs = Vec::new();
        for depths in self.shown.depths() {
            let states = [("queued", depths.queued), ("started", depths.started), ("finished", depths.finished)];
            for (state, count) in states {
                let labels = [("job", &*depths.job), ("namespace", &*depths.namespace), ("state", state)];
                runs.push(gauge(&labels, i64::try_from(count).unwrap_or(i64::MAX)));
            }
        }
        let counts = self.shown.counts();
        let one = |count| vec![counter(&[], count)];
        vec![
            gauges("slimfaas_job_runs", "Runs of jobs, by what they do; `started` ones hold a slot.", runs),
            counters("slimfaas_job_runs_asked_total", "Runs that callers had stored by this node.", one(counts.asked)),
            counters(
                "slimfaas_job_runs_refused_total",
                "Runs that callers asked this node for and that were not stored: a limit, or no majority.",
                one(counts.refused),
            ),
            counters(
                "slimfaas_job_runs_ended_total",
                "Runs whose end this node noted while it led.",
                vec![
                    counter(&[("outcome", "succeeded")], counts.succeeded),
                    counter(&[("outcome", "failed")], counts.failed),
                ],
            ),
            counters(
                "slimfaas_job_schedules_fired_total",
                "Runs that schedules made while this node led.",
                one(counts.fired),
            ),
            counters(
                "slimfaas_job_runs_not_taken_total",
                "Times that the cluster did not start or remove a run that this node, leading, asked for.",
                one(counts.not_taken),
            ),
        ]
    }
}
