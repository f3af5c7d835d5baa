use std::time::Duration;

use chrono::NaiveTime;
use chrono_tz::Tz;

use super::*;
use crate::model::path::PathPrefix;
use crate::model::schedule::Schedule;
use crate::model::spec::{CallPolicy, Dependency};
use crate::model::visibility::{DirectAccess, EventSubscription, PathRule};

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
}

/// `pairs` (keys without their prefix) change the defaults by `change` and nothing else, with these problems.
#[track_caller]
pub(super) fn check(pairs: &[(&str, &str)], change: impl FnOnce(&mut FunctionSpec), problems: &[&str]) {
    check_after(None, pairs, change, problems);
}

#[track_caller]
fn check_after(
    last: Option<&FunctionSpec>,
    pairs: &[(&str, &str)],
    change: impl FnOnce(&mut FunctionSpec),
    problems: &[&str],
) {
    let map = pairs.iter().map(|(key, text)| (format!("{PREFIX}{key}"), (*text).to_owned())).collect();
    let mut expected = FunctionSpec::default();
    change(&mut expected);
    let (spec, found) = parse_with_last_good(&map, last);
    assert_eq!(spec, expected, "{pairs:?}");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, problems, "{pairs:?}");
}

pub(super) fn seconds(all: &[u64]) -> Vec<Duration> {
    all.iter().copied().map(Duration::from_secs).collect()
}

fn rule(prefix: &str, visibility: Visibility) -> PathRule {
    PathRule { prefix: PathPrefix::new(prefix), visibility }
}

fn event(name: &str, visibility: Visibility) -> EventSubscription {
    EventSubscription { event: name.to_owned(), visibility }
}

pub(super) fn at(hour: u32, minute: u32) -> NaiveTime {
    NaiveTime::from_hms_opt(hour, minute, 0).expect("a time of day")
}

#[test]
fn only_true_makes_a_function() {
    for (text, expected) in
        [("true", true), (" True ", true), ("TRUE", true), ("yes", false), ("", false), ("1", false)]
    {
        assert_eq!(is_function(&annotations(&[("SlimFaas/Function", text)])), expected, "{text:?}");
    }
    assert!(!is_function(&annotations(&[("slimfaas/function", "true")])));
    assert!(!is_function(&BTreeMap::new()));
}

#[test]
fn the_reference_example() {
    check(
        &[
            ("Function", "true"),
            ("ReplicasMin", "0"),
            ("ReplicasAtStart", "2"),
            ("TimeoutSecondBeforeSetReplicasMin", "600"),
            ("NumberParallelRequest", "40"),
            ("NumberParallelRequestPerPod", "20"),
            ("DependsOn", "catalog,pricing"),
            ("DefaultVisibility", "Public"),
            ("PathsStartWithVisibility", "Private:/internal,Private:/admin"),
            ("SubscribeEvents", "Public:cache-reset,Private:reindex,audit"),
            (
                "Configuration",
                r#"{"DefaultAsync":{"HttpTimeout":90,"TimeoutRetries":[1,5],"HttpStatusRetries":[500,502,503,504]}}"#,
            ),
        ],
        |spec| {
            spec.replicas_at_start = 2;
            spec.idle_timeout = Duration::from_secs(600);
            spec.parallel.per_function = Some(40);
            spec.parallel.per_pod = Some(20);
            spec.depends_on = vec![Dependency::Workload("catalog".into()), Dependency::Workload("pricing".into())];
            spec.path_rules = vec![rule("/internal", Visibility::Private), rule("/admin", Visibility::Private)];
            spec.subscribe_events = vec![
                event("cache-reset", Visibility::Public),
                event("reindex", Visibility::Private),
                event("audit", Visibility::Public),
            ];
            spec.async_calls = CallPolicy {
                http_timeout: Duration::from_secs(90),
                retry_delays: seconds(&[1, 5]),
                retry_statuses: vec![500, 502, 503, 504],
            };
        },
        &[],
    );
}

