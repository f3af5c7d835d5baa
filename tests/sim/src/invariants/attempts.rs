//! Attempts are counted: each number of an element is given to one process, once, and tries do not exceed the policy.

use super::{Verdict, violated};
use crate::journal::Event;
use crate::oracle::Oracle;

pub(super) fn check(oracle: &mut Oracle, event: &Event) -> Verdict {
    let Event::Assigned { node, assignment, .. } = event else { return Ok(()) };
    let (id, attempt, try_number) = (assignment.element, assignment.attempt, assignment.try_number);
    let Some(life) = oracle.lives.get_mut(&id) else {
        return violated("attempts", format!("{node} is to deliver {id}, which nobody sent"));
    };
    if try_number == 0 || try_number > attempt {
        return violated("attempts", format!("{id}: attempt {attempt} is try {try_number}"));
    }
    let tries_max = u32::try_from(life.retries).unwrap_or(u32::MAX) + 1;
    if try_number > tries_max || assignment.is_last_try != (try_number == tries_max) {
        return violated("attempts", format!("{id}: try {try_number} of {tries_max}"));
    }
    // An element that was proposed again may be stored anew, and its attempts counted from 1.
    if life.proposed == 1
        && let Some(former) = life.attempts.insert(attempt, assignment.to)
    {
        let to = assignment.to;
        return violated("attempts", format!("{id}: attempt {attempt} is given to {to:x?} and was to {former:x?}"));
    }
    Ok(())
}
