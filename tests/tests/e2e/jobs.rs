//! Jobs as Jobs of Kubernetes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slimfaas_tests::report;

use super::cluster::wait;
use super::functions::{FUNCTION, Workload};
use super::site::{Install, Site};

/// For a pod to start and end.
const SOON: Duration = Duration::from_secs(60);

/// From its start until it has had a pod killed.
const KUBECTL: Duration = Duration::from_millis(340);

/// A suspended CronJob of the example job: its arguments are words that it says.
pub(super) struct Definition<'a> {
    pub(super) name: &'a str,
    /// Further annotations, each a line of YAML.
    pub(super) more: &'a str,
    /// Milliseconds after each word.
    pub(super) pause: u32,
    pub(super) exit_code: u8,
    pub(super) backoff: u32,
    pub(super) ttl: u32,
    /// Its runs are for somebody else to begin.
    pub(super) suspend: bool,
}

impl Default for Definition<'_> {
    fn default() -> Self {
        Self { name: "report", more: "", pause: 0, exit_code: 0, backoff: 0, ttl: 60, suspend: false }
    }
}

impl Definition<'_> {
    pub(super) fn yaml(&self) -> String {
        let Self { name, more, pause, exit_code, backoff, ttl, suspend } = self;
        format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata:\n  name: {name}\n  annotations:\n    SlimFaas/Job: \"true\"\n    \
             SlimFaas/DefaultVisibility: Public\n{more}spec:\n  schedule: \"0 0 31 2 *\"\n  suspend: true\n  jobTemplate:\n    \
             spec:\n      backoffLimit: {backoff}\n      ttlSecondsAfterFinished: {ttl}\n      suspend: {suspend}\n      template:\n        spec:\n          \
             restartPolicy: Never\n          terminationGracePeriodSeconds: 1\n          automountServiceAccountToken: false\n          \
             containers:\n          - name: main\n            image: slimfaas-example:dev\n            \
             imagePullPolicy: Never\n            command: [/usr/bin/slimfaas, example-job]\n            args: [done]\n            \
             env:\n            - {{name: PAUSE_MS, value: \"{pause}\"}}\n            - {{name: EXIT_CODE, value: \"{exit_code}\"}}\n            \
             resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}\n---\n"
        )
    }
}

/// Asks until the gateway knows the job.
pub(super) fn run(site: &Site, name: &str, body: &str) -> Result<String> {
    wait(&format!("the gateway knows the job {name}"), Duration::from_secs(20), || {
        let answer = site.request("POST", &format!("/job/{name}"), body)?;
        ensure!(matches!(answer.status, 202 | 404 | 503), "{}{}", answer.head, answer.text());
        if answer.status != 202 {
            return Ok(None);
        }
        let id: Value = serde_json::from_slice(&answer.body)?;
        Ok(id["Id"].as_str().map(str::to_owned))
    })
    .with_context(|| site.gateway_logs())
}

pub(super) fn rows(site: &Site, name: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_slice(&site.call(&format!("/job/{name}"))?.body)?)
}

pub(super) fn wait_status(site: &Site, name: &str, id: &str, status: &str) -> Result<Value> {
    let mut last = Vec::new();
    let seen = wait(&format!("{status} of {name}"), SOON, || {
        last = rows(site, name)?;
        Ok(last.iter().find(|row| row["Id"] == id && row["Status"] == status).cloned())
    });
    seen.with_context(|| format!("{last:?}\n{}", site.gateway_logs()))
}

fn object(site: &Site, id: &str) -> Result<Option<Value>> {
    Ok(site.list("jobs", &format!("slimfaas-job-element-id={id}"))?.into_iter().next())
}

fn logs(site: &Site, name: &str, id: &str) -> Result<String> {
    Ok(site.call(&format!("/job/{name}/{id}/logs"))?.text())
}

