//! What the disk's writer tells everybody else: how far it is, what the queues look like, and whether it failed.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::types::{LogId, StoredMembership, Vote};
use super::with_sources;
use crate::clock::{self, Instant, Tick};
use crate::model::function::FunctionId;
use crate::queue::element::PeerRun;
use crate::queue::function::FunctionQueue;
use crate::queue::tables::TableError;
use crate::store::Effect;

/// The log's front is removed in steps of this size, so that none holds up what is to be written meanwhile.
const MARK_BYTES: u64 = 512 << 10;

pub(in crate::store) struct Shared {
    /// The last log entry that a power failure cannot take from this node.
    pub(super) durable: watch::Sender<Option<LogId>>,
    /// As saved last. Another leader's entries come into the log only after its vote has.
    pub(super) vote: Mutex<Option<Vote>>,
    /// Index of the last entry whose changes local reads see.
    pub(super) visible: watch::Sender<Option<u64>>,
    /// When the queue's next timer is due, by the log's time.
    pub(super) next_due: watch::Sender<Option<u64>>,
    /// Why the disk's writer gave up. Nothing is answered with success after that.
    pub(super) failure: watch::Sender<Option<Arc<str>>>,
    /// This process as the state machine is to know it. Changes when it was declared gone.
    pub(super) me: watch::Sender<PeerRun>,
    /// Processes that the state knows.
    pub(super) peers: watch::Sender<Arc<[PeerRun]>>,
    pub(super) applied: Mutex<(Option<LogId>, StoredMembership)>,
    pub(super) queues: Mutex<Queues>,
    /// Entries of the log, one for each [`MARK_BYTES`] or so, and the bytes of all up to there.
    pub(super) marks: Mutex<VecDeque<(u64, u64)>>,
    pub(super) effects: mpsc::UnboundedSender<Effect>,
    /// Since when the writer is at its present transaction; never: at none.
    writing_since: AtomicU64,
    /// Where to note that the file is damaged, for the next start.
    mark: Option<PathBuf>,
    pub(super) counters: Counters,
    time: Mutex<LogTime>,
}

/// The log's time never goes back, and goes on when a wall clock that was ahead is set right, or a leader with such a
/// clock is followed by one with the true time. Otherwise whatever is to happen "in a second" would wait for the wall
/// clock to catch up.
struct LogTime {
    ms: u64,
    /// When it was that.
    at: Instant,
}

impl LogTime {
    fn now(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.at).as_millis();
        self.ms.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// An entry has this time.
    fn reached(&mut self, ms: u64, at: Instant) {
        // What lies behind took its time on the way here.
        if ms > self.now(at) {
            *self = Self { ms, at };
        }
    }
}

/// The queues' counters as of the last entry applied.
#[derive(Default)]
pub(super) struct Queues {
    pub(super) functions: BTreeMap<FunctionId, FunctionQueue>,
    pub(super) by_number: BTreeMap<u64, FunctionId>,
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

/// Counted since the process began.
#[derive(Debug, Default)]
pub struct Counters {
    /// Transactions that waited for the disk.
    pub syncs: AtomicU64,
    /// Time spent in them.
    pub sync_nanos: AtomicU64,
    pub sync_nanos_max: AtomicU64,
    /// Log entries written.
    pub entries: AtomicU64,
    /// Their bytes.
    pub entry_bytes: AtomicU64,
    /// Batches of proposals in the entries applied.
    pub batches: AtomicU64,
    /// Commands in the entries applied.
    pub commands: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        Self::add(&self.syncs, 1);
        Self::add(&self.sync_nanos, nanos);
        self.sync_nanos_max.fetch_max(nanos, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) fn new(me: PeerRun, effects: mpsc::UnboundedSender<Effect>, mark: Option<PathBuf>) -> Self {
        Self {
            durable: watch::Sender::new(None),
            vote: Mutex::default(),
            visible: watch::Sender::new(None),
            next_due: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            me: watch::Sender::new(me),
            peers: watch::Sender::new(Arc::new([])),
            applied: Mutex::default(),
            queues: Mutex::default(),
            marks: Mutex::default(),
            effects,
            writing_since: AtomicU64::new(Tick::NEVER.0),
            mark,
            counters: Counters::default(),
            time: Mutex::new(LogTime { ms: 0, at: clock::now() }),
        }
    }

    /// What an entry that is made now is stamped with, in milliseconds of the wall clock as far as that can be trusted.
    pub(super) fn time_ms(&self) -> u64 {
        lock(&self.time).now(clock::now()).max(clock::unix_millis())
    }

    /// The state has come to this time.
    pub(super) fn reached(&self, time_ms: u64) {
        lock(&self.time).reached(time_ms, clock::now());
    }

    /// Counts an entry that was written.
    pub(super) fn wrote(&self, index: u64, bytes: u64) {
        Counters::add(&self.counters.entries, 1);
        let total = self.counters.entry_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut marks = lock(&self.marks);
        if marks.back().is_none_or(|(_, marked)| total - marked >= MARK_BYTES) {
            marks.push_back((index, total));
        }
    }

    /// The entry up to which the log may go, for the rest to be at least `keep_bytes`; the next one if there are more.
    pub(super) fn surplus(&self, keep_bytes: u64) -> Option<u64> {
        let total = self.counters.entry_bytes.load(Ordering::Relaxed);
        let mut marks = lock(&self.marks);
        let is_over = |(_, marked): &(u64, u64)| total - marked >= keep_bytes;
        marks.front().is_some_and(is_over).then(|| marks.pop_front()).flatten().map(|(index, _)| index)
    }

    pub(super) fn applied(&self) -> (Option<LogId>, StoredMembership) {
        lock(&self.applied).clone()
    }

    pub(super) fn set_writing(&self, is_writing: bool) {
        let since = if is_writing { Tick::of(clock::now()) } else { Tick::NEVER };
        self.writing_since.store(since.0, Ordering::Relaxed);
    }

    /// How long the writer is at its present transaction.
    pub(super) fn writing_for(&self) -> Duration {
        match Tick(self.writing_since.load(Ordering::Relaxed)) {
            Tick::NEVER => Duration::ZERO,
            since => since.until(Tick::of(clock::now())),
        }
    }

    /// The store cannot go on. The first reason is kept; returns whether this is it.
    pub(super) fn end(&self, problem: &str) -> bool {
        let is_first = self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            if is_first {
                *failure = Some(problem.into());
            }
            is_first
        });
        if is_first {
            tracing::error!(problem, "the store stops: this node can neither store nor deliver any more");
        }
        is_first
    }

    /// The store cannot go on with what is on its disk.
    pub(super) fn fail(&self, error: &TableError) {
        let problem = with_sources(error);
        if !self.end(&problem) {
            return;
        }
        if let (true, Some(mark)) = (error.is_damage(), &self.mark) {
            let marked = std::fs::write(mark, &problem);
            if let Err(error) = marked {
                tracing::error!(%error, "the damage could not be noted for the next start");
            }
        }
    }
}

/// A panic while it was held left at worst old counters.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_time_goes_on_however_clocks_jump() {
        let begin = clock::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut time = LogTime { ms: 1000, at: begin };
        assert_eq!(time.now(after(50)), 1050);
        // Stamped before, and only now applied.
        time.reached(1030, after(50));
        assert_eq!(time.now(after(60)), 1060);
        // A leader with a clock that is an hour ahead; the entries after it are of its time.
        time.reached(3_601_000, after(60));
        time.reached(1100, after(100));
        assert_eq!(time.now(after(1060)), 3_602_000);
    }
}
