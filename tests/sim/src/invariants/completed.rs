//! What is done is done: an element that was proposed once, and is gone from the state, is in no later state, and no node
//! that knows is told to deliver it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slimfaas_gateway::queue::element::ElementId;

use super::{Seen, Verdict, violated};
use crate::journal::Event;
use crate::oracle::Oracle;

#[derive(Default)]
pub(super) struct Completed {
    /// The first index after which each element was seen.
    present: BTreeMap<ElementId, u64>,
    /// The first index above after which it was seen to be gone.
    gone: BTreeMap<ElementId, u64>,
    /// Those of which each node's process has seen that they are gone.
    known_gone: BTreeMap<Arc<str>, BTreeSet<ElementId>>,
}

impl Completed {
    pub(super) fn check(&mut self, seen: &Seen<'_>, oracle: &Oracle) -> Verdict {
        let Some((index, whole)) = seen.applied.as_ref().and_then(|new| Some((new.index, new.whole.as_ref()?))) else {
            return Ok(());
        };
        let once = |id: &ElementId| oracle.lives.get(id).is_some_and(|life| life.proposed == 1);
        for id in whole.elements.keys() {
            let first = self.present.entry(*id).or_insert(index);
            *first = index.min(*first);
            if let Some(gone) = self.gone.get(id).filter(|gone| **gone < index && once(id)) {
                let problem = format!("{id} is on {} after entry {index}; it was gone after {gone}", seen.node.name);
                return violated("completed", problem);
            }
        }
        let absent: Vec<ElementId> = self
            .present
            .iter()
            .filter(|(id, first)| **first < index && !whole.elements.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        for id in absent {
            let gone = self.gone.entry(id).or_insert(index);
            *gone = index.min(*gone);
            self.known_gone.entry(Arc::clone(&seen.node.name)).or_default().insert(id);
        }
        Ok(())
    }

    pub(super) fn check_event(&self, oracle: &Oracle, event: &Event) -> Verdict {
        let Event::Assigned { node, assignment, .. } = event else { return Ok(()) };
        let id = assignment.element;
        let once = oracle.lives.get(&id).is_some_and(|life| life.proposed == 1);
        if once && self.known_gone.get(node).is_some_and(|gone| gone.contains(&id)) {
            return violated("completed", format!("{node} is told to deliver {id}, which is gone"));
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, node: &str) {
        self.known_gone.remove(node);
    }
}
