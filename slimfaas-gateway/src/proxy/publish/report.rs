//! What publishers hear of their event.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use super::delivery::Target;
use crate::clock;
use crate::events::prefer::Preferences;
use crate::proxy::body::Body;
use crate::telemetry::events::DeliveryOutcome;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// One delivery.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Report {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    function: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    namespace: Option<Arc<str>>,
    /// A replica, or the beginning of an external address.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    target: Option<Arc<str>>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) attempts: u32,
    milliseconds: f64,
}

impl Report {
    pub(super) fn begin(target: &Target) -> Self {
        let (function, target) = match target {
            Target::Replica(function, endpoint) => (Some(function), Some(Arc::clone(&endpoint.pod))),
            Target::External(endpoint) => (None, Some(Arc::clone(&endpoint.pod))),
            Target::Asleep(function) => (Some(function), None),
        };
        Self {
            function: function.map(|function| Arc::clone(&function.id.name)),
            namespace: function.map(|function| Arc::clone(&function.id.namespace)),
            target,
            outcome: "",
            status: None,
            attempts: 0,
            milliseconds: 0.0,
        }
    }

    pub(super) fn end(&mut self, outcome: DeliveryOutcome, took: Duration) {
        self.outcome = outcome.as_str();
        // To the microsecond, which is a number that people can read.
        self.milliseconds = (took.as_secs_f64() * 1_000_000.0).round() / 1000.0;
    }
}

fn text<S: Serializer>(text: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(serializer)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Reports<'a> {
    event: &'a str,
    /// False: the publisher did not want to wait for all.
    complete: bool,
    deliveries: Vec<Report>,
}

/// Waits for the deliveries as long as the publisher wants to, and says what it wants to hear.
pub(super) async fn answer(
    event: &str,
    preferences: Preferences,
    reports: &mut mpsc::UnboundedReceiver<Report>,
) -> Response<Body> {
    let mut deliveries = Vec::new();
    let complete = collect(&mut deliveries, reports, preferences.wait).await;
    let status = match (complete, preferences.representation) {
        (false, _) => StatusCode::ACCEPTED,
        (true, true) => StatusCode::OK,
        (true, false) => StatusCode::NO_CONTENT,
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if preferences.representation {
        // In an order that does not depend on who was fast.
        deliveries.sort_by(|a, b| (&a.namespace, &a.function, &a.target).cmp(&(&b.namespace, &b.function, &b.target)));
        let reports = Reports { event, complete, deliveries };
        let text = serde_json::to_string(&reports).expect("our own types have string keys and finite numbers");
        *response.body_mut() = Body::full(text);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static("return=representation"));
    }
    response
}

/// Whether all have ended within `wait`.
async fn collect(
    deliveries: &mut Vec<Report>,
    reports: &mut mpsc::UnboundedReceiver<Report>,
    wait: Option<Duration>,
) -> bool {
    let all = async {
        while let Some(report) = reports.recv().await {
            deliveries.push(report);
        }
    };
    match wait {
        None => {
            all.await;
            true
        }
        // A timer would give it a millisecond, in which some may end.
        Some(Duration::ZERO) => false,
        Some(wait) => tokio::time::timeout_at(clock::now() + wait, all).await.is_ok(),
    }
}
