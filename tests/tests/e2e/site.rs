//! A namespace with a gateway in it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use slimfaas_tests::http1::{Answer, Connection};
use slimfaas_tests::process::Scratch;
use slimfaas_tests::report;

use super::cluster::{Cluster, wait};

/// What agents sign with: known to the test, which so can forge.
pub(super) const SALT: &str = "000102030405060708090a0b0c0d0e0f";
pub(super) const TAG_KEY: &str = "0f0e0d0c0b0a09080706050403020100";
/// For a pod of the gateway to become ready.
const READY: Duration = Duration::from_secs(60);

/// Removed, with everything in it, when dropped.
pub(super) struct Site {
    pub(super) cluster: Cluster,
    pub(super) namespace: String,
    /// Of the gateway's Service.
    pub(super) address: SocketAddr,
}

/// What a test wants differently from `deploy/kustomize/overlays/dev`.
pub(super) struct Install<'a> {
    pub(super) replicas: u32,
    pub(super) env: &'a [(&'a str, &'a str)],
    /// With node agents, whose cgroup is this one as their pods see it: a machine may hold more than its cluster.
    pub(super) agents_cgroup: Option<&'a str>,
}

impl Default for Install<'_> {
    fn default() -> Self {
        Self { replicas: 1, env: &[], agents_cgroup: None }
    }
}

impl Site {
    /// `None` after saying why there is no cluster.
    pub(super) fn install(test: &str, install: &Install<'_>) -> Result<Option<Self>> {
        let Some(cluster) = Cluster::for_test(test) else { return Ok(None) };
        let namespace = format!("e2e-{}-{}", test.replace('_', "-"), std::process::id());
        cluster.kubectl(&["create", "namespace", &namespace])?;
        // From here on it is removed whatever happens.
        let mut site = Self { cluster, namespace, address: SocketAddr::from(([127, 0, 0, 1], 1)) };
        site.cluster.apply(&site.namespace, &site.peer_key())?;
        if install.agents_cgroup.is_some() {
            let secrets = json!({"salt": SALT, "current": TAG_KEY});
            let name = json!({"name": "slimfaas-identity"});
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": name, "stringData": secrets});
            site.cluster.apply(&site.namespace, &secret.to_string())?;
        }
        let manifests = site.render(install)?;
        site.cluster.apply(&site.namespace, &manifests)?;
        let service = site.get("service", "slimfaas")?;
        let ip = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
        site.address = SocketAddr::new(ip.parse()?, 5000);
        site.wait_ready("slimfaas", install.replicas)?;
        Ok(Some(site))
    }

