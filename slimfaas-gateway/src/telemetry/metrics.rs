//! Every metric of the gateway, declared here and in the files below. Names are those of the original where it has them
//! (reference §5).
//!
//! The hot path counts in plain atomics (`model::stats`, `table::activity`); two collectors read those at a scrape.
//! What happens seldom goes through OpenTelemetry instruments.

mod asynchronous;
mod bodies;
mod events;
mod identity;
mod jobs;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::metrics::{Counter, MeterProvider};
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter as PlainCounter, Gauge as PlainGauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

use crate::model::function::FunctionId;
use crate::model::stats::{
    AsyncStats, BUCKETS_MICROS, BodyState, Durations, QueueDepths, STATUS_CLASSES, StatusCounts, StoreState,
};
use crate::peer::Kind;
use crate::peer::stats::{OUTCOMES, PeerStats};
use crate::table::Table;
use crate::table::start::ColdStart;
use crate::table::view::Function;
use crate::telemetry::metrics::asynchronous::AsyncCollector;
pub use crate::telemetry::metrics::jobs::ShownJobs;
use crate::telemetry::traffic::{METHODS, Proof, REASONS, TrafficStats, VERDICTS};

/// The registry, and the instruments that are written to directly.
pub struct Metrics {
    registry: Registry,
    scale_decisions: Counter<u64>,
    /// Keeps the instruments alive.
    _provider: SdkMeterProvider,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot set up metrics: {0}")]
pub struct MetricsError(String);

impl Metrics {
    pub fn new(table: &Arc<Table>, traffic: &Arc<TrafficStats>) -> Result<Arc<Self>, MetricsError> {
        let registry = Registry::new();
        let failed = |error: &dyn std::error::Error| MetricsError(error.to_string());
        let traffic = TrafficCollector { name: named("slimfaas_traffic")?, stats: Arc::clone(traffic) };
        let functions = FunctionCollector { name: named("slimfaas_functions")?, table: Arc::clone(table) };
        registry.register(Box::new(traffic)).map_err(|error| failed(&error))?;
        registry.register(Box::new(functions)).map_err(|error| failed(&error))?;
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .map_err(|error| failed(&error))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("slimfaas");
        let scale_decisions = meter
            .u64_counter("slimfaas_scale_decisions")
            .with_description("Changes of a function's replicas that were asked for, by reason.")
            .build();
        Ok(Arc::new(Self { registry, scale_decisions, _provider: provider }))
    }

    /// Shows what is stored too; once, where something is.
    pub fn add_store(&self, stored: Arc<dyn Stored>, stats: Arc<AsyncStats>) -> Result<(), MetricsError> {
        self.add(StoreCollector { name: named("slimfaas_store")?, stored: Arc::clone(&stored) })?;
        self.add(AsyncCollector { name: named("slimfaas_async")?, stats, stored })
    }

    /// Shows the peer port too; once, where there is one.
    pub fn add_peers(&self, stats: &Arc<PeerStats>) -> Result<(), MetricsError> {
        self.add(PeerCollector { name: named("slimfaas_peers")?, stats: Arc::clone(stats) })
    }

    fn add(&self, collector: impl Collector + 'static) -> Result<(), MetricsError> {
        self.registry.register(Box::new(collector)).map_err(|error| MetricsError(error.to_string()))
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot render metrics");
            String::new()
        })
    }

    pub fn scale_decided(&self, function: &FunctionId, from: u32, to: u32, reason: &'static str) {
        let direction = if to > from { "up" } else { "down" };
        let labels = [
            KeyValue::new("function", StringValue::from(Arc::clone(&function.name))),
            KeyValue::new("namespace", StringValue::from(Arc::clone(&function.namespace))),
            KeyValue::new("direction", direction),
            KeyValue::new("reason", reason),
        ];
        self.scale_decisions.add(1, &labels);
    }
}

/// The registry wants a description from each collector, to tell it from others.
fn named(name: &str) -> Result<Desc, MetricsError> {
    Desc::new(name.to_owned(), "A collector.".to_owned(), Vec::new(), HashMap::new())
        .map_err(|error| MetricsError(error.to_string()))
}

struct TrafficCollector {
    name: Desc,
    stats: Arc<TrafficStats>,
}

