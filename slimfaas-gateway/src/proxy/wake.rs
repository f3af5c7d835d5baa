//! Waits until a function has a ready endpoint: woken by the table, never by a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::clock::{self, Tick};
use crate::proxy::rejection::Rejection;
use crate::table::Table;
use crate::table::start::ColdStart;
use crate::table::view::Function;

/// Tells the scaler that functions are needed. Cheap, idempotent, does not wait.
pub trait Wake: Send + Sync + 'static {
    /// A call of a function that is up: it may have to wake others (`DependsOn`, waking with any).
    fn called(&self, function: &Function, at: Tick);

    /// The function is needed now.
    fn wake(&self, function: &Function, at: Tick);
}

/// Counts a waiting request for as long as it waits.
pub(super) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    pub(super) fn enter(function: &'a Function, limit: u32) -> Result<Self, Rejection> {
        let waiting = Self(&function.live.waiting);
        if waiting.0.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(Rejection::TooManyWaiting { limit });
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A function that has an endpoint.
pub(super) struct Ready {
    pub(super) function: Arc<Function>,
    /// What was waited for, if anything was. Boxed: few calls have one, and every connection would carry the room.
    pub(super) cold_start: Option<Box<ColdStart>>,
}

/// A reading of the function that has an endpoint: at once, or within `after` of waking it.
pub(super) async fn ready(
    table: &Table,
    wake: &dyn Wake,
    function: Arc<Function>,
    waiting_max: u32,
    after: Duration,
) -> Result<Ready, Rejection> {
    if !function.endpoints.is_empty() {
        return Ok(Ready { function, cold_start: None });
    }
    let started = clock::now();
    let waiting = Waiting::enter(&function, waiting_max)?;
    wake.wake(&function, Tick::of(started));
    let ready = tokio::time::timeout_at(started + after, endpoint(table, &function))
        .await
        .map_err(|_elapsed| Rejection::WakeTimeout { after })??;
    drop(waiting);
    let now = clock::now();
    function.live.cold_starts.record(now.duration_since(started));
    Ok(Ready { function: ready, cold_start: Some(Box::new(function.live.start.receipt(started, now))) })
}

async fn endpoint(table: &Table, function: &Function) -> Result<Arc<Function>, Rejection> {
    loop {
        let changed = function.live.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match table.view().function(&function.id) {
            None => return Err(Rejection::FunctionRemoved),
            Some(now) if !now.endpoints.is_empty() => return Ok(Arc::clone(now)),
            Some(_) => {}
        }
        changed.await;
    }
}
