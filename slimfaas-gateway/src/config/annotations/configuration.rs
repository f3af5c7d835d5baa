//! `SlimFaas/Configuration`: time limits and retries.

use std::time::Duration;

use super::json::{Field, Object};
use super::{Draft, HTTP_TIMEOUT_SECS_MAX, Source};
use crate::model::spec::CallPolicy;

/// Further attempts of one request: each is a call to the function and a line in its history.
const RETRIES_MAX: usize = 100;

/// A week: a retry later than that is rather a schedule.
const RETRY_DELAY_SECS_MAX: u32 = 604_800;

pub(super) fn read(draft: &mut Draft<'_>, from: Source<'_>) {
    let (spec, last) = (&mut draft.spec, draft.last);
    let sections = [
        ("DefaultSync", &mut spec.sync_calls, &last.sync_calls),
        ("DefaultAsync", &mut spec.async_calls, &last.async_calls),
        ("DefaultPublish", &mut spec.publish_calls, &last.publish_calls),
    ];
    let Some(mut document) = Object::document(&mut draft.problems, from, "the last good document, else the defaults")
    else {
        for (_, policy, last) in sections {
            policy.clone_from(last);
        }
        return;
    };
    for (name, policy, last) in sections {
        match document.object(name, "the last good object, else the defaults") {
            Field::Absent => {}
            Field::Bad => policy.clone_from(last),
            Field::Given(section) => read_policy(section, policy, last),
        }
    }
    document.finish();
}

fn read_policy(mut section: Object<'_>, policy: &mut CallPolicy, last: &CallPolicy) {
    let timeout = last.http_timeout.as_secs();
    match section.whole("HttpTimeout", &(1..=HTTP_TIMEOUT_SECS_MAX), &timeout.to_string()) {
        Field::Absent => {}
        Field::Bad => policy.http_timeout = last.http_timeout,
        Field::Given(seconds) => policy.http_timeout = Duration::from_secs(seconds.into()),
    }
    let delays: Vec<u64> = last.retry_delays.iter().map(Duration::as_secs).collect();
    match section.numbers("TimeoutRetries", &(0..=RETRY_DELAY_SECS_MAX), RETRIES_MAX, &delays) {
        Field::Absent => {}
        Field::Bad => policy.retry_delays.clone_from(&last.retry_delays),
        Field::Given(seconds) => {
            policy.retry_delays = seconds.into_iter().map(|s| Duration::from_secs(s.into())).collect();
        }
    }
    let statuses: Vec<u64> = last.retry_statuses.iter().map(|status| u64::from(*status)).collect();
    // There are 500 statuses.
    match section.numbers("HttpStatusRetries", &(100..=599), 500, &statuses) {
        Field::Absent => {}
        Field::Bad => policy.retry_statuses.clone_from(&last.retry_statuses),
        Field::Given(statuses) => {
            let statuses = statuses.into_iter().map(|status| u16::try_from(status).expect("at most 599"));
            policy.retry_statuses = statuses.collect();
        }
    }
    section.finish();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::annotations::tests::{check, seconds};

    #[test]
    fn field_by_field() {
        check(
            &[("Configuration", r#"{"DefaultSync":{"HttpTimeout":1,"TimeoutRetries":[0],"HttpStatusRetries":[503]}}"#)],
            |spec| {
                spec.sync_calls = CallPolicy {
                    http_timeout: Duration::from_secs(1),
                    retry_delays: seconds(&[0]),
                    retry_statuses: vec![503],
                };
            },
            &[],
        );
        check(
            &[("Configuration", r#"{"DefaultAsync":{"HttpTimeout":0,"TimeoutRetries":[],"httpStatusRetries":[500]}}"#)],
            |spec| spec.async_calls.retry_delays = Vec::new(),
            &[
                "SlimFaas/Configuration: DefaultAsync.HttpTimeout: found 0; \
                 allowed: a whole number from 1 to 86400; used instead: 120",
                "SlimFaas/Configuration: DefaultAsync.httpStatusRetries: no such field, it is ignored; \
                 did you mean HttpStatusRetries?",
            ],
        );
        check(
            &[("Configuration", r#"{"DefaultPublish":{"HttpStatusRetries":[99],"HttpTimeout":null},"DefaultSync":5}"#)],
            |_| {},
            &[
                "SlimFaas/Configuration: DefaultSync: found 5; allowed: an object; \
                 used instead: the last good object, else the defaults",
                "SlimFaas/Configuration: DefaultPublish.HttpStatusRetries: found [99]; \
                 allowed: a list of at most 500 whole numbers from 100 to 599; used instead: [500, 502, 503]",
            ],
        );
        check(
            &[("Configuration", "{")],
            |_| {},
            &["SlimFaas/Configuration: found \"{\" (EOF while parsing an object at line 1 column 1); \
               allowed: a JSON object; used instead: the last good document, else the defaults"],
        );
    }
}