impl Collector for TrafficCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = &self.stats;
        let requests = METHODS.iter().zip(&stats.statuses).flat_map(|(method, counts)| {
            by_class(counts).map(move |(code, count)| counter(&[("code", code), ("method", method)], count))
        });
        let reasons = REASONS.iter().zip(&stats.rejections);
        let rejections = reasons.map(|(reason, count)| counter(&[("reason", reason)], count.load(Ordering::Relaxed)));
        let phases = ColdStart::PARTS.into_iter().chain(["gateway"]).zip(&stats.cold_starts);
        let phases = phases.map(|(phase, durations)| histogram(&[("phase", phase)], durations));
        let proofs = Proof::NAMES.iter().zip(&stats.proofs);
        let proofs = proofs.map(|(proof, count)| counter(&[("proof", proof)], count.load(Ordering::Relaxed)));
        let verdicts = VERDICTS.iter().zip(&stats.verdicts);
        let verdicts = verdicts.map(|(verdict, count)| counter(&[("verdict", verdict)], count.load(Ordering::Relaxed)));
        let in_progress = stats.in_progress.load(Ordering::Relaxed);
        let connections = stats.connections.load(Ordering::Relaxed);
        vec![
            counters("http_requests_received_total", "Requests that have ended.", requests.collect()),
            histograms(
                "http_request_duration_seconds",
                "From a request's head to the end of its response.",
                vec![histogram(&[], &stats.durations)],
            ),
            histograms(
                "slimfaas_cold_start_phase_duration_seconds",
                "What calls waited for that found no ready replica; `gateway` is the gateway's own share.",
                phases.collect(),
            ),
            gauges(
                "http_requests_in_progress",
                "Requests that have begun and not ended.",
                vec![gauge(&[], in_progress)],
            ),
            counters(
                "slimfaas_caller_decisions_total",
                "Calls that only insiders may make, by what proves who calls: the kernel's word, or the address alone.",
                proofs.collect(),
            ),
            counters(
                "slimfaas_caller_verdicts_total",
                "Accepted connections, by what the kernel says of the caller; `no-agent`: nothing on this node.",
                verdicts.collect(),
            ),
            gauges("slimfaas_client_connections", "Open connections of clients.", vec![gauge(&[], connections)]),
            counters(
                "slimfaas_rejections_total",
                "Requests that the gateway refused, by reason.",
                rejections.collect(),
            ),
            counters(
                "slimfaas_clients_gone_total",
                "Requests whose client went away before the end of the response (logged as 499).",
                vec![counter(&[], stats.clients_gone.load(Ordering::Relaxed))],
            ),
            counters(
                "slimfaas_sync_retries_total",
                "Further attempts of synchronous calls, as DefaultSync asks for them.",
                vec![counter(&[], stats.retries.load(Ordering::Relaxed))],
            ),
            counters(
                "slimfaas_responses_cut_total",
                "Responses that the function broke off after their head.",
                vec![counter(&[], stats.responses_cut.load(Ordering::Relaxed))],
            ),
        ]
    }
}

/// The peer port.
struct PeerCollector {
    name: Desc,
    stats: Arc<PeerStats>,
}

