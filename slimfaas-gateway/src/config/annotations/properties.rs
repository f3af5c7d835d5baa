//! Properties of annotation parsing, over arbitrary and nearly valid values.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{NaiveTime, Timelike};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::path::PathPrefix;
use crate::model::schedule::{Schedule, ScheduledTimeout};
use crate::model::spec::{
    CallPolicy, Dependency, MetricType, ParallelLimits, PolicyKind, ScaleBehavior, ScalePolicy, ScaleSpec, Trigger,
};
use crate::model::visibility::{DirectAccess, EventSubscription, PathRule};

type Annotations = BTreeMap<String, String>;

/// Values that no annotation of this name accepts; lists accept nearly everything.
fn bad_values(key: &str) -> &'static [&'static str] {
    match &key[PREFIX.len()..] {
        "Function"
        | "SubscribeEvents"
        | "PathsStartWithVisibility"
        | "UrlsPathStartWithVisibility"
        | "ExcludeDeploymentsFromVisibilityPrivate" => &[],
        "DependsOn" => &["[", "[1]"],
        _ => &["", "x", "-1", "1e3", "[]", "4294967296", "nul"],
    }
}

/// JSON that resembles a document of ours: known names, wrong places, wrong types.
fn near_json() -> impl Strategy<Value = serde_json::Value> {
    let names = prop::sample::select(vec![
        "DefaultSync",
        "DefaultAsync",
        "HttpTimeout",
        "TimeoutRetries",
        "HttpStatusRetries",
        "TimeZoneID",
        "Default",
        "WakeUp",
        "ScaleDownTimeout",
        "Time",
        "Value",
        "ReplicaMax",
        "ScrapeIntervalMilliseconds",
        "Triggers",
        "Query",
        "Threshold",
        "MetricType",
        "Behavior",
        "ScaleUp",
        "ScaleDown",
        "StabilizationWindowSeconds",
        "Policies",
        "Type",
        "PeriodSeconds",
        "wakeup",
    ]);
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<i64>().prop_map(|n| json!(n)),
        (0..700_u32).prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        any::<bool>().prop_map(|b| json!(b)),
        "\\PC{0,12}".prop_map(|s| json!(s)),
        prop::sample::select(vec!["7:00", "24:00", "Europe/Paris", "GB", "Pods", "Percent", "Value"])
            .prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|values| json!(values)),
            prop::collection::btree_map(names.clone(), inner, 0..6).prop_map(|fields| json!(fields)),
        ]
    })
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        any::<String>(),
        near_json().prop_map(|value| value.to_string()),
        // Cut off anywhere.
        (near_json(), any::<prop::sample::Index>()).prop_map(|(value, at)| {
            let text: Vec<char> = value.to_string().chars().collect();
            text[..at.index(text.len())].iter().collect()
        }),
        "(Public:|Private:|Secret:|:|)/?[a-z%/.*;,]{0,12}(,(Public:|Private:|)[a-z/,:]{0,8}){0,4}",
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    let known: Vec<&str> = ANNOTATIONS.iter().map(|annotation| annotation.name).collect();
    prop_oneof![
        8 => prop::sample::select(known).prop_map(str::to_owned),
        1 => "SlimFaas/\\PC{0,20}",
        1 => "\\PC{0,20}",
    ]
}

fn whole_seconds(max: u32) -> impl Strategy<Value = Duration> {
    (0..=max).prop_map(|seconds| Duration::from_secs(seconds.into()))
}

fn visibility() -> impl Strategy<Value = Visibility> {
    prop::sample::select(vec![Visibility::Public, Visibility::Private])
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,10}[a-z0-9])?"
}

fn call_policy() -> impl Strategy<Value = CallPolicy> {
    let delays = prop::collection::vec(whole_seconds(604_800), 0..6);
    (1..=86_400_u64, delays, prop::collection::vec(100..=599_u16, 0..6)).prop_map(
        |(timeout, retry_delays, retry_statuses)| CallPolicy {
            http_timeout: Duration::from_secs(timeout),
            retry_delays,
            retry_statuses,
        },
    )
}

