//! `SlimFaas/Schedule`: times of day.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::{TZ_VARIANTS, Tz};

use super::json::{Field, Object};
use super::{Draft, NUMBER_MAX, Source, quoted};
use crate::config::suggest;
use crate::model::schedule::{Schedule, ScheduledTimeout};
use crate::model::zone;

/// The zone of a schedule that names none.
const ZONE: Tz = Tz::GB;

pub(super) fn read(draft: &mut Draft<'_>, from: Source<'_>) {
    let last = draft.last.schedule.as_ref();
    let Some(mut document) = Object::document(&mut draft.problems, from, "the last good schedule, else none") else {
        draft.spec.schedule = last.cloned();
        return;
    };
    let zone = read_zone(&mut document, last.map_or(ZONE, |schedule| schedule.zone));
    let mut schedule = Schedule { zone, wake_ups: Vec::new(), idle_timeouts: Vec::new() };
    match document.object("Default", "the last good times, else none") {
        Field::Absent => {}
        Field::Bad => {
            if let Some(last) = last {
                schedule.wake_ups.clone_from(&last.wake_ups);
                schedule.idle_timeouts.clone_from(&last.idle_timeouts);
            }
        }
        Field::Given(mut times) => {
            schedule.wake_ups = read_wake_ups(&mut times, last);
            schedule.idle_timeouts = read_timeouts(&mut times, last);
            times.finish();
        }
    }
    document.finish();
    draft.spec.schedule = Some(schedule);
}

fn read_zone(document: &mut Object<'_>, used: Tz) -> Tz {
    let name = match document.text("TimeZoneID", used.name()) {
        Field::Absent => return ZONE,
        Field::Bad => return used,
        Field::Given(name) => name,
    };
    if let Some(zone) = zone::named(&name) {
        return zone;
    }
    let hint = suggest::did_you_mean(&name, TZ_VARIANTS.iter().map(|zone| zone.name()));
    document.report(&format!(
        "TimeZoneID: found {}; allowed: an IANA time zone such as Europe/Paris; used instead: {used}{hint}",
        quoted(&name)
    ));
    used
}

fn read_wake_ups(times: &mut Object<'_>, last: Option<&Schedule>) -> Vec<NaiveTime> {
    let entries = match times.list("WakeUp", "the last good list, else none") {
        Field::Absent => return Vec::new(),
        Field::Bad => return last.map(|schedule| schedule.wake_ups.clone()).unwrap_or_default(),
        Field::Given(entries) => entries,
    };
    let mut sorted = BTreeSet::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match entry.as_str().and_then(time_of_day) {
            Some(time) => {
                sorted.insert(time);
            }
            None => {
                times.report(&format!("WakeUp[{index}]: found {}; {TIME_ALLOWED}", super::excerpt(&entry.to_string())))
            }
        }
    }
    sorted.into_iter().collect()
}

/// Of several entries with the same time the last one counts.
fn read_timeouts(times: &mut Object<'_>, last: Option<&Schedule>) -> Vec<ScheduledTimeout> {
    let entries = match times.list("ScaleDownTimeout", "the last good list, else none") {
        Field::Absent => return Vec::new(),
        Field::Bad => return last.map(|schedule| schedule.idle_timeouts.clone()).unwrap_or_default(),
        Field::Given(entries) => entries,
    };
    let mut sorted = BTreeMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let mut entry = times.element("ScaleDownTimeout", index, entry);
        let time = match entry.text("Time", "nothing, the entry is skipped") {
            Field::Given(text) => {
                let time = time_of_day(&text);
                if time.is_none() {
                    entry.report(&format!("Time: found {}; {TIME_ALLOWED}", quoted(&text)));
                }
                time
            }
            Field::Bad => None,
            Field::Absent => {
                entry.report("it has no Time; the entry is skipped");
                None
            }
        };
        let value = match entry.whole("Value", &(0..=NUMBER_MAX), "nothing, the entry is skipped") {
            Field::Given(seconds) => Some(seconds),
            Field::Bad => None,
            Field::Absent => {
                entry.report("it has no Value (seconds); the entry is skipped");
                None
            }
        };
        entry.finish();
        if let (Some(from), Some(seconds)) = (time, value) {
            sorted.insert(from, Duration::from_secs(seconds.into()));
        }
    }
    sorted.into_iter().map(|(from, timeout)| ScheduledTimeout { from, timeout }).collect()
}

