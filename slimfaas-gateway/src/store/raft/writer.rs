//! The one who writes to the disk. Jobs that wait while it syncs are done together: one sync of the log's file serves
//! all entries that were appended.
//!
//! Applying needs no sync: what was applied is applied again after a crash, from entries that are in the log. So the
//! database's transaction stays open, and is committed now and then for readers, and to the disk whenever the log needs
//! further slots (`logfile.rs`), and for what is not in the log: votes, identities, another state. The log is always
//! synced first, so that the state on the disk is never ahead of it. But nobody learns of an applied entry, neither its
//! proposer nor who is to deliver, before this node has the entry durably: the leader counts itself among the majority
//! while it is still writing (`log.rs` says why).

mod apply;
mod job;
mod receive;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use openraft::LogIdOptionExt;
use openraft::storage::LogFlushed;
use redb::{Database, Durability, WriteTransaction};
use tokio::sync::oneshot;

pub(super) use self::job::{Disk, Job};
use self::job::{Group, Stopped, grouped, together};
use super::database::{self, LogContents, OpenState, failed, put_raft, row};
use super::logfile::Frame;
use super::open::DiskPace;
use super::shared::Shared;
use super::types::{Answer, Entry, LogId, StoredMembership, Types};
use super::wire;
use crate::clock::{self, Instant};
use crate::queue::tables::{Reading, Result};
use crate::store::Effect;
use crate::store::state::{State, settle_requests};

/// What was applied becomes readable after this time, or when a reader asks ([`Disk::show`]). A commit costs about what
/// it costs to apply a few entries, so there are not to be many.
const READABLE_AFTER: Duration = Duration::from_millis(10);

pub(super) struct Writer {
    database: Arc<Database>,
    shared: Arc<Shared>,
    state: State,
    /// Which set of state tables is the present one.
    generation: u64,
    log: LogContents,
    /// What is to be appended to the log next.
    frame: Frame,
    /// The room that the log's file is to have at least.
    ahead: u64,
    /// What was changed in the database since the last commit.
    unfinished: Option<WriteTransaction>,
    /// When it began.
    began: Instant,
    /// The last entry in it.
    unreadable: Option<u64>,
    /// Rows of another state have come, and it is not installed yet.
    is_receiving: bool,
    /// A front of the log that goes with the installation of that state.
    purge_later: Option<(LogId, oneshot::Sender<()>)>,
    /// Whether `unfinished` may wait: there is a loop that ends the wait.
    waits: bool,
    has_failed: bool,
}

/// What is to be told once the transaction is on the disk.
#[derive(Default)]
struct After {
    flushed: Vec<LogFlushed<Types>>,
    done: Vec<oneshot::Sender<()>>,
    applied: Vec<(oneshot::Sender<Vec<Answer>>, Vec<Answer>)>,
    effects: Vec<Effect>,
    durable: Option<Option<LogId>>,
    /// The database is to be synced.
    keeps: bool,
}