#[test]
fn runs_are_jobs_from_their_start_to_their_end() -> Result<()> {
    let Some(site) = Site::install("jobs", &Install::default())? else { return Ok(()) };
    let whitelist = "    SlimFaas/JobImagesWhitelist: slimfaas-examp*:d*\n";
    site.apply(&Definition { more: whitelist, pause: 500, ttl: 5, ..Definition::default() }.yaml())?;
    site.apply(&Definition { name: "flaky", exit_code: 3, backoff: 1, ..Definition::default() }.yaml())?;
    site.apply(&Definition { name: "long", pause: 100_000, ..Definition::default() }.yaml())?;

    // A good one, with the arguments, variables and labels that it should have.
    let began = Instant::now();
    let body = json!({
        "Args": ["one", "two"], "Image": "slimfaas-example:dev",
        "Environments": [{"Name": "GREETING", "Value": "hello"}],
    });
    let good = run(&site, "report", &body.to_string())?;
    wait_status(&site, "report", &good, "Running")?;
    let job = object(&site, &good)?.context("its Job")?;
    assert_eq!(job["metadata"]["labels"]["slimfaas-job-name"], "report");
    assert_eq!(
        (&job["metadata"]["annotations"]["SlimFaas/Held"], &job["spec"]["suspend"]),
        (&Value::Null, &json!(false))
    );
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["name"], &container["args"]), (&json!("report"), &json!(["one", "two"])));
    let environment = container["env"].as_array().context("variables")?;
    ensure!(environment.contains(&json!({"name": "GREETING", "value": "hello"})), "{environment:?}");
    let row = wait_status(&site, "report", &good, "Succeeded")?;
    assert_eq!(row["Name"], job["metadata"]["name"]);
    assert_eq!(logs(&site, "report", &good)?, "one\ntwo\n");
    report::line(format_args!("a run of a second, from its POST to Succeeded: {:?}", began.elapsed()));

    // One that fails, and is tried again.
    let failing = run(&site, "flaky", "{}")?;
    let row = wait_status(&site, "flaky", &failing, "Failed")?;
    ensure!(row["Reason"].as_str().is_some_and(|reason| reason.contains("BackoffLimitExceeded")), "{row}");
    let pods = site.list("pods", &format!("slimfaas-job-element-id={failing}"))?;
    assert_eq!(pods.len(), 2, "a try and another");

    // One that is deleted while it runs.
    let deleted = run(&site, "long", "{}")?;
    wait_status(&site, "long", &deleted, "Running")?;
    assert_eq!(site.request("DELETE", &format!("/job/long/{deleted}"), "")?.status, 200);
    wait("its Job is gone", SOON, || Ok(object(&site, &deleted)?.is_none().then_some(())))?;
    ensure!(site.list("pods", &format!("slimfaas-job-element-id={deleted}"))?.is_empty(), "its pod goes first");

    // An image that is not on the list.
    let refused = site.request("POST", "/job/report", r#"{"Image": "evil/image:dev"}"#)?;
    assert_eq!((refused.status, refused.header("content-type")), (400, Some("application/problem+json")));
    ensure!(refused.text().contains("ImagesWhitelist"), "{}", refused.text());
    assert_eq!(site.request("POST", "/job/nothing", "{}")?.status, 404);

    // The good one's time is over.
    wait("it is forgotten", SOON, || {
        Ok((rows(&site, "report")?.is_empty() && object(&site, &good)?.is_none()).then_some(()))
    })
}

