//! A proposal that was answered with "nothing was stored" stored nothing.

use super::{Seen, Verdict, violated};
use crate::oracle::Oracle;

pub(super) fn check(seen: &Seen<'_>, oracle: &Oracle) -> Verdict {
    let Some(whole) = seen.applied.as_ref().and_then(|applied| applied.whole.as_ref()) else { return Ok(()) };
    for id in whole.elements.keys() {
        match oracle.lives.get(id) {
            Some(life) if life.may_be_stored || oracle.is_pending(*id) => {}
            Some(_) => return violated("refused", format!("{id} is on {}; it was not accepted", seen.node.name)),
            None => return violated("refused", format!("{id} is on {}; nobody sent it", seen.node.name)),
        }
    }
    Ok(())
}
