//! Applies log entries to the state.

use openraft::{EntryPayload, LogIdOptionExt};
use redb::WriteTransaction;

use super::job::Apply;
use super::{After, Writer, put_applied, put_membership};
use crate::queue::command;
use crate::queue::plan::{self, next_due_ms};
use crate::queue::tables::{Reading, Result};
use crate::store::raft::database::OpenState;
use crate::store::raft::shared::{Counters, lock};
use crate::store::raft::types::{Answer, Entry, LogId, StoredMembership};
use crate::store::{Delivery, Effect};

impl Writer {
    pub(super) fn apply(
        &mut self,
        transaction: &WriteTransaction,
        applies: Vec<Apply>,
        after: &mut After,
    ) -> Result<()> {
        let durable = self.shared.durable.borrow().next_index();
        let (mut last, mut membership): (Option<LogId>, Option<StoredMembership>) = (None, None);
        let mut ready = Vec::new();
        for (entries, done) in applies {
            let mut answers = Vec::with_capacity(entries.len());
            let mut effects = Vec::new();
            for entry in entries {
                if let EntryPayload::Membership(members) = &entry.payload {
                    membership = Some(StoredMembership::new(Some(entry.log_id), members.clone()));
                }
                last = Some(entry.log_id);
                answers.push(self.apply_entry(entry, transaction, &mut effects)?);
            }
            if last.next_index() <= durable {
                // Its entries are on the disk already, so this transaction's end need not be waited for.
                ready.push((done, answers, effects));
            } else {
                after.effects.extend(effects);
                after.applied.push((done, answers));
            }
        }
        let mut tables = OpenState::open(transaction, self.generation, &self.log)?;
        let due = next_due_ms(&tables)?;
        if let Some(last) = &last {
            put_applied(&mut tables, last)?;
        }
        if let Some(membership) = &membership {
            put_membership(&mut tables, membership)?;
        }
        drop(tables);
        self.unreadable = last.map(|last| last.index).or(self.unreadable);
        self.show_applied(last, membership);
        self.show_due(due);
        for (done, answers, effects) in ready {
            effects.into_iter().for_each(|effect| self.emit(effect));
            let _gone = done.send(answers).is_err();
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        entry: Entry,
        transaction: &WriteTransaction,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer> {
        let EntryPayload::Normal(content) = entry.payload else { return Ok(Answer::default()) };
        let (index, mut caused) = (entry.log_id.index, Vec::new());
        self.log.applying = Some((index, content.0.clone()));
        let mut tables = OpenState::open(transaction, self.generation, &self.log)?;
        let replies = self.state.apply(index, content.0, &mut tables, &mut caused)?;
        self.shared.reached(self.state.queue.clock_ms());
        self.show_changed_queues();
        self.state.save(&mut tables)?;
        for effect in caused {
            effects.extend(self.own(effect, &tables)?);
        }
        let peers: Vec<_> = self.state.queue.peers().collect();
        if *peers != **self.shared.peers.borrow() {
            self.shared.peers.send_replace(peers.into());
        }
        Counters::add(&self.shared.counters.batches, replies.len() as u64);
        let commands = replies.iter().map(|reply| match reply {
            crate::store::command::BatchReply::Applied(replies) => replies.len() as u64,
            _ => 0,
        });
        Counters::add(&self.shared.counters.commands, commands.sum());
        Ok(Answer(replies))
    }

    /// What this process has to do because of an effect.
    fn own(&self, effect: command::Effect, tables: &impl Reading) -> Result<Option<Effect>> {
        let me = *self.shared.me.borrow();
        Ok(match effect {
            command::Effect::Assigned(assignment) if assignment.to == me => {
                // A later command of the same entry may have deleted it.
                match plan::element(tables, assignment.element)? {
                    Some(element) => {
                        let request = plan::request(tables, assignment.element, &element)?;
                        Some(Effect::Deliver(Delivery { assignment, request }))
                    }
                    None => None,
                }
            }
            command::Effect::Revoked { element, attempt, from } if from == me => {
                Some(Effect::Revoke { element, attempt })
            }
            command::Effect::BodyReleased { element, file } => Some(Effect::ReleaseBody { element, file }),
            command::Effect::PeerGone(run) if run == me => Some(self.begin_anew()),
            command::Effect::Assigned(_) | command::Effect::Revoked { .. } | command::Effect::PeerGone(_) => None,
        })
    }

    /// Everything that this process was assigned is void. It takes part again under another incarnation.
    pub(super) fn begin_anew(&self) -> Effect {
        let incarnation = rand::RngCore::next_u64(&mut crate::store::raft::types::Entropy);
        self.shared.me.send_modify(|me| me.incarnation = incarnation);
        Effect::RevokeAll
    }

    fn show_applied(&self, last: Option<LogId>, membership: Option<StoredMembership>) {
        let mut applied = lock(&self.shared.applied);
        applied.0 = last.or(applied.0);
        if let Some(membership) = membership {
            applied.1 = membership;
        }
    }

    fn show_due(&self, due: Option<u64>) {
        self.shared.next_due.send_if_modified(|shown| std::mem::replace(shown, due) != due);
    }

    fn show_changed_queues(&self) {
        let mut queues = lock(&self.shared.queues);
        for number in self.state.queue.changed() {
            let shown = self.state.queue.function_by_number(number).filter(|queue| !queue.is_blank());
            match shown {
                Some(queue) => {
                    queues.by_number.insert(number, queue.id.clone());
                    queues.functions.insert(queue.id.clone(), queue.clone());
                }
                None => {
                    if let Some(id) = queues.by_number.remove(&number) {
                        queues.functions.remove(&id);
                    }
                }
            }
        }
        (queues.elements, queues.bytes) = self.state.queue.totals();
    }

    /// After a start, or with another state.
    pub(super) fn show_all_queues(&self) {
        let mut queues = lock(&self.shared.queues);
        queues.functions.clear();
        queues.by_number.clear();
        for queue in self.state.queue.functions() {
            if let Some(number) = self.state.queue.number_of(&queue.id) {
                queues.by_number.insert(number, queue.id.clone());
            }
            queues.functions.insert(queue.id.clone(), queue.clone());
        }
        (queues.elements, queues.bytes) = self.state.queue.totals();
        self.shared.peers.send_replace(self.state.queue.peers().collect());
    }
}
