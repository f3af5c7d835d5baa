//! When a cron line says so: five fields and a time zone. Pure.
//!
//! What a change of the clocks does: a minute that is skipped comes at the first instant after the gap, and one that
//! comes twice counts the first time. So each planned minute of a day fires once. A line whose hour is `*` means
//! intervals and not times of day: it follows real time, and fires in both passes of an hour that is repeated.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;

use super::zone;

/// A parsed line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bit 0 is Sunday.
    weekdays: u64,
    /// With both restricted, a day that matches either counts (as in every cron).
    either_day: bool,
    zone: Tz,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("a schedule has five fields (minute hour day month weekday), found {0}")]
    Fields(usize),
    #[error("{field}: found {found:?}; allowed: {min} to {max}, *, lists, ranges and steps such as */5 or 1-5")]
    Field { field: &'static str, found: String, min: u32, max: u32 },
    #[error("found the time zone {0:?}; allowed: an IANA name such as Europe/Paris")]
    Zone(String),
    #[error("no day of any year matches: check the day and the month")]
    Never,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, words: &[] },
    Field { name: "hour", min: 0, max: 23, words: &[] },
    Field { name: "day", min: 1, max: 31, words: &[] },
    Field {
        name: "month",
        min: 1,
        max: 12,
        words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { name: "weekday", min: 0, max: 7, words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

const ALL_HOURS: u64 = (1 << 24) - 1;

/// 29 February on one weekday comes within 40 years, wherever they begin.
const DAYS_MAX: usize = 41 * 366;

/// Longer lines are nobody's.
const LINE_BYTES_MAX: usize = 256;

impl Cron {
    pub fn parse(line: &str, zone: Option<&str>) -> Result<Self, CronError> {
        let zone = match zone.map(str::trim).filter(|name| !name.is_empty()) {
            None => Tz::UTC,
            Some(name) => zone::named(name).ok_or_else(|| CronError::Zone(name.chars().take(64).collect()))?,
        };
        let texts: Vec<&str> = line.split_ascii_whitespace().collect();
        let Ok([minute, hour, day, month, weekday]) = <[&str; 5]>::try_from(texts.clone()) else {
            return Err(CronError::Fields(texts.len()));
        };
        if line.len() > LINE_BYTES_MAX {
            return Err(CronError::Fields(texts.len()));
        }
        let weekdays = FIELDS[4].parse(weekday)?;
        let cron = Self {
            minutes: FIELDS[0].parse(minute)?,
            hours: FIELDS[1].parse(hour)?,
            days: FIELDS[2].parse(day)?,
            months: FIELDS[3].parse(month)?,
            // Sunday is 0 and 7.
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
            zone,
        };
        let can_be =
            |days: u32, month: u32| cron.months >> month & 1 == 1 && (1..=days).any(|d| cron.days >> d & 1 == 1);
        let lengths = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let ever = cron.either_day || lengths.into_iter().zip(1..).any(|(days, month)| can_be(days, month));
        if ever { Ok(cron) } else { Err(CronError::Never) }
    }

    /// The first instant after `after`; `None`: there is none that a calendar knows.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let days = self.day_before(after).iter_days();
        days.take(DAYS_MAX)
            .filter(|day| self.has_day(*day))
            .find_map(|day| self.instants(day).into_iter().find(|instant| *instant > after))
    }

    /// The last instant that is after `after` and not after `upto`.
    pub fn last(&self, after: DateTime<Utc>, upto: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let (first, mut day) = (self.day_before(after), self.day_before(upto).checked_add_days(Days::new(2))?);
        while day >= first {
            if self.has_day(day) {
                let found = self.instants(day).into_iter().rfind(|instant| *instant <= upto);
                if let Some(found) = found {
                    return (found > after).then_some(found);
                }
            }
            day = day.pred_opt()?;
        }
        None
    }

    /// A zone may have skipped a whole day.
    fn day_before(&self, instant: DateTime<Utc>) -> NaiveDate {
        let day = instant.with_timezone(&self.zone).date_naive();
        day.pred_opt().unwrap_or(day)
    }

    fn has_day(&self, day: NaiveDate) -> bool {
        let bit = |set: u64, number: u32| set >> number & 1 == 1;
        let by_day = bit(self.days, day.day());
        let by_weekday = bit(self.weekdays, day.weekday().num_days_from_sunday());
        let matches = if self.either_day { by_day || by_weekday } else { by_day && by_weekday };
        matches && bit(self.months, day.month())
    }

    /// Of one day of the zone, in order, each once.
    fn instants(&self, day: NaiveDate) -> Vec<DateTime<Utc>> {
        let hours = (0..24).filter(|hour| self.hours >> hour & 1 == 1);
        let times = hours.flat_map(|hour| {
            let minutes = (0..60).filter(|minute| self.minutes >> minute & 1 == 1);
            minutes.filter_map(move |minute| NaiveTime::from_hms_opt(hour, minute, 0))
        });
        let mut instants: Vec<DateTime<Utc>> = times.flat_map(|time| self.shown(day, time)).collect();
        instants.sort_unstable();
        instants.dedup();
        instants
    }

    fn shown(&self, day: NaiveDate, time: NaiveTime) -> Vec<DateTime<Utc>> {
        let wall = day.and_time(time);
        let is_interval = self.hours == ALL_HOURS;
        if is_interval {
            zone::instants(self.zone, wall).collect()
        } else {
            zone::instant(self.zone, wall).into_iter().collect()
        }
    }
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        let refused = || CronError::Field {
            field: self.name,
            found: text.chars().take(32).collect(),
            min: self.min,
            max: self.max,
        };
        text.split(',').try_fold(0, |set, part| Some(set | self.part(part)?)).ok_or_else(refused)
    }

    /// `*`, `3`, `1-5`, each with a step perhaps. `2/4` is 2 and every fourth after it, as in the original.
    fn part(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (text, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.min, self.max),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            None => {
                let from = self.value(range)?;
                (from, if step.is_some() { self.max } else { from })
            }
        };
        let step = step.unwrap_or(1);
        let is_valid = from <= to && from >= self.min && to <= self.max && step > 0;
        is_valid.then(|| (from..=to).step_by(step as usize).fold(0, |set, value| set | 1 << value))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        match word {
            Some(at) => Some(self.min + u32::try_from(at).ok()?),
            None => number(text),
        }
    }
}

