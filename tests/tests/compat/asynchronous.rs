//! Routes 2 and 3: asynchronous calls and their callbacks.

use anyhow::{Context, Result};
use slimfaas_tests::http1::eventually;

use super::site::{ANY7, ANY7_ALLOWED, LIMIT, NOT_FOUND, Site, not_allowed};

#[test]
fn a_call_is_accepted_with_its_id() -> Result<()> {
    let site = Site::start()?;
    for method in ANY7.into_iter().filter(|method| *method != "HEAD") {
        site.backend.forget();
        let answer = site.call(method, "/async-function/open/a?b=c")?;
        let id = answer.header("slimfaas-element-id").context("an id")?.to_owned();
        // The seed says 201 in one place; 202 is what the original does.
        let expected =
            format!("HTTP/1.1 202 Accepted\r\nslimfaas-element-id: {id}\r\ncontent-length: 0\r\ndate: \r\n\r\n");
        assert_eq!(answer.without_date(), expected, "{method}");
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!((lengths, id.to_lowercase()), (vec![8, 4, 4, 4, 12], id.clone()));
        eventually("its delivery", LIMIT, || Ok((!site.backend.requests().is_empty()).then_some(())))?;
        let [got] = &site.backend.requests()[..] else { panic!("one delivery") };
        assert_eq!(got.line(), format!("{method} /a?b=c HTTP/1.1"));
        for (name, value) in [
            // Differs: the original sends these with a body only.
            ("slimfaas-element-id", id.as_str()),
            // Its documents count from 0, its code from 1.
            ("slimfaas-try-number", "1"),
            // Differs: the original has it the wrong way round when there are retries.
            ("slimfaas-last-try", "true"),
        ] {
            assert_eq!(got.header(name), Some(value), "{method} {name}");
        }
    }
    assert_eq!(site.exact("TRACE", "/async-function/open/x")?, not_allowed(ANY7_ALLOWED));
    Ok(())
}

#[test]
fn what_is_absent_or_private_is_not_stored() -> Result<()> {
    let site = Site::start()?;
    for target in [
        "/async-function/absent/x",
        "/async-function/closed/x",
        // Differs: no private path is private to the original's asynchronous calls.
        "/async-function/open/admin/x",
        "/async-function/",
    ] {
        assert_eq!(site.exact("POST", target)?, NOT_FOUND, "{target}");
    }
    assert_eq!(site.backend.requests(), []);
    Ok(())
}

#[test]
fn a_callback_is_heard() -> Result<()> {
    let site = Site::start()?;
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ndate: \r\n\r\n";
    for status in ["success", "SUCCESS", "failure", "anything"] {
        let id = site.stored("/async-function/open/status/202")?;
        assert_eq!(site.exact("POST", &format!("/async-function-callback/open/{id}/{status}"))?, ok, "{status}");
        // Also a second time, and for what nobody knows.
        assert_eq!(site.exact("POST", &format!("/async-function-callback/open/{id}/{status}"))?, ok, "{status}");
    }
    assert_eq!(site.exact("POST", "/async-function-callback/open/unknown/success")?, ok);
    for target in [
        "/async-function-callback/absent/id/success",
        "/async-function-callback/closed/id/success",
        "/async-function-callback/open/id",
        "/async-function-callback/open/id/success/more",
    ] {
        assert_eq!(site.exact("POST", target)?, NOT_FOUND, "{target}");
    }
    assert_eq!(site.exact("GET", "/async-function-callback/open/id/success")?, not_allowed("POST"));
    Ok(())
}
