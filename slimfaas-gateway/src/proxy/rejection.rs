//! Every refusal that a client can see, and the one place where it becomes a response.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::proxy::body::Body;

/// Why the gateway itself answered. A function's own status is never one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Unknown function or route, or one that this caller may not know of: the same bytes for both.
    NotFound,
    /// The route exists with other methods, which `allow` lists.
    MethodNotAllowed {
        allow: &'static str,
    },
    /// The request is not valid HTTP, or not one that this gateway forwards.
    BadRequest(&'static str),
    /// The body or the path asks for what cannot be, in these words.
    Invalid(String),
    BodyTooLarge {
        limit: u64,
    },
    /// The client sends its body slower than the limit.
    BodyTooSlow,
    /// As many requests wait for this function as may.
    TooManyWaiting {
        limit: u32,
    },
    /// The function has no ready endpoint, and none came up in time.
    WakeTimeout {
        after: Duration,
    },
    /// All slots of the function stayed taken.
    SlotTimeout {
        after: Duration,
    },
    /// As many requests are stored for this function, or for all, as may be.
    QueueFull {
        limit: &'static str,
    },
    /// What was published is no event.
    InvalidEvent(Box<str>),
    /// A CloudEvent in a format that is not read.
    UnsupportedEventFormat(Box<str>),
    /// As many events, or bytes of them, are being delivered as may be.
    EventsFull {
        limit: &'static str,
    },
    /// The disk for stored requests is nearly full, here or on too many gateway nodes.
    StorageFull,
    /// Nothing is stored at present: no majority of gateway nodes is up, or this gateway has no store.
    QueueUnavailable,
    /// The function went away while the request waited.
    FunctionRemoved,
    /// No endpoint could be connected to.
    ConnectFailed,
    /// The function did not answer in time.
    ResponseTimeout {
        after: Duration,
    },
    /// The function closed the connection or spoke no HTTP before its response.
    ResponseFailed,
}

/// Which side of the gateway is to blame: for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Gateway,
    Function,
}

impl Rejection {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) | Self::Invalid(_) | Self::InvalidEvent(_) => StatusCode::BAD_REQUEST,
            Self::UnsupportedEventFormat(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::QueueFull { .. } | Self::EventsFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            // The original answers 503 to everything that keeps a request from its function; clients rely on it.
            Self::TooManyWaiting { .. }
            | Self::WakeTimeout { .. }
            | Self::SlotTimeout { .. }
            | Self::QueueUnavailable
            | Self::FunctionRemoved
            | Self::ConnectFailed
            | Self::ResponseTimeout { .. }
            | Self::ResponseFailed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub fn side(&self) -> Side {
        match self {
            Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::BadRequest(_)
            | Self::InvalidEvent(_)
            | Self::UnsupportedEventFormat(_)
            | Self::Invalid(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow => Side::Client,
            Self::TooManyWaiting { .. }
            | Self::WakeTimeout { .. }
            | Self::SlotTimeout { .. }
            | Self::QueueFull { .. }
            | Self::EventsFull { .. }
            | Self::StorageFull
            | Self::QueueUnavailable
            | Self::FunctionRemoved => Side::Gateway,
            Self::ConnectFailed | Self::ResponseTimeout { .. } | Self::ResponseFailed => Side::Function,
        }
    }

    /// The stable name: the problem's type, the metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::MethodNotAllowed { .. } => "method-not-allowed",
            Self::BadRequest(_) => "bad-request",
            Self::Invalid(_) => "invalid-request",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::BodyTooSlow => "body-too-slow",
            Self::TooManyWaiting { .. } => "too-many-waiting",
            Self::WakeTimeout { .. } => "wake-timeout",
            Self::SlotTimeout { .. } => "slot-timeout",
            Self::QueueFull { .. } => "queue-full",
            Self::InvalidEvent(_) => "invalid-event",
            Self::UnsupportedEventFormat(_) => "unsupported-event-format",
            Self::EventsFull { .. } => "events-full",
            Self::StorageFull => "storage-full",
            Self::QueueUnavailable => "queue-unavailable",
            Self::FunctionRemoved => "function-removed",
            Self::ConnectFailed => "connect-failed",
            Self::ResponseTimeout { .. } => "response-timeout",
            Self::ResponseFailed => "response-failed",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::NotFound => String::new(),
            Self::MethodNotAllowed { allow } => format!("this route takes {allow}"),
            Self::BadRequest(reason) => (*reason).to_owned(),
            Self::Invalid(reason) => reason.clone(),
            Self::BodyTooLarge { limit } => format!("the request's body is larger than {limit} bytes"),
            Self::BodyTooSlow => "the request's body arrives too slowly".to_owned(),
            Self::TooManyWaiting { limit } => format!("{limit} requests wait for this function already"),
            Self::WakeTimeout { after } => format!("the function did not become ready within {after:?}"),
            Self::SlotTimeout { after } => {
                format!("every parallel request that the function allows stayed in use for {after:?}")
            }
            Self::QueueFull { limit } => format!("too many requests are stored already: the limit is {limit}"),
            Self::InvalidEvent(reason) | Self::UnsupportedEventFormat(reason) => reason.to_string(),
            Self::EventsFull { limit } => format!("too many events are being delivered already: the limit is {limit}"),
            Self::StorageFull => "the disk for stored requests is nearly full".to_owned(),
            Self::QueueUnavailable => "requests cannot be stored at present".to_owned(),
            Self::FunctionRemoved => "the function was removed while the request waited".to_owned(),
            Self::ConnectFailed => "no replica of the function accepts connections".to_owned(),
            Self::ResponseTimeout { after } => format!("the function did not answer within {after:?}"),
            Self::ResponseFailed => "the function closed the connection before its response".to_owned(),
        }
    }

    /// Seconds after which trying again can help.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyWaiting { .. }
            | Self::WakeTimeout { .. }
            | Self::SlotTimeout { .. }
            | Self::QueueFull { .. } => Some(5),
            // Until somebody makes room, or what is stored was delivered.
            Self::StorageFull => Some(30),
            Self::QueueUnavailable
            | Self::EventsFull { .. }
            | Self::FunctionRemoved
            | Self::ConnectFailed
            | Self::ResponseTimeout { .. }
            | Self::ResponseFailed => Some(1),
            Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::BadRequest(_)
            | Self::InvalidEvent(_)
            | Self::UnsupportedEventFormat(_)
            | Self::Invalid(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow => None,
        }
    }

    /// Whether what is left of the request's body makes the connection unusable.
    fn closes_connection(&self) -> bool {
        matches!(self, Self::BadRequest(_) | Self::BodyTooLarge { .. } | Self::BodyTooSlow)
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        if self == Self::NotFound {
            return response;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes_connection() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        let problem = serde_json::json!({
            "type": format!("urn:slimfaas:problem:{}", self.name()),
            "title": self.status().canonical_reason(),
            "status": self.status().as_u16(),
            "detail": self.detail(),
        });
        *response.body_mut() = Body::full(Bytes::from(problem.to_string()));
        response
    }
}
