//! The gateway's own routes: each file parses, calls a handle and renders.

pub mod health;
mod jobs;
pub mod queue;
pub mod status;
pub mod wake;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};

use crate::cluster::Cluster;
use crate::jobs::handle::Jobs;
use crate::jobs::logs::Logs;
use crate::model::function::FunctionId;
use crate::proxy::body::Body;
use crate::proxy::jobs::JobCall;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::{OwnRoute, QueueRoute};
use crate::proxy::wake::Wake;
use crate::proxy::{LocalFuture, OwnRoutes};
use crate::readiness::Readiness;
use crate::store::{Store, StoreError};
use crate::table::Table;
use crate::telemetry::metrics::Metrics;

/// The handles that the routes call.
pub struct Api {
    pub table: Arc<Table>,
    pub cluster: Arc<dyn Cluster>,
    pub wake: Arc<dyn Wake>,
    pub readiness: Readiness,
    pub metrics: Arc<Metrics>,
    /// Whether an agent's programs answer on this node; `None`: their word would not be understood.
    pub kernel_tells_callers: Option<fn() -> bool>,
    /// `None`: nothing is stored here.
    pub store: Option<Store>,
    /// `None`: nothing runs jobs here.
    pub jobs: Option<(Jobs, Logs)>,
    /// The largest body of a request about jobs.
    pub job_request_bytes: u64,
}

impl OwnRoutes for Api {
    fn answer<'a>(&'a self, route: OwnRoute<'a>) -> LocalFuture<'a, Response<Body>> {
        let answer = match route {
            OwnRoute::StatusAll => Ok(status::all(&self.table, &*self.cluster)),
            OwnRoute::Status { name } => status::one(&self.table, &*self.cluster, name),
            OwnRoute::WakeAll => Ok(wake::all(&self.table, &*self.wake)),
            OwnRoute::Wake { name } => wake::one(&self.table, &*self.wake, name),
            OwnRoute::Health => Ok(health::alive()),
            OwnRoute::Ready => Ok(health::ready(&self.readiness, self.kernel_tells_callers.map(|ask| ask()))),
            OwnRoute::Metrics => Ok(health::metrics(&self.metrics)),
        };
        Box::pin(std::future::ready(answer.unwrap_or_else(Rejection::into_response)))
    }

    fn answer_queue<'a>(&'a self, function: &'a FunctionId, route: QueueRoute<'a>) -> LocalFuture<'a, Response<Body>> {
        Box::pin(async move {
            let answer = queue::answer(self.store.as_ref(), function, route.action, route.query).await;
            answer.unwrap_or_else(Rejection::into_response)
        })
    }

    fn answer_job<'a>(&'a self, call: JobCall<'a>) -> LocalFuture<'a, Response<Body>> {
        Box::pin(async move { jobs::answer(self.jobs.as_ref(), call).await.unwrap_or_else(Rejection::into_response) })
    }

    fn job_request_bytes(&self) -> u64 {
        self.job_request_bytes
    }
}

/// For a majority to say how far the log is.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// Who was just told that something is stored finds it, whichever node told it. Without a leader reads see what this
/// node knows.
async fn catch_up(store: &Store) -> Result<(), Rejection> {
    match store.catch_up(CATCH_UP_TIMEOUT).await {
        Ok(()) => Ok(()),
        Err(_no_leader) => store.show().await.map_err(unavailable),
    }
}

fn unavailable(error: StoreError) -> Rejection {
    tracing::warn!(%error, "the store does not answer");
    Rejection::QueueUnavailable
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    let body = serde_json::to_string(value).expect("our own types have string keys and finite numbers");
    text(StatusCode::OK, "application/json; charset=utf-8", body)
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
