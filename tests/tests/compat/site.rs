//! A gateway in front of functions whose answers are known to the byte.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use slimfaas_tests::backend::{Backend, Reply, keep, ok};
use slimfaas_tests::gateway::{Fixed, Gateway};
use slimfaas_tests::http1::{self, Answer, eventually};
use slimfaas_tests::process::Scratch;

pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Of an administrator.
pub(super) const TOKEN: &str = "compat-compat-compat-compat-compat";

/// The bytes of every answer to something that is absent, or that the caller may not know of.
pub(super) const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ndate: \r\n\r\n";

/// `open`, which anybody may call but below `/admin`, and `closed`, which is for callers inside.
pub(super) struct Site {
    pub(super) gateway: Gateway,
    pub(super) backend: Backend,
    _store: Scratch,
}

impl Site {
    pub(super) fn start() -> Result<Self> {
        let backend = Backend::start(answer)?;
        let store = Scratch::new("compat")?;
        let token = store.path().join("token");
        std::fs::write(&token, TOKEN)?;
        let url = format!("http://{}", backend.address);
        let once = json!({"DefaultAsync": {"HttpTimeout": 5, "TimeoutRetries": []},
                          "DefaultPublish": {"HttpTimeout": 5, "TimeoutRetries": []}});
        let open = json!({
            "SlimFaas/PathsStartWithVisibility": "Private:/admin",
            "SlimFaas/SubscribeEvents": "Public:reload,Private:secret",
            "SlimFaas/Configuration": once.to_string(),
        });
        let gateway = Fixed::new()
            .function("open", &url, &open)
            .function("closed", &url, &json!({"SlimFaas/DefaultVisibility": "Private"}))
            .set("SlimFaas__Store__Directory", store.path().join("store").display())
            .set("SlimFaas__AdminTokenFile", token.display())
            .start()?;
        eventually("ready", LIMIT, || Ok((gateway.get("/ready")?.status == 200).then_some(())))?;
        Ok(Self { gateway, backend, _store: store })
    }

    pub(super) fn call(&self, method: &str, target: &str) -> Result<Answer> {
        http1::call(self.gateway.address, method, target)
    }

    /// All bytes of the answer, but for when it was sent.
    pub(super) fn exact(&self, method: &str, target: &str) -> Result<String> {
        Ok(self.call(method, target)?.without_date())
    }

    pub(super) fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> Result<Answer> {
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n{headers}\r\n");
        http1::request(self.gateway.address, &(head + body))
    }

    pub(super) fn administer(&self, method: &str, target: &str) -> Result<Answer> {
        self.send(method, target, &format!("Authorization: Bearer {TOKEN}\r\n"), "")
    }

    /// Stores a call and waits until its function has it. Its id.
    pub(super) fn stored(&self, target: &str) -> Result<String> {
        self.backend.forget();
        let answer = self.call("POST", target)?;
        let id = answer.header("slimfaas-element-id").context("an id")?.to_owned();
        eventually("its delivery", LIMIT, || Ok((!self.backend.requests().is_empty()).then_some(())))?;
        Ok(id)
    }
}

/// `/status/404` is answered with that status, everything else with 200; the body is the target.
fn answer(request: &slimfaas_tests::backend::Request) -> Reply {
    match request.target().strip_prefix("/status/") {
        Some(status) => keep(&format!("HTTP/1.1 {status} Any\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nown")),
        None => ok(request.target()),
    }
}

/// The bytes of a 405.
pub(super) fn not_allowed(allow: &str) -> String {
    let body = format!(
        r#"{{"detail":"this route takes {allow}","status":405,"title":"Method Not Allowed","type":"urn:slimfaas:problem:method-not-allowed"}}"#
    );
    let length = body.len();
    format!(
        "HTTP/1.1 405 Method Not Allowed\r\ncontent-type: application/problem+json\r\nallow: {allow}\r\ncontent-length: {length}\r\ndate: \r\n\r\n{body}"
    )
}

pub(super) const ANY7: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
pub(super) const ANY7_ALLOWED: &str = "GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS";