impl Collector for PeerCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = &self.stats;
        let calls = Kind::ALL.into_iter().zip(&stats.calls).flat_map(|(kind, outcomes)| {
            let counted = OUTCOMES.into_iter().zip(outcomes).map(|(outcome, count)| (outcome, read(count)));
            let occurred = counted.filter(|(_, count)| *count > 0);
            occurred.map(move |(outcome, count)| counter(&[("kind", kind.as_str()), ("outcome", outcome)], count))
        });
        let served = Kind::ALL.into_iter().zip(&stats.served).map(|(kind, count)| (kind, read(count)));
        let served = served.filter(|(_, count)| *count > 0);
        let served = served.map(|(kind, count)| counter(&[("kind", kind.as_str())], count));
        vec![
            counters("slimfaas_peer_calls_total", "Calls that this node made to others.", calls.collect()),
            counters("slimfaas_peer_served_total", "Calls that others made to this node.", served.collect()),
            counters(
                "slimfaas_peer_bytes_total",
                "Bytes on connections between nodes.",
                vec![
                    counter(&[("direction", "sent")], read(&stats.bytes_sent)),
                    counter(&[("direction", "received")], read(&stats.bytes_received)),
                ],
            ),
            gauges(
                "slimfaas_peer_connections",
                "Open connections between nodes, by who opened them: this one (outgoing) or the other (incoming).",
                vec![
                    gauge(&[("direction", "outgoing")], stats.outgoing.load(Ordering::Relaxed)),
                    gauge(&[("direction", "incoming")], stats.incoming.load(Ordering::Relaxed)),
                ],
            ),
            counters(
                "slimfaas_peer_handshakes_failed_total",
                "Connections that ended before both sides had proven the key.",
                vec![
                    counter(&[("direction", "outgoing")], read(&stats.handshakes_failed_outgoing)),
                    counter(&[("direction", "incoming")], read(&stats.handshakes_failed_incoming)),
                ],
            ),
            gauges(
                "slimfaas_peers_silent",
                "Ready nodes that do not tell what their functions do; nothing is scaled down meanwhile.",
                vec![gauge(&[], stats.silent.load(Ordering::Relaxed))],
            ),
        ]
    }
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// What is stored, as somebody who knows the store reads it.
pub trait Stored: Send + Sync + 'static {
    fn queues(&self) -> Vec<QueueDepths>;
    fn store(&self) -> StoreState;
    /// Of functions with requests that wait for a slot: how long the first of them has waited.
    fn oldest_ready(&self) -> Vec<(FunctionId, Duration)>;
    /// Where this node leads: the others by name, and the log entries that they do not have yet.
    fn lags(&self) -> Vec<(Arc<str>, u64)>;
    fn bodies(&self) -> BodyState;
}

struct StoreCollector {
    name: Desc,
    stored: Arc<dyn Stored>,
}

impl Collector for StoreCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let queues = self.stored.queues();
        let state = self.stored.store();
        let each = |read: fn(&QueueDepths) -> u64, metric: fn(&[(&str, &str)], u64) -> Metric| -> Vec<Metric> {
            let one = |queue: &QueueDepths| {
                metric(&[("function", &queue.function), ("namespace", &queue.namespace)], read(queue))
            };
            queues.iter().map(one).collect()
        };
        let number = |labels: &[(&str, &str)], value: u64| gauge(labels, i64::try_from(value).unwrap_or(i64::MAX));
        let mut families = vec![
            gauges(
                "slimfaas_function_queue_ready_items",
                "Stored requests that wait for a slot of their function.",
                each(|queue| queue.ready, number),
            ),
            gauges(
                "slimfaas_function_queue_in_flight_items",
                "Stored requests that are being delivered, or wait for their callback.",
                each(|queue| queue.running + queue.accepted, number),
            ),
            gauges(
                "slimfaas_function_queue_retry_pending_items",
                "Stored requests between two attempts.",
                each(|queue| queue.waiting, number),
            ),
            gauges(
                "slimfaas_function_dead_letters",
                "Stored requests whose last attempt failed.",
                each(|queue| queue.dead, number),
            ),
            counters("slimfaas_async_enqueued_total", "Requests stored.", each(|queue| queue.enqueued, counter)),
            counters(
                "slimfaas_async_refused_total",
                "Requests not stored because of a limit.",
                each(|queue| queue.refused, counter),
            ),
            counters("slimfaas_async_succeeded_total", "Requests delivered.", each(|queue| queue.succeeded, counter)),
            counters(
                "slimfaas_async_failed_attempts_total",
                "Attempts that failed, timed out or were lost.",
                each(|queue| queue.failed_attempts, counter),
            ),
            gauges("slimfaas_store_leads", "Whether this node leads the store.", vec![gauge(&[], state.leads.into())]),
            gauges("slimfaas_store_term", "Raft's term.", vec![number(&[], state.term)]),
            gauges("slimfaas_store_voters", "Nodes that vote.", vec![number(&[], state.voters)]),
            gauges(
                "slimfaas_store_votes",
                "Whether this node is one of them: what is stored also lies on its disk.",
                vec![gauge(&[], state.votes.into())],
            ),
            gauges("slimfaas_store_log_index", "Last entry in this node's log.", vec![number(&[], state.last_log)]),
            gauges("slimfaas_store_applied_index", "Last entry applied.", vec![number(&[], state.last_applied)]),
            counters("slimfaas_store_commands_total", "Commands applied.", vec![counter(&[], state.commands)]),
            counters("slimfaas_store_syncs_total", "Syncs of the disk.", vec![counter(&[], state.syncs)]),
            counters("slimfaas_store_sync_seconds_total", "Time spent in them.", vec![seconds(&[], state.sync_time)]),
        ];
        families.extend(bodies::families(&self.stored.bodies()));
        families
    }
}