/// Digits alone: `+5` is no number of a cron line.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("an instant")
    }

    #[track_caller]
    fn check(line: &str, zone: &str, after: &str, expected: &[&str]) {
        let cron = Cron::parse(line, Some(zone)).expect("a schedule");
        let mut found = Vec::new();
        let mut last = at(after);
        for _ in expected {
            last = cron.next(last).expect("there is one");
            found.push(last.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        }
        assert_eq!(found, expected, "{line} {zone}");
    }

    #[test]
    fn ordinary_lines() {
        let utc = |line: &str, after: &str, expected: &[&str]| check(line, "UTC", after, expected);
        utc(
            "*/20 * * * *",
            "2026-01-01T00:00:00Z",
            &["2026-01-01T00:20:00Z", "2026-01-01T00:40:00Z", "2026-01-01T01:00:00Z"],
        );
        utc("0/2 0 * * *", "2026-01-01T00:01:30Z", &["2026-01-01T00:02:00Z", "2026-01-01T00:04:00Z"]);
        utc("30 4 1,15 * *", "2026-01-01T04:30:00Z", &["2026-01-15T04:30:00Z", "2026-02-01T04:30:00Z"]);
        utc("0 9 * * mon-FRI", "2026-01-02T10:00:00Z", &["2026-01-05T09:00:00Z"]);
        utc("0 0 * * 7", "2026-01-01T00:00:00Z", &["2026-01-04T00:00:00Z"]);
        // Both restricted: either.
        utc("0 0 13 * 5", "2026-02-10T00:00:00Z", &["2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"]);
        utc("0 0 29 2 *", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
        utc("0 0 29 feb */7", "2096-03-01T00:00:00Z", &["2128-02-29T00:00:00Z"]);
    }

    #[test]
    fn what_is_no_schedule_says_why() {
        let check = |line: &str, zone: Option<&str>, part: &str| {
            let error = Cron::parse(line, zone).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        };
        check("* * * *", None, "found 4");
        check("* * * * * *", None, "found 6");
        check("60 * * * *", None, "minute: found \"60\"");
        check("* 24 * * *", None, "hour");
        check("* * 0 * *", None, "day");
        check("* * * 13 *", None, "month");
        check("* * * * 8", None, "weekday");
        check("5-1 * * * *", None, "minute");
        check("*/0 * * * *", None, "minute");
        check("a * * * *", None, "minute");
        check("1,,2 * * * *", None, "minute");
        check("+1 * * * *", None, "minute");
        check("* * * * *", Some("Mars/Olympus"), "Mars/Olympus");
        check("0 0 30 2 *", None, "no day");
        check(&format!("{} * * * *", vec!["1"; 300].join(",")), None, "found 5");
    }

    #[test]
    fn a_minute_that_is_skipped_comes_once_after_the_gap() {
        // 29 March 2026: 02:00 CET is 03:00 CEST, at 01:00 UTC.
        let days = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        check("30 2 * * *", "Europe/Paris", "2026-03-27T12:00:00Z", &days);
        // Several that are skipped come as one.
        let one = ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"];
        check("*/15 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", &one);
    }

    #[test]
    fn a_minute_that_comes_twice_counts_the_first_time() {
        // 25 October 2026: 03:00 CEST is 02:00 CET, at 01:00 UTC.
        let days = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        check("30 2 * * *", "Europe/Paris", "2026-10-23T12:00:00Z", &days);
    }

    #[test]
    fn every_hour_means_real_time() {
        let spring = ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"];
        check("30 * * * *", "Europe/Paris", "2026-03-29T00:00:00Z", &spring);
        let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"];
        check("30 * * * *", "Europe/Paris", "2026-10-25T00:00:00Z", &autumn);
    }

    fn lines() -> impl Strategy<Value = String> {
        let field = |any: &'static [&'static str]| prop::sample::select(any);
        let minute = field(&["*", "0", "30", "*/15", "7-9", "59"]);
        let hour = field(&["*", "0", "2", "1,3", "*/6", "23"]);
        let day = field(&["*", "1", "29", "25-31"]);
        let month = field(&["*", "3", "10", "2,12"]);
        let weekday = field(&["*", "0", "1-5", "sun"]);
        (minute, hour, day, month, weekday).prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// `last` finds what stepping with `next` finds, in zones with and without odd days.
        #[test]
        fn the_last_is_the_end_of_all_nexts(
            line in lines(),
            zone in prop::sample::select(vec!["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]),
            begin in 0_i64..12 * 366 * 24 * 60,
            minutes in 0_i64..10 * 24 * 60,
        ) {
            let cron = Cron::parse(&line, Some(zone)).expect("a schedule");
            // Apia had no 30 December 2011.
            let after = at("2011-06-01T00:00:00Z") + TimeDelta::minutes(begin);
            let upto = after + TimeDelta::minutes(minutes);
            let mut expected = None;
            let mut step = after;
            while let Some(next) = cron.next(step).filter(|next| *next <= upto) {
                prop_assert!(next > step);
                (expected, step) = (Some(next), next);
            }
            prop_assert_eq!(cron.last(after, upto), expected);
        }
    }
}