const TIME_ALLOWED: &str = "allowed: a time of day such as \"7:00\" or \"21:30\"; the entry is skipped";

/// `H:m`: one or two digits each.
fn time_of_day(text: &str) -> Option<NaiveTime> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |digits: &str| -> Option<u32> {
        let is_number = matches!(digits.len(), 1..=2) && digits.bytes().all(|b| b.is_ascii_digit());
        if is_number { digits.parse().ok() } else { None }
    };
    NaiveTime::from_hms_opt(number(hour)?, number(minute)?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::annotations::tests::{at, check};

    #[test]
    fn times_and_zone() {
        let reference = r#"{ "TimeZoneID": "Europe/Paris", "Default": { "WakeUp": ["07:00"],
            "ScaleDownTimeout": [ {"Time":"07:00","Value":20}, {"Time":"21:00","Value":10} ] } }"#;
        let timeout = |from, value| ScheduledTimeout { from, timeout: Duration::from_secs(value) };
        let paris = Schedule {
            zone: Tz::Europe__Paris,
            wake_ups: vec![at(7, 0)],
            idle_timeouts: vec![timeout(at(7, 0), 20), timeout(at(21, 0), 10)],
        };
        check(&[("Schedule", reference)], |spec| spec.schedule = Some(paris), &[]);

        let empty = Schedule { zone: Tz::GB, wake_ups: vec![], idle_timeouts: vec![] };
        check(&[("Schedule", "{}")], |spec| spec.schedule = Some(empty.clone()), &[]);

        let sorted = Schedule { wake_ups: vec![at(6, 5), at(23, 59)], ..empty.clone() };
        check(
            &[("Schedule", r#"{"Default":{"WakeUp":["23:59","6:5","06:05"]}}"#)],
            |spec| spec.schedule = Some(sorted),
            &[],
        );

        let allowed = "allowed: a time of day such as \"7:00\" or \"21:30\"; the entry is skipped";
        check(
            &[("Schedule", r#"{"TimeZoneID":"Europe/Pariss","Default":{"WakeUp":["24:00","7",7],"Wakeup":[]}}"#)],
            |spec| spec.schedule = Some(empty.clone()),
            &[
                "SlimFaas/Schedule: TimeZoneID: found \"Europe/Pariss\"; \
                 allowed: an IANA time zone such as Europe/Paris; used instead: GB; did you mean Europe/Paris?",
                &format!("SlimFaas/Schedule: Default: WakeUp[0]: found \"24:00\"; {allowed}"),
                &format!("SlimFaas/Schedule: Default: WakeUp[1]: found \"7\"; {allowed}"),
                &format!("SlimFaas/Schedule: Default: WakeUp[2]: found 7; {allowed}"),
                "SlimFaas/Schedule: Default.Wakeup: no such field, it is ignored; did you mean WakeUp?",
            ],
        );
        check(
            &[(
                "Schedule",
                r#"{"Default":{"ScaleDownTimeout":[{"Time":"7:00"},{"Value":1},{"Time":"+7:0","Value":-1}]}}"#,
            )],
            |spec| spec.schedule = Some(empty),
            &[
                "SlimFaas/Schedule: Default.ScaleDownTimeout[0]: it has no Value (seconds); the entry is skipped",
                "SlimFaas/Schedule: Default.ScaleDownTimeout[1]: it has no Time; the entry is skipped",
                &format!("SlimFaas/Schedule: Default.ScaleDownTimeout[2]: Time: found \"+7:0\"; {allowed}"),
                "SlimFaas/Schedule: Default.ScaleDownTimeout[2].Value: found -1; \
                 allowed: a whole number from 0 to 2147483647; used instead: nothing, the entry is skipped",
            ],
        );
        check(
            &[("Schedule", "[]")],
            |_| {},
            &["SlimFaas/Schedule: found []; allowed: a JSON object; used instead: the last good schedule, else none"],
        );
    }
}
