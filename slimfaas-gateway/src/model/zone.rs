//! Time zones: their names, and what their clocks show. Pure.

use chrono::{DateTime, MappedLocalTime, NaiveDateTime, TimeZone, Utc};
use chrono_tz::{GapInfo, TZ_VARIANTS, Tz};

/// By its IANA name, in either case.
pub fn named(name: &str) -> Option<Tz> {
    TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name.trim())).copied()
}

/// The first instant at which the clock of `zone` shows `wall` or later.
pub fn instant(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    let shown = match zone.from_local_datetime(&wall) {
        MappedLocalTime::Single(once) => Some(once),
        MappedLocalTime::Ambiguous(first, _second) => Some(first),
        MappedLocalTime::None => GapInfo::new(&wall, &zone).and_then(|gap| gap.end),
    };
    shown.map(|instant| instant.with_timezone(&Utc))
}

/// Every instant at which it shows exactly that: none, one or two.
pub fn instants(zone: Tz, wall: NaiveDateTime) -> impl Iterator<Item = DateTime<Utc>> {
    let (first, second) = match zone.from_local_datetime(&wall) {
        MappedLocalTime::Single(once) => (Some(once), None),
        MappedLocalTime::Ambiguous(first, second) => (Some(first), Some(second)),
        MappedLocalTime::None => (None, None),
    };
    [first, second].into_iter().flatten().map(|instant| instant.with_timezone(&Utc))
}
