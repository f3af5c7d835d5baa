//! What a history says: the figures of a run, and what must never be in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{Call, Event, Kind};

/// A run in numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Answered with 202.
    pub(super) accepted: usize,
    /// Surely not stored, by status (0: it could not be sent).
    pub(super) refused: BTreeMap<u16, usize>,
    /// Sent, and nobody knows; and how many of them the function has seen.
    pub(super) unknown: usize,
    pub(super) unknown_delivered: usize,
    /// Requests that the function has answered with 200.
    pub(super) delivered: usize,
    /// Calls of the function.
    pub(super) deliveries: usize,
    /// Calls that followed a failed one, as the function's owner wants it.
    pub(super) retries: usize,
    /// Further calls of a request: its node, or the word of its end, was lost.
    pub(super) repeats: usize,
    /// How often what was done to nodes cost one of them its deliveries, as the log sees it.
    pub(super) disturbances: usize,
    /// The longest time from a 202 to the request's first complete delivery, in microseconds.
    pub(super) slowest: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: usize = self.refused.values().sum();
        let by_status: Vec<String> = self.refused.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        write!(
            f,
            "{} accepted, {refused} refused ({}), {} unknown ({} of them delivered); {} delivered in {} calls: {} \
             retries, {} repeats after {} disturbances; slowest {} ms",
            self.accepted,
            by_status.join(", "),
            self.unknown,
            self.unknown_delivered,
            self.delivered,
            self.deliveries,
            self.retries,
            self.repeats,
            self.disturbances,
            self.slowest / 1000
        )
    }
}

/// What is known of one request.
#[derive(Default)]
struct Request<'a> {
    sent: Option<&'a Event>,
    heard: Option<&'a Event>,
    /// Begins of calls of the function, with the tries' numbers.
    calls: Vec<&'a Event>,
    done_at: Option<u64>,
    failed_tries: BTreeSet<u32>,
}

/// The run's figures, and everything that is wrong with it. `slots`: calls at once, which is what one lost process can
/// have repeated at most.
pub(super) fn judge(events: &[Event], slots: usize) -> (Summary, Vec<String>) {
    let (requests, mut summary) = gather(events);
    let mut wrong = Vec::new();
    for (id, request) in &requests {
        judge_one(id, request, &mut summary, &mut wrong);
    }
    let most = slots * summary.disturbances;
    if summary.repeats > most {
        wrong.push(format!(
            "{} repeated calls, and {} disturbances explain {most} at most",
            summary.repeats, summary.disturbances
        ));
    }
    (summary, wrong)
}

fn gather(events: &[Event]) -> (BTreeMap<&str, Request<'_>>, Summary) {
    let mut requests: BTreeMap<&str, Request<'_>> = BTreeMap::new();
    let mut summary = Summary::default();
    for event in events {
        if event.call == Call::Disturb {
            summary.disturbances += usize::from(event.kind == Kind::Info);
            continue;
        }
        if event.call == Call::Drained {
            continue;
        }
        let request = requests.entry(&event.id).or_default();
        match (event.call, event.kind) {
            (Call::Enqueue, Kind::Invoke) => request.sent = Some(event),
            (Call::Enqueue, _) => request.heard = Some(event),
            (_, Kind::Invoke) => request.calls.push(event),
            (_, Kind::Ok) if event.status == Some(200) => {
                request.done_at = request.done_at.or(Some(event.at));
            }
            (_, Kind::Ok) => {
                request.failed_tries.extend(event.try_number);
            }
            (_, Kind::Fail | Kind::Info) => {}
        }
    }
    (requests, summary)
}

fn judge_one(id: &str, request: &Request<'_>, summary: &mut Summary, wrong: &mut Vec<String>) {
    count_calls(request, summary);
    let Some(sent) = request.sent else {
        wrong.push(format!("{id} was delivered and never sent"));
        return;
    };
    let elements: BTreeSet<_> = request.calls.iter().map(|call| &call.element).collect();
    if elements.len() > 1 {
        wrong.push(format!("{id} was sent once and delivered as {elements:?}"));
    }
    if request.calls.iter().any(|call| call.at < sent.at) {
        wrong.push(format!("{id} was delivered before it was sent"));
    }
    summary.delivered += usize::from(request.done_at.is_some());
    match request.heard.map(|heard| (heard.kind, heard)) {
        Some((Kind::Ok, heard)) => {
            summary.accepted += 1;
            match request.done_at {
                None => wrong.push(format!("{id} ({:?}) was acknowledged and is lost", heard.element)),
                Some(done) => summary.slowest = summary.slowest.max(done.saturating_sub(heard.at)),
            }
            if elements.iter().any(|element| **element != heard.element) {
                wrong.push(format!("{id} was acknowledged as {:?} and delivered as {elements:?}", heard.element));
            }
        }
        Some((Kind::Fail, heard)) => {
            *summary.refused.entry(heard.status.unwrap_or(0)).or_default() += 1;
            if !request.calls.is_empty() {
                wrong.push(format!("{id} was refused ({:?}) and delivered", heard.status));
            }
        }
        _ => {
            summary.unknown += 1;
            summary.unknown_delivered += usize::from(!request.calls.is_empty());
        }
    }
}

