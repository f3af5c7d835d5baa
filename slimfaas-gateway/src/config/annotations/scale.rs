//! `SlimFaas/Scale`: scaling by metrics.

use std::time::Duration;

use serde_json::Value;

use super::json::{Field, Object};
use super::{Draft, REPLICAS_MAX, Source};
use crate::model::spec::{MetricType, PolicyKind, ScaleBehavior, ScalePolicy, ScaleSpec, Trigger};

/// Each is evaluated at each scrape.
const TRIGGERS_MAX: usize = 64;

/// Kubernetes' own autoscaler makes do with fewer; each is evaluated at each decision.
const POLICIES_MAX: usize = 16;

/// An hour, as Kubernetes allows: decisions are remembered for so long.
const WINDOW_SECS_MAX: u32 = 3600;

/// Milliseconds (reference §2.2).
const SCRAPE_INTERVAL: std::ops::RangeInclusive<u32> = 1000..=300_000;

const LAST_OR_NONE: &str = "the last good value, else none";

pub(super) fn read(draft: &mut Draft<'_>, from: Source<'_>) {
    let last = draft.last.scale.as_ref();
    let Some(mut document) = Object::document(&mut draft.problems, from, LAST_OR_NONE) else {
        draft.spec.scale = last.cloned();
        return;
    };
    let replicas_max = match document.whole("ReplicaMax", &(1..=REPLICAS_MAX), LAST_OR_NONE) {
        Field::Absent => None,
        Field::Bad => last.and_then(|scale| scale.replicas_max),
        Field::Given(replicas) => Some(replicas),
    };
    let scrape_interval = match document.whole("ScrapeIntervalMilliseconds", &SCRAPE_INTERVAL, LAST_OR_NONE) {
        Field::Absent => None,
        Field::Bad => last.and_then(|scale| scale.scrape_interval),
        Field::Given(millis) => Some(Duration::from_millis(millis.into())),
    };
    let triggers = match limited(&mut document, "Triggers", TRIGGERS_MAX, LAST_OR_NONE) {
        Field::Absent => Vec::new(),
        Field::Bad => last.map(|scale| scale.triggers.clone()).unwrap_or_default(),
        Field::Given(entries) => read_triggers(&mut document, entries),
    };
    let (scale_up, scale_down) = read_behaviors(&mut document, last);
    document.finish();
    draft.spec.scale = Some(ScaleSpec { replicas_max, scrape_interval, triggers, scale_up, scale_down });
}

fn read_behaviors(document: &mut Object<'_>, last: Option<&ScaleSpec>) -> (ScaleBehavior, ScaleBehavior) {
    let last_up = last.map_or_else(default_up, |scale| scale.scale_up.clone());
    let last_down = last.map_or_else(default_down, |scale| scale.scale_down.clone());
    match document.object("Behavior", LAST_OR_DEFAULT) {
        Field::Absent => (default_up(), default_down()),
        Field::Bad => (last_up, last_down),
        Field::Given(mut behavior) => {
            let up = read_behavior(&mut behavior, "ScaleUp", default_up(), last_up);
            let down = read_behavior(&mut behavior, "ScaleDown", default_down(), last_down);
            behavior.finish();
            (up, down)
        }
    }
}

const LAST_OR_DEFAULT: &str = "the last good value, else the default";

fn read_behavior(
    parent: &mut Object<'_>,
    name: &'static str,
    default: ScaleBehavior,
    last: ScaleBehavior,
) -> ScaleBehavior {
    let mut direction = match parent.object(name, LAST_OR_DEFAULT) {
        Field::Absent => return default,
        Field::Bad => return last,
        Field::Given(direction) => direction,
    };
    let window = (0..=WINDOW_SECS_MAX, last.stabilization.as_secs().to_string());
    let stabilization = match direction.whole("StabilizationWindowSeconds", &window.0, &window.1) {
        // Wire fact: a direction that is present without a window has none.
        Field::Absent => Duration::ZERO,
        Field::Bad => last.stabilization,
        Field::Given(seconds) => Duration::from_secs(seconds.into()),
    };
    let policies = match limited(&mut direction, "Policies", POLICIES_MAX, LAST_OR_DEFAULT) {
        Field::Absent => default.policies,
        Field::Bad => last.policies,
        Field::Given(entries) if entries.is_empty() => default.policies,
        Field::Given(entries) => read_policies(&mut direction, entries),
    };
    direction.finish();
    ScaleBehavior { stabilization, policies }
}

fn read_policies(direction: &mut Object<'_>, entries: Vec<Value>) -> Vec<ScalePolicy> {
    let policy = |(index, entry)| {
        let mut entry = direction.element("Policies", index, entry);
        let words = [("Percent", PolicyKind::Percent), ("Pods", PolicyKind::Pods)];
        let kind = given(entry.word("Type", &words, "Percent"), PolicyKind::Percent);
        let value = given(entry.whole("Value", &(0..=REPLICAS_MAX), "100"), 100);
        let seconds = given(entry.whole("PeriodSeconds", &(1..=WINDOW_SECS_MAX), "15"), 15);
        entry.finish();
        ScalePolicy { kind, value, period: Duration::from_secs(seconds.into()) }
    };
    entries.into_iter().enumerate().map(policy).collect()
}

