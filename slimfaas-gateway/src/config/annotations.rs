//! `SlimFaas/…` annotations to `FunctionSpec`.
//!
//! One table row an annotation: it documents the annotation, makes its name known and reads it. A bad value never
//! loses a function: that value alone keeps the last good one, else its default, and a [`Problem`] says so.
//! Visibility and trust are the exception: what cannot be read is private and untrusted, whatever was before, so
//! that a typo never opens anything and every node decides alike.

mod configuration;
mod json;
pub(crate) mod lists;
#[cfg(test)]
mod properties;
mod scale;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::config::suggest;
use crate::model::problem::Problem;
use crate::model::spec::{FunctionSpec, UpstreamProtocol};
use crate::model::visibility::{DirectAccess, Trust, Visibility};

const PREFIX: &str = "SlimFaas/";
const FUNCTION: &str = "SlimFaas/Function";

/// A function of more pods than that is a slip of the keyboard, and asking for them would hurt the whole cluster.
const REPLICAS_MAX: u32 = 10_000;

/// The original's largest number, which people write for "no limit" or "never". As seconds: 68 years.
const NUMBER_MAX: u32 = i32::MAX as u32;

/// A day: a request that has sent no headers by then is lost, and it holds a slot all that time.
const HTTP_TIMEOUT_SECS_MAX: u32 = 86_400;

/// Problems of one function; the status and an event on the workload show them, and those have to stay readable.
const PROBLEMS_MAX: usize = 32;

/// Characters of somebody's text that a message repeats.
const EXCERPT_MAX: usize = 80;

/// One annotation of functions.
struct Annotation {
    name: &'static str,
    allowed: &'static str,
    default: &'static str,
    doc: &'static str,
    read: fn(&mut Draft<'_>, Source<'_>),
}

/// The annotation being read, as its owner wrote it.
#[derive(Clone, Copy)]
struct Source<'a> {
    key: &'a str,
    text: &'a str,
}

/// A spec being made.
struct Draft<'a> {
    spec: FunctionSpec,
    /// What a bad value falls back to.
    last: &'a FunctionSpec,
    problems: Problems,
}