impl Writer {
    pub(super) fn new(
        database: Arc<Database>,
        shared: Arc<Shared>,
        state: State,
        generation: u64,
        log: LogContents,
        ahead: u64,
    ) -> Self {
        let writer = Self {
            database,
            shared,
            state,
            generation,
            log,
            frame: Frame::default(),
            ahead,
            unfinished: None,
            began: clock::now(),
            unreadable: None,
            is_receiving: false,
            purge_later: None,
            waits: false,
            has_failed: false,
        };
        writer.show_all_queues();
        writer
    }

    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        self.waits = true;
        loop {
            let first = match self.next(jobs) {
                Ok(Some(first)) => first,
                Ok(None) => continue,
                Err(Stopped) => return,
            };
            if !self.write(together(first, || jobs.try_recv().ok())) {
                return;
            }
        }
    }

    /// As `run` does, on the time of the runtime.
    async fn run_paced(mut self, mut jobs: tokio::sync::mpsc::UnboundedReceiver<Job>, pace: DiskPace) {
        self.waits = true;
        loop {
            let next = match &self.unfinished {
                None => Ok(jobs.recv().await),
                Some(_) => tokio::time::timeout_at(self.began + READABLE_AFTER, jobs.recv()).await,
            };
            let jobs = match next {
                Ok(Some(first)) => together(first, || jobs.try_recv().ok()),
                Ok(None) => return,
                Err(_elapsed) => Vec::new(),
            };
            if jobs.iter().any(Job::needs_sync) {
                self.shared.set_writing(true);
                tokio::time::sleep(pace()).await;
            }
            if !self.write(jobs) {
                return;
            }
        }
    }

    /// Waits for a job. `None`: meanwhile what was applied became readable.
    fn next(&mut self, jobs: &mpsc::Receiver<Job>) -> std::result::Result<Option<Job>, Stopped> {
        if self.unfinished.is_none() {
            return jobs.recv().map(Some).map_err(|_gone| Stopped);
        }
        let left = (self.began + READABLE_AFTER).saturating_duration_since(clock::now());
        match jobs.recv_timeout(left) {
            Ok(job) => Ok(Some(job)),
            Err(mpsc::RecvTimeoutError::Timeout) if self.write(Vec::new()) => Ok(None),
            Err(_gone) => Err(Stopped),
        }
    }

    /// Does the jobs; none: ends the present transaction. False: the writer has failed, now or before, and does nothing
    /// any more.
    fn write(&mut self, jobs: Vec<Job>) -> bool {
        if self.has_failed {
            return false;
        }
        // A transaction that is not committed leaves the memory of the state ahead of the disk: there is no way on.
        self.has_failed = true;
        self.shared.set_writing(true);
        let written = self.write_all(jobs);
        self.shared.set_writing(false);
        match written {
            Ok(()) => self.has_failed = false,
            Err(error) => self.shared.fail(&error),
        }
        !self.has_failed
    }

    fn write_all(&mut self, jobs: Vec<Job>) -> Result<()> {
        let room = jobs.iter().map(Job::room).sum();
        if self.log.file.room() < room {
            self.make_room(room)?;
        }
        let shows = jobs.is_empty() || jobs.iter().any(|job| matches!(job, Job::Show { .. }));
        let mut after = After::default();
        for group in grouped(jobs) {
            match group {
                Group::One(Job::Append { entries, last, flushed }) => {
                    self.append(&entries)?;
                    after.flushed.extend(flushed);
                    after.durable = Some(Some(last));
                }
                Group::One(Job::Truncate { from, last, done }) => {
                    self.frame.cut(from);
                    after.durable = Some(last);
                    after.done.push(done);
                }
                group => self.change(group, &mut after)?,
            }
        }
        self.log.file.write(&mut self.frame)?;
        self.sync()?;
        if after.keeps || shows || !self.waits || self.is_overdue() {
            self.commit(after.keeps)?;
        }
        self.tell(after);
        if self.log.file.room() < self.ahead {
            self.make_room(0)?;
        }
        Ok(())
    }

    /// Does what changes the database.
    fn change(&mut self, group: Group, after: &mut After) -> Result<()> {
        // What is done may read the log.
        self.log.file.write(&mut self.frame)?;
        let transaction = match self.unfinished.take() {
            Some(transaction) => transaction,
            None => self.begin()?,
        };
        match group {
            Group::Applies(applies) => self.apply(&transaction, applies, after)?,
            Group::One(job) => self.write_one(&transaction, job, after)?,
        }
        self.unfinished = Some(transaction);
        Ok(())
    }

    fn begin(&mut self) -> Result<WriteTransaction> {
        self.began = clock::now();
        self.database.begin_write().map_err(failed)
    }

    fn is_overdue(&self) -> bool {
        self.unfinished.is_some() && clock::now() >= self.began + READABLE_AFTER
    }

    /// Has the log's file synced, if it has changed.
    fn sync(&self) -> Result<()> {
        if self.log.file.is_synced() {
            return Ok(());
        }
        let began = clock::now();
        self.log.file.sync()?;
        self.shared.counters.synced(clock::now().saturating_duration_since(began));
        Ok(())
    }

    /// Adds slots to the log's file. The database has to know them before anything is in them.
    fn make_room(&mut self, room: u64) -> Result<()> {
        // As much again, so that this is not needed again soon.
        self.log.file.grow(room + 2 * self.ahead)?;
        if self.unfinished.is_none() {
            self.unfinished = Some(self.begin()?);
        }
        self.commit(true)
    }

    /// Everything in the log's file must be synced.
    fn commit(&mut self, keeps: bool) -> Result<()> {
        let Some(mut transaction) = self.unfinished.take() else { return Ok(()) };
        if keeps {
            put_raft(&mut raft_table(&transaction)?, row::LOG, &self.log.file.kept().encode())?;
        } else {
            transaction.set_durability(Durability::None).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        if keeps {
            self.log.file.release();
        }
        if let Some(readable) = self.unreadable.take() {
            self.shared.visible.send_replace(Some(readable));
        }
        Ok(())
    }

    fn write_one(&mut self, transaction: &WriteTransaction, job: Job, after: &mut After) -> Result<()> {
        match job {
            Job::SaveVote { vote, done } => {
                let row = wire::encoded(24, |writer| wire::write_vote(writer, &vote));
                put_raft(&mut raft_table(transaction)?, row::VOTE, &row)?;
                after.keeps = true;
                after.done.push(done);
            }
            // openraft has the log's front removed as soon as it has asked for the installation of a state. Until that
            // is done, what is being applied to the former state needs the entries, and so would a restart.
            Job::Purge { upto, done } if self.is_receiving && self.shared.applied().0.next_index() <= upto.index => {
                cov_mark::hit!(log_goes_with_the_installed_state);
                self.purge_later = Some((upto, done));
            }
            Job::Purge { upto, done } => {
                self.purge(transaction, &upto, after)?;
                after.done.push(done);
            }
            Job::SaveRow { name, value, done } => {
                put_raft(&mut raft_table(transaction)?, name, &value)?;
                after.keeps = true;
                after.done.push(done);
            }
            Job::Receive { rows, fresh, done } => {
                self.receive(transaction, rows, fresh)?;
                after.done.push(done);
            }
            Job::Install { meta, done } => {
                self.install(transaction, &meta, after)?;
                after.keeps = true;
                after.done.push(done);
            }
            Job::Apply { entries, done } => self.apply(transaction, vec![(entries, done)], after)?,
            Job::Show { done } => after.done.push(done),
            Job::Append { .. } | Job::Truncate { .. } => unreachable!("they do not concern the database"),
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) -> Result<()> {
        for entry in entries {
            self.frame.entry(entry);
            if self.frame.is_full() {
                self.log.file.write(&mut self.frame)?;
            }
            self.shared.wrote(entry.log_id.index, wire::entry_size(entry) as u64);
        }
        Ok(())
    }

    /// The entries are gone once the database says so on the disk, with whatever has it synced next: to have them again
    /// after a crash costs nothing.
    fn purge(&mut self, transaction: &WriteTransaction, upto: &LogId, after: &mut After) -> Result<()> {
        self.settle(transaction, upto.index.saturating_add(1))?;
        let row = wire::encoded(24, |writer| wire::write_log_id(writer, upto));
        put_raft(&mut raft_table(transaction)?, row::PURGED, &row)?;
        self.log.file.purge(upto.index);
        if self.shared.durable.borrow().is_none_or(|durable| durable.index < upto.index) {
            after.durable = Some(Some(*upto));
            // What is appended next does not follow what was there.
            after.keeps = true;
        }
        Ok(())
    }

    /// Puts requests of elements that are still there into the state, before their entries go.
    fn settle(&mut self, transaction: &WriteTransaction, below: u64) -> Result<()> {
        if below <= self.log.settled {
            return Ok(());
        }
        let mut state = OpenState::open(transaction, self.generation, &self.log)?;
        for index in self.log.settled..below {
            if let Some(content) = state.entry(index)? {
                settle_requests(&mut state, index, &content)?;
            }
        }
        state.put_raft(row::SETTLED, &below.to_be_bytes())?;
        drop(state);
        self.log.settled = below;
        Ok(())
    }

    fn tell(&self, after: After) {
        if let Some(durable) = after.durable {
            self.shared.durable.send_replace(durable);
        }
        for flushed in after.flushed {
            flushed.log_io_completed(Ok(()));
        }
        for (done, answers) in after.applied {
            // Nobody waits any more when the node is ending; so it is with all answers here.
            let _gone = done.send(answers).is_err();
        }
        for effect in after.effects {
            self.emit(effect);
        }
        for done in after.done {
            let _gone = done.send(()).is_err();
        }
    }

    fn emit(&self, effect: Effect) {
        let _gone = self.shared.effects.send(effect).is_err();
    }
}

fn raft_table(transaction: &WriteTransaction) -> Result<redb::Table<'_, &'static [u8], &'static [u8]>> {
    transaction.open_table(database::RAFT).map_err(failed)
}

/// Where an entry's changes end: it is the last one applied.
fn put_applied(state: &mut OpenState<'_>, applied: &LogId) -> Result<()> {
    let row = wire::encoded(24, |writer| wire::write_log_id(writer, applied));
    state.put_raft(row::APPLIED, &row)
}

fn put_membership(state: &mut OpenState<'_>, membership: &StoredMembership) -> Result<()> {
    let row = wire::encoded(256, |writer| wire::write_stored_membership(writer, membership));
    state.put_raft(row::MEMBERSHIP, &row)
}
