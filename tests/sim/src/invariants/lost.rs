//! Nothing that was acknowledged is lost: in the end each element was done by its function, is a dead letter with its
//! attempts, or was deleted by somebody.

use super::{Verdict, Whole, violated};
use crate::oracle::Oracle;

pub(super) fn check(node: &str, whole: &Whole, oracle: &Oracle) -> Verdict {
    for (id, life) in &oracle.lives {
        let is_there = whole.elements.contains_key(id);
        if life.is_acknowledged && !is_there && !life.has_succeeded && !life.may_be_deleted {
            let calls = life.calls;
            return violated(
                "lost",
                format!("{id} ({}) was acknowledged and is gone after {calls} calls", life.number),
            );
        }
        if !is_there {
            continue;
        }
        if !whole.dead(*id) {
            let phase = whole.elements[id].phase;
            return violated("lost", format!("{id} ({}) is still {phase:?} on {node}", life.number));
        }
        if whole.elements[id].history.is_empty() {
            return violated("lost", format!("{id} ({}) is dead without an attempt", life.number));
        }
    }
    Ok(())
}
