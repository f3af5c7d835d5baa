//! `/health`, `/ready` and `/metrics` (reference §1.18).

use http::{Response, StatusCode};

use super::text;
use crate::proxy::body::Body;
use crate::readiness::Readiness;
use crate::telemetry::metrics::Metrics;

const PLAIN: &str = "text/plain; charset=utf-8";

/// Liveness: this process answers.
pub(super) fn alive() -> Response<Body> {
    text(StatusCode::OK, PLAIN, "OK".to_owned())
}

/// Readiness; what is waited for stands in a line each after the verdict.
pub(super) fn ready(readiness: &Readiness) -> Response<Body> {
    let pending = readiness.pending();
    if pending.is_empty() {
        return text(StatusCode::OK, PLAIN, "READY".to_owned());
    }
    let reasons: String = pending.iter().map(|name| format!("\nwaiting for {name}")).collect();
    text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("NOT_READY{reasons}"))
}

pub(super) fn metrics(metrics: &Metrics) -> Response<Body> {
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render())
}