#[test]
fn a_job_that_is_created_late_starts_nothing_and_the_suspension_of_others_is_theirs() -> Result<()> {
    let Some(site) = Site::install("jobs-late", &Install::default())? else { return Ok(()) };
    site.apply(&Definition::default().yaml())?;
    site.apply(&Definition { name: "queued", suspend: true, ..Definition::default() }.yaml())?;

    // Their requests to create them are carried out again when they are gone.
    let again = |annotations: Value| -> Result<String> {
        let id = run(&site, "report", "{}")?;
        wait_status(&site, "report", &id, "Succeeded")?;
        let job = object(&site, &id)?.context("its Job")?;
        assert_eq!(site.request("DELETE", &format!("/job/report/{id}"), "")?.status, 200);
        wait("it is gone", SOON, || {
            let is_forgotten = rows(&site, "report")?.iter().all(|row| row["Id"] != id);
            Ok((is_forgotten && object(&site, &id)?.is_none()).then_some(()))
        })?;
        let (name, labels) = (&job["metadata"]["name"], &job["metadata"]["labels"]);
        let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
        let container = json!({"name": "report", "image": "slimfaas-example:dev", "imagePullPolicy": "Never"});
        let pod = json!({"restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [container]});
        let spec = json!({"suspend": true, "template": {"metadata": {"labels": labels}, "spec": pod}});
        let late = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec});
        site.apply(&late.to_string())?;
        Ok(id)
    };
    let late = again(json!({"SlimFaas/Held": "true"}))?;
    wait("the late one is gone", SOON, || Ok(object(&site, &late)?.is_none().then_some(())))?;
    ensure!(rows(&site, "report")?.is_empty(), "it was taken for a run");
    // Without the annotation it is a run of a gateway that lost its volume, suspended by somebody.
    let lost = again(json!({}))?;
    wait_status(&site, "report", &lost, "Pending")?;

    let queued = run(&site, "queued", "{}")?;
    let let_go = wait("the gateway lets it go", SOON, || {
        let job = object(&site, &queued)?;
        Ok(job.filter(|job| job["metadata"]["annotations"]["SlimFaas/Held"].is_null()))
    })?;
    assert_eq!(let_go["spec"]["suspend"], json!(true));
    let name = let_go["metadata"]["name"].as_str().context("its name")?;
    site.kubectl(&["patch", "job", name, "--patch", r#"{"spec": {"suspend": false}}"#])?;
    wait_status(&site, "queued", &queued, "Succeeded")?;
    for id in [late, lost] {
        let pods = site.list("pods", &format!("slimfaas-job-element-id={id}"))?;
        ensure!(pods.is_empty(), "{id} has begun: {pods:?}");
    }
    Ok(())
}

#[test]
fn no_more_jobs_at_once_than_may() -> Result<()> {
    let Some(site) = Site::install("jobs-parallel", &Install::default())? else { return Ok(()) };
    let parallel = "    SlimFaas/NumberParallelJob: \"3\"\n";
    site.apply(&Definition { name: "many", more: parallel, pause: 1000, ttl: 600, ..Definition::default() }.yaml())?;
    let began = Instant::now();
    let ids: BTreeSet<String> = (0..20).map(|_| run(&site, "many", "{}")).collect::<Result<_>>()?;
    assert_eq!(ids.len(), 20);
    let mut most = 0;
    wait("all have succeeded", Duration::from_secs(240), || {
        // As the API server counts them.
        let jobs = site.list("jobs", "slimfaas-job-name=many")?;
        let has_ended = |job: &&Value| {
            let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|c| c["status"] == "True" && (c["type"] == "Complete" || c["type"] == "Failed"))
        };
        let ended = jobs.iter().filter(has_ended).count();
        most = most.max(jobs.len() - ended);
        Ok((ended == 20).then_some(()))
    })?;
    report::line(format_args!("20 runs of a second, 3 at once: {:?}, at most {most} at once", began.elapsed()));
    assert_eq!(most, 3);
    wait("all are shown so", SOON, || {
        Ok(rows(&site, "many")?.iter().all(|row| row["Status"] == "Succeeded").then_some(()))
    })
}

#[test]
fn a_configured_job_waits_for_the_function_that_it_depends_on() -> Result<()> {
    let configuration = json!({"Configurations": {"nightly": {
        "Image": "slimfaas-example:dev", "Visibility": "Public", "DependsOn": ["fibonacci"],
        "Resources": {"Requests": {"cpu": "10m", "memory": "16Mi"}, "Limits": {"memory": "64Mi"}},
    }}})
    .to_string();
    let env = [("SLIMFAAS_JOBS_CONFIGURATION", configuration.as_str())];
    let Some(site) = Site::install("jobs-depends", &Install { env: &env, ..Install::default() })? else {
        return Ok(());
    };
    site.apply(&Workload { annotations: &[FUNCTION], ..Workload::default() }.yaml())?;
    site.wait_known("fibonacci")?;
    assert_eq!(site.replicas("deployment", "fibonacci")?, 0);
    // The image's own program is the example function, which shows its usage and ends.
    let body = r#"{"Args": ["--help"], "Resources": {"Requests": {"cpu": "20"}}}"#;
    let id = run(&site, "nightly", body)?;
    wait_status(&site, "nightly", &id, "Succeeded")?;
    assert_eq!(site.status("fibonacci")?["NumberReady"], 1, "it was woken for the run");
    let job = object(&site, &id)?.context("its Job")?;
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["resources"],
        json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}})
    );
    assert_eq!(job["metadata"]["annotations"]["SlimFaas/DependsOn"], "fibonacci");
    Ok(())
}

