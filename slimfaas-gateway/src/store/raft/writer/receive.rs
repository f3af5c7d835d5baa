//! Replaces the state by one that a peer sent. It arrives in tables beside the present ones; installing it is one
//! transaction, before and after which a crash finds a whole state.

use std::sync::Arc;

use redb::WriteTransaction;

use super::{After, Writer, put_applied, put_membership, raft_table};
use crate::queue::plan::next_due_ms;
use crate::queue::tables::{Result, Row, Table, Tables};
use crate::store::raft::database::{LogContents, OpenState, put_raft, remove_others, row};
use crate::store::raft::shared::lock;
use crate::store::raft::types::SnapshotMeta;
use crate::store::state::State;

impl Writer {
    pub(super) fn receive(
        &mut self,
        transaction: &WriteTransaction,
        rows: Vec<(Table, Row)>,
        fresh: bool,
    ) -> Result<()> {
        self.is_receiving = true;
        if fresh {
            remove_others(transaction, self.generation)?;
        }
        let mut tables = OpenState::open(transaction, self.generation + 1, &self.log)?;
        rows.into_iter().try_for_each(|(table, (key, value))| tables.put(table, &key, &value))
    }

    pub(super) fn install(
        &mut self,
        transaction: &WriteTransaction,
        meta: &SnapshotMeta,
        after: &mut After,
    ) -> Result<()> {
        let generation = self.generation + 1;
        let mut tables = OpenState::open(transaction, generation, &self.log)?;
        self.state = State::load(&tables)?;
        let due = next_due_ms(&tables)?;
        // The rows have all requests with them.
        let settled = meta.last_log_id.map_or(0, |last| last.index + 1);
        tables.put_raft(row::SETTLED, &settled.to_be_bytes())?;
        if let Some(last) = &meta.last_log_id {
            put_applied(&mut tables, last)?;
        }
        put_membership(&mut tables, &meta.last_membership)?;
        drop(tables);
        self.unreadable = meta.last_log_id.map(|last| last.index).or(self.unreadable);
        self.log = LogContents::settled_below(settled, Arc::clone(&self.log.file));
        remove_others(transaction, generation)?;
        put_raft(&mut raft_table(transaction)?, row::GENERATION, &generation.to_be_bytes())?;
        self.generation = generation;
        *lock(&self.shared.applied) = (meta.last_log_id, meta.last_membership.clone());
        self.show_all_queues();
        self.shared.reached(self.state.queue.clock_ms());
        self.shared.next_due.send_replace(due);
        // What was assigned to this process in the entries that it did not see is not known here.
        after.effects.push(self.begin_anew());
        self.is_receiving = false;
        if let Some((upto, done)) = self.purge_later.take() {
            self.purge(transaction, &upto, after)?;
            after.done.push(done);
        }
        Ok(())
    }
}
