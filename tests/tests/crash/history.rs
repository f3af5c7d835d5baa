//! What happened, as clients and the function saw it, in the order in which they saw it.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// One line of a history; `docs/crash-suite.md` describes its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Microseconds since the scenario's begin, of a clock that never jumps.
    pub(super) at: u64,
    /// Who saw it: `client-3`, `function-17` (its connection), `nemesis`.
    pub(super) process: String,
    pub(super) kind: Kind,
    pub(super) call: Call,
    /// The sender's own name of the request, which is the path that the function gets.
    pub(super) id: String,
    /// The gateway's name of it.
    pub(super) element: Option<String>,
    pub(super) try_number: Option<u32>,
    pub(super) status: Option<u16>,
    pub(super) note: Option<String>,
}

/// Jepsen's four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It begins.
    Invoke,
    /// It happened.
    Ok,
    /// It did not happen, and will not.
    Fail,
    /// Nobody knows whether it happened.
    Info,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// A client sends a request.
    Enqueue,
    /// The function gets it.
    Deliver,
    /// Something is done to the nodes: `note` says what, `id` to which.
    Disturb,
    /// All queues are seen empty.
    Drained,
}

/// An event that only lacks its time.
impl Event {
    pub(super) fn new(process: &str, kind: Kind, call: Call, id: &str) -> Self {
        Self {
            at: 0,
            process: process.to_owned(),
            kind,
            call,
            id: id.to_owned(),
            element: None,
            try_number: None,
            status: None,
            note: None,
        }
    }

    pub(super) fn note(mut self, note: impl std::fmt::Display) -> Self {
        self.note = Some(note.to_string());
        self
    }

    fn to_json(&self) -> Value {
        let kind = match self.kind {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        };
        let call = match self.call {
            Call::Enqueue => "enqueue",
            Call::Deliver => "deliver",
            Call::Disturb => "disturb",
            Call::Drained => "drained",
        };
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put("time_us", self.at.into());
        put("process", self.process.clone().into());
        put("type", kind.into());
        put("f", call.into());
        put("id", self.id.clone().into());
        self.element.clone().and_then(|element| put("element", element.into()));
        self.try_number.and_then(|number| put("try", number.into()));
        self.status.and_then(|status| put("status", status.into()));
        self.note.clone().and_then(|note| put("note", note.into()));
        Value::Object(line)
    }
}

pub(super) struct History {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl History {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), events: Mutex::default() }
    }

    /// Writes an event down, and when that was. Whoever holds the lock reads the clock, so lines are in order.
    pub(super) fn add(&self, mut event: Event) -> u64 {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        event.at = self.now();
        let at = event.at;
        events.push(event);
        at
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("a scenario lasts minutes")
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One event a line.
pub(super) fn write(events: &[Event], file: &Path) -> Result<()> {
    let create = || std::fs::File::create(file).with_context(|| format!("cannot create {}", file.display()));
    let mut out = BufWriter::new(create()?);
    for event in events {
        writeln!(out, "{}", event.to_json())?;
    }
    out.flush().context("cannot write a history")
}
