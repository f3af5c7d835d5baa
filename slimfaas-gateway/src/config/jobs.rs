//! `SLIMFAAS_JOBS_CONFIGURATION`, in the shape of today and in that of the first versions, and the annotations of jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::config::annotations::lists::entries;
use crate::config::annotations::{quoted, unusable};
use crate::config::suggest;
use crate::model::cron::Cron;
use crate::model::job::{ConfiguredSchedule, DEFAULT_JOB, EnvVar, JobSpec, Resources, RestartPolicy, ScheduleRequest};
use crate::model::problem::Problem;
use crate::model::visibility::Visibility;

/// The variable, as problems name it.
pub const KEY: &str = "SLIMFAAS_JOBS_CONFIGURATION";

/// Marks a suspended CronJob, or a job of a local manifest.
pub const JOB: &str = "SlimFaas/Job";
const WHITELIST: &str = "SlimFaas/JobImagesWhitelist";
const VISIBILITY: &str = "SlimFaas/DefaultVisibility";
const PARALLEL: &str = "SlimFaas/NumberParallelJob";
pub const DEPENDS_ON: &str = "SlimFaas/DependsOn";
const SCHEDULES: &str = "SlimFaas/Schedules";

/// Runs at once of one job.
const PARALLEL_MAX: u32 = 10_000;

