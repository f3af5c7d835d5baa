//! Events, by name and by what became of their deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::{Metrics, MetricsError, counter, counters, gauge, gauges, histogram, histograms, named, read};
use crate::telemetry::events::EventStats;

impl Metrics {
    /// Shows events too; once.
    pub fn add_events(&self, stats: Arc<EventStats>) -> Result<(), MetricsError> {
        self.add(EventCollector { name: named("slimfaas_events")?, stats })
    }
}

struct EventCollector {
    name: Desc,
    stats: Arc<EventStats>,
}

impl Collector for EventCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = &self.stats;
        let each = stats.each();
        let published = each.iter().map(|(event, counts)| counter(&[("event", event)], counts.published()));
        let outcomes = each.iter().flat_map(|(event, counts)| {
            let occurred = counts.outcomes().filter(|(_, count)| *count > 0);
            occurred.map(move |(outcome, count)| counter(&[("event", event), ("outcome", outcome.as_str())], count))
        });
        let spooled = i64::try_from(read(&stats.spooled)).unwrap_or(i64::MAX);
        vec![
            counters("slimfaas_events_published_total", "Events that had subscribers.", published.collect()),
            counters(
                "slimfaas_event_deliveries_total",
                "Deliveries of events that have ended, one for each replica, by outcome.",
                outcomes.collect(),
            ),
            histograms(
                "slimfaas_event_delivery_duration_seconds",
                "From an event's whole body to the end of a delivery, waiting and all attempts included.",
                vec![histogram(&[], &stats.deliveries)],
            ),
            counters(
                "slimfaas_event_retries_total",
                "Further attempts of deliveries.",
                vec![counter(&[], read(&stats.retries))],
            ),
            gauges(
                "slimfaas_events_in_progress",
                "Events whose body is being read or that are being delivered.",
                vec![gauge(&[], stats.publishing.load(Ordering::Relaxed))],
            ),
            gauges(
                "slimfaas_event_deliveries_in_progress",
                "Deliveries of events that have not ended.",
                vec![gauge(&[], stats.delivering.load(Ordering::Relaxed))],
            ),
            gauges("slimfaas_event_body_file_bytes", "Bodies of events in files.", vec![gauge(&[], spooled)]),
        ]
    }
}
