//! Every node applies the same log, and makes the same of it: after each index the same entry, the same state.

use std::collections::BTreeMap;

use slimfaas_gateway::queue::command::Command;
use slimfaas_gateway::queue::tables::Reading;
use slimfaas_gateway::store::command::decode_entry;
use slimfaas_gateway::store::snapshot::{Position, chunk_at};

use super::{Seen, Verdict, violated};

#[derive(Default)]
pub(super) struct Logs {
    /// Checksum of each entry, and who had it.
    entries: BTreeMap<u64, (u32, String)>,
    states: BTreeMap<u64, (u32, String)>,
    /// Slots of functions as the log has them.
    budgets: BTreeMap<String, BTreeMap<u64, u32>>,
}

impl Logs {
    pub(super) fn check(&mut self, seen: &Seen<'_>) -> Verdict {
        let Some(applied) = &seen.applied else { return Ok(()) };
        for (index, content) in &applied.entries {
            self.note_budgets(*index, content.clone());
        }
        for (index, content) in &applied.settled {
            let sum = crc32fast::hash(content);
            let (known, first) = self.entries.entry(*index).or_insert_with(|| (sum, seen.node.name.to_string()));
            if *known != sum {
                let problem = format!("{} applied another entry {index} than {first}", seen.node.name);
                return violated("logs", problem);
            }
        }
        let Some(whole) = &applied.whole else { return Ok(()) };
        let (index, sum) = (applied.index, whole.sum);
        let (known, first) = self.states.entry(index).or_insert_with(|| (sum, seen.node.name.to_string()));
        if *known != sum {
            let problem = format!("{} has another state after entry {index} than {first}", seen.node.name);
            return violated("logs", problem);
        }
        Ok(())
    }

    /// The most slots that a function had at any index from this one on.
    pub(super) fn slots_since(&self, function: &str, index: u64) -> u32 {
        let Some(budgets) = self.budgets.get(function) else { return 0 };
        let then = budgets.range(..=index).next_back().map(|(_, slots)| *slots);
        budgets.range(index..).map(|(_, slots)| *slots).chain(then).max().unwrap_or(0)
    }

    fn note_budgets(&mut self, index: u64, content: bytes::Bytes) {
        let Ok((_, batches)) = decode_entry(content) else { return };
        for command in batches.into_iter().flat_map(|batch| batch.commands) {
            if let Command::Budget { function, slots } = command {
                let most = self.budgets.entry(function.name.to_string()).or_default().entry(index).or_default();
                *most = slots.max(*most);
            }
        }
    }
}

/// Of the whole state, wherever its requests lie.
pub(super) fn sum(state: &impl Reading) -> Result<u32, String> {
    let mut hasher = crc32fast::Hasher::new();
    let mut next = Some(Position::start());
    while let Some(position) = next {
        let chunk;
        (chunk, next) = chunk_at(state, &position).map_err(|error| error.to_string())?;
        // Without its own checksum: that of anything with its checksum is always the same.
        hasher.update(&chunk[..chunk.len() - 4]);
    }
    Ok(hasher.finalize())
}
