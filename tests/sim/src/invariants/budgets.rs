//! No function has more elements running than it has slots. A budget that is lowered revokes nothing, so what runs may
//! stay above it, but not grow.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::logs::Logs;
use super::{Seen, Verdict, violated};

#[derive(Default)]
pub(super) struct Budgets {
    /// What ran on each node's account when it was seen last, and at which index.
    running: BTreeMap<(Arc<str>, Arc<str>), (u64, u64)>,
}

impl Budgets {
    pub(super) fn check(&mut self, seen: &Seen<'_>, logs: &Logs) -> Verdict {
        let Some(applied) = &seen.applied else { return Ok(()) };
        for queue in &seen.queues {
            let key = (Arc::clone(&seen.node.name), Arc::clone(&queue.id.name));
            let former = self.running.insert(key, (queue.running, applied.index));
            // What a process finds when it starts may be of any time before.
            let Some((running, index)) = former else { continue };
            let most = u64::from(logs.slots_since(&queue.id.name, index).max(queue.slots)).max(running);
            if queue.running > most {
                let problem = format!(
                    "{} has {} elements of {} running after entry {}, with at most {most} slots since entry {index}",
                    seen.node.name, queue.running, queue.id.name, applied.index
                );
                return violated("budgets", problem);
            }
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, node: &str) {
        self.running.retain(|(of, _), _| &**of != node);
    }
}
