//! Autobahn's test suite: conformance to RFC 6455, by its own client against any server. What is compared is its
//! verdicts on one server reached in two ways.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process::{Scratch, Server, free_address, run};

/// For all cases together, on every server.
const TIMEOUT: Duration = Duration::from_secs(600);

/// One case's verdicts: on the behaviour, and on the closing handshake (`OK`, `NON-STRICT`, `FAILED`, …).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub behaviour: String,
    pub close: String,
}

impl Verdict {
    /// Whether the case passed, as Autobahn sees it.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        let pass = |verdict: &str| matches!(verdict, "OK" | "NON-STRICT" | "INFORMATIONAL");
        pass(&self.behaviour) && pass(&self.close)
    }
}

/// The verdicts on one server, by case (`6.4.1`).
pub type Verdicts = BTreeMap<String, Verdict>;

/// Starts Autobahn's own echo server: the function behind the gateway.
///
/// # Errors
/// When it does not start.
pub fn start_echo(wsecho: &Path, folder: &Path) -> Result<Server> {
    let address = free_address()?;
    let mut command = Command::new(wsecho);
    command.arg(format!("ws://{address}"));
    Server::start("echo", &mut command, address, folder)
}

/// Runs `cases` (`1.*`) against each of `servers`, given by name and `ws://` address.
///
/// # Errors
/// When the client does not come to its end, or says nothing of a server.
pub fn check(wstest: &Path, servers: &[(&str, String)], cases: &[&str]) -> Result<BTreeMap<String, Verdicts>> {
    let scratch = Scratch::new("autobahn")?;
    let reports = scratch.path().join("reports");
    let listed: Vec<Value> = servers.iter().map(|(name, url)| json!({ "agent": name, "url": url })).collect();
    let specification = json!({
        "outdir": reports, "servers": listed,
        "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
    });
    let file = scratch.path().join("cases.json");
    std::fs::write(&file, specification.to_string())?;
    let mut command = Command::new(wstest);
    command.args(["--mode", "fuzzingclient", "--spec"]).arg(&file).current_dir(scratch.path());
    let (_, text) = run("wstest", &mut command, TIMEOUT, scratch.path())?;
    let index = std::fs::read_to_string(reports.join("index.json"))
        .with_context(|| format!("Autobahn's client left no verdicts: {text}"))?;
    parse(&index)
}

fn parse(index: &str) -> Result<BTreeMap<String, Verdicts>> {
    let index: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(index).context("no verdicts")?;
    let word = |case: &Value, field: &str| {
        case[field].as_str().map(str::to_owned).with_context(|| format!("a verdict has no {field}: {case}"))
    };
    let servers = index.into_iter().map(|(server, cases)| {
        let verdicts = cases.into_iter().map(|(id, case)| {
            Ok((id, Verdict { behaviour: word(&case, "behavior")?, close: word(&case, "behaviorClose")? }))
        });
        Ok((server, verdicts.collect::<Result<Verdicts>>()?))
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read() {
        let index = r#"{"direct":{"1.1.1":{"behavior":"OK","behaviorClose":"FAILED","duration":2,"reportfile":"x"}}}"#;
        let verdict = Verdict { behaviour: "OK".into(), close: "FAILED".into() };
        assert!(!verdict.is_pass());
        assert_eq!(parse(index).unwrap()["direct"]["1.1.1"], verdict);
        assert!(parse(r#"{"direct":{"1.1.1":{}}}"#).is_err());
    }
}
