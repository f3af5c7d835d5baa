//! Delivers what the log assigns to this node, and tells the log how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, request};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::command::Command;
use super::element::{ElementId, End};
use super::request::{Body, BodyFile, StoredRequest};
use crate::bodies::{Bodies, Missing};
use crate::clock::{self, Tick};
use crate::drain;
use crate::model::function::FunctionId;
use crate::model::spec::ParallelLimits;
use crate::model::stats::AsyncStats;
use crate::proxy::deliver::{Content, Delivered, Delivery as Attempt};
use crate::proxy::enqueue::ELEMENT_ID;
use crate::proxy::wake::Wake;
use crate::store::{Delivery, Effect, Effects, Store, StoreError};
use crate::table::Table;
use crate::table::view::Function;

/// For one proposal; it is made again until it is known what became of it.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two proposals of the same thing.
const PROPOSE_AGAIN: Duration = Duration::from_millis(100);

/// Before an element is given back: the view of this node may be a moment behind that of the leader.
const GIVE_BACK_AFTER: Duration = Duration::from_millis(50);

/// What it takes to verify or to fetch a body is not taken from the function's time, up to this. Shorter than what the
/// log grants an attempt beyond its timeout.
const PREPARE_FREE: Duration = Duration::from_secs(10);

/// Before an element is given back whose body is not to be had: other nodes may be restarting.
const WITHOUT_BODY_PAUSE: Duration = Duration::from_secs(1);

/// Least time between two looks at all queues; a busy log changes thousands of times a second.
const LOOK_SPACING: Duration = Duration::from_millis(2);

/// Asynchronous calls of a function at once, where its owner says nothing (reference §2.2).
const PARALLEL_DEFAULT: u32 = 10;

const LAST_TRY: HeaderName = HeaderName::from_static("slimfaas-last-try");
const TRY_NUMBER: HeaderName = HeaderName::from_static("slimfaas-try-number");

/// Runs on the control runtime; the calls themselves are made on the cores.
pub struct Worker {
    store: Store,
    bodies: Bodies,
    table: Arc<Table>,
    wake: Arc<dyn Wake>,
    cores: Vec<mpsc::UnboundedSender<Attempt>>,
    stats: Arc<AsyncStats>,
    next_core: usize,
    attempts: JoinSet<(ElementId, u32)>,
    running: BTreeMap<(ElementId, u32), AbortHandle>,
    /// Budgets being proposed.
    asked: BTreeMap<FunctionId, (u32, AbortHandle)>,
    proposals: JoinSet<()>,
}

impl Worker {
    /// `cores`: where deliveries are made, taking turns.
    pub fn new(
        store: Store,
        bodies: Bodies,
        table: Arc<Table>,
        wake: Arc<dyn Wake>,
        cores: Vec<mpsc::UnboundedSender<Attempt>>,
        stats: Arc<AsyncStats>,
    ) -> Self {
        Self {
            store,
            bodies,
            table,
            wake,
            cores,
            stats,
            next_core: 0,
            attempts: JoinSet::new(),
            running: BTreeMap::new(),
            asked: BTreeMap::new(),
            proposals: JoinSet::new(),
        }
    }