fn time_of_day() -> impl Strategy<Value = NaiveTime> {
    (0..24_u32, 0..60_u32).prop_map(|(h, m)| NaiveTime::from_hms_opt(h, m, 0).expect("a time of day"))
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let wake_ups = prop::collection::btree_set(time_of_day(), 0..5);
    let timeouts = prop::collection::btree_map(time_of_day(), whole_seconds(NUMBER_MAX), 0..5);
    (prop::sample::select(chrono_tz::TZ_VARIANTS.to_vec()), wake_ups, timeouts).prop_map(
        |(zone, wake_ups, timeouts)| Schedule {
            zone,
            wake_ups: wake_ups.into_iter().collect(),
            idle_timeouts: timeouts.into_iter().map(|(from, timeout)| ScheduledTimeout { from, timeout }).collect(),
        },
    )
}

fn behavior() -> impl Strategy<Value = ScaleBehavior> {
    let kind = prop::sample::select(vec![PolicyKind::Percent, PolicyKind::Pods]);
    let policy = (kind, 0..=10_000_u32, 1..=3600_u64).prop_map(|(kind, value, period)| ScalePolicy {
        kind,
        value,
        period: Duration::from_secs(period),
    });
    (whole_seconds(3600), prop::collection::vec(policy, 1..4))
        .prop_map(|(stabilization, policies)| ScaleBehavior { stabilization, policies })
}

fn scale() -> impl Strategy<Value = ScaleSpec> {
    let metric_type = prop::sample::select(vec![MetricType::AverageValue, MetricType::Value]);
    let trigger = (metric_type, name(), "[a-z(){}\"\\\\ ]{0,20}x", 1..=u32::MAX).prop_map(
        // In eighths: reading and writing decimals is not what is tested.
        |(metric_type, metric_name, query, eighths)| Trigger {
            metric_type,
            metric_name,
            query,
            threshold: f64::from(eighths) / 8.0,
        },
    );
    let interval = (1000..=300_000_u64).prop_map(Duration::from_millis);
    (
        prop::option::of(1..=10_000_u32),
        prop::option::of(interval),
        prop::collection::vec(trigger, 0..4),
        behavior(),
        behavior(),
    )
        .prop_map(|(replicas_max, scrape_interval, triggers, scale_up, scale_down)| ScaleSpec {
            replicas_max,
            scrape_interval,
            triggers,
            scale_up,
            scale_down,
        })
}

fn lists() -> impl Strategy<Value = FunctionSpec> {
    let dependency = prop_oneof![name().prop_map(Dependency::Workload), name().prop_map(Dependency::Process)];
    let rule = ("(/[a-z]{1,6}){0,4}", visibility())
        .prop_map(|(path, visibility)| PathRule { prefix: PathPrefix::new(&path), visibility });
    let event = (name(), visibility()).prop_map(|(event, visibility)| EventSubscription { event, visibility });
    (
        prop::collection::btree_set(dependency, 0..5),
        prop::collection::vec(event, 0..5),
        prop::collection::vec(rule, 0..5),
        prop::collection::btree_set(name(), 0..5),
    )
        .prop_map(|(depends_on, subscribe_events, path_rules, excluded_callers)| FunctionSpec {
            depends_on: depends_on.into_iter().collect(),
            subscribe_events,
            path_rules,
            excluded_callers,
            ..FunctionSpec::default()
        })
}

