//! Events: `/publish-event/{event}/…` and `/events`. One request goes to every ready replica of every subscriber.
//!
//! The body is read once, within limits; then each delivery is a task of its own, so that none waits for another.

mod delivery;
mod report;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderMap, Response, header, request};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::delivery::{Event, Target};
use self::report::Report;
use super::{body_limits, declared_length};
use crate::clock;
use crate::config::{Config, EventTarget};
use crate::events::cloud_event::{self, Found, Mode, NotAnEvent};
use crate::events::name;
use crate::events::prefer::Preferences;
use crate::events::spool::{Payload, Spool, SpoolError, SpoolLimits};
use crate::model::caller::Caller;
use crate::model::function::FunctionId;
use crate::model::spec::{FunctionSpec, UpstreamProtocol};
use crate::model::visibility::Visibility;
use crate::proxy::body::{Body, BodyLimits, RequestBody};
use crate::proxy::caller::Connection;
use crate::proxy::outcome::Outcome;
use crate::proxy::rejection::Rejection;
use crate::proxy::router::EventCall;
use crate::proxy::upstream::{self, Failure};
use crate::proxy::visibility;
use crate::table::view::{Endpoint, Function, View};
use crate::telemetry::events::EventStats;

/// Beside the store, in its folder.
const FOLDER: &str = "events";

/// Structured bodies in files that are checked at once: each may take memory in proportion to its attributes.
const CHECKS_AT_ONCE: usize = 4;

/// What all cores share.
pub struct Events {
    stats: Arc<EventStats>,
    spool: Spool,
    external: Vec<External>,
    own_namespace: Arc<str>,
    at_once: Arc<Semaphore>,
    sending: Semaphore,
    checking: Semaphore,
    structured_bytes: u64,
}

/// An address outside of the cluster, for one event.
struct External {
    event: String,
    visibility: Visibility,
    endpoint: Arc<Endpoint>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot use {folder} for bodies of events: {source} (is it a directory that this process may write?)")]
pub struct EventsError {
    folder: std::path::PathBuf,
    source: io::Error,
}

impl Events {
    pub fn open(config: &Config) -> Result<Self, EventsError> {
        let folder = match &config.store_directory {
            Some(store) => store.join(FOLDER),
            None => std::env::temp_dir().join(format!("slimfaas-events-{}", std::process::id())),
        };
        let limits = SpoolLimits {
            memory_bytes: config.events.memory_bytes,
            body_bytes: config.events.body_bytes.min(config.limits.body_bytes),
            file_bytes: config.events.file_bytes,
            disk_reserve: config.queue.disk_reserve,
        };
        let spool = Spool::new(folder.clone(), limits);
        match (spool.prepare(), &config.store_directory) {
            (Ok(()), _) => {}
            (Err(source), Some(_store)) => return Err(EventsError { folder, source }),
            (Err(error), None) => {
                // Where nothing can be written, small events pass all the same.
                let folder = folder.display();
                tracing::warn!(%error, %folder, "larger events will be refused: set SlimFaas__Store__Directory");
            }
        }
        Ok(Self {
            stats: Arc::new(EventStats::new(spool.used())),
            spool,
            external: config.event_targets.iter().map(External::new).collect(),
            own_namespace: config.namespace.as_str().into(),
            at_once: Arc::new(Semaphore::new(config.events.at_once.min(Semaphore::MAX_PERMITS))),
            sending: Semaphore::new(config.events.deliveries.min(Semaphore::MAX_PERMITS)),
            checking: Semaphore::new(CHECKS_AT_ONCE),
            structured_bytes: config.events.structured_bytes,
        })
    }

    pub fn stats(&self) -> Arc<EventStats> {
        Arc::clone(&self.stats)
    }

    /// Counts one event against the limit until it is dropped.
    fn begin(&self) -> Result<Publishing, Rejection> {
        let permit = Arc::clone(&self.at_once).try_acquire_owned();
        let Ok(permit) = permit else { return Err(Rejection::EventsFull { limit: "events at once" }) };
        let stats = Arc::clone(&self.stats);
        stats.publishing.fetch_add(1, Ordering::Relaxed);
        Ok(Publishing { stats, _permit: permit })
    }

