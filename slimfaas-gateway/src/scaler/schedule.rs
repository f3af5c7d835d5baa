//! What a schedule says at an instant. Pure: the wall clock is an argument.
//!
//! A wall time of a day becomes the first instant at which the clock of the zone shows it or a later one. So a time
//! that a spring change skips comes at the first instant after the gap, and a time that an autumn change repeats
//! comes once, the first time. Days are those of the zone, never those of UTC.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;

use crate::model::schedule::{Schedule, ScheduledTimeout};
use crate::model::zone;

/// The schedule at one instant; it holds until `next_change`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The latest wake-up that has passed. It counts as a call, so it matters for one inactivity timeout.
    pub last_wake: Option<DateTime<Utc>>,
    /// Replaces the function's own inactivity timeout.
    pub idle_timeout: Option<Duration>,
    /// The next instant at which one of the above may differ.
    pub next_change: Option<DateTime<Utc>>,
}

/// Days looked at on each side of today. One would do but for zones that once skipped or repeated a whole day.
const DAYS_AROUND: u64 = 2;

/// Reads `schedule` at `now`.
pub fn outcome(schedule: &Schedule, now: DateTime<Utc>) -> Outcome {
    let zone = schedule.zone;
    let days = days_around(now.with_timezone(&zone).date_naive());
    let (last_wake, next_wake) = around(now, schedule.wake_ups.iter().flat_map(|time| instants(zone, &days, *time)));
    let (idle_timeout, next_timeout) = match schedule.idle_timeouts.as_slice() {
        [] => (None, None),
        [only] => single_timeout(zone, &days, *only, now),
        several => latest_timeout(zone, &days, several, now),
    };
    Outcome { last_wake, idle_timeout, next_change: [next_wake, next_timeout].into_iter().flatten().min() }
}

/// A single entry replaces the function's own timeout from its time to the end of its day.
fn single_timeout(
    zone: Tz,
    days: &[NaiveDate],
    entry: ScheduledTimeout,
    now: DateTime<Utc>,
) -> (Option<Duration>, Option<DateTime<Utc>>) {
    let (midnight, next_midnight) = around(now, instants(zone, days, NaiveTime::MIN));
    let (entered, next_entry) = around(now, instants(zone, days, entry.from));
    // At the same instant (an entry at midnight) the entry is the later of the two.
    let in_force = entered.is_some() && entered >= midnight;
    (in_force.then_some(entry.timeout), [next_midnight, next_entry].into_iter().flatten().min())
}

/// Of several entries one is always in force: the latest that has passed, be it yesterday's.
fn latest_timeout(
    zone: Tz,
    days: &[NaiveDate],
    entries: &[ScheduledTimeout],
    now: DateTime<Utc>,
) -> (Option<Duration>, Option<DateTime<Utc>>) {
    let passed = |entry: &ScheduledTimeout| around(now, instants(zone, days, entry.from));
    // Two times that the same gap skips come at one instant; the later time of day wins.
    let in_force = entries.iter().filter_map(|entry| Some((passed(entry).0?, entry.from, entry.timeout))).max();
    let next = entries.iter().filter_map(|entry| passed(entry).1).min();
    (in_force.map(|(_, _, timeout)| timeout), next)
}

/// The latest of `instants` that has come, and the earliest that has not.
fn around(
    now: DateTime<Utc>,
    instants: impl Iterator<Item = DateTime<Utc>>,
) -> (Option<DateTime<Utc>>, Option<DateTime<Utc>>) {
    instants.fold((None, None), |(last, next), instant| {
        if instant <= now {
            (last.max(Some(instant)), next)
        } else {
            (last, Some(next.map_or(instant, |next: DateTime<Utc>| next.min(instant))))
        }
    })
}

fn instants(zone: Tz, days: &[NaiveDate], time: NaiveTime) -> impl Iterator<Item = DateTime<Utc>> {
    days.iter().filter_map(move |day| zone::instant(zone, day.and_time(time)))
}