fn spec() -> impl Strategy<Value = FunctionSpec> {
    let limit = || prop::option::of(1..=NUMBER_MAX);
    let numbers = (0..=10_000_u32, 0..=10_000_u32, whole_seconds(NUMBER_MAX), limit(), limit());
    let trust = prop::sample::select(vec![Trust::Trusted, Trust::Untrusted]);
    let protocol = prop::sample::select(vec![UpstreamProtocol::Http1, UpstreamProtocol::H2c]);
    let access = vec![DirectAccess::ByVisibility, DirectAccess::Open, DirectAccess::Guarded];
    let words = (any::<bool>(), visibility(), trust, protocol, prop::sample::select(access), any::<bool>());
    let calls = (call_policy(), call_policy(), call_policy());
    (numbers, words, calls, lists(), prop::option::of(schedule()), prop::option::of(scale())).prop_map(
        |(numbers, words, calls, lists, schedule, scale)| FunctionSpec {
            replicas_min: numbers.0,
            replicas_at_start: numbers.1,
            idle_timeout: numbers.2,
            parallel: ParallelLimits { per_function: numbers.3, per_pod: numbers.4 },
            wakes_with_any: words.0,
            default_visibility: words.1,
            trust: words.2,
            protocol: words.3,
            direct_access: words.4,
            wake_on_event: words.5,
            sync_calls: calls.0,
            async_calls: calls.1,
            publish_calls: calls.2,
            schedule,
            scale,
            ..lists
        },
    )
}

/// The annotations that ask for `spec`.
fn written(spec: &FunctionSpec) -> Annotations {
    let mut out = Annotations::new();
    let mut put = |key: &str, text: String| {
        out.insert(format!("{PREFIX}{key}"), text);
    };
    put("Function", "true".into());
    put("ReplicasMin", spec.replicas_min.to_string());
    put("ReplicasAtStart", spec.replicas_at_start.to_string());
    put("TimeoutSecondBeforeSetReplicasMin", spec.idle_timeout.as_secs().to_string());
    if let Some(limit) = spec.parallel.per_function {
        put("NumberParallelRequest", limit.to_string());
    }
    if let Some(limit) = spec.parallel.per_pod {
        put("NumberParallelRequestPerPod", limit.to_string());
    }
    put("ReplicasStartAsSoonAsOneFunctionRetrieveARequest", spec.wakes_with_any.to_string());
    put("WakeOnEvent", spec.wake_on_event.to_string());
    put("DefaultVisibility", spec.default_visibility.as_str().into());
    put("DefaultTrust", spec.trust.as_str().into());
    put("DirectAccess", spec.direct_access.as_str().into());
    put("AppProtocol", format!("{:?}", spec.protocol));
    let join = |entries: Vec<String>| entries.join(", ");
    let dependency = |d: &Dependency| match d {
        Dependency::Workload(name) => name.clone(),
        Dependency::Process(name) => format!("processes:{name}"),
    };
    put("DependsOn", join(spec.depends_on.iter().map(dependency).collect()));
    let event = |e: &EventSubscription| format!("{}:{}", e.visibility.as_str(), e.event);
    put("SubscribeEvents", join(spec.subscribe_events.iter().map(event).collect()));
    let rule = |r: &PathRule| format!("{}:{}", r.visibility.as_str(), r.prefix);
    put("PathsStartWithVisibility", join(spec.path_rules.iter().map(rule).collect()));
    put("ExcludeDeploymentsFromVisibilityPrivate", join(spec.excluded_callers.iter().cloned().collect()));
    let calls = |policy: &CallPolicy| {
        let delays: Vec<u64> = policy.retry_delays.iter().map(Duration::as_secs).collect();
        json!({ "HttpTimeout": policy.http_timeout.as_secs(), "TimeoutRetries": delays,
                "HttpStatusRetries": policy.retry_statuses })
    };
    let configuration = json!({ "DefaultSync": calls(&spec.sync_calls), "DefaultAsync": calls(&spec.async_calls),
                                "DefaultPublish": calls(&spec.publish_calls) });
    put("Configuration", configuration.to_string());
    if let Some(schedule) = &spec.schedule {
        put("Schedule", written_schedule(schedule).to_string());
    }
    if let Some(scale) = &spec.scale {
        put("Scale", written_scale(scale).to_string());
    }
    out
}