fn seconds(labels: &[(&str, &str)], time: Duration) -> Metric {
    let mut counter = PlainCounter::default();
    counter.set_value(time.as_secs_f64());
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

/// One series of one function, with its labels.
type OfFunction<'a> = &'a dyn Fn(&Function, &[(&str, &str)]) -> Metric;

/// One series per function of the current view: those of a removed function end with it.
struct FunctionCollector {
    name: Desc,
    table: Arc<Table>,
}

impl Collector for FunctionCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.name]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let view = self.table.view();
        let functions = view.functions();
        let each = |metric: OfFunction<'_>| -> Vec<Metric> {
            functions.iter().map(|function| metric(function, &labels_of(function))).collect()
        };
        let statuses = functions.iter().flat_map(|function| {
            let [name, namespace] = labels_of(function);
            by_class(&function.live.statuses)
                .map(move |(code, count)| counter(&[("code", code), name, namespace], count))
        });
        vec![
            counters("slimfaas_function_requests_total", "Ended calls of the function.", statuses.collect()),
            histograms(
                "slimfaas_function_request_duration_seconds",
                "From a call's head to the end of its response, waiting included.",
                each(&|function, labels| histogram(labels, &function.live.durations)),
            ),
            histograms(
                "slimfaas_function_cold_start_duration_seconds",
                "How long calls waited that found no ready replica; the count is that of such calls.",
                each(&|function, labels| histogram(labels, &function.live.cold_starts)),
            ),
            gauges(
                "slimfaas_function_requests_in_flight",
                "Calls that a replica works on.",
                each(&|function, labels| gauge(labels, function.live.local_in_flight().into())),
            ),
            gauges(
                "slimfaas_function_requests_waiting",
                "Calls that wait for a replica or for a free slot.",
                each(&|function, labels| gauge(labels, function.live.local_waiting().into())),
            ),
            gauges(
                "slimfaas_autoscaler_desired_replicas",
                "Replicas that the workload asks for.",
                each(&|function, labels| gauge(labels, function.replicas_requested.into())),
            ),
            gauges(
                "slimfaas_autoscaler_current_replicas",
                "Replicas that exist.",
                each(&|function, labels| gauge(labels, i64::try_from(function.pods.len()).unwrap_or(i64::MAX))),
            ),
            gauges(
                "slimfaas_autoscaler_ready_replicas",
                "Replicas that take requests.",
                each(&|function, labels| gauge(labels, function.replicas_ready().into())),
            ),
            gauges(
                "slimfaas_function_problems",
                "Annotations of the function that could not be used as they are.",
                each(&|function, labels| gauge(labels, i64::try_from(function.problems.len()).unwrap_or(i64::MAX))),
            ),
        ]
    }
}

fn labels_of(function: &Function) -> [(&'static str, &str); 2] {
    [("function", &function.id.name), ("namespace", &function.id.namespace)]
}

/// Classes that occurred; a series that is always zero says nothing.
fn by_class(counts: &StatusCounts) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    STATUS_CLASSES.into_iter().zip(counts.read()).filter(|(_, count)| *count > 0)
}

fn counters(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::COUNTER, metrics)
}

fn gauges(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::GAUGE, metrics)
}

fn histograms(name: &str, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    family(name, help, MetricType::HISTOGRAM, metrics)
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

#[expect(clippy::cast_precision_loss, reason = "the text format has floats only")]
fn counter(labels: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = PlainCounter::default();
    counter.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

#[expect(clippy::cast_precision_loss, reason = "the text format has floats only")]
fn gauge(labels: &[(&str, &str)], value: i64) -> Metric {
    let mut gauge = PlainGauge::default();
    gauge.set_value(value as f64);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(labels: &[(&str, &str)], durations: &Durations) -> Metric {
    let (counts, sum) = durations.read();
    let mut cumulative = 0;
    let buckets = BUCKETS_MICROS.iter().zip(&counts).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(Duration::from_micros(*bound).as_secs_f64());
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests;