    fn peer_key(&self) -> String {
        // Of no use to anybody else: the namespace lives for one test.
        let key = format!("{0}-{0}-{0}", self.namespace);
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "slimfaas-peer"}, "stringData": {"key": key}})
            .to_string()
    }

    /// The manifests of `deploy/` with what the test changes.
    fn render(&self, install: &Install<'_>) -> Result<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package has no repository")?;
        let scratch = Scratch::new("kustomize")?;
        let base = root.join("deploy/kustomize/overlays/dev");
        let env: Vec<Value> = install.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let mut patch = vec![json!({"op": "replace", "path": "/spec/replicas", "value": install.replicas})];
        patch.extend(
            env.into_iter().map(
                |variable| json!({"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": variable}),
            ),
        );
        let mut kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [pathdiff(&base, scratch.path())?],
            "patches": [{"target": {"kind": "StatefulSet", "name": "slimfaas"}, "patch": serde_json::to_string(&patch)?}],
        });
        if let Some(cgroup) = install.agents_cgroup {
            let component = pathdiff(&root.join("deploy/kustomize/components/agent"), scratch.path())?;
            let container = "/spec/template/spec/containers/0";
            let patch = json!([
                {"op": "add", "path": format!("{container}/imagePullPolicy"), "value": "Never"},
                {"op": "add", "path": format!("{container}/env/-"), "value": {"name": "SLIMFAAS_CGROUP", "value": cgroup}},
            ]);
            kustomization["components"] = json!([component]);
            kustomization["images"] = json!([{"name": "slimfaas-agent", "newTag": "dev"}]);
            let patches = kustomization["patches"].as_array_mut().context("a list")?;
            patches.push(json!({"target": {"kind": "DaemonSet"}, "patch": patch.to_string()}));
        }
        std::fs::write(scratch.path().join("kustomization.yaml"), kustomization.to_string())?;
        let folder = scratch.path().to_str().context("a folder with an odd name")?;
        self.cluster.kubectl(&["kustomize", "--load-restrictor=LoadRestrictionsNone", folder])
    }

    pub(super) fn apply(&self, yaml: &str) -> Result<()> {
        self.cluster.apply(&self.namespace, yaml)
    }

    /// kubectl within the namespace.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["--namespace", &self.namespace], arguments].concat())
    }

    pub(super) fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.cluster.json(&["--namespace", &self.namespace, "get", kind, name])
    }

    pub(super) fn list(&self, kind: &str, selector: &str) -> Result<Vec<Value>> {
        let list = self.cluster.json(&["--namespace", &self.namespace, "get", kind, "--selector", selector])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    pub(super) fn replicas(&self, kind: &str, name: &str) -> Result<u64> {
        Ok(self.get(kind, name)?["spec"]["replicas"].as_u64().unwrap_or(0))
    }

    pub(super) fn wait_replicas(&self, kind: &str, name: &str, wanted: u64, timeout: Duration) -> Result<()> {
        wait(&format!("{name} at {wanted} replicas"), timeout, || {
            Ok((self.replicas(kind, name)? == wanted).then_some(()))
        })
    }

    /// Until a StatefulSet's pods are all ready and up to date.
    pub(super) fn wait_ready(&self, name: &str, replicas: u32) -> Result<()> {
        let outcome = wait(&format!("{replicas} ready pods of {name}"), READY, || {
            let set = self.get("statefulset", name)?;
            let status = &set["status"];
            let is_current = status["updateRevision"] == status["currentRevision"]
                && status["observedGeneration"] == set["metadata"]["generation"];
            let ready = status["readyReplicas"].as_u64().unwrap_or(0);
            Ok((ready == u64::from(replicas) && is_current).then_some(()))
        });
        outcome.with_context(|| self.kubectl(&["describe", "pods"]).unwrap_or_default())
    }

    pub(super) fn request(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let mut connection = Connection::open(self.address)?;
        // Longer than a call may wait for its function.
        connection.stream().set_read_timeout(Some(Duration::from_secs(180)))?;
        let length = body.len();
        connection.send(format!("{method} {path} HTTP/1.1\r\nhost: e2e\r\ncontent-length: {length}\r\n\r\n{body}"))?;
        connection.answer()
    }

    pub(super) fn call(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, "")
    }

    /// Reasons and notes of the Events about an object.
    pub(super) fn events(&self, kind: &str, name: &str) -> Result<Vec<(String, String)>> {
        let list = self.cluster.json(&["--namespace", &self.namespace, "get", "events.events.k8s.io"])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let about = |event: &&Value| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ours = items.iter().filter(about).filter(|event| event["reportingController"] == "slimfaas");
        Ok(ours.map(|event| (text(&event["reason"]), text(&event["note"]))).collect())
    }

    pub(super) fn wait_event(&self, kind: &str, name: &str, reason: &str, note: &str) -> Result<()> {
        let mut seen = Vec::new();
        let outcome = wait(&format!("the Event {reason} {note:?} on {kind} {name}"), Duration::from_secs(20), || {
            seen = self.events(kind, name)?;
            Ok(seen.iter().any(|(r, n)| r == reason && n.contains(note)).then_some(()))
        });
        outcome.with_context(|| format!("{seen:?}"))
    }

    /// What the gateway says of one function.
    pub(super) fn status(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.call(&format!("/status-function/{name}"))?.body)?)
    }

    pub(super) fn wait_known(&self, name: &str) -> Result<()> {
        wait(&format!("the gateway knows {name}"), Duration::from_secs(10), || {
            Ok((self.call(&format!("/status-function/{name}"))?.status == 200).then_some(()))
        })
    }

    pub(super) fn gateway_logs(&self) -> String {
        self.kubectl(&["logs", "--selector=app.kubernetes.io/name=slimfaas", "--tail=200", "--prefix"])
            .unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report::line(format_args!("{}", self.gateway_logs()));
        }
        let deleted = self.cluster.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
        if let Err(error) = deleted {
            report::line(format_args!("{error:#}"));
        }
    }
}

/// `path` as seen from `folder`: kustomize takes no absolute paths.
fn pathdiff(path: &Path, folder: &Path) -> Result<String> {
    let (path, folder) = (path.canonicalize()?, folder.canonicalize()?);
    let up = folder.components().count() - 1;
    let down = path.strip_prefix("/")?;
    Ok(Path::new(&"../".repeat(up)).join(down).to_str().context("a folder with an odd name")?.to_owned())
}
