//! What `deploy/` says, rendered without a cluster: by kubectl's kustomize, and by Helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Override where the programs are.
const KUBECTL: &str = "SLIMFAAS_KUBECTL";
const HELM: &str = "SLIMFAAS_HELM";
/// Where `cargo xtask cluster` keeps them.
const CACHE: &str = "SLIMFAAS_KUBE_CACHE";
const VERSION: &str = "v1.34.2";
const CACHED_HELM: &str = "helm-v3.19.5";

/// The programs that render manifests.
#[derive(Debug)]
pub struct Renderer {
    kubectl: PathBuf,
    helm: PathBuf,
}

impl Renderer {
    /// # Errors
    /// When a program is missing; the message says how to get it.
    pub fn find() -> Result<Self> {
        Ok(Self { kubectl: program(KUBECTL, "kubectl")?, helm: program(HELM, CACHED_HELM)? })
    }

    /// The objects of a kustomization, as YAML.
    ///
    /// # Errors
    /// When it does not build.
    pub fn kustomize(&self, folder: &Path) -> Result<String> {
        output(Command::new(&self.kubectl).arg("kustomize").arg(folder))
    }

    /// What the chart installs, as YAML. `values`: as after `--set`.
    ///
    /// # Errors
    /// When the values are refused, or the chart does not render.
    pub fn chart(&self, namespace: &str, values: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.helm);
        command.args(["template", "slimfaas"]).arg(chart()).args(["--namespace", namespace]);
        output(set(&mut command, values))
    }

    /// Installs the chart as the release `slimfaas`, or upgrades it, in the cluster of KUBECONFIG; waits for nothing.
    ///
    /// # Errors
    /// When Helm or the API server refuses.
    pub fn install(&self, namespace: &str, values: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.helm);
        command.args(["upgrade", "--install", "slimfaas"]).arg(chart()).args(["--namespace", namespace]);
        output(set(&mut command, values)).map(drop)
    }
}

/// The repository's `deploy` folder.
#[must_use]
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").join("deploy")
}

#[must_use]
pub fn chart() -> PathBuf {
    deploy().join("helm/slimfaas")
}

/// The documents of a YAML file.
///
/// # Errors
/// When it is no YAML.
pub fn objects(yaml: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("what was rendered is no YAML")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

fn program(variable: &str, cached: &str) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = set(variable) {
        return Ok(named);
    }
    let home = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let folder = set(CACHE).or_else(|| Some(home()?.join("slimfaas-kube").join(VERSION)));
    let path = folder.map(|folder| folder.join(cached)).filter(|path| path.is_file());
    path.with_context(|| format!("{variable} is not set and there is no {cached}: run cargo xtask cluster up"))
}

fn set<'a>(command: &'a mut Command, values: &[&str]) -> &'a mut Command {
    values.iter().fold(command, |command, value| command.args(["--set", value]))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}