    /// Delivers until `end`, then tells the log how what still runs has ended. `leaving` comes first: from then on other
    /// nodes get what is to be delivered.
    pub async fn run(mut self, mut effects: Effects, leaving: drain::Watch, mut end: drain::Watch) {
        let (mut applied, mut role, mut views) = (self.store.applied(), self.store.role(), self.table.changes());
        let mut leaving = Some(leaving);
        let mut looked = clock::now();
        let mut outdated = true;
        loop {
            tokio::select! {
                biased; // deliveries before the look at all queues
                () = end.signaled() => break,
                () = signaled(&mut leaving) => {
                    // Given up, since the traffic's end is waited for by its watches.
                    leaving = None;
                    outdated = true;
                    self.leave();
                }
                effect = effects.recv() => match effect {
                    Some(effect) => self.act(effect),
                    None => break,
                },
                Some(ended) = self.attempts.join_next(), if !self.attempts.is_empty() => {
                    // One that was revoked has been forgotten already.
                    ended.ok().and_then(|attempt| self.running.remove(&attempt));
                }
                Some(_ended) = self.proposals.join_next(), if !self.proposals.is_empty() => {
                    self.asked.retain(|_, (_, proposal)| !proposal.is_finished());
                    outdated = true;
                }
                () = tokio::time::sleep_until(looked + LOOK_SPACING), if outdated => {
                    outdated = false;
                    looked = clock::now();
                    self.look();
                }
                changed = applied.changed(), if !outdated => if changed.is_ok() { outdated = true } else { break },
                changed = role.changed(), if !outdated => if changed.is_ok() { outdated = true } else { break },
                changed = views.changed(), if !outdated => if changed.is_ok() { outdated = true } else { break },
            }
        }
        while self.attempts.join_next().await.is_some() {}
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Deliver(delivery) => self.deliver(delivery),
            Effect::Revoke { element, attempt } => {
                if let Some(attempt) = self.running.remove(&(element, attempt)) {
                    attempt.abort();
                }
            }
            Effect::RevokeAll => {
                std::mem::take(&mut self.running).values().for_each(AbortHandle::abort);
            }
            Effect::ReleaseBody { element, .. } => self.bodies.release(element),
        }
    }

    fn deliver(&mut self, Delivery { assignment, request }: Delivery) {
        let (element, attempt) = (assignment.element, assignment.attempt);
        self.next_core = (self.next_core + 1) % self.cores.len().max(1);
        let core = self.cores.get(self.next_core);
        let timeout = Duration::from_millis(assignment.timeout_ms);
        let call = StoredRequest::decode(request).ok().and_then(|stored| head_and_body(stored, &assignment));
        if assignment.try_number == 1 {
            let waited = clock::unix_millis().saturating_sub(assignment.enqueued_ms);
            self.stats.waited.record(Duration::from_millis(waited));
        }
        let function = assignment.function;
        let (store, stats) = (self.store.clone(), Arc::clone(&self.stats));
        let task = match call {
            // Sent at once: calls begin in the order in which the log assigned them.
            Some((head, Body::Inline(body))) => {
                let reported = send(core, function, head, Content::Whole(body), timeout);
                self.attempts.spawn(async move {
                    let end = ended(&stats, reported).await;
                    conclude(&store, element, attempt, end).await
                })
            }
            Some((head, Body::File(file))) => {
                let (core, bodies) = (core.cloned(), self.bodies.clone());
                self.attempts.spawn(async move {
                    let end = match open(&bodies, element, file, timeout).await {
                        Ok((content, timeout)) => {
                            ended(&stats, send(core.as_ref(), function, head, content, timeout)).await
                        }
                        Err(end) => end,
                    };
                    conclude(&store, element, attempt, end).await
                })
            }
            // Nothing could ever make it a request again.
            None => self.attempts.spawn(async move {
                let end = End::Failed("the stored request cannot be read".to_owned());
                conclude(&store, element, attempt, end).await
            }),
        };
        self.running.insert((element, attempt), task);
    }

    /// Nothing more is assigned to this process.
    fn leave(&mut self) {
        let (store, me) = (self.store.clone(), self.store.me());
        self.proposals.spawn(async move { propose(&store, Command::PeerDraining(me)).await });
    }

    /// Brings the functions' demand, and as the leader their budgets, up to date.
    fn look(&mut self) {
        let view = self.table.view();
        let queues = self.store.queues();
        for queue in &queues {
            let Some(function) = view.function(&queue.id) else { continue };
            let pending = if queue.paused { 0 } else { u32::try_from(queue.pending()).unwrap_or(u32::MAX) };
            let former = function.live.queued.swap(pending, Ordering::SeqCst);
            if pending > 0 && (former == 0 || function.endpoints.is_empty()) {
                self.wake.wake(function, Tick::of(clock::now()));
            }
        }
        let known: BTreeMap<&FunctionId, u32> = queues.iter().map(|queue| (&queue.id, queue.slots)).collect();
        // Those whose queue was forgotten have nothing left in it.
        for function in view.functions().iter().filter(|function| !known.contains_key(&function.id)) {
            function.live.queued.store(0, Ordering::SeqCst);
        }
        if !self.store.role().borrow().leads {
            return;
        }
        let gone = known.iter().filter(|(id, slots)| **slots > 0 && view.function(id).is_none());
        let mut wanted: Vec<(FunctionId, u32)> = gone.map(|(id, _)| ((*id).clone(), 0)).collect();
        for function in view.functions() {
            let slots = slots(function);
            if slots != known.get(&function.id).copied().unwrap_or(0) {
                wanted.push((function.id.clone(), slots));
            }
        }
        drop(view);
        for (function, slots) in wanted {
            self.ask_for(function, slots);
        }
    }

    fn ask_for(&mut self, function: FunctionId, slots: u32) {
        if let Some((asked, proposal)) = self.asked.get(&function) {
            if *asked == slots {
                return;
            }
            proposal.abort();
        }
        let (store, of) = (self.store.clone(), function.clone());
        let proposal = self.proposals.spawn(async move {
            propose_once(&store, Command::Budget { function: of, slots }).await;
        });
        self.asked.insert(function, (slots, proposal));
    }
}

/// Has a core make the call.
fn send(
    core: Option<&mpsc::UnboundedSender<Attempt>>,
    function: FunctionId,
    head: request::Parts,
    body: Content,
    timeout: Duration,
) -> oneshot::Receiver<Delivered> {
    let (report, reported) = oneshot::channel();
    let call = Attempt { function, head, body, timeout, report };
    if core.is_none_or(|core| core.send(call).is_err()) {
        tracing::debug!("this node is ending: another one delivers");
    }
    reported
}

