//! Each limit of events at its value, and one past it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Result;
use slimfaas_tests::process::Scratch;

use super::super::backend::{Backend, ok};
use super::super::client::{self, Connection, eventually};
use super::super::gateway::Gateway;
use super::{CLOUD_EVENT, LIMIT, counted, deliveries, gateway, outcomes, publish, subscriber};

/// A subscriber that answers once it is told to.
struct Gate {
    backend: Backend,
    open: Arc<(Mutex<bool>, Condvar)>,
    running: Arc<AtomicUsize>,
}

impl Gate {
    fn start() -> Result<Self> {
        let open = Arc::new((Mutex::new(false), Condvar::new()));
        let running = Arc::new(AtomicUsize::new(0));
        let (inner, count) = (Arc::clone(&open), Arc::clone(&running));
        let backend = Backend::start(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let is_open = inner.0.lock().unwrap_or_else(PoisonError::into_inner);
            drop(inner.1.wait_timeout_while(is_open, LIMIT, |is_open| !*is_open));
            ok("done")
        })?;
        Ok(Self { backend, open, running })
    }

    fn open(&self) {
        *self.open.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.open.1.notify_all();
    }
}

fn publish_and_leave(gateway: &Gateway, body: &[u8]) -> Result<u16> {
    Ok(publish(gateway, "/publish-event/reload", "Prefer: respond-async\r\n", body)?.status)
}