/// A week: what a run leaves behind does not stay for ever.
const TTL_SECONDS_MAX: u32 = 7 * 24 * 3600;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobsConfiguration {
    /// By name, in lower case.
    pub jobs: BTreeMap<String, Arc<JobSpec>>,
    /// What a job is that has no definition; `None`: there is no such job.
    pub dynamic: Option<Arc<JobSpec>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Document {
    configurations: BTreeMap<String, Entry>,
    schedules: BTreeMap<String, Vec<ScheduleRequest>>,
    /// Of the first versions: the same as `configurations`.
    jobs: BTreeMap<String, Entry>,
    default_number_parallel_request: Option<u32>,
    default_visibility: Option<String>,
    allow_dynamic_job: bool,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

const DOCUMENT_FIELDS: [&str; 6] =
    ["Configurations", "Schedules", "Jobs", "DefaultNumberParallelRequest", "DefaultVisibility", "AllowDynamicJob"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    image: Option<String>,
    images_whitelist: Option<Vec<String>>,
    resources: Option<Resources>,
    depends_on: Option<Vec<String>>,
    environments: Option<Vec<EnvVar>>,
    backoff_limit: Option<u32>,
    visibility: Option<String>,
    number_parallel_job: Option<u32>,
    /// Its name in the first versions.
    number_parallel_request: Option<u32>,
    ttl_seconds_after_finished: Option<u32>,
    restart_policy: Option<RestartPolicy>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

const ENTRY_FIELDS: [&str; 11] = [
    "Image",
    "ImagesWhitelist",
    "Resources",
    "DependsOn",
    "Environments",
    "BackoffLimit",
    "Visibility",
    "NumberParallelJob",
    "NumberParallelRequest",
    "TtlSecondsAfterFinished",
    "RestartPolicy",
];

const EXAMPLE: &str = r#"{"Configurations":{"report":{"Image":"example/report:1","Visibility":"Private"}}}"#;

/// The second part is what is ignored; an error is the first thing that makes the document unusable.
pub fn parse(text: &str) -> Result<(JobsConfiguration, Vec<Problem>), String> {
    let document: Document =
        serde_json::from_str(text).map_err(|error| format!("it must look like {EXAMPLE}: {error}"))?;
    let mut warnings = unknown_fields("", &document.unknown, &DOCUMENT_FIELDS);
    let mut base = JobSpec::default();
    if let Some(parallel) = document.default_number_parallel_request {
        base.parallel = parallel_of("DefaultNumberParallelRequest", parallel)?;
    }
    if let Some(text) = &document.default_visibility {
        base.visibility = visibility("DefaultVisibility", text)?;
    }
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (name, entry) in document.jobs.into_iter().chain(document.configurations) {
        let lower = name.to_ascii_lowercase();
        if lower != DEFAULT_JOB && !is_name(&lower) {
            return Err(format!("{name:?} is no job's name: 3 to 30 letters, digits, '_' and '-'"));
        }
        if entries.insert(lower, entry).is_some() {
            return Err(format!("there is more than one job {name:?}"));
        }
    }
    if let Some(entry) = entries.remove(DEFAULT_JOB) {
        base = entry.over(DEFAULT_JOB, &base, &mut warnings)?;
    }
    let mut jobs = BTreeMap::new();
    for (name, entry) in entries {
        let spec = entry.over(&name, &base, &mut warnings)?;
        jobs.insert(name, spec);
    }
    for (name, schedules) in document.schedules {
        let lower = name.to_ascii_lowercase();
        let job = jobs.get_mut(&lower).ok_or_else(|| format!("Schedules: there is no job {name:?}"))?;
        for request in schedules {
            check_cron(&request).map_err(|error| format!("Schedules.{name}: {error}"))?;
            job.schedules.push(configured(&lower, request));
        }
    }
    let dynamic = document.allow_dynamic_job.then(|| Arc::new(base));
    let jobs = jobs.into_iter().map(|(name, spec)| (name, Arc::new(spec))).collect();
    Ok((JobsConfiguration { jobs, dynamic }, warnings))
}

impl Entry {
    fn over(self, name: &str, base: &JobSpec, warnings: &mut Vec<Problem>) -> Result<JobSpec, String> {
        warnings.extend(unknown_fields(name, &self.unknown, &ENTRY_FIELDS));
        let said = |what: &str| format!("{name}.{what}");
        let parallel = match self.number_parallel_job.or(self.number_parallel_request) {
            Some(parallel) => parallel_of(&said("NumberParallelJob"), parallel)?,
            None => base.parallel,
        };
        let ttl_seconds = self.ttl_seconds_after_finished.unwrap_or(base.ttl_seconds);
        if ttl_seconds > TTL_SECONDS_MAX {
            return Err(format!(
                "{}: found {ttl_seconds}; allowed: 0 to {TTL_SECONDS_MAX}",
                said("TtlSecondsAfterFinished")
            ));
        }
        Ok(JobSpec {
            image: self.image.unwrap_or_else(|| base.image.clone()),
            images_whitelist: self.images_whitelist.unwrap_or_else(|| base.images_whitelist.clone()),
            resources: self.resources.unwrap_or_else(|| base.resources.clone()),
            depends_on: self.depends_on.unwrap_or_else(|| base.depends_on.clone()),
            environments: self.environments.unwrap_or_else(|| base.environments.clone()),
            backoff_limit: self.backoff_limit.unwrap_or(base.backoff_limit),
            visibility: match self.visibility {
                Some(text) => visibility(&said("Visibility"), &text)?,
                None => base.visibility,
            },
            parallel,
            ttl_seconds,
            restart_policy: self.restart_policy.unwrap_or(base.restart_policy),
            schedules: Vec::new(),
        })
    }
}

/// Whether this can be a job's name.
pub fn is_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (3..=30).contains(&name.len()) && name.bytes().all(letters)
}

fn visibility(key: &str, text: &str) -> Result<Visibility, String> {
    match visibility_of(text) {
        Some(visibility) => Ok(visibility),
        None => Err(format!("{key}: found {}; allowed: Public or Private", quoted(text))),
    }
}

fn visibility_of(text: &str) -> Option<Visibility> {
    let all = [Visibility::Public, Visibility::Private];
    all.into_iter().find(|visibility| visibility.as_str().eq_ignore_ascii_case(text.trim()))
}

fn parallel_of(key: &str, parallel: u32) -> Result<u32, String> {
    if (1..=PARALLEL_MAX).contains(&parallel) {
        Ok(parallel)
    } else {
        Err(format!("{key}: found {parallel}; allowed: 1 to {PARALLEL_MAX}"))
    }
}

fn check_cron(request: &ScheduleRequest) -> Result<(), String> {
    Cron::parse(&request.schedule, request.time_zone.as_deref()).map(drop).map_err(|error| error.to_string())
}

/// What is written by the job's owner keeps its id for as long as it says the same.
pub fn configured(job: &str, request: ScheduleRequest) -> ConfiguredSchedule {
    let text = serde_json::to_string(&request).expect("our own types have string keys and finite numbers");
    // FNV-1a of 128 bits: nobody gains anything from two schedules of theirs that are alike.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in job.bytes().chain([0]).chain(text.bytes()) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let mut id = hash.to_be_bytes();
    // UUID version 8, so that it is no element's.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    ConfiguredSchedule { id, request }
}

fn unknown_fields(place: &str, unknown: &BTreeMap<String, Value>, known: &[&str]) -> Vec<Problem> {
    let dot = if place.is_empty() { "" } else { "." };
    let problem = |name: &String| {
        let hint = suggest::did_you_mean(name, known.iter().copied());
        Problem::new(KEY, format!("{place}{dot}{name} is no field of it, it is ignored{hint}"))
    };
    unknown.keys().map(problem).collect()
}

/// Whether the object with these annotations is a job.
pub fn is_job(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(JOB).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
}

/// Reads the annotations of a job over what its object says; a bad value keeps what is there.
pub fn annotate(name: &str, spec: &mut JobSpec, annotations: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(text) = annotations.get(WHITELIST) {
        spec.images_whitelist = list(text);
    }
    if let Some(text) = annotations.get(VISIBILITY) {
        match visibility_of(text) {
            Some(visibility) => spec.visibility = visibility,
            None => problems.push(bad(VISIBILITY, text, "Public or Private", spec.visibility.as_str())),
        }
    }
    if let Some(text) = annotations.get(PARALLEL) {
        match text.trim().parse().ok().filter(|number| (1..=PARALLEL_MAX).contains(number)) {
            Some(number) => spec.parallel = number,
            None => problems.push(bad(
                PARALLEL,
                text,
                &format!("a whole number from 1 to {PARALLEL_MAX}"),
                &spec.parallel.to_string(),
            )),
        }
    }
    if let Some(text) = annotations.get(DEPENDS_ON) {
        let names = if text.trim_start().starts_with('[') { serde_json::from_str(text).ok() } else { Some(list(text)) };
        match names {
            Some(names) => spec.depends_on = names,
            None => problems.push(bad(DEPENDS_ON, text, "comma-separated names, or a JSON array of names", "none")),
        }
    }
    if let Some(text) = annotations.get(SCHEDULES) {
        read_schedules(name, spec, text, &mut problems);
    }
    problems
}

fn read_schedules(name: &str, spec: &mut JobSpec, text: &str, problems: &mut Vec<Problem>) {
    let entries: Vec<Value> = match serde_json::from_str(text) {
        Ok(entries) => entries,
        Err(error) => {
            let found = format!("{text} ({error})");
            problems.push(bad(SCHEDULES, &found, r#"a JSON array such as [{"Schedule":"0 4 * * *"}]"#, "none"));
            return;
        }
    };
    for entry in entries {
        let request = serde_json::from_value::<ScheduleRequest>(entry.clone()).map_err(|error| error.to_string());
        match request.and_then(|request| check_cron(&request).map(|()| request)) {
            Ok(request) => spec.schedules.push(configured(name, request)),
            Err(error) => {
                let message = format!("found {} ({error}); the entry is skipped", quoted(&entry.to_string()));
                problems.push(Problem::new(SCHEDULES, message));
            }
        }
    }
}

fn list(text: &str) -> Vec<String> {
    entries(text).map(str::to_owned).collect()
}

fn bad(key: &str, found: &str, allowed: &str, used: &str) -> Problem {
    Problem::new(key, unusable(&quoted(found), allowed, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_today() {
        let text = r#"{"Configurations": {"Fibonacci": {"Image": "fib:1", "ImagesWhitelist": ["fib:*"],
            "Resources": {"Requests": {"cpu": "400m"}, "Limits": null}, "DependsOn": ["fibonacci1"],
            "Environments": [{"Name": "K", "Value": "v"}], "BackoffLimit": 2, "Visibility": "public",
            "NumberParallelJob": 3, "TtlSecondsAfterFinished": 5, "RestartPolicy": "OnFailure", "Imagee": 1}},
            "Schedules": {"fibonacci": [{"Schedule": "0 0 * * *", "Args": ["42"], "TimeZone": "Europe/Paris"}]}}"#;
        let (configuration, warnings) = parse(text).unwrap();
        let job = &configuration.jobs["fibonacci"];
        assert_eq!((job.image.as_str(), job.parallel, job.backoff_limit, job.ttl_seconds), ("fib:1", 3, 2, 5));
        assert_eq!((job.visibility, job.restart_policy), (Visibility::Public, RestartPolicy::OnFailure));
        assert_eq!(job.resources.requests["cpu"], "400m");
        assert_eq!(job.schedules[0].request.time_zone.as_deref(), Some("Europe/Paris"));
        assert_eq!(job.schedules[0].request.run.args.as_deref(), Some(&["42".to_owned()][..]));
        assert_eq!(configuration.dynamic, None);
        let warned: Vec<String> = warnings.iter().map(|warning| warning.message.clone()).collect();
        assert_eq!(warned, ["fibonacci.Imagee is no field of it, it is ignored; did you mean Image?"]);
        let again = parse(text).unwrap().0;
        assert_eq!(again, configuration, "also the schedule's id");
    }

    #[test]
    fn the_shape_of_the_first_versions() {
        let text = r#"{"DefaultNumberParallelRequest": 2, "DefaultVisibility": "Private", "AllowDynamicJob": true,
            "Jobs": {"daisy": {"NumberParallelRequest": 1, "Visibility": "Public"}}}"#;
        let (configuration, warnings) = parse(text).unwrap();
        assert_eq!(warnings, []);
        let daisy = &configuration.jobs["daisy"];
        assert_eq!((daisy.parallel, daisy.visibility), (1, Visibility::Public));
        let dynamic = configuration.dynamic.unwrap();
        assert_eq!((dynamic.parallel, dynamic.visibility), (2, Visibility::Private));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let check = |text: &str, part: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("{", "it must look like");
        check(r#"{"Configurations": {"x": {}}}"#, "\"x\" is no job's name");
        check(r#"{"Configurations": {"job": {}}, "Jobs": {"JOB": {}}}"#, "more than one job");
        check(r#"{"Configurations": {"job": {"Visibility": "Secret"}}}"#, "job.Visibility: found \"Secret\"");
        check(r#"{"Configurations": {"job": {"NumberParallelJob": 0}}}"#, "job.NumberParallelJob: found 0");
        check(r#"{"Configurations": {"job": {"TtlSecondsAfterFinished": 604801}}}"#, "allowed: 0 to 604800");
        check(r#"{"Jobs": {"job": {}}, "Schedules": {"job": [{"Schedule": "61 * * * *"}]}}"#, "Schedules.job: minute");
        check(r#"{"Schedules": {"job": []}}"#, "there is no job \"job\"");
    }

    #[test]
    fn annotations_of_a_job() {
        let annotations = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let mut spec = JobSpec::default();
        let good = annotations(&[
            (JOB, "True"),
            (WHITELIST, "a:*, b"),
            (VISIBILITY, "Public"),
            (PARALLEL, "4"),
            (DEPENDS_ON, r#"["mysql"]"#),
            (SCHEDULES, r#"[{"Schedule": "* * * * *"}, 5]"#),
        ]);
        assert!(is_job(&good) && !is_job(&annotations(&[(JOB, "no")])));
        let problems = annotate("job", &mut spec, &good);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!((spec.parallel, spec.visibility, spec.schedules.len()), (4, Visibility::Public, 1));
        assert_eq!(
            (spec.images_whitelist.as_slice(), spec.depends_on.as_slice()),
            (&["a:*".to_owned(), "b".to_owned()][..], &["mysql".to_owned()][..])
        );
        let wrong = annotations(&[(VISIBILITY, "x"), (PARALLEL, "0"), (DEPENDS_ON, "[1]"), (SCHEDULES, "{}")]);
        let mut kept = spec.clone();
        assert_eq!(annotate("job", &mut kept, &wrong).len(), 4);
        assert_eq!(kept, spec);
    }
}