/// The order matters in two ways: the default visibility comes before the lists that use it, and new names
/// before old ones.
const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: FUNCTION,
        allowed: "`true`",
        default: "",
        doc: "Makes a workload a function. Anything but `true` (in any case): not a function.",
        read: |_, _| {},
    },
    Annotation {
        name: "SlimFaas/ReplicasMin",
        allowed: "0 to 10000",
        default: "0",
        doc: "Replicas that stay when nobody calls.",
        read: |draft, from| {
            draft.spec.replicas_min = draft.whole(from, 0..=REPLICAS_MAX, draft.last.replicas_min);
        },
    },
    Annotation {
        name: "SlimFaas/ReplicasAtStart",
        allowed: "0 to 10000",
        default: "1",
        doc: "Replicas when leaving zero. Functions that depend on this one wait until as many are ready.",
        read: |draft, from| {
            draft.spec.replicas_at_start = draft.whole(from, 0..=REPLICAS_MAX, draft.last.replicas_at_start);
        },
    },
    Annotation {
        name: "SlimFaas/TimeoutSecondBeforeSetReplicasMin",
        allowed: "0 to 2147483647",
        default: "300",
        doc: "Seconds without a call after which the function returns to `ReplicasMin`.",
        read: |draft, from| {
            let last = u32::try_from(draft.last.idle_timeout.as_secs()).unwrap_or(NUMBER_MAX);
            let seconds = draft.whole(from, 0..=NUMBER_MAX, last);
            draft.spec.idle_timeout = std::time::Duration::from_secs(seconds.into());
        },
    },
    Annotation {
        name: "SlimFaas/NumberParallelRequest",
        allowed: "1 to 2147483647",
        default: "no limit for synchronous calls, 10 for asynchronous ones",
        doc: "Requests in flight at once, over all pods. When present it bounds both ways of calling together.",
        read: |draft, from| {
            draft.spec.parallel.per_function = draft.limit(from, draft.last.parallel.per_function);
        },
    },
    Annotation {
        name: "SlimFaas/NumberParallelRequestPerPod",
        allowed: "1 to 2147483647",
        default: "no limit for synchronous calls, 10 for asynchronous ones",
        doc: "Requests in flight at once to one pod.",
        read: |draft, from| {
            draft.spec.parallel.per_pod = draft.limit(from, draft.last.parallel.per_pod);
        },
    },
    Annotation {
        name: "SlimFaas/ReplicasStartAsSoonAsOneFunctionRetrieveARequest",
        allowed: "`true`, `false`",
        default: "`false`",
        doc: "A call to any function counts as a call to this one.",
        read: |draft, from| {
            draft.spec.wakes_with_any =
                draft.choice(from, &[("true", true), ("false", false)], draft.last.wakes_with_any);
        },
    },
    Annotation {
        name: "SlimFaas/DependsOn",
        allowed: "comma-separated names, or a JSON array of them",
        default: "empty",
        doc: "What must be ready before the function leaves zero: functions, other workloads of the namespace, or \
              `processes:<name>` for a helper process of the local mode. A call keeps them awake too.",
        read: lists::depends_on,
    },
    Annotation {
        name: "SlimFaas/DefaultVisibility",
        allowed: VISIBILITIES_DOC,
        default: "`Public`",
        doc: "Who may call what no other rule names. A bad value counts as `Private`.",
        read: |draft, from| {
            draft.spec.default_visibility = draft.choice(from, VISIBILITIES, Visibility::Private);
        },
    },
    Annotation {
        name: "SlimFaas/SubscribeEvents",
        allowed: "comma-separated `[Public:\\|Private:]event`",
        default: "empty",
        doc: "Events that the function receives. Without a prefix, `DefaultVisibility` says who may publish them to \
              it; an unknown prefix counts as `Private:`.",
        read: lists::subscribe_events,
    },
    Annotation {
        name: "SlimFaas/WakeOnEvent",
        allowed: "`true`, `false`",
        default: "`false`",
        doc: "An event starts the function when nothing of it runs, and is delivered once it does. Otherwise events do \
              not reach a function at zero.",
        read: |draft, from| {
            draft.spec.wake_on_event =
                draft.choice(from, &[("true", true), ("false", false)], draft.last.wake_on_event);
        },
    },
    Annotation {
        name: "SlimFaas/PathsStartWithVisibility",
        allowed: "comma-separated `[Public:\\|Private:]/path`",
        default: "empty",
        doc: "Visibility of paths, by whole segments: `/admin` covers `/admin/x`, not `/administrator`. The first \
              entry that covers a path decides; entries without a prefix have `DefaultVisibility`; an unknown prefix \
              counts as `Private:`. At most 256 entries: with more, every path that none of these covers is private.",
        read: lists::path_rules,
    },
    Annotation {
        name: "SlimFaas/UrlsPathStartWithVisibility",
        allowed: "as `PathsStartWithVisibility`",
        default: "empty",
        doc: "Old name of `SlimFaas/PathsStartWithVisibility`. With both, its entries come after the other's.",
        read: lists::path_rules,
    },
    Annotation {
        name: "SlimFaas/ExcludeDeploymentsFromVisibilityPrivate",
        allowed: "comma-separated names",
        default: "empty",
        doc: "Workloads whose calls to this function count as calls from outside.",
        read: lists::excluded_callers,
    },
    Annotation {
        name: "SlimFaas/DefaultTrust",
        allowed: TRUSTS_DOC,
        default: "`Trusted`",
        doc: "Whether this function's own calls count as calls from inside. A bad value counts as `Untrusted`.",
        read: trust,
    },
    Annotation {
        name: "SlimFaas/DefaultTrusted",
        allowed: TRUSTS_DOC,
        default: "`Trusted`",
        doc: "Another name of `SlimFaas/DefaultTrust`. With both, `Untrusted` in either decides.",
        read: trust,
    },
    Annotation {
        name: "SlimFaas/DirectAccess",
        allowed: "`ByVisibility`, `Open`, `Guarded`",
        default: "`ByVisibility`",
        doc: "With node agents: who may connect to the function's pods past the gateway. `ByVisibility`: to a private \
              function without public paths, those that may call it; to others everybody. `Open`: everybody. \
              `Guarded`: nobody but the gateway and the node's own probes, so that limits and scaling see every call.",
        read: |draft, from| {
            draft.spec.direct_access = draft.choice(from, DIRECT_ACCESSES, draft.last.direct_access);
        },
    },
    Annotation {
        name: "SlimFaas/Configuration",
        allowed: "JSON, see below",
        default: "see below",
        doc: "Time limits and retries of synchronous calls, asynchronous calls and events.",
        read: configuration::read,
    },
    Annotation {
        name: "SlimFaas/Schedule",
        allowed: "JSON, see below",
        default: "absent",
        doc: "Times of day at which the function wakes or changes its inactivity timeout.",
        read: schedule::read,
    },
    Annotation {
        name: "SlimFaas/Scale",
        allowed: "JSON, see below",
        default: "absent",
        doc: "Scaling by metrics.",
        read: scale::read,
    },
    Annotation {
        name: "SlimFaas/AppProtocol",
        allowed: "`http1`, `h2c` (also written `kubernetes.io/h2c`)",
        default: "`http1`",
        doc: "What the function speaks: HTTP/1.1, or HTTP/2 in clear text with prior knowledge, as gRPC servers do.",
        read: |draft, from| {
            draft.spec.protocol = draft.choice(from, PROTOCOLS, draft.last.protocol);
        },
    },
];

const VISIBILITIES: &[(&str, Visibility)] = &[("Public", Visibility::Public), ("Private", Visibility::Private)];
const VISIBILITIES_DOC: &str = "`Public`, `Private`";
const TRUSTS: &[(&str, Trust)] = &[("Trusted", Trust::Trusted), ("Untrusted", Trust::Untrusted)];
const TRUSTS_DOC: &str = "`Trusted`, `Untrusted`";
const DIRECT_ACCESSES: &[(&str, DirectAccess)] =
    &[("ByVisibility", DirectAccess::ByVisibility), ("Open", DirectAccess::Open), ("Guarded", DirectAccess::Guarded)];
