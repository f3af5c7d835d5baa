//! A definition and a request put together: what a run is. Pure.

use std::collections::BTreeMap;

use super::quantity;
use crate::model::job::{EnvVar, JobSpec, Resources, RunRequest, RunSpec};

/// Arguments and variables of one run: their bytes are limited beside this.
pub const ENTRIES_MAX: usize = 1000;

/// Why a request cannot be a run of this job; the text is for its sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Image: {0:?} is neither this job's image nor matched by its ImagesWhitelist")]
    Image(String),
    #[error("Resources: {name}: {quantity:?} is not a quantity such as 500m or 128Mi")]
    Quantity { name: String, quantity: String },
    #[error(
        "Environments: {0:?} must have a name and exactly one of Value, SecretRef, ConfigMapRef, FieldRef and ResourceFieldRef"
    )]
    Variable(String),
    #[error("Environments: {0:?} is a reference, which only callers from inside the cluster may use")]
    Reference(String),
    #[error("more than {ENTRIES_MAX} entries of Args, Environments or DependsOn")]
    TooMany,
}

/// `may_refer`: whether the request may name Secrets and the like.
pub fn resolve(job: &JobSpec, request: &RunRequest, may_refer: bool) -> Result<RunSpec, Refusal> {
    let image = request.image.as_deref().map_or("", str::trim);
    let image = match image {
        "" => job.image.clone(),
        image if may_run(job, image) => image.to_owned(),
        image => return Err(Refusal::Image(image.chars().take(256).collect())),
    };
    let asked = request.environments.as_deref().unwrap_or_default();
    check_variables(asked, may_refer)?;
    let depends_on = request.depends_on.as_ref().unwrap_or(&job.depends_on);
    let counts = [request.args.as_ref().map_or(0, Vec::len), asked.len(), depends_on.len()];
    if counts.into_iter().any(|count| count > ENTRIES_MAX) {
        return Err(Refusal::TooMany);
    }
    Ok(RunSpec {
        image,
        args: request.args.clone(),
        environments: merged(&job.environments, asked),
        resources: capped(&job.resources, request.resources.as_ref())?,
        depends_on: depends_on.clone(),
        // The definition's, whatever the request says (reference §1.14).
        backoff_limit: job.backoff_limit,
        ttl_seconds: job.ttl_seconds,
        restart_policy: job.restart_policy,
    })
}

/// The same for a schedule that the job's owner wrote: it may also say how runs are tried and kept.
pub fn resolve_configured(job: &JobSpec, request: &RunRequest) -> Result<RunSpec, Refusal> {
    let run = resolve(job, request, true)?;
    Ok(RunSpec {
        backoff_limit: request.backoff_limit.unwrap_or(run.backoff_limit),
        ttl_seconds: request.ttl_seconds_after_finished.unwrap_or(run.ttl_seconds),
        restart_policy: request.restart_policy.unwrap_or(run.restart_policy),
        ..run
    })
}

/// The job's own image always may, also with an empty list.
fn may_run(job: &JobSpec, image: &str) -> bool {
    image == job.image || job.images_whitelist.iter().any(|pattern| matches(pattern.trim(), image))
}

/// Whether `*`, which stands for any characters, makes the whole of `text` of `pattern`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn check_variables(variables: &[EnvVar], may_refer: bool) -> Result<(), Refusal> {
    for variable in variables {
        let name: String = variable.name.chars().take(64).collect();
        let is_name = !variable.name.is_empty() && !variable.name.contains(['=', '\0']);
        if !is_name || variable.sources() > 1 {
            return Err(Refusal::Variable(name));
        }
        if variable.is_reference() && !may_refer {
            return Err(Refusal::Reference(name));
        }
    }
    Ok(())
}

/// By name: the request's wins.
fn merged(own: &[EnvVar], asked: &[EnvVar]) -> Vec<EnvVar> {
    let kept = own.iter().filter(|own| !asked.iter().any(|asked| asked.name == own.name));
    kept.chain(asked).cloned().collect()
}

/// What is asked for, where the job has as much; else what the job has.
fn capped(own: &Resources, asked: Option<&Resources>) -> Result<Resources, Refusal> {
    let Some(asked) = asked else { return Ok(own.clone()) };
    Ok(Resources { requests: cap(&own.requests, &asked.requests)?, limits: cap(&own.limits, &asked.limits)? })
}

