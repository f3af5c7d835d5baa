//! Asynchronous calls: stored before 202, delivered from zero, retried, kept when they fail, and never lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use slimfaas_tests::process::Scratch;

use super::backend::{Backend, Request, keep, ok};
use super::client::{self, Answer, eventually};
use super::gateway::{Fixed, Gateway};

const TOKEN: &str = "loopback-loopback-loopback-loopback";

const LIMIT: Duration = Duration::from_secs(30);

/// A gateway in front of `backend` that stores in `folder`; `configuration` is that of its function `f`.
fn gateway(backend: &Backend, folder: &Scratch, configuration: &Value) -> Result<Gateway> {
    let annotations = json!({"SlimFaas/Configuration": configuration.to_string()});
    Fixed::new()
        .function("f", format!("http://{}", backend.address), &annotations)
        .set("SlimFaas__Store__Directory", folder.path().display())
        .set("SlimFaas__AdminTokenFile", folder.path().join("token").display())
        .start()
}

fn retries(delays: &[u32]) -> Value {
    json!({"DefaultAsync": {"HttpTimeout": 5, "TimeoutRetries": delays, "HttpStatusRetries": [500]}})
}

fn element(answer: &Answer) -> Result<String> {
    assert_eq!((answer.status, answer.body.len()), (202, 0), "{}", answer.head);
    let id = answer.header("slimfaas-element-id").context("an accepted request has an id")?;
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    Ok(id.to_owned())
}

fn requests(backend: &Backend, count: usize) -> Result<Vec<Request>> {
    eventually(&format!("{count} deliveries"), LIMIT, || {
        let all = backend.requests();
        Ok((all.len() >= count).then(|| all.clone()))
    })
}

