//! At most one node leads in a term.

use std::collections::BTreeMap;

use super::{Seen, Verdict, violated};

#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u64, u64>);

impl Leaders {
    pub(super) fn check(&mut self, seen: &Seen<'_>) -> Verdict {
        if !seen.role.leads {
            return Ok(());
        }
        let (term, node) = (seen.role.term, seen.node.store.me().node);
        let leader = *self.0.entry(term).or_insert(node);
        if leader == node {
            return Ok(());
        }
        violated("leaders", format!("both {leader:x} and {node:x} ({}) lead in term {term}", seen.node.name))
    }
}
