//! Where the cluster's programs come from: Debian packages, and Go modules that this repository pins, built once into a
//! cache outside `target/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::lock::BuildLock;
use super::{control_plane, dns};
use crate::packages::{self, find};
use crate::terminal::progress;

/// Overrides where built programs are kept.
const FOLDER: &str = "SLIMFAAS_KUBE_CACHE";
const KUBERNETES: &str = "1.34.2";
const HELM: &str = "3.19.5";
const HELM_SUFFIX: &str = "-v3.19.5";
const COREDNS: &str = "1.13.1";
const COREDNS_SUFFIX: &str = "-v1.13.1";

/// The modules that pin all dependencies, and what is built from them, what takes least first.
const MODULES: &[Module] = &[
    Module {
        files: &[
            ("go.mod", include_str!("../../kubernetes/go.mod")),
            ("go.sum", include_str!("../../kubernetes/go.sum")),
            ("require.go", include_str!("../../kubernetes/require.go")),
        ],
        packages: "k8s.io/kubernetes/cmd/",
        programs: &[
            "kubectl",
            "kube-scheduler",
            "kube-proxy",
            "kubelet",
            "kube-controller-manager",
            control_plane::API_SERVER,
        ],
        suffix: "",
        settings: &[
            ("k8s.io/component-base/version.gitVersion", "v1.34.2"),
            ("k8s.io/component-base/version.gitMajor", "1"),
            ("k8s.io/component-base/version.gitMinor", "34"),
        ],
    },
    Module {
        files: &[
            ("go.mod", include_str!("../../helm/go.mod")),
            ("go.sum", include_str!("../../helm/go.sum")),
            ("require.go", include_str!("../../helm/require.go")),
        ],
        packages: "helm.sh/helm/v3/cmd/",
        programs: &["helm"],
        suffix: HELM_SUFFIX,
        settings: &[
            ("helm.sh/helm/v3/internal/version.version", "v3.19.5"),
            // What charts are told of the cluster where none is asked.
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", "34"),
            ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor", "1"),
            ("helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor", "34"),
        ],
    },
    Module {
        files: &[
            ("go.mod", include_str!("../../coredns/go.mod")),
            ("go.sum", include_str!("../../coredns/go.sum")),
            ("main.go", include_str!("../../coredns/main.go")),
        ],
        // The module's own program: CoreDNS with the plugins that we use.
        packages: "slimfaas/",
        programs: &[dns::NAME],
        suffix: COREDNS_SUFFIX,
        settings: &[],
    },
];

/// Programs of the distribution, and the Debian package of each. Some are not on an ordinary user's path.
const PACKAGES: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];
const CNI_PACKAGE: &str = "containernetworking-plugins";
/// Where Debian's package, and the plugins' own releases, put them.
const CNI_FOLDERS: &[&str] = &["/usr/lib/cni", "/opt/cni/bin"];

struct Module {
    files: &'static [(&'static str, &'static str)],
    /// What stands before a program's name in its import path.
    packages: &'static str,
    programs: &'static [&'static str],
    /// What a file's name has behind the program's: the version, where the folder does not tell it.
    suffix: &'static str,
    /// Variables that say which version this is.
    settings: &'static [(&'static str, &'static str)],
}

impl Module {
    fn file(&self, program: &str) -> String {
        format!("{program}{}", self.suffix)
    }

    fn flags(&self) -> String {
        let set = self.settings.iter().map(|(name, value)| format!(" -X {name}={value}"));
        std::iter::once("-s -w".to_owned()).chain(set).collect()
    }
}

/// Every program that a cluster needs, present.
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) containerd: PathBuf,
    /// The folder of the network plugins.
    pub(crate) cni: PathBuf,
    /// The folder of Kubernetes' programs.
    pub(crate) kubernetes: PathBuf,
    pub(crate) dns: PathBuf,
}

impl Programs {
    /// Finds, installs or builds them all.
    pub(crate) fn obtain() -> Result<Self> {
        packages::install("a cluster", missing_packages)?;
        let find = |name| find(name).with_context(|| format!("{name} is installed and cannot be found"));
        let built = build(|_| true)?;
        Ok(Self {
            etcd: find("etcd")?,
            containerd: find("containerd")?,
            cni: find_cni().context("the network plugins are installed and cannot be found")?,
            dns: built.join(format!("{}{COREDNS_SUFFIX}", dns::NAME)),
            kubernetes: built,
        })
    }
}

/// The folder of what we build.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let built = || Some(cache()?.join("slimfaas-kube").join(format!("v{KUBERNETES}")));
    let folder = set(FOLDER).or_else(built);
    let folder = folder.with_context(|| format!("set {FOLDER} or HOME: there is no place to keep programs in"))?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(std::path::absolute(folder)?)
}