/// A call is the first of its request, or a retry (a try before it failed, and this one has its own number), or a
/// repeat.
fn count_calls(request: &Request<'_>, summary: &mut Summary) {
    summary.deliveries += request.calls.len();
    let mut seen = BTreeSet::new();
    for (count, call) in request.calls.iter().enumerate() {
        let number = call.try_number.unwrap_or(0);
        let is_retry = number > 1 && request.failed_tries.contains(&(number - 1)) && !seen.contains(&number);
        if is_retry {
            summary.retries += 1;
        } else if count > 0 {
            summary.repeats += 1;
        }
        seen.insert(number);
    }
}

/// The longest time without a 202 after each of `kills`, in microseconds, sorted. Looks `window` ahead, or until the next
/// of them.
pub(super) fn outages(events: &[Event], kills: &[u64], window: u64) -> Vec<u64> {
    let is_accepted = |event: &&Event| event.call == Call::Enqueue && event.kind == Kind::Ok;
    let accepted: Vec<u64> = events.iter().filter(is_accepted).map(|event| event.at).collect();
    let ends = kills.iter().skip(1).copied().chain([u64::MAX]);
    let mut longest: Vec<u64> = kills
        .iter()
        .zip(ends)
        .map(|(kill, end)| {
            let within = accepted.iter().filter(|at| (*kill..end.min(kill + window)).contains(*at));
            let mut last = *kill;
            let gaps = within.map(|at| at - std::mem::replace(&mut last, *at)).max();
            // Without any the whole window is one.
            gaps.unwrap_or(window)
        })
        .collect();
    longest.sort_unstable();
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, kind: Kind, call: Call, id: &str) -> Event {
        let mut event = Event::new("test", kind, call, id);
        event.at = at;
        event.element = (call != Call::Enqueue || kind == Kind::Ok).then(|| "element".to_owned());
        event.try_number = (call == Call::Deliver).then_some(1);
        event.status = match (call, kind) {
            (Call::Enqueue, Kind::Ok) => Some(202),
            (Call::Enqueue, Kind::Fail) => Some(429),
            (Call::Deliver, Kind::Ok) => Some(200),
            _ => None,
        };
        event
    }

    #[track_caller]
    fn check(events: &[(Kind, Call, &str)], wrong: &[&str]) -> Summary {
        let events: Vec<Event> = (0..).zip(events).map(|(at, (kind, call, id))| event(at, *kind, *call, id)).collect();
        let (summary, found) = judge(&events, 1);
        assert_eq!(found, wrong, "{events:?}");
        summary
    }

    #[test]
    fn what_is_acknowledged_is_delivered() {
        use Call::{Deliver, Enqueue};
        use Kind::{Fail, Info, Invoke, Ok};
        let whole = [(Invoke, Enqueue, "a"), (Ok, Enqueue, "a"), (Invoke, Deliver, "a"), (Ok, Deliver, "a")];
        let summary = check(&whole, &[]);
        assert_eq!((summary.accepted, summary.delivered, summary.deliveries, summary.repeats), (1, 1, 1, 0));
        let lost = r#"a (Some("element")) was acknowledged and is lost"#;
        check(&whole[..2], &[lost]);
        check(&whole[..3], &[lost]);
        check(&whole[2..], &["a was delivered and never sent"]);
        let sent = whole[0];
        check(&[whole[2], whole[3], sent], &["a was delivered before it was sent"]);
        check(&[sent, (Fail, Enqueue, "a"), whole[2]], &["a was refused (Some(429)) and delivered"]);
        assert_eq!(check(&[sent, (Info, Enqueue, "a")], &[]).unknown, 1);
        assert_eq!(check(&[sent, (Info, Enqueue, "a"), whole[2], whole[3]], &[]).unknown_delivered, 1);
    }

    #[test]
    fn repeats_have_a_reason() {
        use Call::{Deliver, Disturb, Enqueue};
        use Kind::{Info, Invoke, Ok};
        let mut events = vec![(Invoke, Enqueue, "a"), (Ok, Enqueue, "a")];
        events.extend([(Invoke, Deliver, "a"), (Ok, Deliver, "a"), (Invoke, Deliver, "a")]);
        check(&events, &["1 repeated calls, and 0 disturbances explain 0 at most"]);
        events.push((Info, Disturb, "node-0"));
        assert_eq!(check(&events, &[]).repeats, 1);
    }

    #[test]
    fn an_outage_is_the_longest_time_without_an_acknowledgement() {
        let accepted = [10, 20, 120, 130, 500].map(|at| event(at, Kind::Ok, Call::Enqueue, "a"));
        assert_eq!(outages(&accepted, &[15], 200), [100]);
        assert_eq!(outages(&accepted, &[15, 125, 600], 400), [100, 370, 400]);
        assert_eq!(outages(&accepted, &[5, 15], 200), [5, 100]);
    }
}