#[test]
fn numbers() {
    check(&[("ReplicasMin", " 3 ")], |spec| spec.replicas_min = 3, &[]);
    check(&[("ReplicasMin", "10000")], |spec| spec.replicas_min = 10_000, &[]);
    check(
        &[("ReplicasMin", "10001")],
        |_| {},
        &[r#"SlimFaas/ReplicasMin: found "10001"; allowed: a whole number from 0 to 10000; used instead: 0"#],
    );
    check(
        &[("ReplicasAtStart", "-1")],
        |_| {},
        &[r#"SlimFaas/ReplicasAtStart: found "-1"; allowed: a whole number from 0 to 10000; used instead: 1"#],
    );
    check(
        &[("TimeoutSecondBeforeSetReplicasMin", "2147483647")],
        |spec| spec.idle_timeout = Duration::from_secs(2_147_483_647),
        &[],
    );
    check(
        &[("TimeoutSecondBeforeSetReplicasMin", "5m")],
        |_| {},
        &["SlimFaas/TimeoutSecondBeforeSetReplicasMin: \
           found \"5m\"; allowed: a whole number from 0 to 2147483647; used instead: 300"],
    );
    check(&[("NumberParallelRequest", "1")], |spec| spec.parallel.per_function = Some(1), &[]);
    check(
        &[("NumberParallelRequest", "0"), ("NumberParallelRequestPerPod", "")],
        |_| {},
        &[
            "SlimFaas/NumberParallelRequest: found \"0\"; allowed: a whole number from 1 to 2147483647; \
             used instead: no limit for synchronous calls and 10 for asynchronous ones",
            "SlimFaas/NumberParallelRequestPerPod: found \"\"; allowed: a whole number from 1 to 2147483647; \
             used instead: no limit for synchronous calls and 10 for asynchronous ones",
        ],
    );
}

#[test]
fn words() {
    check(&[("ReplicasStartAsSoonAsOneFunctionRetrieveARequest", "True")], |spec| spec.wakes_with_any = true, &[]);
    check(
        &[("ReplicasStartAsSoonAsOneFunctionRetrieveARequest", "yes")],
        |_| {},
        &["SlimFaas/ReplicasStartAsSoonAsOneFunctionRetrieveARequest: \
           found \"yes\"; allowed: true or false; used instead: false"],
    );
    check(&[("DefaultVisibility", "private")], |spec| spec.default_visibility = Visibility::Private, &[]);
    check(&[("AppProtocol", "H2C")], |spec| spec.protocol = UpstreamProtocol::H2c, &[]);
    check(&[("AppProtocol", "kubernetes.io/h2c")], |spec| spec.protocol = UpstreamProtocol::H2c, &[]);
    check(&[("AppProtocol", "HTTP1")], |_| {}, &[]);
    check(
        &[("AppProtocol", "h3")],
        |_| {},
        &[r#"SlimFaas/AppProtocol: found "h3"; allowed: http1 or h2c or kubernetes.io/h2c; used instead: http1"#],
    );
}

#[test]
fn what_cannot_be_read_is_private_and_untrusted_whatever_was_before() {
    let open = FunctionSpec::default();
    for last in [None, Some(&open)] {
        check_after(
            last,
            &[("DefaultVisibility", "Secret"), ("DefaultTrust", "no")],
            |spec| {
                spec.default_visibility = Visibility::Private;
                spec.trust = Trust::Untrusted;
            },
            &[
                r#"SlimFaas/DefaultVisibility: found "Secret"; allowed: Public or Private; used instead: Private"#,
                r#"SlimFaas/DefaultTrust: found "no"; allowed: Trusted or Untrusted; used instead: Untrusted"#,
            ],
        );
    }
}

#[test]
fn direct_access_is_a_word() {
    for (word, access) in [("Open", DirectAccess::Open), ("guarded", DirectAccess::Guarded)] {
        check(&[("DirectAccess", word)], |spec| spec.direct_access = access, &[]);
    }
    check(
        &[("DirectAccess", "closed")],
        |_| {},
        &[
            r#"SlimFaas/DirectAccess: found "closed"; allowed: ByVisibility or Open or Guarded; used instead: ByVisibility"#,
        ],
    );
}

#[test]
fn both_names_of_trust_are_read_and_the_stricter_wins() {
    for (first, second, expected) in [
        ("Trusted", "Trusted", Trust::Trusted),
        ("Untrusted", "Trusted", Trust::Untrusted),
        ("trusted", "untrusted", Trust::Untrusted),
    ] {
        check(&[("DefaultTrust", first), ("DefaultTrusted", second)], |spec| spec.trust = expected, &[]);
    }
    check(&[("DefaultTrusted", "Untrusted")], |spec| spec.trust = Trust::Untrusted, &[]);
}

#[test]
fn dependencies() {
    let workload = |name: &str| Dependency::Workload(name.to_owned());
    check(
        &[("DependsOn", " mysql, processes:redis ,mysql,, ")],
        |spec| spec.depends_on = vec![workload("mysql"), Dependency::Process("redis".into())],
        &[],
    );
    check(
        &[("DependsOn", r#"["mysql", " processes: redis ", ""]"#)],
        |spec| spec.depends_on = vec![workload("mysql"), Dependency::Process("redis".into())],
        &[],
    );
    check(
        &[("DependsOn", "a,processes:")],
        |spec| spec.depends_on = vec![workload("a")],
        &[r#"SlimFaas/DependsOn: found "processes:"; allowed: processes:<name>; the entry is skipped"#],
    );
    check(
        &[("DependsOn", r#"["a", 1]"#)],
        |_| {},
        &["SlimFaas/DependsOn: found \"[\\\"a\\\", 1]\" (invalid type: integer `1`, expected a string at line 1 \
           column 7); allowed: comma-separated names, or a JSON array of names; used instead: the last good list, \
           else none"],
    );
}

#[test]
fn events_and_paths_without_a_prefix_have_the_default_visibility() {
    for (text, visibility) in [("Public", Visibility::Public), ("Private", Visibility::Private)] {
        check(
            &[("DefaultVisibility", text), ("SubscribeEvents", "a,Public:b"), ("PathsStartWithVisibility", "/a,b")],
            |spec| {
                spec.default_visibility = visibility;
                spec.subscribe_events = vec![event("a", visibility), event("b", Visibility::Public)];
                spec.path_rules = vec![rule("/a", visibility), rule("/b", visibility)];
            },
            &[],
        );
    }
}

#[test]
fn an_unknown_prefix_closes() {
    check(
        &[("SubscribeEvents", "Secret:x"), ("PathsStartWithVisibility", "Secret:/x,Public:/y")],
        |spec| {
            spec.subscribe_events = vec![event("x", Visibility::Private)];
            spec.path_rules = vec![rule("/x", Visibility::Private), rule("/y", Visibility::Public)];
        },
        &[
            "SlimFaas/SubscribeEvents: found \"Secret:x\"; \
             allowed: Public: or Private: or no prefix; used instead: Private:x",
            "SlimFaas/PathsStartWithVisibility: found \"Secret:/x\"; \
             allowed: Public: or Private: or no prefix; used instead: Private:/x",
        ],
    );
}

#[test]
fn a_colon_in_a_path_or_an_event_is_part_of_it() {
    check(
        &[("PathsStartWithVisibility", "/v1/items:batch, PRIVATE:/v1/items:drop"), ("SubscribeEvents", "Public:a:b")],
        |spec| {
            spec.path_rules =
                vec![rule("/v1/items:batch", Visibility::Public), rule("/v1/items:drop", Visibility::Private)];
            spec.subscribe_events = vec![event("a:b", Visibility::Public)];
        },
        &[],
    );
}

#[test]
fn entries_that_no_request_could_match_only_ever_close() {
    let allowed = "allowed: a path, of which every continuation is covered, without * ? # or ;";
    for (entry, rules, used) in [
        ("Private:/admin/*", vec![rule("/admin", Visibility::Private)], "Private:/admin"),
        ("Private:/admin/**/x", vec![rule("/admin", Visibility::Private)], "Private:/admin"),
        ("Private:/a/adm*", vec![rule("/a", Visibility::Private)], "Private:/a"),
        ("Private:*", vec![rule("/", Visibility::Private)], "Private:/"),
        ("Private:", vec![rule("/", Visibility::Private)], "Private:/"),
        ("Private:/a/b?c", vec![rule("/a", Visibility::Private)], "Private:/a"),
        ("Public:/open/*", vec![], "nothing, the entry is skipped"),
        ("Public:", vec![], "nothing, the entry is skipped"),
    ] {
        let message = format!("SlimFaas/PathsStartWithVisibility: found {entry:?}; {allowed}; used instead: {used}");
        check(&[("PathsStartWithVisibility", entry)], |spec| spec.path_rules = rules, &[&message]);
    }
    check(
        &[("SubscribeEvents", "Private:,a")],
        |spec| spec.subscribe_events = vec![event("a", Visibility::Public)],
        &[r#"SlimFaas/SubscribeEvents: found "Private:", which names no event; the entry is skipped"#],
    );
}

#[test]
fn the_old_name_of_path_rules_counts_after_the_new_one() {
    check(
        &[("UrlsPathStartWithVisibility", "Private:/mypath/subPath,Public:/mypath2")],
        |spec| {
            spec.path_rules = vec![rule("/mypath/subPath", Visibility::Private), rule("/mypath2", Visibility::Public)];
        },
        &[],
    );
    check(
        &[("UrlsPathStartWithVisibility", "Private:/a"), ("PathsStartWithVisibility", "Public:/a")],
        |spec| spec.path_rules = vec![rule("/a", Visibility::Public), rule("/a", Visibility::Private)],
        &[],
    );
}

#[test]
fn too_many_path_rules_close_the_rest() {
    let exactly = vec!["Public:/a"; 256].join(",");
    let mut rules = vec![rule("/a", Visibility::Public); 256];
    check(&[("PathsStartWithVisibility", &exactly)], |spec| spec.path_rules.clone_from(&rules), &[]);
    rules.push(rule("/", Visibility::Private));
    check(
        &[("PathsStartWithVisibility", &format!("{exactly},Public:/b,Public:/c"))],
        |spec| spec.path_rules = rules,
        &["SlimFaas/PathsStartWithVisibility: found more than 256 entries; the rest is replaced by Private:/"],
    );
}

#[test]
fn excluded_callers_are_names() {
    check(
        &[("ExcludeDeploymentsFromVisibilityPrivate", "a, b,a")],
        |spec| spec.excluded_callers = ["a", "b"].map(str::to_owned).into(),
        &[],
    );
}

#[test]
fn unknown_names_are_said_and_nobody_elses() {
    check(
        &[("ReplicaMin", "1"), ("Image", "x")],
        |_| {},
        &[
            "SlimFaas/Image: no annotation of functions has this name, it is ignored",
            "SlimFaas/ReplicaMin: no annotation of functions has this name, it is ignored; \
             did you mean SlimFaas/ReplicasMin?",
        ],
    );
    let (_, problems) = parse(&annotations(&[("slimfaas/scale", "{}"), ("prometheus.io/port", "1"), ("é", "")]));
    assert_eq!(
        problems,
        [Problem::new(
            "slimfaas/scale",
            "no annotation of functions has this name, it is ignored; did you mean SlimFaas/Scale?"
        )]
    );
}

#[test]
fn a_bad_value_keeps_the_last_good_one() {
    let mut good = FunctionSpec { replicas_min: 7, ..FunctionSpec::default() };
    good.parallel.per_pod = Some(3);
    good.async_calls.retry_delays = seconds(&[9]);
    good.depends_on = vec![Dependency::Workload("a".into())];
    let scale = annotations(&[("SlimFaas/Scale", r#"{"ReplicaMax":4}"#)]);
    good.scale = parse(&scale).0.scale;
    good.schedule = Some(Schedule { zone: Tz::Asia__Tokyo, wake_ups: vec![at(1, 2)], idle_timeouts: vec![] });
    let bad = [
        ("ReplicasMin", "many"),
        ("NumberParallelRequestPerPod", "-"),
        ("DependsOn", "[a]"),
        ("Configuration", r#"{"DefaultAsync":{"TimeoutRetries":[1,"x"],"HttpTimeout":5}}"#),
        ("Scale", r#"{"ReplicaMax":0}"#),
        ("Schedule", r#"{"TimeZoneID":"Nowhere","Default":{"WakeUp":"7:00"}}"#),
    ];
    let map = bad.iter().map(|(key, text)| (format!("{PREFIX}{key}"), (*text).to_owned())).collect();
    let (spec, problems) = parse_with_last_good(&map, Some(&good));
    let mut expected = good.clone();
    expected.async_calls.http_timeout = Duration::from_secs(5);
    assert_eq!(spec, expected);
    assert_eq!(problems.len(), 7);

    // What is no longer asked for is not kept.
    assert_eq!(parse_with_last_good(&BTreeMap::new(), Some(&good)), (FunctionSpec::default(), vec![]));
}

#[test]
fn problems_are_bounded_in_number_and_length() {
    let many = (0..1000).map(|i| (format!("{PREFIX}Nothing{i}"), String::new())).collect();
    let (_, problems) = parse(&many);
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    assert_eq!(problems[PROBLEMS_MAX].message, "there are more problems: mend these first");

    let long = "é".repeat(10_000);
    let (_, problems) = parse(&annotations(&[("SlimFaas/ReplicasMin", &long), (&format!("SlimFaas/{long}"), "")]));
    assert_eq!(problems.len(), 2);
    for problem in problems {
        assert!(problem.to_string().len() < 500, "{problem}");
    }
}

#[test]
fn the_document_is_up_to_date() {
    crate::config::check_document("docs/annotations.md", &reference());
}
