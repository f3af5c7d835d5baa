//! No function has more elements running than it has slots. A budget that is lowered revokes nothing, so what runs may
//! stay above it, but not grow.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::logs::Logs;
use super::{Seen, Verdict, violated};

/// What a node's counters of a function were when it was seen.
#[derive(Clone, Copy)]
struct Account {
    running: u64,
    slots: u32,
    /// The last entry that is known to be in them. They may have more, which shows when the node is seen next.
    index: u64,
}

#[derive(Default)]
pub(super) struct Budgets {
    /// The last account, and the one before it.
    accounts: BTreeMap<Of, (Account, Option<Account>)>,
}

/// A node and a function.
type Of = (Arc<str>, Arc<str>);

impl Budgets {
    pub(super) fn check(&mut self, seen: &Seen<'_>, logs: &Logs) -> Verdict {
        let Some(applied) = &seen.applied else { return Ok(()) };
        for queue in &seen.queues {
            let key = (Arc::clone(&seen.node.name), Arc::clone(&queue.id.name));
            let now = Account { running: queue.running, slots: queue.slots, index: applied.index };
            let Some((last, before)) = self.accounts.get(&key).copied() else {
                // What a process finds when it starts may be of any time before.
                self.accounts.insert(key, (now, None));
                continue;
            };
            self.accounts.insert(key, (now, Some(last)));
            let Some(before) = before else { continue };
            let slots = logs.slots_since(&queue.id.name, before.index).max(last.slots);
            let most = u64::from(slots).max(before.running);
            if last.running > most {
                let problem = format!(
                    "{} has {} elements of {} running after entry {}, with at most {most} slots since entry {}",
                    seen.node.name, last.running, queue.id.name, last.index, before.index
                );
                return violated("budgets", problem);
            }
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, node: &str) {
        self.accounts.retain(|(of, _), _| &**of != node);
    }
}
