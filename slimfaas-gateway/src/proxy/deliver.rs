//! One attempt to deliver a stored request, on a core and its connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request;
use tokio::sync::{mpsc, oneshot};

use super::{Core, OFFERS_MAX};
use crate::clock::{self, Tick};
use crate::drain;
use crate::model::function::FunctionId;
use crate::proxy::body::RequestBody;
use crate::proxy::rejection::Rejection;
use crate::proxy::slot;
use crate::proxy::upstream::{self, Failure, Outbound};

/// What a core is to deliver.
pub struct Delivery {
    pub function: FunctionId,
    pub head: request::Parts,
    pub body: Content,
    /// For the whole attempt.
    pub timeout: Duration,
    /// Dropped without an answer: the core has ended.
    pub report: oneshot::Sender<Delivered>,
}

/// A stored body.
pub enum Content {
    Whole(Bytes),
    /// So many bytes from where the file is now.
    File {
        file: std::fs::File,
        bytes: u64,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The function answered.
    Status(u16),
    TimedOut,
    /// It was sent, and no answer came.
    Failed(String),
    /// No replica took it: nothing was sent.
    Unsent,
}

/// Deliveries for one core. Their number is bounded by the slots of all functions.
pub type Deliveries = mpsc::UnboundedReceiver<Delivery>;

/// Delivers what arrives, until nobody sends any more. Each attempt holds `drain` until its end.
#[expect(clippy::disallowed_methods, reason = "an attempt's task is held by its drain watch")]
pub(super) async fn run(core: std::rc::Rc<Core>, mut deliveries: Deliveries, drain: drain::Watch) {
    let mut end = drain.clone();
    loop {
        let delivery = tokio::select! {
            biased; // what comes after the drain goes to another node
            () = end.signaled() => return,
            delivery = deliveries.recv() => match delivery {
                Some(delivery) => delivery,
                None => return,
            },
        };
        let (core, mut drain) = (std::rc::Rc::clone(&core), drain.clone());
        tokio::task::spawn_local(async move {
            let Delivery { function, head, body, timeout, report } = delivery;
            let body = match body {
                Content::Whole(bytes) => RequestBody::of(bytes),
                Content::File { file, bytes } => RequestBody::stored(file, bytes),
            };
            let outbound = Outbound::new(head, body);
            let attempt = tokio::time::timeout(timeout, attempt(&core, &function, outbound, timeout));
            let delivered = tokio::select! {
                biased; // what has ended has ended
                ended = attempt => ended.unwrap_or(Delivered::TimedOut),
                () = drain.forced() => Delivered::Failed("the gateway ended".to_owned()),
            };
            // Nobody waits any more: the attempt does not count.
            let _told = report.send(delivered).is_ok();
        });
    }
}

/// Offers the request to endpoints until one takes it.
async fn attempt(core: &Core, id: &FunctionId, mut outbound: Outbound, timeout: Duration) -> Delivered {
    let (table, limits) = (&core.gateway.table, &core.gateway.limits);
    for _ in 0..OFFERS_MAX {
        let Some(function) = table.view().function(id).map(Arc::clone) else { return Delivered::Unsent };
        if function.endpoints.is_empty() {
            return Delivered::Unsent;
        }
        let now = Tick::of(clock::now());
        function.live.note_call(now);
        let slot = slot::acquire(table, &function, now, limits.waiting_per_function, limits.slot_timeout).await;
        let Ok(Some(slot)) = slot else { return Delivered::Unsent };
        match upstream::send(&core.pool, &slot.endpoint, outbound, timeout).await {
            Ok(answered) => {
                let status = answered.status().as_u16();
                answered.finish().await;
                function.live.note_call(Tick::of(clock::now()));
                return Delivered::Status(status);
            }
            Err(Failure::Unsent(back)) => outbound = *back,
            Err(Failure::Sent(Rejection::ResponseTimeout { .. })) => return Delivered::TimedOut,
            Err(Failure::Sent(rejection)) => return Delivered::Failed(rejection.name().to_owned()),
            Err(Failure::ClientGone) => return Delivered::Failed("its body could not be sent".to_owned()),
        }
    }
    Delivered::Unsent
}