const PROTOCOLS: &[(&str, UpstreamProtocol)] =
    &[("http1", UpstreamProtocol::Http1), ("h2c", UpstreamProtocol::H2c), ("kubernetes.io/h2c", UpstreamProtocol::H2c)];

fn trust(draft: &mut Draft<'_>, from: Source<'_>) {
    if draft.choice(from, TRUSTS, Trust::Untrusted) == Trust::Untrusted {
        draft.spec.trust = Trust::Untrusted;
    }
}

/// Whether the workload with these annotations is a function.
pub fn is_function(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(FUNCTION).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
}

/// The spec of a function seen for the first time: bad values have their defaults.
pub fn parse(annotations: &BTreeMap<String, String>) -> (FunctionSpec, Vec<Problem>) {
    parse_with_last_good(annotations, None)
}

/// The spec of a function: a bad value keeps what it was in `last`, else has its default. Values that are absent
/// have their defaults in any case.
pub fn parse_with_last_good(
    annotations: &BTreeMap<String, String>,
    last: Option<&FunctionSpec>,
) -> (FunctionSpec, Vec<Problem>) {
    let default = FunctionSpec::default();
    let last = last.unwrap_or(&default);
    let mut draft = Draft { spec: FunctionSpec::default(), last, problems: Problems::default() };
    for annotation in ANNOTATIONS {
        if let Some(text) = annotations.get(annotation.name) {
            (annotation.read)(&mut draft, Source { key: annotation.name, text });
        }
    }
    for key in annotations.keys() {
        draft.report_if_unknown(key);
    }
    (draft.spec, draft.problems.0)
}

impl Draft<'_> {
    fn whole(&mut self, from: Source<'_>, range: RangeInclusive<u32>, used: u32) -> u32 {
        match from.text.trim().parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let allowed = format!("a whole number from {} to {}", range.start(), range.end());
                self.problems.bad(from.key, &quoted(from.text), &allowed, &used.to_string());
                used
            }
        }
    }

    /// A number of requests in flight.
    fn limit(&mut self, from: Source<'_>, used: Option<u32>) -> Option<u32> {
        match from.text.trim().parse() {
            Ok(number) if (1..=NUMBER_MAX).contains(&number) => Some(number),
            _ => {
                let allowed = format!("a whole number from 1 to {NUMBER_MAX}");
                let shown = used.map_or_else(
                    || "no limit for synchronous calls and 10 for asynchronous ones".to_owned(),
                    |number| number.to_string(),
                );
                self.problems.bad(from.key, &quoted(from.text), &allowed, &shown);
                used
            }
        }
    }

    /// One of some words, in any case.
    fn choice<T: Copy + PartialEq>(&mut self, from: Source<'_>, words: &[(&str, T)], used: T) -> T {
        let text = from.text.trim();
        if let Some((_, value)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
            return *value;
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let shown = words.iter().find(|(_, value)| *value == used).map_or("", |(word, _)| *word);
        self.problems.bad(from.key, &quoted(from.text), &allowed.join(" or "), shown);
        used
    }

    fn report_if_unknown(&mut self, key: &str) {
        let is_ours = key.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        if !is_ours || ANNOTATIONS.iter().any(|annotation| annotation.name == key) {
            return;
        }
        // Compared without the prefix, which would make everything look near.
        let names = ANNOTATIONS.iter().map(|annotation| &annotation.name[PREFIX.len()..]);
        let hint = suggest::nearest(&key[PREFIX.len()..], names)
            .map_or_else(String::new, |name| format!("; did you mean {PREFIX}{name}?"));
        self.problems.push(key, format!("no annotation of functions has this name, it is ignored{hint}"));
    }
}

/// The problems found so far, at most [`PROBLEMS_MAX`].
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn push(&mut self, key: &str, message: String) {
        match self.0.len() {
            ..PROBLEMS_MAX => self.0.push(Problem::new(excerpt(key), message)),
            PROBLEMS_MAX => self.0.push(Problem::new(PREFIX, "there are more problems: mend these first")),
            _ => {}
        }
    }

    fn bad(&mut self, key: &str, found: &str, allowed: &str, used: &str) {
        self.push(key, unusable(found, allowed, used));
    }
}

/// The message about a bad value.
pub(crate) fn unusable(found: &str, allowed: &str, used: &str) -> String {
    format!("found {found}; allowed: {allowed}; used instead: {used}")
}

/// Somebody's text in a message: short, on one line.
pub(crate) fn quoted(text: &str) -> String {
    format!("{:?}", excerpt(text))
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The text of `docs/annotations.md`.
pub fn reference() -> String {
    let mut out = include_str!("annotations/head.md").to_owned();
    for annotation in ANNOTATIONS {
        let Annotation { name, allowed, default, doc, .. } = annotation;
        writeln!(out, "| `{name}` | {allowed} | {default} | {doc} |").expect("writing to a string succeeds");
    }
    out.push_str(include_str!("annotations/json.md"));
    out
}