/// Which gateway leads the store.
fn leader(site: &Site) -> Result<String> {
    for pod in site.list("pods", "app.kubernetes.io/name=slimfaas")? {
        let (name, ip) = (pod["metadata"]["name"].as_str(), pod["status"]["podIP"].as_str());
        let (Some(name), Some(ip)) = (name, ip) else { continue };
        let metrics = slimfaas_tests::http1::get(format!("{ip}:5000").parse()?, "/metrics")?.text();
        if slimfaas_tests::metrics::sum(&metrics, "slimfaas_store_leads", &[])? == 1 {
            return Ok(name.to_owned());
        }
    }
    anyhow::bail!("nobody leads")
}

#[test]
fn a_schedule_fires_once_though_the_leader_is_killed_at_that_second() -> Result<()> {
    let Some(site) = Site::install("jobs-schedule", &Install { replicas: 3, ..Install::default() })? else {
        return Ok(());
    };
    let schedules = "    SlimFaas/Schedules: '[{\"Schedule\": \"* * * * *\", \"TimeZone\": \"Europe/Paris\", \"Args\": [\"configured\"]}]'\n";
    let more = format!("    SlimFaas/NumberParallelJob: \"4\"\n{schedules}");
    site.apply(&Definition { name: "ticker", more: &more, ttl: 600, ..Definition::default() }.yaml())?;
    let asked = json!({"Schedule": "* * * * *", "Args": ["asked"]}).to_string();
    wait("the schedule is stored", SOON, || {
        Ok((site.request("POST", "/job-schedules/ticker", &asked)?.status == 201).then_some(()))
    })?;
    // Both are known a while before they fire.
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    if now().as_secs() % 60 > 45 {
        std::thread::sleep(Duration::from_secs(20));
    }
    let minute = now().as_secs() / 60 + 1;
    let leader = leader(&site)?;
    let at = Duration::from_secs(minute * 60);
    // kubectl takes about so long, so that the process is killed with the minute's first moments.
    std::thread::sleep(at.saturating_sub(now() + KUBECTL));
    site.kubectl(&["delete", "pod", &leader, "--grace-period=0", "--force"])?;
    let killed = now().as_millis().abs_diff(at.as_millis());
    // Until the second minute's have come too: whatever would fire twice has done so by then.
    let firings = || -> Result<Vec<String>> {
        let jobs = site.list("jobs", "slimfaas-job-name=ticker")?;
        let args =
            |job: &Value| job["spec"]["template"]["spec"]["containers"][0]["args"][0].as_str().map(str::to_owned);
        Ok(jobs.iter().filter_map(args).collect())
    };
    wait("the firings of two minutes", Duration::from_secs(130), || Ok((firings()?.len() >= 4).then_some(())))?;
    std::thread::sleep(Duration::from_secs(3));
    let mut all = firings()?;
    all.sort();
    report::line(format_args!(
        "{leader} was killed within {killed} ms of the minute's begin; firings of two minutes: {all:?}"
    ));
    assert_eq!(all, ["asked", "asked", "configured", "configured"]);
    Ok(())
}