/// The body of an attempt, and what is left of its time.
async fn open(
    bodies: &Bodies,
    element: ElementId,
    file: BodyFile,
    timeout: Duration,
) -> Result<(Content, Duration), End> {
    let began = clock::now();
    let failure = match tokio::time::timeout(timeout, bodies.open_file(element, file)).await {
        Ok(Ok(opened)) => {
            // The log waits for an attempt a little longer than its timeout; what that allows is the function's.
            let late = clock::now().saturating_duration_since(began).saturating_sub(PREPARE_FREE);
            return Ok((Content::File { file: opened, bytes: file.bytes }, timeout.saturating_sub(late)));
        }
        Ok(Err(Missing::Nowhere)) => {
            tracing::error!(%element, "the body of a stored request is lost: no gateway node has it");
            return Err(End::Failed(Missing::Nowhere.to_string()));
        }
        Ok(Err(failure)) => failure.to_string(),
        Err(_elapsed) => "it took too long to fetch it".to_owned(),
    };
    tracing::warn!(%element, %failure, "the body of a stored request is not to be had here and now: another try follows");
    tokio::time::sleep(WITHOUT_BODY_PAUSE).await;
    Err(End::Returned)
}

async fn ended(stats: &AsyncStats, reported: oneshot::Receiver<Delivered>) -> End {
    let began = clock::now();
    let reported = reported.await;
    count(stats, clock::now().saturating_duration_since(began), reported.as_ref().ok());
    match reported {
        Ok(Delivered::Status(status)) => End::Status(status),
        Ok(Delivered::TimedOut) => End::TimedOut,
        Ok(Delivered::Failed(error)) => End::Failed(error),
        Ok(Delivered::Unsent) | Err(_) => {
            tokio::time::sleep(GIVE_BACK_AFTER).await;
            End::Returned
        }
    }
}

async fn conclude(store: &Store, element: ElementId, attempt: u32, end: End) -> (ElementId, u32) {
    propose(store, Command::Complete { element, attempt, end }).await;
    (element, attempt)
}

async fn signaled(watch: &mut Option<drain::Watch>) {
    match watch {
        Some(watch) => watch.signaled().await,
        None => std::future::pending().await,
    }
}

/// Counts an attempt by its end; without one, the core has ended before it.
fn count(stats: &AsyncStats, took: Duration, end: Option<&Delivered>) {
    stats.attempts.record(took);
    let without_status = match end {
        Some(Delivered::Status(status)) => return stats.statuses.count(*status),
        Some(Delivered::TimedOut) => &stats.timed_out,
        Some(Delivered::Failed(_)) => &stats.failed,
        Some(Delivered::Unsent) | None => &stats.unsent,
    };
    without_status.fetch_add(1, Ordering::Relaxed);
}

/// Asynchronous calls of a function that may run at once (reference §4.3).
fn slots(function: &Function) -> u32 {
    let ParallelLimits { per_function, per_pod } = function.spec.parallel;
    let by_pods = function.replicas_ready().saturating_mul(per_pod.unwrap_or(PARALLEL_DEFAULT));
    per_function.unwrap_or(PARALLEL_DEFAULT).min(by_pods)
}

/// Until the log has it, or the store has ended.
async fn propose(store: &Store, command: Command) {
    loop {
        match store.propose(command.clone(), PROPOSE_TIMEOUT).await {
            Ok(_) | Err(StoreError::Stopped | StoreError::TooLarge | StoreError::Unopened(_)) => return,
            Err(StoreError::Busy | StoreError::NotAccepted | StoreError::Unknown) => {
                tokio::time::sleep(PROPOSE_AGAIN).await;
            }
        }
    }
}

/// What is looked at again and again need not be insisted on.
async fn propose_once(store: &Store, command: Command) {
    if let Err(error) = store.propose(command, PROPOSE_TIMEOUT).await {
        tracing::debug!(%error, "a budget was not proposed");
        tokio::time::sleep(PROPOSE_AGAIN).await;
    }
}

/// The request as it is sent; `None` if it is none.
fn head_and_body(stored: StoredRequest, assignment: &super::command::Assignment) -> Option<(request::Parts, Body)> {
    let mut request = Request::builder().method(stored.method.as_str()).uri(stored.path_and_query).body(()).ok()?;
    let headers = request.headers_mut();
    for (name, value) in stored.headers {
        let value = HeaderValue::from_maybe_shared(value).ok()?;
        headers.append(HeaderName::try_from(name).ok()?, value);
    }
    headers.insert(ELEMENT_ID, HeaderValue::try_from(assignment.element.to_string()).ok()?);
    headers.insert(TRY_NUMBER, HeaderValue::from(assignment.try_number));
    headers.insert(LAST_TRY, HeaderValue::from_static(if assignment.is_last_try { "true" } else { "false" }));
    Some((request.into_parts().0, stored.body))
}
