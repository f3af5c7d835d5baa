//! Metrics of what asynchronous calls wait for.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, Metric, MetricFamily};

use super::{Stored, by_class, counter, counters, gauge, gauges, histogram, histograms, labelled, read};
use crate::model::stats::AsyncStats;

pub(super) struct AsyncCollector {
    pub(super) name: Desc,
    pub(super) stats: Arc<AsyncStats>,
    pub(super) stored: Arc<dyn Stored>,
}

impl Collector for AsyncCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = &self.stats;
        let without_status = [("timeout", &stats.timed_out), ("failed", &stats.failed), ("unsent", &stats.unsent)];
        let without_status = without_status.into_iter().map(|(outcome, count)| (outcome, read(count)));
        let attempts = by_class(&stats.statuses).chain(without_status.filter(|(_, count)| *count > 0));
        let attempts = attempts.map(|(outcome, count)| counter(&[("outcome", outcome)], count));
        let oldest = self.stored.oldest_ready().into_iter().map(|(function, age)| {
            let labels = [("function", &*function.name), ("namespace", &*function.namespace)];
            let mut metric = labelled(&labels);
            let mut value = Gauge::default();
            value.set_value(age.as_secs_f64());
            metric.set_gauge(value);
            metric
        });
        let lags = self.stored.lags().into_iter();
        let lags = lags.map(|(node, entries)| gauge(&[("node", &node)], i64::try_from(entries).unwrap_or(i64::MAX)));
        let one = |durations| -> Vec<Metric> { vec![histogram(&[], durations)] };
        vec![
            histograms(
                "slimfaas_async_store_duration_seconds",
                "From the end of a request's body until it was on the disks of a majority.",
                one(&stats.stored),
            ),
            histograms(
                "slimfaas_async_wait_duration_seconds",
                "From when a request was stored to the start of its first attempt, where this node makes it.",
                one(&stats.waited),
            ),
            histograms(
                "slimfaas_async_attempt_duration_seconds",
                "Attempts of this node to deliver, from start to end.",
                one(&stats.attempts),
            ),
            counters(
                "slimfaas_async_attempts_total",
                "Attempts of this node to deliver, by their end; `unsent` ones are made by another node and count as none.",
                attempts.collect(),
            ),
            gauges(
                "slimfaas_function_queue_oldest_ready_seconds",
                "Age of the stored request that has waited longest for a slot of its function.",
                oldest.collect(),
            ),
            gauges(
                "slimfaas_store_lag_entries",
                "Log entries that another node does not have yet, as the leader knows.",
                lags.collect(),
            ),
        ]
    }
}