/// What tests speak to a cluster with.
pub(crate) struct Clients {
    pub(crate) kubectl: PathBuf,
    pub(crate) helm: PathBuf,
}

impl Clients {
    /// Builds them where they are missing.
    pub(crate) fn obtain() -> Result<Self> {
        let folder = build(|name| ["kubectl", "helm"].contains(&name))?;
        Ok(Self { kubectl: folder.join("kubectl"), helm: folder.join(format!("helm{HELM_SUFFIX}")) })
    }
}

fn find_cni() -> Option<PathBuf> {
    let has_plugins = |folder: &PathBuf| ["bridge", "host-local"].iter().all(|name| folder.join(name).is_file());
    CNI_FOLDERS.iter().map(PathBuf::from).find(has_plugins)
}

/// Packages that this machine lacks.
fn missing_packages() -> Vec<&'static str> {
    let programs = PACKAGES.iter().filter(|(program, _)| find(program).is_none());
    let mut missing: Vec<&str> = programs.map(|(_, package)| *package).collect();
    if find_cni().is_none() {
        missing.push(CNI_PACKAGE);
    }
    missing.dedup();
    missing
}

/// Builds what the cache lacks of the programs that are wanted; returns its folder.
fn build(is_wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let folder = folder()?;
    let missing_programs = || missing_programs(&folder).into_iter().filter(|(_, name)| is_wanted(name));
    if missing_programs().next().is_none() {
        return Ok(folder);
    }
    let _lock = BuildLock::take(&folder)?;
    // Looked at again: the other build may have left nothing to do.
    let work: Vec<_> = missing_programs().collect();
    let is_first = work.iter().any(|(_, name)| *name == control_plane::API_SERVER);
    if is_first {
        progress(&format!(
            "building Kubernetes {KUBERNETES}, Helm {HELM} and CoreDNS {COREDNS} into {}: some 20 minutes, once",
            folder.display()
        ));
    }
    for (index, (module, name)) in work.iter().enumerate() {
        progress(&format!("building {name}, {} of {}", index + 1, work.len()));
        let start = Instant::now();
        build_one(module, name, &folder).with_context(|| format!("cannot build {name}"))?;
        progress(&format!("built {name} in {:.0} s", start.elapsed().as_secs_f64()));
    }
    Ok(folder)
}

fn missing_programs(folder: &Path) -> Vec<(&'static Module, &'static str)> {
    let all = MODULES.iter().flat_map(|module| module.programs.iter().map(move |name| (module, *name)));
    all.filter(|(module, name)| !folder.join(module.file(name)).is_file()).collect()
}

fn build_one(module: &Module, name: &str, folder: &Path) -> Result<()> {
    let sources = folder.join(format!("{name}.module"));
    fs::create_dir_all(&sources)?;
    for (file, content) in module.files {
        fs::write(sources.join(file), content)?;
    }
    let partial = folder.join(format!("{name}.partial"));
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags"]).arg(module.flags());
    go.arg("-o").arg(&partial).arg(format!("{}{name}", module.packages));
    go.env("CGO_ENABLED", "0").current_dir(&sources).stdin(Stdio::null());
    let status = go.status().context("go is needed, 1.24 or newer: install it from go.dev/dl")?;
    ensure!(status.success(), "go build failed: {status}");
    fs::rename(&partial, folder.join(module.file(name)))?;
    super::state::remove_folder(&sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_versions_are_the_announced_ones() {
        let pins = |module: &Module, pin: &str| module.files[0].1.lines().any(|line| line.trim().ends_with(pin));
        assert!(pins(&MODULES[0], &format!("k8s.io/kubernetes v{KUBERNETES}")));
        assert!(pins(&MODULES[1], &format!("helm.sh/helm/v3 v{HELM}")));
        assert!(MODULES[0].flags().contains(&format!("gitVersion=v{KUBERNETES} ")));
        assert!(pins(&MODULES[2], &format!("github.com/coredns/coredns v{COREDNS}")));
        assert_eq!(COREDNS_SUFFIX, format!("-v{COREDNS}"));
        assert_eq!(HELM_SUFFIX, format!("-v{HELM}"));
        assert!(MODULES[1].flags().contains(&format!("version.version=v{HELM} ")));
        let gateway = include_str!("../../kubernetes/require.go");
        for program in MODULES[0].programs {
            assert!(gateway.contains(&format!("k8s.io/kubernetes/cmd/{program}\"")), "{program}");
        }
    }
}
