//! Path prefixes of visibility rules, and every way in which a server could read a request's path.
//!
//! A gateway and the server behind it may disagree on what `/a%2f..%2Fadmin` means. So a path is not
//! normalised to one form: each plausible reading is tried, and the caller takes the most restrictive answer.

use std::borrow::Cow;

use super::percent;

/// A path prefix that matches whole segments: `/admin` covers `/admin` and `/admin/x`, not `/administrator`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix {
    segments: Vec<String>,
    folded: Vec<String>,
}

impl PathPrefix {
    /// From an annotation's text, with or without the leading slash. The empty prefix and `/` cover every path.
    /// A rule is kept decoded, with its dot segments resolved: that is one of the readings of whatever it means.
    pub fn new(text: &str) -> Self {
        // What cannot be decoded is literal: `/100%` covers a request for `/100%25`.
        let decoded = decode(text).unwrap_or_else(|Unreadable| text.to_owned());
        let segments = segments_of(&decoded, true);
        let folded = segments.iter().map(|s| s.to_lowercase()).collect();
        Self { segments, folded }
    }

    fn covers(&self, reading: &Reading<'_>, case: Case) -> bool {
        let prefix = match case {
            Case::Exact => &self.segments,
            Case::Folded => &self.folded,
        };
        prefix.len() <= reading.segments.len()
            && prefix.iter().zip(&reading.segments).all(|(rule, segment)| match case {
                Case::Exact => rule == segment,
                Case::Folded => equals_folded(rule, segment),
            })
    }
}

impl std::fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.segments.join("/"))
    }
}

/// Whether the server behind distinguishes `/Admin` from `/admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Exact,
    Folded,
}

/// Most readings of one path: raw, decoded once, decoded twice, each with and without dot segments resolved.
pub const READINGS_MAX: usize = 6;

/// One way to read a path as segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'a> {
    segments: Vec<Cow<'a, str>>,
}

impl Reading<'_> {
    pub fn starts_with(&self, prefix: &PathPrefix, case: Case) -> bool {
        prefix.covers(self, case)
    }
}

/// The path is not one that every server reads in some known way (bad percent-encoding, NUL, no UTF-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Every reading of `path` (without its query): one for a plain path, up to [`READINGS_MAX`] otherwise.
pub fn readings(path: &str) -> Result<Vec<Reading<'_>>, Unreadable> {
    if is_plain(path) {
        return Ok(vec![Reading { segments: path.split('/').filter(|s| !s.is_empty()).map(Cow::Borrowed).collect() }]);
    }
    let once = decode(path)?;
    let mut texts = vec![path.to_owned(), once.clone()];
    if once.contains('%') {
        // What is still encoded may be decoded again behind us; what cannot be is a literal percent sign.
        if let Ok(twice) = decode(&once) {
            texts.push(twice);
        }
    }
    let mut all: Vec<Reading<'_>> = Vec::new();
    for text in texts {
        for resolve_dots in [false, true] {
            let reading = Reading { segments: segments_of(&text, resolve_dots).into_iter().map(Cow::Owned).collect() };
            if !all.contains(&reading) {
                all.push(reading);
            }
        }
    }
    Ok(all)
}

/// No byte that any server treats specially, so that all readings are the same.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let special = |b: &u8| matches!(b, b'%' | b'\\' | b';' | 0..=0x20 | 0x7f..);
    !bytes.iter().any(special) && !path.contains("/.") && !path.starts_with('.') && !path.contains("//")
}

fn segments_of(text: &str, resolve_dots: bool) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for raw in text.split(['/', '\\']) {
        // `;name=value` are parameters of a segment to some servers (Java), part of its name to others.
        let segment = if resolve_dots { raw.split(';').next().unwrap_or(raw) } else { raw };
        match segment {
            "" => {}
            "." if resolve_dots => {}
            ".." if resolve_dots => {
                segments.pop();
            }
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

fn decode(text: &str) -> Result<String, Unreadable> {
    percent::decode(text).filter(|decoded| !decoded.contains('\0')).ok_or(Unreadable)
}

fn equals_folded(folded_rule: &str, segment: &str) -> bool {
    if segment.is_ascii() {
        return folded_rule.eq_ignore_ascii_case(segment);
    }
    folded_rule == segment.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(prefix: &str, path: &str, case: Case) -> Vec<bool> {
        let prefix = PathPrefix::new(prefix);
        readings(path).expect("readable").iter().map(|r| r.starts_with(&prefix, case)).collect()
    }

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        assert_eq!(covered("/admin", "/admin", Case::Exact), [true]);
        assert_eq!(covered("/admin", "/admin/", Case::Exact), [true]);
        assert_eq!(covered("/admin", "/admin/x", Case::Exact), [true]);
        assert_eq!(covered("/admin", "/administrator", Case::Exact), [false]);
        assert_eq!(covered("/admin", "/Admin", Case::Exact), [false]);
        assert_eq!(covered("/Admin", "/aDMIN/x", Case::Folded), [true]);
        assert_eq!(covered("/", "/anything", Case::Exact), [true]);
        assert_eq!(covered("a/b", "/a/b/c", Case::Exact), [true]);
    }

    #[test]
    fn a_rule_may_be_written_encoded() {
        for rule in ["/caf%C3%A9", "/caf%c3%a9", "/café", "/x/../café", "./café/"] {
            for path in ["/caf%c3%a9", "/caf%C3%A9/x", "/café"] {
                assert!(covered(rule, path, Case::Exact).contains(&true), "{rule} {path}");
            }
        }
        assert!(covered("/100%", "/100%25", Case::Exact).contains(&true));
    }

    #[test]
    fn some_reading_of_a_disguised_path_is_the_one_that_it_hides() {
        for path in [
            "//admin",
            "/./admin",
            "/x/../admin",
            "/%61dmin",
            "/x%2f..%2fadmin",
            "/x/%2e%2e/admin",
            "/%2561dmin",
            "\\admin",
            "/admin;v=1",
            "/%5cadmin",
            "/x/..;/admin",
            "/admin%2fx",
            "/.%2fadmin",
        ] {
            assert!(covered("/admin", path, Case::Exact).contains(&true), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        for path in ["/%", "/%4", "/%zz", "/%00", "/%ff"] {
            assert_eq!(readings(path), Err(Unreadable), "{path}");
        }
    }

    #[test]
    fn readings_are_bounded() {
        assert!(readings("/%2561/../b;x/%2e").expect("readable").len() <= READINGS_MAX);
    }
}
