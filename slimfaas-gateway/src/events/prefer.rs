//! What a publisher wants to hear (`Prefer`, RFC 7240).

use std::time::Duration;

use http::{HeaderMap, HeaderName};

pub const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What this gateway knows of it; everything else is ignored, as the RFC says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preferences {
    /// `return=representation`: what became of each delivery.
    pub representation: bool,
    /// `respond-async` (nothing) or `wait=seconds`: the longest wait for the deliveries.
    pub wait: Option<Duration>,
}

impl Preferences {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut preferences = Self::default();
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
            match &*name {
                "return" => preferences.representation = value.eq_ignore_ascii_case("representation"),
                // Together with `wait`, that much patience comes first.
                "respond-async" => preferences.wait = preferences.wait.or(Some(Duration::ZERO)),
                "wait" => preferences.wait = value.parse().ok().map(Duration::from_secs).or(preferences.wait),
                _ => {}
            }
        }
        preferences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences() {
        let check = |values: &[&'static str], representation: bool, wait: Option<u64>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PREFER, http::HeaderValue::from_static(value));
            }
            let expected = Preferences { representation, wait: wait.map(Duration::from_secs) };
            assert_eq!(Preferences::of(&headers), expected, "{values:?}");
        };
        check(&[], false, None);
        check(&["return=representation"], true, None);
        check(&["Return=\"Representation\"; x=y , wait=10"], true, Some(10));
        check(&["return=minimal"], false, None);
        check(&["respond-async", "return=representation"], true, Some(0));
        check(&["respond-async, wait=5"], false, Some(5));
        check(&["wait=5, respond-async"], false, Some(5));
        check(&["wait=soon"], false, None);
        check(&["handling=strict"], false, None);
    }
}
