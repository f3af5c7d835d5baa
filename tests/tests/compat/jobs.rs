//! Jobs and their schedules: routes 11 to 19, to the byte.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use slimfaas_tests::gateway::Gateway;
use slimfaas_tests::http1::{Answer, Connection, eventually};
use slimfaas_tests::process::Scratch;

use super::site::{NOT_FOUND, not_allowed};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "compat-jobs-compat-jobs-compat-jobs";

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ndate: \r\n\r\n";

/// `open`, of which one runs at a time and never ends, and `closed`, which is for callers inside.
const JOBS: &str = "\
schemaVersion: 1
name: compat
jobs:
  closed:
    command: [/bin/true]
    annotations: { SlimFaas/Job: \"true\" }
  open:
    command: [/bin/sh, -c, \"echo begun; exec sleep 1000\"]
    ttlSecondsAfterFinished: 600
    annotations:
      SlimFaas/Job: \"true\"
      SlimFaas/DefaultVisibility: Public
      SlimFaas/JobImagesWhitelist: \"repo/open:*\"
      SlimFaas/Schedules: '[{\"Schedule\": \"0 4 1 1 *\", \"Args\": [\"yearly\"]}]'
";

struct Site {
    gateway: Gateway,
    _token: Scratch,
}

impl Site {
    fn start() -> Result<Self> {
        let scratch = Scratch::new("compat-jobs")?;
        let file = scratch.path().join("token");
        std::fs::write(&file, TOKEN)?;
        let environment = [
            ("SlimFaas__AdminTokenFile", file.to_str().context("a path")?),
            ("SlimFaas__Jobs__RequestBytes", "1KiB"),
            ("SlimFaas__Jobs__WaitingPerJob", "2"),
            ("SlimFaas__Jobs__SchedulesPerJob", "1"),
        ];
        Ok(Self { gateway: Gateway::local_manifest(JOBS, &environment)?, _token: scratch })
    }

    fn send_as(&self, authorization: &str, method: &str, path: &str, body: &str) -> Result<Answer> {
        let mut connection = Connection::open(self.gateway.address)?;
        let length = body.len();
        let headers = format!("host: compat\r\n{authorization}content-length: {length}\r\n");
        connection.send(format!("{method} {path} HTTP/1.1\r\n{headers}\r\n{body}"))?;
        connection.answer()
    }

    fn send(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.send_as("", method, path, body)
    }

    /// All bytes, but for what differs from run to run.
    fn exact(&self, method: &str, path: &str, body: &str) -> Result<String> {
        Ok(blurred(&self.send(method, path, body)?.without_date()))
    }

    fn id(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let answer = self.send(method, path, body)?;
        let id: Value = serde_json::from_slice(&answer.body).with_context(|| answer.head.clone())?;
        Ok(id["Id"].as_str().context("an Id")?.to_owned())
    }

    fn wait_running(&self) -> Result<()> {
        eventually("a run runs", LIMIT, || {
            Ok(self.gateway.get("/job/open")?.text().contains(r#""Status":"Running""#).then_some(()))
        })
    }
}

/// Ids, ticks of .NET, seconds since 1970, and the last part of a run's name, each by its kind.
fn blurred(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let is_id = rest.get(..36).is_some_and(|id| {
            let dashes = |at: usize| matches!(at, 8 | 13 | 18 | 23);
            id.bytes().enumerate().all(|(at, byte)| if dashes(at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
        });
        let (length, shown) = match digits {
            _ if is_id => (36, "<id>"),
            _ if rest.starts_with("slimfaas-job-") => (13 + 12, "slimfaas-job-<run>"),
            18 => (18, "<ticks>"),
            10 => (10, "<seconds>"),
            0 => (first.len_utf8(), &rest[..first.len_utf8()]),
            _ => (digits, &rest[..digits]),
        };
        out.push_str(shown);
        rest = &rest[length..];
    }
    out
}

/// `length`: of the body as it was sent.
fn json(status: &str, length: usize, body: &str) -> String {
    let head = "content-type: application/json; charset=utf-8";
    format!("HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {length}\r\ndate: \r\n\r\n{body}")
}

fn problem(status: &str, name: &str, more: &str, detail: &str) -> String {
    let (code, title) = status.split_once(' ').unwrap_or_default();
    let detail = Value::from(detail);
    let body =
        format!(r#"{{"detail":{detail},"status":{code},"title":"{title}","type":"urn:slimfaas:problem:{name}"}}"#);
    let head = format!("content-type: application/problem+json\r\n{more}content-length: {}", body.len());
    format!("HTTP/1.1 {status}\r\n{head}\r\ndate: \r\n\r\n{body}")
}

fn invalid(detail: &str) -> String {
    problem("400 Bad Request", "invalid-request", "", detail)
}

fn full(limit: &str) -> String {
    let detail = format!("too many requests are stored already: the limit is {limit}");
    problem("429 Too Many Requests", "queue-full", "retry-after: 5\r\n", &detail)
}

#[test]
fn runs_are_asked_for_listed_and_deleted() -> Result<()> {
    let site = Site::start()?;
    assert_eq!(site.exact("GET", "/job/open", "")?, json("200 OK", 2, "[]"));
    assert_eq!(site.exact("POST", "/job/open", "{}")?, json("202 Accepted", 45, r#"{"Id":"<id>"}"#));
    site.wait_running()?;
    // Names have no case.
    let second = site.id("POST", "/job/OPEN", r#"{"Args": ["1"], "Image": "repo/open:2"}"#)?;
    site.send("POST", "/job/open", "{}")?;
    let running = r#"{"Name":"open-slimfaas-job-<run>","Status":"Running","Id":"<id>","PositionInQueue":-1,"InQueueTimestamp":<ticks>,"StartTimestamp":<ticks>}"#;
    let queued = |place: u32| {
        format!(
            r#"{{"Name":"open","Status":"Queued","Id":"<id>","PositionInQueue":{place},"InQueueTimestamp":<ticks>,"StartTimestamp":-1}}"#
        )
    };
    let all = format!("[{running},{},{}]", queued(0), queued(1));
    let listed = site.send("GET", "/job/open", "")?;
    assert_eq!(blurred(&listed.without_date()), json("200 OK", listed.body.len(), &all));
    // Differs: the original has no limit.
    assert_eq!(site.exact("POST", "/job/open", "{}")?, full("job_runs"));
    assert_eq!(site.exact("DELETE", &format!("/job/open/{second}"), "")?, OK);
    assert_eq!(site.exact("DELETE", &format!("/job/open/{second}"), "")?, NOT_FOUND);
    assert_eq!(site.exact("DELETE", "/job/open/1", "")?, NOT_FOUND);
    let all = format!("[{running},{}]", queued(0));
    let listed = site.send("GET", "/job/open", "")?;
    assert_eq!(blurred(&listed.without_date()), json("200 OK", listed.body.len(), &all));
    Ok(())
}

#[test]
fn the_state_of_all_jobs() -> Result<()> {
    let site = Site::start()?;
    site.send("POST", "/job/open", "{}")?;
    site.wait_running()?;
    let body = r#"{"Schedule": "30 2 * * *", "TimeZone": "Europe/Paris", "Image": "repo/open:3"}"#;
    assert_eq!(site.send("POST", "/job-schedules/open", body)?.status, 201);
    let closed = r#"{"Name":"closed","Visibility":"Private","Image":"","ImagesWhitelist":[],"NumberParallelJob":1,"Resources":{},"DependsOn":[],"Schedules":[],"RunningJobs":[]}"#;
    let yearly = r#"{"Id":"<id>","Schedule":"0 4 1 1 *","Image":"","NextExecutionTimestamp":<seconds>,"Resources":{},"DependsOn":[]}"#;
    let daily = r#"{"Id":"<id>","Schedule":"30 2 * * *","TimeZone":"Europe/Paris","Image":"repo/open:3","NextExecutionTimestamp":<seconds>,"Resources":{},"DependsOn":[]}"#;
    let running = r#"{"Name":"open-slimfaas-job-<run>","Status":"Running","ElementId":"<id>","InQueueTimestamp":<ticks>,"StartTimestamp":<ticks>}"#;
    let open = format!(
        r#"{{"Name":"open","Visibility":"Public","Image":"","ImagesWhitelist":["repo/open:*"],"NumberParallelJob":1,"Resources":{{}},"DependsOn":[],"Schedules":[{yearly},{daily}],"RunningJobs":[{running}]}}"#
    );
    for path in ["/jobs/status", "/status-jobs"] {
        let answer = site.send("GET", path, "")?;
        let expected = json("200 OK", answer.body.len(), &format!("[{closed},{open}]"));
        assert_eq!(blurred(&answer.without_date()), expected);
    }
    Ok(())
}

#[test]
fn schedules_are_made_listed_and_deleted() -> Result<()> {
    let site = Site::start()?;
    assert_eq!(site.exact("GET", "/job-schedules/open", "")?, json("200 OK", 2, "[]"), "the owner's are not here");
    let id = site.id("POST", "/job-schedules/open", r#"{"Schedule": "*/5 * * * 1-5", "Args": ["42"]}"#)?;
    let row = r#"[{"Id":"<id>","Schedule":"*/5 * * * 1-5","Args":["42"],"Image":"","BackoffLimit":1,"TtlSecondsAfterFinished":600,"RestartPolicy":"Never"}]"#;
    let listed = site.send("GET", "/job-schedules/open", "")?;
    assert_eq!(blurred(&listed.without_date()), json("200 OK", listed.body.len(), row));
    let body = r#"{"Schedule": "* * * * *"}"#;
    assert_eq!(site.exact("POST", "/job-schedules/open", body)?, full("job_schedules"));
    let gone = "HTTP/1.1 204 No Content\r\ndate: \r\n\r\n";
    assert_eq!(site.exact("DELETE", &format!("/job-schedules/open/{id}"), "")?, gone);
    assert_eq!(site.exact("DELETE", &format!("/job-schedules/open/{id}"), "")?, NOT_FOUND);
    assert_eq!(site.exact("POST", "/job-schedules/open", body)?, json("201 Created", 45, r#"{"Id":"<id>"}"#));
    Ok(())
}

#[test]
fn what_a_run_writes() -> Result<()> {
    let site = Site::start()?;
    let id = site.id("POST", "/job/open", "{}")?;
    site.wait_running()?;
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\ntransfer-encoding: chunked\r\ndate: \r\n\r\n";
    eventually("its words", LIMIT, || {
        let log = site.send("GET", &format!("/job/open/{id}/logs"), "")?.without_date();
        Ok((log == format!("{head}begun\n")).then_some(()))
    })?;
    assert_eq!(site.exact("GET", "/job/open/0190a6b0-0000-7000-8000-000000000001/logs", "")?, NOT_FOUND);
    Ok(())
}

#[test]
fn who_may_not_is_told_that_nothing_is_there() -> Result<()> {
    let site = Site::start()?;
    // Differs: the original answers 400 to who may not, and 202 to what is not defined.
    for name in ["closed", "absent"] {
        let schedule = r#"{"Schedule": "* * * * *"}"#;
        assert_eq!(site.exact("POST", &format!("/job/{name}"), "{}")?, NOT_FOUND);
        assert_eq!(site.exact("POST", &format!("/job-schedules/{name}"), schedule)?, NOT_FOUND);
        assert_eq!(site.exact("GET", &format!("/job-schedules/{name}"), "")?, NOT_FOUND);
        let some = "0190a6b0-0000-7000-8000-000000000001";
        assert_eq!(site.exact("DELETE", &format!("/job/{name}/{some}"), "")?, NOT_FOUND);
        assert_eq!(site.exact("DELETE", &format!("/job-schedules/{name}/{some}"), "")?, NOT_FOUND);
        assert_eq!(site.exact("GET", &format!("/job/{name}/{some}/logs"), "")?, NOT_FOUND);
    }
    assert_eq!(site.exact("GET", "/job/closed", "")?, json("200 OK", 2, "[]"), "lists are for everybody");
    assert_eq!(site.exact("GET", "/job/absent", "")?, NOT_FOUND);
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(site.send_as(&token, "POST", "/job/closed", "{}")?.status, 202);
    for path in ["/job", "/job/", "/job/open/1/2", "/job-schedules/", "/job-schedules/open/1/2", "/jobs", "/jobs/x"] {
        assert_eq!(site.exact("GET", path, "")?, NOT_FOUND, "{path}");
    }
    Ok(())
}

#[test]
fn what_is_asked_wrongly_is_told_what_is_wrong() -> Result<()> {
    let site = Site::start()?;
    let check = |method: &str, path: &str, body: &str, detail: &str| {
        assert_eq!(site.exact(method, path, body)?, invalid(detail), "{path} {body}");
        anyhow::Ok(())
    };
    let must = r#"the body must be a JSON object such as {"Args": ["42"]}: "#;
    let name = |name: &str| format!("{name:?} is no job's name: 3 to 30 letters, digits, '_' and '-'");
    check("POST", "/job/ab", "{}", &name("ab"))?;
    check("GET", "/job/a%20b", "", &name("a%20b"))?;
    check("DELETE", "/job/ab/1", "", &name("ab"))?;
    check("POST", "/job/open", "", &format!("{must}it is empty; {{}} is enough"))?;
    check("POST", "/job/open", "null", &format!("{must}it is none"))?;
    check("POST", "/job/open", "{", &format!("{must}EOF while parsing an object at line 1 column 1"))?;
    let image = r#"Image: "repo/other:1" is neither this job's image nor matched by its ImagesWhitelist"#;
    check("POST", "/job/open", r#"{"Image": "repo/other:1"}"#, image)?;
    let quantity = r#"Resources: cpu: "lots" is not a quantity such as 500m or 128Mi"#;
    check("POST", "/job/open", r#"{"Resources": {"Requests": {"cpu": "lots"}}}"#, quantity)?;
    let reference = r#"{"Environments": [{"Name": "S", "SecretRef": {"Name": "s", "Key": "k"}}]}"#;
    let inside = r#"Environments: "S" is a reference, which only callers from inside the cluster may use"#;
    check("POST", "/job/open", reference, inside)?;
    let fields = "Schedule: a schedule has five fields (minute hour day month weekday), found 0";
    check("POST", "/job-schedules/open", "{}", fields)?;
    let minute = r#"Schedule: minute: found "x"; allowed: 0 to 59, *, lists, ranges and steps such as */5 or 1-5"#;
    check("POST", "/job-schedules/open", r#"{"Schedule": "x * * * *"}"#, minute)?;
    let zone = r#"Schedule: found the time zone "Mars"; allowed: an IANA name such as Europe/Paris"#;
    check("POST", "/job-schedules/open", r#"{"Schedule": "* * * * *", "TimeZone": "Mars"}"#, zone)?;

    // Exactly as large as may be, and a byte more.
    let padded = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2));
    assert_eq!(site.send("POST", "/job/open", &padded(1024))?.status, 202);
    let large = problem(
        "413 Payload Too Large",
        "body-too-large",
        "connection: close\r\n",
        "the request's body is larger than 1024 bytes",
    );
    assert_eq!(site.exact("POST", "/job/open", &padded(1025))?, large);
    let unknown = site.send("POST", "/job/open", r#"{"args": [], "Resources": {"Request": {"cpu": "1"}}}"#)?;
    assert_eq!((unknown.status, unknown.header("slimfaas-ignored-fields")), (202, Some("Resources.Request, args")));
    for method in ["PUT", "PATCH"] {
        assert_eq!(site.exact(method, "/job/open", "{}")?, not_allowed("GET, HEAD, POST"));
        assert_eq!(site.exact(method, "/job-schedules/open", "{}")?, not_allowed("GET, HEAD, POST"));
    }
    assert_eq!(site.exact("GET", "/job/open/1", "")?, not_allowed("DELETE"));
    assert_eq!(site.exact("POST", "/jobs/status", "")?, not_allowed("GET, HEAD"));
    Ok(())
}