fn written_schedule(schedule: &Schedule) -> serde_json::Value {
    let time = |time: &NaiveTime| format!("{}:{:02}", time.hour(), time.minute());
    let timeouts: Vec<_> = schedule
        .idle_timeouts
        .iter()
        .map(|entry| json!({ "Time": time(&entry.from), "Value": entry.timeout.as_secs() }))
        .collect();
    json!({ "TimeZoneID": schedule.zone.name(),
            "Default": { "WakeUp": schedule.wake_ups.iter().map(time).collect::<Vec<_>>(),
                         "ScaleDownTimeout": timeouts } })
}

fn written_scale(scale: &ScaleSpec) -> serde_json::Value {
    let policy = |p: &ScalePolicy| json!({ "Type": format!("{:?}", p.kind), "Value": p.value, "PeriodSeconds": p.period.as_secs() });
    let behavior = |b: &ScaleBehavior| {
        json!({ "StabilizationWindowSeconds": b.stabilization.as_secs(),
                "Policies": b.policies.iter().map(policy).collect::<Vec<_>>() })
    };
    let trigger = |t: &Trigger| {
        json!({ "MetricType": format!("{:?}", t.metric_type), "MetricName": t.metric_name, "Query": t.query,
                "Threshold": t.threshold })
    };
    json!({ "ReplicaMax": scale.replicas_max,
            "ScrapeIntervalMilliseconds": scale.scrape_interval.map(|interval| interval.as_millis()),
            "Triggers": scale.triggers.iter().map(trigger).collect::<Vec<_>>(),
            "Behavior": { "ScaleUp": behavior(&scale.scale_up), "ScaleDown": behavior(&scale.scale_down) } })
}

proptest! {
    #[test]
    fn nothing_panics_and_every_spec_stays_within_its_limits(
        annotations in prop::collection::btree_map(any_key(), any_value(), 0..12),
        last in prop::option::of(spec()),
    ) {
        let (spec, problems) = parse_with_last_good(&annotations, last.as_ref());
        prop_assert!(problems.len() <= PROBLEMS_MAX + 1);
        prop_assert!(spec.replicas_min <= REPLICAS_MAX && spec.replicas_at_start <= REPLICAS_MAX);
        prop_assert!(spec.path_rules.len() <= 258 && spec.subscribe_events.len() <= 256);
        prop_assert!(!spec.sync_calls.http_timeout.is_zero());
        for problem in &problems {
            prop_assert!(problem.message.len() < 2000);
        }
    }

    #[test]
    fn what_is_asked_for_is_what_is_read(spec in spec(), last in prop::option::of(spec())) {
        let (read, problems) = parse_with_last_good(&written(&spec), last.as_ref());
        prop_assert_eq!(problems, vec![]);
        prop_assert_eq!(read, spec);
    }

    #[test]
    fn a_bad_value_changes_nothing_else(
        spec in spec(),
        key in prop::sample::select(ANNOTATIONS.iter().map(|a| a.name).collect::<Vec<_>>()),
        which in any::<prop::sample::Index>(),
    ) {
        let bad = bad_values(key);
        prop_assume!(!bad.is_empty());
        let good = written(&spec);
        let mut without = good.clone();
        without.remove(key);
        let mut spoiled = without.clone();
        spoiled.insert(key.to_owned(), which.get(bad).to_string());

        // Without a last good value it is as if the annotation were absent; visibility and trust close.
        let (read, problems) = parse(&spoiled);
        prop_assert_eq!(problems.len(), 1);
        prop_assert_eq!(&problems[0].key, key);
        let (mut expected, _) = parse(&without);
        match key {
            "SlimFaas/DefaultVisibility" => expected.default_visibility = Visibility::Private,
            "SlimFaas/DefaultTrust" | "SlimFaas/DefaultTrusted" => expected.trust = Trust::Untrusted,
            _ => {}
        }
        prop_assert_eq!(&read, &expected);

        // With one, it is as if the annotation had not been touched.
        let (read, problems) = parse_with_last_good(&spoiled, Some(&spec));
        prop_assert_eq!(problems.len(), 1);
        let mut expected = spec.clone();
        expected.default_visibility = read.default_visibility;
        expected.trust = read.trust;
        prop_assert_eq!(&read, &expected);
    }
}