#[test]
fn a_request_is_delivered_as_it_came() -> Result<()> {
    let (backend, folder) = (Backend::start(|_| ok("done"))?, Scratch::new("store")?);
    let gateway = gateway(&backend, &folder, &retries(&[]))?;
    let mut connection = client::Connection::open(gateway.address)?;
    connection.send(
        "POST /async-function/f/path/a%20b?q=1&r HTTP/1.1\r\nHost: api.example.com\r\nX-One: 1\r\nX-One: 2\r\n\
         Authorization: Bearer t\r\nContent-Type: text/plain\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )?;
    let id = element(&connection.answer()?)?;
    let delivered = &requests(&backend, 1)?[0];
    assert_eq!(delivered.line(), "POST /path/a%20b?q=1&r HTTP/1.1");
    assert_eq!(delivered.body, b"abcde");
    for (name, value) in [
        ("slimfaas-element-id", Some(id.as_str())),
        ("slimfaas-try-number", Some("1")),
        ("slimfaas-last-try", Some("true")),
        ("x-one", Some("1")),
        ("authorization", Some("Bearer t")),
        ("content-type", Some("text/plain")),
        ("content-length", Some("5")),
        ("x-forwarded-host", Some("api.example.com")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-hop", None),
        ("connection", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(delivered.header(name), value, "{name} of {}", delivered.head);
    }
    assert!(delivered.head.contains("x-one: 2"), "{}", delivered.head);

    // Also without a body, where the original sends none of its headers.
    let id = element(&client::call(gateway.address, "GET", "/async-function/f")?)?;
    let delivered = &requests(&backend, 2)?[1];
    assert_eq!((delivered.line(), delivered.header("slimfaas-element-id")), ("GET / HTTP/1.1", Some(id.as_str())));
    Ok(())
}

#[test]
fn what_cannot_be_taken_is_refused_before_it_is_read() -> Result<()> {
    let (backend, folder) = (Backend::start(|_| ok("done"))?, Scratch::new("store")?);
    let gateway = gateway(&backend, &folder, &retries(&[]))?;
    assert_eq!(client::call(gateway.address, "POST", "/async-function/unknown/x")?.status, 404);
    assert_eq!(client::call(gateway.address, "TRACE", "/async-function/f/x")?.status, 405);
    let too_long = "POST /async-function/f/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741825\r\n\r\n";
    assert_eq!(client::request(gateway.address, too_long)?.status, 413);
    let exact = vec![b'x'; 192 * 1024];
    element(&client::post(gateway.address, "/async-function/f/x", &exact)?)?;
    assert_eq!(requests(&backend, 1)?[0].body.len(), exact.len());
    // Nobody outside may look into the queue, but for administrators.
    let look = |token: &str| {
        let head = format!("GET /async-functions/f/queue HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
        client::request(gateway.address, &head).map(|answer| answer.status)
    };
    assert_eq!(client::get(gateway.address, "/async-functions/f/queue")?.status, 404);
    assert_eq!(look(TOKEN)?, 404, "there is no token yet");
    std::fs::write(folder.path().join("token"), TOKEN)?;
    assert_eq!((look(TOKEN)?, look(&TOKEN[1..])?), (200, 404));

    let (backend, folder) = (Backend::start(|_| ok("done"))?, Scratch::new("store")?);
    let without = Fixed::at(backend.address).start()?;
    let answer = client::call(without.address, "POST", "/async-function/f/x")?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let small = Fixed::at(backend.address)
        .set("SlimFaas__Store__Directory", folder.path().display())
        .set("SlimFaas__Queue__Elements", 1)
        .start()?;
    let slow = |count: usize| {
        (0..count).map(|_| client::call(small.address, "POST", "/async-function/f/x").map(|answer| answer.status))
    };
    let statuses: BTreeSet<u16> = slow(50).collect::<Result<_>>()?;
    assert!(statuses.contains(&202), "{statuses:?}");
    Ok(())
}

#[test]
fn failed_attempts_are_made_again_and_then_kept() -> Result<()> {
    let folder = Scratch::new("store")?;
    let backend = Backend::start(|_| keep("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"))?;
    let gateway = gateway(&backend, &folder, &retries(&[1, 1]))?;
    element(&client::post(gateway.address, "/async-function/f/x", b"body")?)?;
    let all = requests(&backend, 3)?;
    let tries: Vec<_> = all.iter().map(|r| (r.header("slimfaas-try-number"), r.header("slimfaas-last-try"))).collect();
    let (yes, no) = (Some("true"), Some("false"));
    assert_eq!(tries, [(Some("1"), no), (Some("2"), no), (Some("3"), yes)]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(backend.requests().len(), 3);
    let outcome = |outcome: &str| gateway.metric("slimfaas_async_attempts_total", &[outcome]);
    assert_eq!((outcome("outcome=\"5xx\"")?, outcome("")?), (3, 3));
    assert_eq!(gateway.metric("slimfaas_async_store_duration_seconds_count", &[])?, 1);
    assert_eq!(gateway.metric("slimfaas_async_wait_duration_seconds_count", &[])?, 1);
    assert_eq!(gateway.metric("slimfaas_function_dead_letters", &[])?, 1);
    Ok(())
}

/// What the gateway answers to an administrator.
fn administer(gateway: &Gateway, method: &str, rest: &str) -> Result<Answer> {
    let head =
        format!("{method} /async-functions/f/{rest} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    client::request(gateway.address, &head)
}

#[test]
fn what_is_replayed_is_the_same_request() -> Result<()> {
    static HEALTHY: AtomicBool = AtomicBool::new(false);
    let folder = Scratch::new("store")?;
    let backend = Backend::start(|_| match HEALTHY.load(Ordering::SeqCst) {
        true => ok("done"),
        false => keep("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"),
    })?;
    let gateway = gateway(&backend, &folder, &retries(&[1]))?;
    std::fs::write(folder.path().join("token"), TOKEN)?;
    let secret =
        "POST /async-function/f/x?q HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer s\r\nContent-Length: 4\r\n\r\nbody";
    let id = element(&client::request(gateway.address, secret)?)?;
    let read = |rest: &str| -> Result<Value> { Ok(serde_json::from_slice(&administer(&gateway, "GET", rest)?.body)?) };
    eventually("a dead letter", LIMIT, || Ok((read("queue")?["Dead"] == 1).then_some(())))?;
    let request = &read(&format!("dead-letters/{id}"))?["Request"];
    assert_eq!((&request["Body"], &request["BodyBytes"]), (&json!("body"), &json!(4)));
    let headers = request["Headers"].as_array().context("headers")?;
    assert!(headers.contains(&json!(["authorization", "(hidden)"])), "{headers:?}");

    // It has its credentials, and all its tries again.
    HEALTHY.store(true, Ordering::SeqCst);
    assert_eq!(administer(&gateway, "POST", &format!("dead-letters/{id}/replay"))?.status, 204);
    let delivered = &requests(&backend, 3)?[2];
    assert_eq!((delivered.line(), &delivered.body[..]), ("POST /x?q HTTP/1.1", &b"body"[..]));
    let sent = (delivered.header("authorization"), delivered.header("slimfaas-try-number"));
    assert_eq!(sent, (Some("Bearer s"), Some("1")));

    // So it is with all of them at once.
    HEALTHY.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        element(&client::post(gateway.address, "/async-function/f/x", b"")?)?;
    }
    eventually("three dead letters", LIMIT, || Ok((read("queue")?["Dead"] == 3).then_some(())))?;
    HEALTHY.store(true, Ordering::SeqCst);
    assert_eq!(administer(&gateway, "POST", "dead-letters/replay")?.text(), r#"{"Changed":3}"#);
    eventually("no element", LIMIT, || {
        let queue = read("queue")?;
        Ok(["Ready", "Running", "Waiting", "Dead"].iter().all(|state| queue[state] == 0).then_some(()))
    })
}

#[test]
fn every_accepted_request_survives_a_kill() -> Result<()> {
    static DELAYED: AtomicUsize = AtomicUsize::new(0);
    let folder = Scratch::new("store")?;
    let backend = Backend::start(|_| {
        // Slow enough that most of them are still stored when the gateway is killed.
        if DELAYED.fetch_add(1, Ordering::SeqCst) < 40 {
            std::thread::sleep(Duration::from_millis(200));
        }
        ok("done")
    })?;
    let mut accepted = BTreeSet::new();
    let first = gateway(&backend, &folder, &retries(&[1]))?;
    for number in 0..100 {
        accepted.insert(element(&client::post(first.address, &format!("/async-function/f/{number}"), b"x")?)?);
    }
    // Dropping a gateway is a kill -9.
    drop(first);
    let before = backend.requests().len();
    assert!(before < 100, "nothing was left to do");
    let _second = gateway(&backend, &folder, &retries(&[1]))?;
    let delivered = eventually("every request is delivered", LIMIT, || {
        let ids = |r: &Request| r.header("slimfaas-element-id").map(str::to_owned);
        let delivered: BTreeSet<String> = backend.requests().iter().filter_map(ids).collect();
        Ok(delivered.is_superset(&accepted).then_some(delivered))
    })?;
    assert_eq!(delivered, accepted);
    Ok(())
}

#[test]
fn an_accepted_answer_waits_for_its_callback() -> Result<()> {
    let folder = Scratch::new("store")?;
    let backend = Backend::start(|_| keep("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"))?;
    let gateway = gateway(&backend, &folder, &retries(&[1]))?;
    let id = element(&client::post(gateway.address, "/async-function/f/x", b"body")?)?;
    requests(&backend, 1)?;
    std::thread::sleep(Duration::from_millis(300));
    let callback = |id: &str, status: &str| {
        client::call(gateway.address, "POST", format!("/async-function-callback/f/{id}/{status}"))
    };
    assert_eq!(callback(&id, "failure")?.status, 200);
    assert_eq!(requests(&backend, 2)?[1].header("slimfaas-try-number"), Some("2"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(callback(&id, "Success")?.status, 200);
    // What nobody waits for is no error.
    for id in [id.as_str(), "0190a0b0-0000-7000-8000-000000000000", "nonsense"] {
        assert_eq!(callback(id, "success")?.status, 200, "{id}");
    }
    assert_eq!(client::call(gateway.address, "POST", format!("/async-function-callback/g/{id}/success"))?.status, 404);
    assert_eq!(client::call(gateway.address, "GET", format!("/async-function-callback/f/{id}/success"))?.status, 405);
    std::thread::sleep(Duration::from_millis(5500));
    assert_eq!(backend.requests().len(), 2);
    Ok(())
}

/// A local gateway with one example function, which retries once.
fn local() -> Result<Gateway> {
    Gateway::local(
        "  fun:\n    command: [\"${SLIMFAAS_EXE}\", example-function]\n    environment: { FUNCTION_NAME: fun }\n    \
         annotations:\n      SlimFaas/Function: \"true\"\n      SlimFaas/TimeoutSecondBeforeSetReplicasMin: \"2\"\n      \
         SlimFaas/Configuration: '{\"DefaultAsync\":{\"HttpTimeout\":5,\"TimeoutRetries\":[1],\"HttpStatusRetries\":[500]}}'\n",
    )
}

/// What the function itself gets from the gateway: it is inside.
fn from_inside(gateway: &Gateway, method: &str, path: &str) -> Result<Answer> {
    let url = format!("http://127.0.0.1:{}{path}", gateway.address.port());
    gateway.get(format!("/function/fun/call?method={method}&url={url}"))
}

fn depths(gateway: &Gateway) -> Result<Value> {
    let answer = from_inside(gateway, "GET", "/async-functions/fun/queue")?;
    serde_json::from_slice(&answer.body).with_context(|| answer.head)
}

#[test]
fn stored_requests_wake_their_function_and_keep_it_awake() -> Result<()> {
    let gateway = local()?;
    for _ in 0..20 {
        element(&client::post(gateway.address, "/async-function/fun/slow?ms=400", b"")?)?;
    }
    eventually("the function is up", LIMIT, || {
        Ok((gateway.metric("slimfaas_autoscaler_ready_replicas", &[])? == 1).then_some(()))
    })?;
    eventually("all are delivered", LIMIT, || Ok((depths(&gateway)?["Ready"] == 0).then_some(())))?;
    eventually("back at zero", LIMIT, || {
        Ok((gateway.metric("slimfaas_autoscaler_ready_replicas", &[])? == 0).then_some(()))
    })
}

#[test]
fn dead_letters_are_seen_replayed_and_deleted() -> Result<()> {
    let gateway = local()?;
    let id = element(&client::post(gateway.address, "/async-function/fun/status/500", b"")?)?;
    element(&client::call(gateway.address, "GET", "/async-function/fun/status/500")?)?;
    let dead = |count: u64| {
        eventually(&format!("{count} dead letters"), LIMIT, || Ok((depths(&gateway)?["Dead"] == count).then_some(())))
    };
    dead(2)?;
    let page: Value = serde_json::from_slice(&from_inside(&gateway, "GET", "/async-functions/fun/dead-letters")?.body)?;
    assert_eq!(page["Next"], Value::Null);
    let letters = page["DeadLetters"].as_array().context("dead letters")?;
    let first = letters.iter().find(|letter| letter["Id"] == id.as_str()).context("the first one")?;
    assert_eq!(
        (first["Id"].as_str(), first["State"].as_str(), &first["Tries"]),
        (Some(id.as_str()), Some("Dead"), &json!(2))
    );
    let outcomes: Vec<_> =
        first["Attempts"].as_array().context("attempts")?.iter().map(|a| a["Status"].clone()).collect();
    assert_eq!(outcomes, [json!(500), json!(500)]);
    let one = from_inside(&gateway, "GET", &format!("/async-functions/fun/dead-letters/{id}"))?;
    let one: Value = serde_json::from_slice(&one.body)?;
    assert_eq!((&one["Request"]["Method"], &one["Request"]["PathAndQuery"]), (&json!("POST"), &json!("/status/500")));

    let answered = |method: &str, path: &str| from_inside(&gateway, method, path).map(|answer| answer.status);
    assert_eq!(answered("POST", &format!("/async-functions/fun/dead-letters/{id}/replay"))?, 204);
    eventually("one is under way again", LIMIT, || Ok((depths(&gateway)?["Dead"] == 1).then_some(())))?;
    dead(2)?;
    assert_eq!(answered("DELETE", &format!("/async-functions/fun/dead-letters/{id}"))?, 204);
    assert_eq!(answered("GET", &format!("/async-functions/fun/dead-letters/{id}"))?, 404);
    dead(1)?;
    let all = from_inside(&gateway, "DELETE", "/async-functions/fun/dead-letters")?;
    assert_eq!(all.text(), r#"{"Changed":1}"#);
    dead(0)?;

    // A paused queue keeps what it gets.
    assert_eq!(answered("POST", "/async-functions/fun/pause")?, 204);
    let id = element(&client::post(gateway.address, "/async-function/fun/hello/x", b"")?)?;
    std::thread::sleep(Duration::from_millis(500));
    let state = from_inside(&gateway, "GET", &format!("/async-functions/fun/elements/{id}"))?;
    assert_eq!(serde_json::from_slice::<Value>(&state.body)?["State"], "Ready");
    assert_eq!(answered("POST", "/async-functions/fun/resume")?, 204);
    eventually("it is delivered", LIMIT, || {
        Ok((answered("GET", &format!("/async-functions/fun/elements/{id}"))? == 404).then_some(()))
    })
}
