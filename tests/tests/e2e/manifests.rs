//! The API server takes every manifest of `deploy/`: as a dry run, except for one installation by Helm.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slimfaas_tests::manifests::{Renderer, deploy, objects};
use slimfaas_tests::process::Scratch;
use slimfaas_tests::report;
use slimfaas_tests::require::skip_or_fail;

use super::cluster::{Cluster, wait};

/// Values of the chart, beside none. A ServiceMonitor is another project's kind, which need not be there.
const VALUES: &[&[&str]] = &[
    &[],
    &["replicas=3,spread.nodes=DoNotSchedule,spread.zones=ScheduleAnyway,disruptionBudget.maxUnavailable=50%"],
    &["service.type=NodePort,service.nodePort=30021,ingress.enabled=true,ingress.tlsSecret=certificate"],
    &["persistence.enabled=true,persistence.storageClass=fast,peerKey.existingSecret=mine"],
    &["agent.enabled=true"],
    &["extraEnv[0].name=SlimFaas__Log__Format,extraEnv[0].value=json", "namespaces={functions}"],
    &[
        "resources.limits.cpu=2,tolerations[0].operator=Exists,nodeSelector.a=b,podLabels.a=b,disruptionBudget.enabled=false",
    ],
];

/// Two namespaces, for what the manifests call `default` and `functions`; removed when dropped.
struct Namespaces {
    cluster: Cluster,
    own: String,
    functions: String,
}

impl Namespaces {
    /// `None` after saying why the test cannot run.
    fn create(test: &str) -> Result<Option<(Self, Renderer)>> {
        let Some(cluster) = Cluster::for_test(test) else { return Ok(None) };
        let renderer = match Renderer::find() {
            Ok(renderer) => renderer,
            Err(error) => {
                skip_or_fail("e2e", test, format_args!("{error:#}"));
                return Ok(None);
            }
        };
        let own = format!("e2e-{test}-{}", std::process::id());
        let namespaces = Self { cluster, functions: format!("{own}-functions"), own };
        for name in [&namespaces.own, &namespaces.functions] {
            namespaces.cluster.kubectl(&["create", "namespace", name])?;
        }
        Ok(Some((namespaces, renderer)))
    }

    /// The same objects, here.
    fn moved(&self, mut objects: Vec<Value>) -> Value {
        for object in &mut objects {
            self.rename(&mut object["metadata"]["namespace"]);
            // Indexing would add what is not there.
            let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
            for subject in subjects.into_iter().flatten() {
                self.rename(&mut subject["namespace"]);
            }
        }
        json!({"apiVersion": "v1", "kind": "List", "items": objects})
    }

    fn rename(&self, namespace: &mut Value) {
        match namespace.as_str() {
            Some("default") => *namespace = json!(self.own),
            Some("functions") => *namespace = json!(self.functions),
            _ => {}
        }
    }

    fn try_out(&self, name: &str, yaml: &str) -> Result<()> {
        let scratch = Scratch::new("dry-run")?;
        let file = scratch.path().join("objects.json");
        let list = self.moved(objects(yaml)?);
        fs::write(&file, list.to_string())?;
        let file = file.to_str().context("a folder with an odd name")?;
        let taken = self.cluster.kubectl(&["apply", "--server-side", "--dry-run=server", "--filename", file]);
        let taken = taken.with_context(|| name.to_owned())?;
        let count = taken.lines().filter(|line| line.ends_with("serverside-applied (server dry run)")).count();
        ensure!(count == list["items"].as_array().map_or(0, Vec::len), "{name}: {taken}");
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let deleted = self.cluster.kubectl(&["delete", "namespace", &self.own, &self.functions, "--wait=false"]);
        if let Err(error) = deleted {
            report::line(format_args!("{error:#}"));
        }
    }
}

#[test]
fn the_api_server_takes_every_kustomization() -> Result<()> {
    let Some((namespaces, renderer)) = Namespaces::create("kustomizations")? else { return Ok(()) };
    let mut folders: Vec<PathBuf> = Vec::new();
    for overlays in ["kustomize/overlays", "examples/overlays"] {
        let listed = fs::read_dir(deploy().join(overlays))?;
        folders.extend(listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?);
    }
    folders.extend([deploy().join("kustomize/base"), deploy().join("examples/base")]);
    assert_eq!(folders.len(), 10, "{folders:?}");
    for folder in folders {
        namespaces.try_out(&folder.display().to_string(), &renderer.kustomize(&folder)?)?;
    }
    Ok(())
}

#[test]
fn the_api_server_takes_the_chart() -> Result<()> {
    let Some((namespaces, renderer)) = Namespaces::create("chart")? else { return Ok(()) };
    for values in VALUES {
        namespaces.try_out(&format!("the chart with {values:?}"), &renderer.chart("default", values)?)?;
    }
    Ok(())
}

#[test]
fn the_gateways_pod_is_allowed_where_pods_are_restricted() -> Result<()> {
    let Some((namespaces, renderer)) = Namespaces::create("restricted")? else { return Ok(()) };
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    namespaces.cluster.kubectl(&["label", "namespace", &namespaces.own, enforce])?;
    let all = objects(&renderer.kustomize(&deploy().join("kustomize/base"))?)?;
    let set = all.iter().find(|object| object["kind"] == "StatefulSet").context("a StatefulSet")?;
    let mut pod = set["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("slimfaas-0");
    pod["metadata"]["namespace"] = json!("default");
    // A dry run finds no account that another dry run made.
    pod["spec"]["serviceAccountName"] = json!("default");
    namespaces.try_out("the gateway's pod", &pod.to_string())?;
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({});
    let refused = namespaces.try_out("with capabilities", &pod.to_string()).err().context("taken")?;
    ensure!(format!("{refused:#}").contains("violates PodSecurity"), "{refused:#}");
    Ok(())
}

#[test]
fn a_release_starts_and_its_upgrades_keep_the_peer_key() -> Result<()> {
    let Some((namespaces, renderer)) = Namespaces::create("release")? else { return Ok(()) };
    let own = &namespaces.own;
    let key = || {
        let secret = namespaces.cluster.json(&["--namespace", own, "get", "secret", "slimfaas-peer"])?;
        secret["data"]["key"].as_str().map(str::to_owned).context("the Secret has no key")
    };
    let images = "image.tag=dev,image.pullPolicy=Never";
    renderer.install(own, &[images])?;
    let first = key()?;
    renderer.install(own, &[images, "replicas=2"])?;
    assert_eq!(key()?, first);
    wait("two gateways of the release are ready", Duration::from_secs(60), || {
        let set = namespaces.cluster.json(&["--namespace", own, "get", "statefulset", "slimfaas"])?;
        Ok((set["status"]["readyReplicas"] == 2).then_some(()))
    })
}
