//! The cluster, by way of kubectl.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use slimfaas_tests::require::skip_or_fail;

/// Between two looks at what only polling shows.
const POLL: Duration = Duration::from_millis(50);

/// One test at a time has it.
pub(super) struct Cluster {
    kubectl: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// The cluster of KUBECONFIG; `None` after saying why there is none.
    pub(super) fn for_test(name: &str) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        match Self::find(alone) {
            Ok(cluster) => Some(cluster),
            Err(error) => {
                skip_or_fail("e2e", name, format_args!("{error:#}; cargo xtask test e2e makes a cluster"));
                None
            }
        }
    }

    fn find(alone: MutexGuard<'static, ()>) -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        ensure!(set("KUBECONFIG").is_some(), "KUBECONFIG is not set");
        let kubectl = set("SLIMFAAS_KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let cluster = Self { kubectl, _alone: alone };
        cluster.kubectl(&["get", "nodes", "--output=name"]).context("the cluster of KUBECONFIG does not answer")?;
        Ok(cluster)
    }

    /// What kubectl writes to its output.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments, None)
    }

    /// Applies manifests, server side: the API server's validation is part of the test.
    pub(super) fn apply(&self, namespace: &str, yaml: &str) -> Result<()> {
        let arguments = ["apply", "--server-side", "--namespace", namespace, "--filename=-"];
        self.run(&arguments, Some(yaml)).map(drop)
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["--output=json"]].concat())?;
        serde_json::from_str(&text).context("kubectl gave no JSON")
    }

    fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.kubectl.display()))?;
        if let Some(input) = input {
            child.stdin.take().context("kubectl has no input")?.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {said}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Looks again and again until `what` is so.
pub(super) fn wait<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        if Instant::now() > deadline {
            bail!("not within {} s: {what}{last}", timeout.as_secs());
        }
        std::thread::sleep(POLL);
    }
}