fn cap(own: &BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Refusal> {
    let mut all = own.clone();
    for (name, quantity) in asked {
        let wanted = quantity::parse(quantity).ok_or_else(|| Refusal::Quantity {
            name: name.chars().take(64).collect(),
            quantity: quantity.chars().take(64).collect(),
        })?;
        // What the job does not have at all, nobody gets.
        let allowed = own.get(name).and_then(|own| quantity::parse(own));
        if allowed.is_some_and(|allowed| wanted <= allowed) {
            all.insert(name.clone(), quantity.clone());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(image: &str, whitelist: &[&str]) -> JobSpec {
        let images_whitelist = whitelist.iter().map(|pattern| (*pattern).to_owned()).collect();
        JobSpec { image: image.to_owned(), images_whitelist, ..JobSpec::default() }
    }

    fn named(image: &str) -> RunRequest {
        RunRequest { image: Some(image.to_owned()), ..RunRequest::default() }
    }

    #[test]
    fn images_are_the_jobs_own_or_match_its_whitelist() {
        let check = |job: &JobSpec, image: &str, expected: Option<&str>| {
            let run = resolve(job, &named(image), false);
            assert_eq!(run.as_ref().ok().map(|run| run.image.as_str()), expected, "{image}: {run:?}");
        };
        let own = job("repo/fib:1", &[]);
        check(&own, "", Some("repo/fib:1"));
        check(&own, "repo/fib:1", Some("repo/fib:1"));
        check(&own, "repo/fib:2", None);
        let listed = job("repo/fib:1", &["repo/fib:*", "x/*/y@*-z"]);
        check(&listed, "repo/fib:2", Some("repo/fib:2"));
        check(&listed, "evil/repo/fib:2", None);
        check(&listed, "x/a/b/y@1-z", Some("x/a/b/y@1-z"));
        check(&listed, "x/y@-z", None);
        check(&listed, "x/a/y@1-zz", None);
        check(&job("", &["exact"]), "exact", Some("exact"));
        check(&job("", &["exact"]), "exactly", None);
        check(&job("", &["a*a"]), "a", None);
    }

    #[test]
    fn resources_are_capped_at_the_jobs() {
        let quantities = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(name, quantity)| ((*name).to_owned(), (*quantity).to_owned())).collect()
        };
        let job = JobSpec {
            resources: Resources {
                requests: quantities(&[("cpu", "400m"), ("memory", "400Mi")]),
                limits: quantities(&[("cpu", "1")]),
            },
            ..JobSpec::default()
        };
        let asked = Resources {
            requests: quantities(&[("cpu", "200m"), ("memory", "1Gi"), ("nvidia.com/gpu", "1")]),
            limits: quantities(&[("cpu", "1000m")]),
        };
        let request = RunRequest { resources: Some(asked), ..RunRequest::default() };
        let run = resolve(&job, &request, false).unwrap();
        assert_eq!(run.resources.requests, quantities(&[("cpu", "200m"), ("memory", "400Mi")]));
        assert_eq!(run.resources.limits, quantities(&[("cpu", "1000m")]));
        let bad = Resources { requests: quantities(&[("cpu", "lots")]), ..Resources::default() };
        let refused = resolve(&job, &RunRequest { resources: Some(bad), ..RunRequest::default() }, false);
        assert_eq!(refused, Err(Refusal::Quantity { name: "cpu".to_owned(), quantity: "lots".to_owned() }));
    }

    #[test]
    fn variables_are_merged_by_name_and_references_are_for_insiders() {
        let value = |name: &str, value: &str| EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..EnvVar::default()
        };
        let job = JobSpec { environments: vec![value("A", "own"), value("B", "own")], ..JobSpec::default() };
        let asking =
            |environments: Vec<EnvVar>| RunRequest { environments: Some(environments), ..RunRequest::default() };
        let run = resolve(&job, &asking(vec![value("B", "asked"), value("C", "")]), false).unwrap();
        assert_eq!(run.environments, [value("A", "own"), value("B", "asked"), value("C", "")]);
        let secret = EnvVar {
            name: "S".to_owned(),
            secret_ref: Some(crate::model::job::KeyRef { name: "s".to_owned(), key: "k".to_owned() }),
            ..EnvVar::default()
        };
        assert_eq!(resolve(&job, &asking(vec![secret.clone()]), false), Err(Refusal::Reference("S".to_owned())));
        assert!(resolve(&job, &asking(vec![secret.clone()]), true).is_ok());
        let both = EnvVar { value: Some(String::new()), ..secret };
        assert_eq!(resolve(&job, &asking(vec![both]), true), Err(Refusal::Variable("S".to_owned())));
        assert_eq!(resolve(&job, &asking(vec![value("a=b", "")]), true), Err(Refusal::Variable("a=b".to_owned())));
        let many = RunRequest { args: Some(vec![String::new(); ENTRIES_MAX + 1]), ..RunRequest::default() };
        assert_eq!(resolve(&job, &many, true), Err(Refusal::TooMany));
    }

    #[test]
    fn only_the_owners_schedules_say_how_runs_are_tried_and_kept() {
        let request = RunRequest {
            backoff_limit: Some(7),
            ttl_seconds_after_finished: Some(8),
            restart_policy: Some(crate::model::job::RestartPolicy::OnFailure),
            ..RunRequest::default()
        };
        let run = resolve(&JobSpec::default(), &request, true).unwrap();
        assert_eq!((run.backoff_limit, run.ttl_seconds), (1, 60));
        let run = resolve_configured(&JobSpec::default(), &request).unwrap();
        assert_eq!((run.backoff_limit, run.ttl_seconds, run.restart_policy.as_str()), (7, 8, "OnFailure"));
    }
}
