//! Large bodies of stored requests, which are files.

use prometheus::proto::MetricFamily;

use super::{counter, counters, gauge, gauges};
use crate::model::stats::BodyState;

pub(super) fn families(bodies: &BodyState) -> [MetricFamily; 8] {
    let number = |value: u64| vec![gauge(&[], i64::try_from(value).unwrap_or(i64::MAX))];
    let refused = bodies.refused.iter().map(|(reason, count)| counter(&[("reason", reason)], *count));
    [
        gauges("slimfaas_bodies", "Bodies of stored requests that are files on this node.", number(bodies.files)),
        gauges("slimfaas_bodies_bytes", "Their bytes.", number(bodies.bytes)),
        gauges(
            "slimfaas_bodies_missing",
            "Bodies of stored requests that this node lacks and fetches from others.",
            number(bodies.missing),
        ),
        counters(
            "slimfaas_bodies_uploaded_total",
            "Bodies that clients sent to this node and that were stored.",
            vec![counter(&[], bodies.stored)],
        ),
        counters(
            "slimfaas_bodies_refused_total",
            "Bodies that clients sent to this node and that were not stored, by reason.",
            refused.collect(),
        ),
        counters(
            "slimfaas_bodies_repaired_total",
            "Bodies that this node fetched from others.",
            vec![counter(&[], bodies.repaired)],
        ),
        counters(
            "slimfaas_bodies_damaged_total",
            "Bodies, here or from others, that were found not to be what was stored.",
            vec![counter(&[], bodies.damaged)],
        ),
        counters(
            "slimfaas_bodies_swept_total",
            "Bodies that belonged to no stored request any more and were removed.",
            vec![counter(&[], bodies.swept)],
        ),
    ]
}
