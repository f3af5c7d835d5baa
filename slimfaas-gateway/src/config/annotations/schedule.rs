//! `SlimFaas/Schedule`: times of day.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::{TZ_VARIANTS, Tz};

use super::json::{Field, Object};
use super::{Draft, NUMBER_MAX, Source, quoted};
use crate::config::suggest;
use crate::model::schedule::{Schedule, ScheduledTimeout};

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
    if let Some(zone) = TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name.trim())) {
        return *zone;
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