#[test]
fn bodies_up_to_their_limit() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway = gateway(backend.address, &subscriber(5))
        .set("SlimFaas__Events__BodyBytes", 100_000)
        .set("SlimFaas__Events__StructuredBytes", 2000)
        .start()?;
    for (length, status) in [(100_000, 204), (100_001, 413)] {
        let answer = publish(&gateway, "/publish-event/reload", "", &vec![b'x'; length])?;
        assert_eq!(answer.status, status, "{length}");
        let mut connection = Connection::open(gateway.address)?;
        let chunk = "x".repeat(length);
        connection.send("POST /publish-event/reload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        // The refusal may come before the last byte.
        let _sent = connection.send(format!("{length:x}\r\n{chunk}\r\n0\r\n\r\n"));
        assert_eq!(connection.answer()?.status, status, "{length} in chunks");
    }
    let structured = "Content-Type: application/cloudevents+json\r\n";
    let event = |length: usize| {
        let head = r#"{"specversion":"1.0","id":"1","source":"/","type":"reload","data":""#;
        format!("{head}{}\"}}", "x".repeat(length - head.len() - 2))
    };
    for (length, status) in [(2000, 204), (2001, 413)] {
        assert_eq!(publish(&gateway, "/events", structured, event(length).as_bytes())?.status, status, "{length}");
    }
    assert_eq!(gateway.metric("slimfaas_rejections_total", &[r#"reason="body-too-large""#])?, 3);
    Ok(())
}

#[test]
fn events_at_once() -> Result<()> {
    let gate = Gate::start()?;
    let gateway = gateway(gate.backend.address, &subscriber(60)).set("SlimFaas__Events__AtOnce", 3).start()?;
    for _ in 0..3 {
        assert_eq!(publish_and_leave(&gateway, b"x")?, 202);
    }
    assert_eq!(gateway.metric("slimfaas_events_in_progress", &[])?, 3);
    for (target, headers) in [("/publish-event/reload", ""), ("/events", CLOUD_EVENT)] {
        let refused = publish(&gateway, target, headers, b"x")?;
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
        assert!(refused.text().contains("urn:slimfaas:problem:events-full"), "{}", refused.text());
    }
    gate.open();
    eventually("room again", LIMIT, || Ok((gateway.metric("slimfaas_events_in_progress", &[])? == 0).then_some(())))?;
    assert_eq!(publish(&gateway, "/publish-event/reload", "", b"x")?.status, 204);
    assert_eq!(counted(&gateway, "delivered")?, 4);
    Ok(())
}

#[test]
fn bodies_in_files() -> Result<()> {
    let (gate, folder) = (Gate::start()?, Scratch::new("store")?);
    let gateway = gateway(gate.backend.address, &subscriber(60))
        .set("SlimFaas__Store__Directory", folder.path().display())
        .set("SlimFaas__Events__MemoryBytes", 1000)
        .set("SlimFaas__Events__FileBytes", 5000)
        .start()?;
    assert_eq!(publish_and_leave(&gateway, &[b'x'; 2500])?, 202);
    assert_eq!(publish_and_leave(&gateway, &[b'x'; 2500])?, 202);
    assert_eq!(gateway.metric("slimfaas_event_body_file_bytes", &[])?, 5000);
    assert_eq!(std::fs::read_dir(folder.path().join("events"))?.count(), 2);
    let refused = publish(&gateway, "/publish-event/reload", "", &[b'x'; 1001])?;
    assert_eq!(refused.status, 429);
    assert!(refused.text().contains("bytes of bodies in files"), "{}", refused.text());
    // A small one needs no file.
    assert_eq!(publish_and_leave(&gateway, &[b'x'; 1000])?, 202);
    gate.open();
    eventually("no file is left", LIMIT, || {
        Ok((gateway.metric("slimfaas_event_body_file_bytes", &[])? == 0).then_some(()))
    })?;
    assert_eq!(std::fs::read_dir(folder.path().join("events"))?.count(), 0);
    Ok(())
}

#[test]
fn a_full_disk_is_left_alone() -> Result<()> {
    let backend = Backend::start(|_| ok("done"))?;
    let gateway =
        gateway(backend.address, &subscriber(5)).set("SlimFaas__Queue__DiskReserveBytes", "1024TiB").start()?;
    assert_eq!(publish(&gateway, "/publish-event/reload", "", &[b'x'; 65_536])?.status, 204);
    assert_eq!(publish(&gateway, "/publish-event/reload", "", &[b'x'; 65_537])?.status, 507);
    Ok(())
}

/// 16 at once and 256 that wait: of one more, nobody can say when it would come.
#[test]
fn deliveries_to_one_replica() -> Result<()> {
    let gate = Gate::start()?;
    let other = Backend::start(|_| ok("done"))?;
    let gateway = gateway(gate.backend.address, &subscriber(60))
        .function("g", format!("http://{}", other.address), &subscriber(60))
        .start()?;
    for number in 0..16 + 256 {
        assert_eq!(publish_and_leave(&gateway, number.to_string().as_bytes())?, 202);
    }
    // Events go to all in the order in which they came, so the others have them all.
    eventually("the other subscriber", LIMIT, || Ok((counted(&gateway, "delivered")? == 272).then_some(())))?;
    assert_eq!(gate.running.load(Ordering::SeqCst), 16);
    assert_eq!(gateway.metric("slimfaas_event_deliveries_in_progress", &[])?, 272);
    assert_eq!(
        outcomes(&deliveries(&gateway, "/publish-event/reload", "Prefer: wait=5\r\n", b"x")?),
        ["overloaded", "delivered"]
    );
    // A call of the function itself is not held up by any of it.
    let call = std::thread::scope(|scope| {
        let call = scope.spawn(|| client::get(gateway.address, "/function/f/direct"));
        let arrived =
            eventually("a call among events", LIMIT, || Ok((gate.running.load(Ordering::SeqCst) == 17).then_some(())));
        gate.open();
        arrived?;
        call.join().expect("the call does not panic")
    })?;
    assert_eq!(call.status, 200);
    eventually("all are delivered", LIMIT, || Ok((counted(&gateway, "delivered")? == 273 + 272).then_some(())))?;
    assert_eq!((counted(&gateway, "overloaded")?, gate.backend.requests().len()), (1, 273));
    Ok(())
}

#[test]
fn deliveries_to_all_together() -> Result<()> {
    let gates = (0..4).map(|_| Gate::start()).collect::<Result<Vec<_>>>()?;
    let mut fixed = gateway(gates[0].backend.address, &subscriber(60));
    for (number, gate) in gates.iter().enumerate().skip(1) {
        fixed = fixed.function(&format!("f{number}"), format!("http://{}", gate.backend.address), &subscriber(60));
    }
    let gateway = fixed.set("SlimFaas__Events__Deliveries", 3).start()?;
    assert_eq!(publish_and_leave(&gateway, b"x")?, 202);
    let arrived = || gates.iter().map(|gate| gate.running.load(Ordering::SeqCst)).sum::<usize>();
    eventually("three deliveries", LIMIT, || Ok((arrived() == 3).then_some(())))?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(arrived(), 3);
    gates.iter().for_each(Gate::open);
    eventually("the fourth", LIMIT, || Ok((counted(&gateway, "delivered")? == 4).then_some(())))
}

/// 256 wait for one function: further ones could take everything that all events share.
#[test]
fn events_that_wait_for_a_start() -> Result<()> {
    let never = r#"
  never:
    command: ["${SLIMFAAS_EXE}", example-function, --start-delay-ms, "60000"]
    annotations:
      SlimFaas/Function: "true"
      SlimFaas/SubscribeEvents: reload
      SlimFaas/WakeOnEvent: "true"
      SlimFaas/Configuration: '{"DefaultPublish":{"HttpTimeout":10}}'
    health: { path: /health }
"#;
    let gateway = Gateway::local(never)?;
    for _ in 0..256 {
        assert_eq!(publish_and_leave(&gateway, b"x")?, 202);
    }
    assert_eq!(outcomes(&deliveries(&gateway, "/publish-event/reload", "", b"x")?), ["overloaded"]);
    eventually("the end of their patience", LIMIT, || Ok((counted(&gateway, "not-woken")? == 256).then_some(())))
}