fn days_around(today: NaiveDate) -> Vec<NaiveDate> {
    let first = today.checked_sub_days(Days::new(DAYS_AROUND)).unwrap_or(today);
    first.iter_days().take(usize::try_from(2 * DAYS_AROUND + 1).expect("a handful of days fits")).collect()
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveDateTime, TimeDelta};
    use chrono_tz::Tz;
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> NaiveTime {
        NaiveTime::parse_from_str(text, "%H:%M").expect("a time of day")
    }

    fn utc(text: &str) -> DateTime<Utc> {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").expect("an instant").and_utc()
    }

    fn schedule(zone: &str, wake_ups: &[&str], timeouts: &[(&str, u64)]) -> Schedule {
        Schedule {
            zone: zone.parse().expect("a zone"),
            wake_ups: wake_ups.iter().map(|text| time(text)).collect(),
            idle_timeouts: timeouts
                .iter()
                .map(|(from, secs)| ScheduledTimeout { from: time(from), timeout: Duration::from_secs(*secs) })
                .collect(),
        }
    }

    /// Wake-ups of a zone at an instant: the last one and the next one.
    #[track_caller]
    fn check_wake(zone: &str, wake_ups: &[&str], now: &str, expected: (&str, &str)) {
        let read = outcome(&schedule(zone, wake_ups, &[]), utc(now));
        let expected =
            Outcome { last_wake: Some(utc(expected.0)), idle_timeout: None, next_change: Some(utc(expected.1)) };
        assert_eq!(read, expected, "{zone} {wake_ups:?} at {now}");
    }

    /// Timeouts of a zone at an instant: the one in force (seconds) and when that may change.
    #[track_caller]
    fn check_timeout(zone: &str, timeouts: &[(&str, u64)], now: &str, expected: (Option<u64>, &str)) {
        let read = outcome(&schedule(zone, &[], timeouts), utc(now));
        let idle_timeout = expected.0.map(Duration::from_secs);
        let expected = Outcome { last_wake: None, idle_timeout, next_change: Some(utc(expected.1)) };
        assert_eq!(read, expected, "{zone} {timeouts:?} at {now}");
    }

    #[test]
    fn an_empty_schedule_says_nothing() {
        assert_eq!(outcome(&schedule("Europe/Paris", &[], &[]), utc("2026-06-01T12:00:00")), Outcome::default());
    }

    #[test]
    fn a_wake_up_comes_at_its_very_instant() {
        // Paris is at +2 in June.
        let wake = &["07:00"];
        let p = "Europe/Paris";
        check_wake(p, wake, "2026-06-01T04:59:59.999", ("2026-05-31T05:00:00", "2026-06-01T05:00:00"));
        check_wake(p, wake, "2026-06-01T05:00:00", ("2026-06-01T05:00:00", "2026-06-02T05:00:00"));
        check_wake(p, &["07:00", "13:30"], "2026-06-01T05:00:00", ("2026-06-01T05:00:00", "2026-06-01T11:30:00"));
    }

    #[test]
    fn a_time_that_spring_skips_comes_right_after_the_gap() {
        // Paris goes from 02:00 to 03:00 at 01:00 UTC on 29 March 2026.
        let p = "Europe/Paris";
        check_wake(p, &["02:30"], "2026-03-29T00:59:59", ("2026-03-28T01:30:00", "2026-03-29T01:00:00"));
        check_wake(p, &["02:30"], "2026-03-29T01:00:00", ("2026-03-29T01:00:00", "2026-03-30T00:30:00"));
        check_wake(p, &["02:00"], "2026-03-29T01:00:00", ("2026-03-29T01:00:00", "2026-03-30T00:00:00"));
        check_wake(p, &["03:00"], "2026-03-29T00:59:59", ("2026-03-28T02:00:00", "2026-03-29T01:00:00"));
        check_wake(p, &["07:00"], "2026-03-29T12:00:00", ("2026-03-29T05:00:00", "2026-03-30T05:00:00"));
        // Auckland goes from 02:00 to 03:00 at 14:00 UTC on 26 September 2026.
        let a = "Pacific/Auckland";
        check_wake(a, &["02:15"], "2026-09-26T13:59:59", ("2026-09-25T14:15:00", "2026-09-26T14:00:00"));
        check_wake(a, &["02:15"], "2026-09-26T14:00:00", ("2026-09-26T14:00:00", "2026-09-27T13:15:00"));
        // St. John's goes from 02:00 to 03:00 at 05:30 UTC on 8 March 2026.
        let s = "America/St_Johns";
        check_wake(s, &["02:45"], "2026-03-08T05:29:59", ("2026-03-07T06:15:00", "2026-03-08T05:30:00"));
    }

    #[test]
    fn a_time_that_autumn_repeats_comes_once_the_first_time() {
        // Paris goes from 03:00 back to 02:00 at 01:00 UTC on 25 October 2026.
        let p = "Europe/Paris";
        check_wake(p, &["02:30"], "2026-10-25T00:29:59", ("2026-10-24T00:30:00", "2026-10-25T00:30:00"));
        check_wake(p, &["02:30"], "2026-10-25T00:30:00", ("2026-10-25T00:30:00", "2026-10-26T01:30:00"));
        check_wake(p, &["02:30"], "2026-10-25T01:10:00", ("2026-10-25T00:30:00", "2026-10-26T01:30:00"));
        check_wake(p, &["02:30"], "2026-10-25T01:30:00", ("2026-10-25T00:30:00", "2026-10-26T01:30:00"));
        check_wake(p, &["02:00"], "2026-10-25T01:00:00", ("2026-10-25T00:00:00", "2026-10-26T01:00:00"));
        check_wake(p, &["03:00"], "2026-10-25T01:59:59", ("2026-10-24T01:00:00", "2026-10-25T02:00:00"));
        // Auckland goes from 03:00 back to 02:00 at 14:00 UTC on 4 April 2026.
        let a = "Pacific/Auckland";
        check_wake(a, &["02:15"], "2026-04-04T14:15:00", ("2026-04-04T13:15:00", "2026-04-05T14:15:00"));
        // St. John's goes from 02:00 back to 01:00 at 04:30 UTC on 1 November 2026.
        let s = "America/St_Johns";
        check_wake(s, &["01:30"], "2026-11-01T05:00:00", ("2026-11-01T04:00:00", "2026-11-02T05:00:00"));
    }

    #[test]
    fn the_day_is_that_of_the_zone() {
        // 14 hours ahead of UTC: 07:00 of the 2nd is 17:00 UTC of the 1st.
        let k = "Pacific/Kiritimati";
        check_wake(k, &["07:00"], "2026-01-01T16:59:00", ("2025-12-31T17:00:00", "2026-01-01T17:00:00"));
        check_wake(k, &["07:00"], "2026-01-01T17:00:00", ("2026-01-01T17:00:00", "2026-01-02T17:00:00"));
        // 11 hours behind: 23:00 of the 1st is 10:00 UTC of the 2nd.
        let p = "Pacific/Pago_Pago";
        check_wake(p, &["23:00"], "2026-01-02T09:59:59", ("2026-01-01T10:00:00", "2026-01-02T10:00:00"));
        check_wake(p, &["00:30"], "2026-01-02T00:00:00", ("2026-01-01T11:30:00", "2026-01-02T11:30:00"));
        check_wake("UTC", &["00:00"], "2025-12-31T23:59:59.999", ("2025-12-31T00:00:00", "2026-01-01T00:00:00"));
        check_wake("UTC", &["00:00"], "2026-01-01T00:00:00", ("2026-01-01T00:00:00", "2026-01-02T00:00:00"));
        check_wake("UTC", &["23:59"], "2026-01-01T00:00:00", ("2025-12-31T23:59:00", "2026-01-01T23:59:00"));
    }

    #[test]
    fn a_day_that_a_zone_skips_comes_at_the_start_of_the_next() {
        // Apia had no 30 December 2011: from 10:00 UTC on the 30th it is the 31st there.
        check_wake("Pacific/Apia", &["07:00"], "2011-12-30T09:59:59", ("2011-12-29T17:00:00", "2011-12-30T10:00:00"));
        check_wake("Pacific/Apia", &["07:00"], "2011-12-30T10:00:00", ("2011-12-30T10:00:00", "2011-12-30T17:00:00"));
    }

    #[test]
    fn of_several_timeouts_the_latest_passed_is_in_force() {
        let day_and_night = &[("07:00", 20), ("21:00", 10)];
        let p = "Europe/Paris";
        check_timeout(p, day_and_night, "2026-06-01T04:59:59", (Some(10), "2026-06-01T05:00:00"));
        check_timeout(p, day_and_night, "2026-06-01T05:00:00", (Some(20), "2026-06-01T19:00:00"));
        check_timeout(p, day_and_night, "2026-06-01T19:00:00", (Some(10), "2026-06-02T05:00:00"));
        // Just after midnight in Paris, when UTC still has the day before.
        check_timeout(p, day_and_night, "2026-06-01T22:30:00", (Some(10), "2026-06-02T05:00:00"));
        // Both inside the spring gap.
        let gap = &[("02:10", 1), ("02:50", 2)];
        check_timeout(p, gap, "2026-03-29T00:59:59", (Some(2), "2026-03-29T01:00:00"));
        check_timeout(p, gap, "2026-03-29T01:00:00", (Some(2), "2026-03-30T00:10:00"));
    }

    #[test]
    fn a_single_timeout_holds_from_its_time_to_the_end_of_the_day() {
        let evening = &[("21:00", 10)];
        let p = "Europe/Paris";
        check_timeout(p, evening, "2026-06-01T18:59:59", (None, "2026-06-01T19:00:00"));
        check_timeout(p, evening, "2026-06-01T19:00:00", (Some(10), "2026-06-01T22:00:00"));
        check_timeout(p, evening, "2026-06-01T21:59:59", (Some(10), "2026-06-01T22:00:00"));
        check_timeout(p, evening, "2026-06-01T22:00:00", (None, "2026-06-02T19:00:00"));
        check_timeout("UTC", &[("00:00", 10)], "2026-06-01T00:00:00", (Some(10), "2026-06-02T00:00:00"));
        check_timeout("Pacific/Kiritimati", evening, "2026-01-01T07:00:00", (Some(10), "2026-01-01T10:00:00"));
        // Cairo has no 00:00 on 24 April 2026: its day starts at 01:00, 22:00 UTC.
        check_timeout("Africa/Cairo", evening, "2026-04-23T21:59:59", (Some(10), "2026-04-23T22:00:00"));
        check_timeout("Africa/Cairo", evening, "2026-04-23T22:00:00", (None, "2026-04-24T18:00:00"));
        // St. John's went from 00:01 on 7 November 2010 back to 23:01 on the 6th: the 7th has begun once and for all.
        let s = "America/St_Johns";
        check_timeout(s, evening, "2010-11-07T02:29:59", (Some(10), "2010-11-07T02:30:00"));
        check_timeout(s, evening, "2010-11-07T02:45:00", (None, "2010-11-08T00:30:00"));
    }

    /// Steps through the minutes around `now` and notes when the clock on the wall first reaches each time of a day.
    fn stepped(schedule: &Schedule, now: DateTime<Utc>) -> Outcome {
        let mut reached: Option<NaiveDateTime> = None;
        let mut read = Outcome::default();
        let midnight = schedule.idle_timeouts.len() == 1;
        let first = now - TimeDelta::days(3);
        for minute in 0..6 * 24 * 60 {
            let instant = first + TimeDelta::minutes(minute);
            let wall = instant.with_timezone(&schedule.zone).naive_local();
            let Some(before) = reached else {
                reached = Some(wall);
                continue;
            };
            if wall <= before {
                continue;
            }
            reached = Some(wall);
            let comes = |time: NaiveTime| {
                before.date().iter_days().take_while(|day| *day <= wall.date()).any(|day| {
                    let at = day.and_time(time);
                    before < at && at <= wall
                })
            };
            let wakes = schedule.wake_ups.iter().any(|time| comes(*time));
            let starts_day = midnight && comes(NaiveTime::MIN);
            let entry = schedule.idle_timeouts.iter().rfind(|entry| comes(entry.from));
            if instant > now && (wakes || starts_day || entry.is_some()) {
                read.next_change = Some(instant);
                break;
            }
            if wakes {
                read.last_wake = Some(instant);
            }
            if starts_day {
                read.idle_timeout = None;
            }
            read.idle_timeout = entry.map_or(read.idle_timeout, |entry| Some(entry.timeout));
        }
        read
    }

    const ZONES: [&str; 12] = [
        "UTC",
        "Europe/Paris",
        "Europe/London",
        "Pacific/Auckland",
        "Pacific/Kiritimati",
        "Pacific/Pago_Pago",
        "Pacific/Apia",
        "America/St_Johns",
        "America/Havana",
        "Africa/Cairo",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
    ];

    /// The whole hours of a year at which the zone's offset changes.
    fn offset_changes(zone: Tz, year: i32) -> Vec<DateTime<Utc>> {
        let start = NaiveDate::from_ymd_opt(year, 1, 1).expect("a date").and_time(NaiveTime::MIN).and_utc();
        let offset = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() - at.naive_utc();
        (0..366 * 24)
            .map(|hour| start + TimeDelta::hours(hour))
            .filter(|at| offset(*at) != offset(*at + TimeDelta::hours(1)))
            .collect()
    }

    fn times(most: usize) -> impl Strategy<Value = Vec<NaiveTime>> {
        // Half of them in the hours at which clocks are changed.
        let minute = prop_oneof![0..24 * 60_u32, 0..4 * 60_u32];
        proptest::collection::btree_set(minute, 0..=most).prop_map(|minutes| {
            minutes
                .into_iter()
                .map(|m| NaiveTime::from_hms_opt(m / 60, m % 60, 0).expect("a minute of a day"))
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]
        #[test]
        fn it_agrees_with_stepping_through_the_minutes(
            zone in proptest::sample::select(&ZONES[..]),
            year in prop_oneof![2008..2013_i32, 2024..2030_i32],
            near_change in any::<proptest::sample::Index>(),
            minutes_off in -30 * 60..30 * 60_i64,
            anywhere in proptest::option::of(0..365 * 24 * 60_i64),
            wake_ups in times(3),
            timeouts in times(3),
        ) {
            let zone: Tz = zone.parse().expect("a zone");
            let changes = offset_changes(zone, year);
            let new_year = NaiveDate::from_ymd_opt(year, 1, 1).expect("a date").and_time(NaiveTime::MIN).and_utc();
            let now = match anywhere {
                None if !changes.is_empty() => *near_change.get(&changes) + TimeDelta::minutes(minutes_off),
                minute => new_year + TimeDelta::minutes(minute.unwrap_or(0)),
            };
            let idle_timeouts = timeouts.iter().zip(1..);
            let idle_timeouts =
                idle_timeouts.map(|(from, secs)| ScheduledTimeout { from: *from, timeout: Duration::from_secs(secs) });
            let schedule = Schedule { zone, wake_ups, idle_timeouts: idle_timeouts.collect() };
            prop_assert_eq!(outcome(&schedule, now), stepped(&schedule, now));
        }
    }
}
