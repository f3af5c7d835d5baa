//! kubectl, for what we ask of a cluster.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A cluster, seen through kubectl.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) kubectl: PathBuf,
    pub(crate) kubeconfig: PathBuf,
}

/// What we want to know of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    pub(crate) is_ready: bool,
    /// Why it is not ready, or that it is.
    pub(crate) message: String,
}

impl Client {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(arguments).arg("--request-timeout=5s").env("KUBECONFIG", &self.kubeconfig);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stdin(Stdio::null()).output().context("cannot run kubectl")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} failed: {}", arguments.join(" "), told.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn answers(&self) -> bool {
        self.ask(&["get", "--raw=/readyz"]).is_ok()
    }

    pub(crate) fn exists(&self, what: &str) -> bool {
        self.ask(&["get", what, "--output=name"]).is_ok()
    }

    pub(crate) fn apply(&self, manifest: &Value) -> Result<()> {
        // Nothing is there before, so nothing has to be compared, and the schema need not be fetched.
        let mut command = self.command(&["create", "--validate=false", "--filename=-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut pipe = child.stdin.take().context("kubectl has no input")?;
        pipe.write_all(manifest.to_string().as_bytes()).context("kubectl does not read")?;
        drop(pipe);
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl create failed: {}", told.trim());
        Ok(())
    }

    pub(crate) fn nodes(&self) -> Result<Vec<NodeStatus>> {
        parse_nodes(&self.ask(&["get", "nodes", "--output=json"])?)
    }
}

fn parse_nodes(json: &str) -> Result<Vec<NodeStatus>> {
    let list: Value = serde_json::from_str(json).context("kubectl lists no nodes")?;
    let status = |node: &Value| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
        let message = ready.and_then(|ready| ready["message"].as_str()).unwrap_or("nothing known of it yet");
        Some(NodeStatus {
            name: node["metadata"]["name"].as_str()?.to_owned(),
            is_ready: ready.is_some_and(|ready| ready["status"] == "True"),
            message: message.to_owned(),
        })
    };
    Ok(list["items"].as_array().into_iter().flatten().filter_map(status).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_its_condition_says_so() {
        let node = |name: &str, conditions: Value| serde_json::json!({ "metadata": { "name": name }, "status": { "conditions": conditions } });
        let list = serde_json::json!({ "items": [
            node("node-1", serde_json::json!([
                { "type": "PIDPressure", "status": "False", "message": "enough" },
                { "type": "Ready", "status": "True", "message": "posting" },
            ])),
            node("node-2", serde_json::json!([{ "type": "Ready", "status": "Unknown", "message": "silent" }])),
            node("node-3", serde_json::json!([])),
        ] });
        let found = parse_nodes(&list.to_string()).expect("it is a list");
        let found: Vec<_> = found.iter().map(|node| (&*node.name, node.is_ready, &*node.message)).collect();
        let expected =
            [("node-1", true, "posting"), ("node-2", false, "silent"), ("node-3", false, "nothing known of it yet")];
        assert_eq!(found, expected);
    }
}