    /// Who gets the event from this caller.
    fn subscribers(&self, view: &View, caller: &Caller, event: &str, path: &str) -> Subscribers {
        let subscribes = |function: &&Arc<Function>| {
            let mut ours = function.spec.subscribe_events.iter().filter(|subscription| subscription.event == event);
            ours.any(|subscription| {
                let visibility = visibility::of_event(&function.spec, subscription.visibility, path);
                visibility::decide(visibility, caller, &function.id, &function.spec).is_ok()
            })
        };
        let reaches = |external: &&External| {
            external.event == event && (external.visibility == Visibility::Public || self.is_of_own_namespace(caller))
        };
        Subscribers {
            functions: view.functions().iter().filter(subscribes).cloned().collect(),
            external: self.external.iter().filter(reaches).map(|external| Arc::clone(&external.endpoint)).collect(),
        }
    }

    /// External addresses are nobody's function: as if they were one of the gateway's namespace that excludes nobody.
    fn is_of_own_namespace(&self, caller: &Caller) -> bool {
        let id = FunctionId { namespace: Arc::clone(&self.own_namespace), name: Arc::from("") };
        visibility::is_internal(caller, &id, &FunctionSpec::default())
    }
}

impl External {
    fn new(target: &EventTarget) -> Self {
        let EventTarget { event, visibility, address, base_path } = target;
        // What reports and logs call it; its path may be a secret.
        let shown = Arc::from(format!("http://{address}"));
        let endpoint = Endpoint::new(&shown, address.clone(), base_path.clone(), UpstreamProtocol::Http1);
        Self { event: event.clone(), visibility: *visibility, endpoint: Arc::new(endpoint) }
    }
}

/// One event, from its head to its last delivery's end.
struct Publishing {
    stats: Arc<EventStats>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.stats.publishing.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Subscribers {
    functions: Vec<Arc<Function>>,
    external: Vec<Arc<Endpoint>>,
}

impl Subscribers {
    fn or_not_found(self) -> Result<Self, Rejection> {
        if self.functions.is_empty() && self.external.is_empty() { Err(Rejection::NotFound) } else { Ok(self) }
    }
}

pub(super) async fn serve(
    connection: &Rc<Connection>,
    call: EventCall<'_>,
    head: request::Parts,
    body: Incoming,
    outcome: Outcome,
) -> Response<Body> {
    match publish(connection, call, head, body).await {
        Ok(response) => outcome.answer(response),
        Err(failure) => outcome.fail(failure),
    }
}

async fn publish(
    connection: &Rc<Connection>,
    call: EventCall<'_>,
    mut head: request::Parts,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let gateway = &connection.core.gateway;
    let events = &gateway.events;
    let mode = cloud_event::mode(&head.headers)?;
    let named = name_in_head(call, mode, &head.headers)?;
    // Worked out for unknown events too, so that the time of the answer does not tell them from private ones.
    let caller = connection.caller().await;
    if let Some(name) = &named {
        let _some = events.subscribers(&gateway.table.view(), &caller, name, call.path).or_not_found()?;
    }
    let is_structured = matches!(mode, Mode::Structured | Mode::Batch);
    let body_bytes = events.spool.limits().body_bytes;
    let limit = if is_structured { body_bytes.min(events.structured_bytes) } else { body_bytes };
    if declared_length(&head).is_some_and(|length| length > limit) {
        return Err(Rejection::BodyTooLarge { limit }.into());
    }
    let publishing = events.begin()?;
    let limits = BodyLimits { bytes: limit, ..body_limits(&gateway.limits) };
    let payload = read(&events.spool, RequestBody::new(body, limits)).await?;
    let found = if is_structured { check_structured(events, mode, &payload).await? } else { Found::default() };
    let name = match named {
        Some(name) => name,
        None => only_type(found)?,
    };
    // Once more: the body may have taken its time.
    let subscribers = events.subscribers(&gateway.table.view(), &caller, &name, call.path).or_not_found()?;

    let preferences = Preferences::of(&head.headers);
    upstream::prepare_copy(&mut head, call.path_offset, connection);
    let counts = events.stats.published(&name);
    let event = Rc::new(Event { head, payload, began: clock::now(), counts, _publishing: publishing });
    let mut reports = fan_out(connection, &event, subscribers);
    drop(event);
    Ok(report::answer(&name, preferences, &mut reports).await)
}

/// Starts every delivery. The channel ends with the last of them.
fn fan_out(
    connection: &Rc<Connection>,
    event: &Rc<Event>,
    subscribers: Subscribers,
) -> mpsc::UnboundedReceiver<Report> {
    let (sender, reports) = mpsc::unbounded_channel();
    let launch = |target| {
        delivery::start(&connection.core, Rc::clone(event), target, sender.clone(), connection.drain.clone());
    };
    for function in subscribers.functions {
        delivery::targets(function).into_iter().for_each(&launch);
    }
    subscribers.external.into_iter().map(Target::External).for_each(&launch);
    reports
}

/// The event's name, where the head says it; a binary CloudEvent is checked in any case.
fn name_in_head(call: EventCall<'_>, mode: Mode, headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    let event_type = match mode {
        Mode::Binary => Some(cloud_event::read_binary(headers)?),
        Mode::Plain | Mode::Structured | Mode::Batch => None,
    };
    match (call.event, event_type) {
        (Some(segment), _) => name::from_segment(segment).map(Some).map_err(|error| invalid(&error)),
        (None, Some(event_type)) => {
            name::check(&event_type).map(|()| Some(event_type)).map_err(|error| invalid(&error))
        }
        (None, None) if mode == Mode::Plain => {
            let content_type = headers.get(header::CONTENT_TYPE).map_or("none", |value| value.to_str().unwrap_or("?"));
            Err(Rejection::InvalidEvent(
                format!(
                    "this route takes CloudEvents: with ce-… headers, or as application/cloudevents+json or \
                     application/cloudevents-batch+json; the content type is {content_type}"
                )
                .into(),
            ))
        }
        (None, None) => Ok(None),
    }
}

/// A batch may be routed by its type if it has one only.
fn only_type(found: Found) -> Result<String, Rejection> {
    match found {
        Found { event_type: Some(one), other_type: Some(other) } => {
            let reason = format!("the batch has events of the types {one:?} and {other:?}: send a batch for each type");
            Err(Rejection::InvalidEvent(reason.into()))
        }
        Found { event_type: Some(event_type), .. } => {
            name::check(&event_type).map(|()| event_type).map_err(|error| invalid(&error))
        }
        Found { event_type: None, .. } => Err(Rejection::InvalidEvent("the batch is empty".into())),
    }
}

fn invalid(error: &dyn std::error::Error) -> Rejection {
    Rejection::InvalidEvent(error.to_string().into())
}

async fn read(spool: &Spool, mut body: RequestBody) -> Result<Payload, Failure> {
    let mut writer = spool.write();
    loop {
        match body.next_data().await {
            Ok(Some(data)) => writer.write(data).await.map_err(Rejection::from)?,
            Ok(None) => return Ok(writer.finish().await.map_err(Rejection::from)?),
            Err(fault) => return Err(upstream::failure_within_body(fault.kind())),
        }
    }
}

/// Reads a structured body; one in a file elsewhere than on this core.
async fn check_structured(events: &Events, mode: Mode, payload: &Payload) -> Result<Found, Rejection> {
    let file = match payload {
        Payload::Memory(bytes) => return Ok(cloud_event::read_structured(mode, &**bytes)?),
        Payload::File(file) => file.open().map_err(SpoolError::Disk)?,
    };
    let _permit = events.checking.acquire().await;
    let check = tokio::task::spawn_blocking(move || cloud_event::read_structured(mode, io::BufReader::new(file)));
    Ok(check.await.expect("reading an event does not panic")?)
}

impl From<NotAnEvent> for Rejection {
    fn from(error: NotAnEvent) -> Self {
        match error {
            NotAnEvent::Format(reason) => Self::UnsupportedEventFormat(reason.into()),
            NotAnEvent::Invalid(reason) => Self::InvalidEvent(reason.into()),
        }
    }
}

impl From<NotAnEvent> for Failure {
    fn from(error: NotAnEvent) -> Self {
        Self::Sent(error.into())
    }
}

impl From<SpoolError> for Rejection {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::TooLarge(limit) => Self::BodyTooLarge { limit },
            SpoolError::Full(_) => Self::EventsFull { limit: "bytes of bodies in files" },
            SpoolError::DiskFull => Self::StorageFull,
            SpoolError::Disk(error) => {
                tracing::error!(%error, "bodies of events cannot be kept: look at the disk");
                Self::StorageFull
            }
        }
    }
}