/// A trigger that cannot be evaluated stays in the list: while there is one, the function is not scaled down.
fn read_triggers(document: &mut Object<'_>, entries: Vec<Value>) -> Vec<Trigger> {
    let trigger = |(index, entry)| {
        let mut entry = document.element("Triggers", index, entry);
        let words = [("AverageValue", MetricType::AverageValue), ("Value", MetricType::Value)];
        let metric_type = given(entry.word("MetricType", &words, "AverageValue"), MetricType::AverageValue);
        let metric_name = given(entry.text("MetricName", "no name"), String::new());
        let query = given(entry.text("Query", "no query"), String::new());
        let threshold = given(entry.real("Threshold", "0"), 0.0);
        if query.trim().is_empty() {
            entry.report("it has no Query; the trigger has no effect, except that nothing is scaled down");
        }
        if threshold <= 0.0 {
            entry.report(
                "Threshold: allowed: a number above 0; the trigger has no effect, except that nothing is scaled down",
            );
        }
        entry.finish();
        Trigger { metric_type, metric_name, query, threshold }
    };
    entries.into_iter().enumerate().map(trigger).collect()
}

/// A list that is not too long.
fn limited(object: &mut Object<'_>, name: &'static str, count_max: usize, used: &str) -> Field<Vec<Value>> {
    match object.list(name, used) {
        Field::Given(entries) if entries.len() > count_max => {
            let count = entries.len();
            object
                .report(&format!("{name}: found {count} entries; allowed: at most {count_max}; used instead: {used}"));
            Field::Bad
        }
        field => field,
    }
}

fn given<T>(field: Field<T>, otherwise: T) -> T {
    match field {
        Field::Given(value) => value,
        Field::Absent | Field::Bad => otherwise,
    }
}

const fn percent_100() -> ScalePolicy {
    ScalePolicy { kind: PolicyKind::Percent, value: 100, period: Duration::from_secs(15) }
}

fn default_up() -> ScaleBehavior {
    let pods_4 = ScalePolicy { kind: PolicyKind::Pods, value: 4, period: Duration::from_secs(15) };
    ScaleBehavior { stabilization: Duration::ZERO, policies: vec![percent_100(), pods_4] }
}

fn default_down() -> ScaleBehavior {
    ScaleBehavior { stabilization: Duration::from_secs(300), policies: vec![percent_100()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::annotations::tests::check;

    fn policy(kind: PolicyKind, value: u32, period: u64) -> ScalePolicy {
        ScalePolicy { kind, value, period: Duration::from_secs(period) }
    }

    fn scale_default() -> ScaleSpec {
        ScaleSpec {
            replicas_max: None,
            scrape_interval: None,
            triggers: Vec::new(),
            scale_up: ScaleBehavior {
                stabilization: Duration::ZERO,
                policies: vec![policy(PolicyKind::Percent, 100, 15), policy(PolicyKind::Pods, 4, 15)],
            },
            scale_down: ScaleBehavior {
                stabilization: Duration::from_secs(300),
                policies: vec![policy(PolicyKind::Percent, 100, 15)],
            },
        }
    }

    #[test]
    fn triggers_and_behavior() {
        let reference = r#"{ "ReplicaMax": 10, "ScrapeIntervalMilliseconds": 1000,
            "Triggers": [ { "MetricType":"AverageValue", "MetricName":"rps", "Query":"sum by (a) (x)", "Threshold":50 } ],
            "Behavior": {
              "ScaleUp":   { "StabilizationWindowSeconds":0,   "Policies":[ {"Type":"Percent","Value":100,"PeriodSeconds":15}, {"Type":"Pods","Value":4,"PeriodSeconds":15} ] },
              "ScaleDown": { "StabilizationWindowSeconds":300, "Policies":[ {"Type":"Percent","Value":100,"PeriodSeconds":15} ] } } }"#;
        let trigger = |query: &str, threshold| Trigger {
            metric_type: MetricType::AverageValue,
            metric_name: "rps".into(),
            query: query.into(),
            threshold,
        };
        let expected = ScaleSpec {
            replicas_max: Some(10),
            scrape_interval: Some(Duration::from_secs(1)),
            triggers: vec![trigger("sum by (a) (x)", 50.0)],
            ..scale_default()
        };
        check(&[("Scale", reference)], |spec| spec.scale = Some(expected), &[]);
        check(&[("Scale", "{}")], |spec| spec.scale = Some(scale_default()), &[]);

        // A direction without a window has none, without policies or with an empty list of them the default ones.
        let no_window = ScaleSpec {
            scale_down: ScaleBehavior { stabilization: Duration::ZERO, ..scale_default().scale_down },
            ..scale_default()
        };
        for text in [r#"{"Behavior":{"ScaleDown":{}}}"#, r#"{"Behavior":{"ScaleDown":{"Policies":[]}}}"#] {
            check(&[("Scale", text)], |spec| spec.scale = Some(no_window.clone()), &[]);
        }
        let one_policy = ScaleSpec {
            scale_up: ScaleBehavior {
                stabilization: Duration::from_secs(5),
                policies: vec![policy(PolicyKind::Pods, 100, 15)],
            },
            ..scale_default()
        };
        check(
            &[("Scale", r#"{"Behavior":{"ScaleUp":{"StabilizationWindowSeconds":5,"Policies":[{"Type":"Pods"}]}}}"#)],
            |spec| spec.scale = Some(one_policy),
            &[],
        );
        check(
            &[(
                "Scale",
                r#"{"ScrapeIntervalMilliseconds":999,"Triggers":[{"MetricName":"rps","Query":"x","Threshold":0}]}"#,
            )],
            |spec| spec.scale = Some(ScaleSpec { triggers: vec![trigger("x", 0.0)], ..scale_default() }),
            &[
                "SlimFaas/Scale: ScrapeIntervalMilliseconds: found 999; allowed: a whole number from 1000 to 300000; \
                 used instead: the last good value, else none",
                "SlimFaas/Scale: Triggers[0]: Threshold: allowed: a number above 0; \
                 the trigger has no effect, except that nothing is scaled down",
            ],
        );
    }
}
