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

/// Readiness; what is waited for stands in a line each after the verdict, and then what callers are known by, where
/// that can be one thing or the other.
pub(super) fn ready(readiness: &Readiness, kernel_tells_callers: Option<bool>) -> Response<Body> {
    let pending = readiness.pending();
    let reasons: String = pending.iter().map(|name| format!("\nwaiting for {name}")).collect();
    let callers = match kernel_tells_callers {
        Some(true) => "\ncallers are known by the kernel's word",
        // Serving goes on: what is private stays so, as far as addresses tell.
        Some(false) => "\ncallers are known by address: no agent's programs answer on this node",
        None => "",
    };
    let (status, verdict) = match pending.is_empty() {
        true => (StatusCode::OK, "READY"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "NOT_READY"),
    };
    text(status, PLAIN, format!("{verdict}{reasons}{callers}"))
}

pub(super) fn metrics(metrics: &Metrics) -> Response<Body> {
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn readiness_says_what_callers_are_known_by() {
        let readiness = Readiness::default();
        let ask = async |tells| {
            let response = ready(&readiness, tells);
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.expect("a body in memory").to_bytes();
            (status, String::from_utf8(body.to_vec()).expect("text"))
        };
        let by_address = "callers are known by address: no agent's programs answer on this node";
        assert_eq!(ask(None).await, (200, "READY".to_owned()));
        assert_eq!(ask(Some(true)).await, (200, "READY\ncallers are known by the kernel's word".to_owned()));
        assert_eq!(ask(Some(false)).await, (200, format!("READY\n{by_address}")));
        let _blocker = readiness.block("the cluster");
        assert_eq!(ask(Some(false)).await, (503, format!("NOT_READY\nwaiting for the cluster\n{by_address}")));
    }
}
