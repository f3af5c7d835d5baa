//! A leadership is one process's: a node that starts again does not go on with the term that it led before, since its log
//! may have lost entries that it had sent on (`store/raft/log.rs` says why).
//!
//! In one term there may be several: openraft orders leaderships by term and node, and within a term one of a greater
//! node replaces one of a smaller. That they do not contradict each other shows in the logs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Seen, Verdict, violated};

/// Each process has an address that none had before.
#[derive(Default)]
pub(super) struct Leaders(BTreeMap<(u64, u64), SocketAddr>);

impl Leaders {
    pub(super) fn check(&mut self, seen: &Seen<'_>) -> Verdict {
        if !seen.role.leads {
            return Ok(());
        }
        let (term, node) = (seen.role.term, seen.node.store.me().node);
        let process = *self.0.entry((term, node)).or_insert(seen.node.at);
        if process == seen.node.at {
            return Ok(());
        }
        violated("leaders", format!("{} goes on leading in term {term} after its process ended", seen.node.name))
    }
}
