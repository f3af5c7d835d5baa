//! One node: containerd, kubelet and kube-proxy, in a mount namespace of their own, and from the second node on in a
//! network namespace of their own too. What a node mounts is gone with its last process; nothing of it shows outside.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::access::{Identity, file};
use super::plan::{self, Node};
use super::state::State;
use super::{cgroups, dns, network};
use crate::image;

/// How a node sees its own folder ([`State::node`]): short, because a socket's path may have 107 bytes only.
pub(crate) const FOLDER: &str = "/run/node";

/// Folders of the machine that a node covers with its own. They must exist to be covered.
pub(crate) const COVERED: &[&str] = &["/var/lib/cni", "/var/lib/kubelet"];

/// Runs as the node's first process, with the node's folder as `$1`, and holds its namespaces open.
///
/// Everything that containerd, runc and the kubelet keep at fixed places of a machine (sockets, network namespaces,
/// logs, leases of addresses) gets a place of the node's own. Volumes with mount propagation need shared mounts; they
/// are shared among the node's own namespaces only.
const ANCHOR: &str = r#"
set -eu
# Without -n, mount keeps notes in the machine's /run.
mount -n --make-rshared /
mount -n -t tmpfs -o mode=755 node /run
mkdir -p /run/node /run/netns /run/lock
mount -n --bind "$1" /run/node
mkdir -p /run/node/kubelet
mount -n --bind /run/node/kubelet /var/lib/kubelet
mount -n -t tmpfs -o mode=755 node /var/log
mount -n -t tmpfs -o mode=755 node /var/lib/cni
if [ -d /sys/fs/bpf ]; then mount -n -t bpf -o mode=700 bpf /sys/fs/bpf; fi
echo 1 > /proc/sys/net/ipv4/ip_forward
filtered=/proc/sys/net/bridge/bridge-nf-call-iptables
if [ -e $filtered ]; then echo 1 > $filtered; fi
echo ready > /run/node/anchored
exec sleep infinity
"#;

/// The command of the node's first process.
pub(crate) fn anchor(state: &State, node: Node) -> Vec<String> {
    let mut command = vec!["unshare", "--mount", "--propagation", "private"];
    if !node.is_machine() {
        command.push("--net");
    }
    command.extend(["--", "sh", "-c", ANCHOR, "anchor"]);
    let folder = state.node(node).display().to_string();
    command.into_iter().map(str::to_owned).chain([folder]).collect()
}

/// Whether the node's first process has done its work.
pub(crate) fn is_anchored(state: &State, node: Node) -> bool {
    state.node(node).join("anchored").is_file()
}

/// `command` in the namespaces that process `anchor` holds.
pub(crate) fn inside(anchor: u32, command: impl IntoIterator<Item = String>) -> Vec<String> {
    let enter = ["nsenter", "--target", &anchor.to_string(), "--mount", "--net", "--"].map(str::to_owned);
    enter.into_iter().chain(command).collect()
}

/// Writes the files that the node's processes read.
pub(crate) fn configure(state: &State, node: Node, cni_plugins: &Path) -> Result<()> {
    let folder = state.node(node);
    let write = |name: &str, content: &str| {
        fs::write(folder.join(name), content).with_context(|| format!("cannot write {name} of {}", node.name()))
    };
    fs::create_dir_all(folder.join("cni"))?;
    write("containerd.toml", &containerd_config(cni_plugins))?;
    write("cni/10-pods.conflist", &format!("{:#}\n", network::pod_network_config(node)))?;
    write("kubelet.json", &format!("{:#}\n", kubelet_config(state, node)))?;
    // Where pods that refuse the cluster's DNS ask. The machine's own file may point into /run.
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    write("resolv.conf", &resolvers)
}

/// containerd's own command.
pub(crate) fn containerd(program: &Path) -> Vec<String> {
    vec![program.display().to_string(), "--config".to_owned(), format!("{FOLDER}/containerd.toml")]
}

fn containerd_config(cni_plugins: &Path) -> String {
    // Plugins that would look for file systems we do not use, or make folders of the machine.
    format!(
        r#"version = 2
root = "{FOLDER}/containerd"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.internal.v1.opt",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE, runc may not lower the score below its own, and dies.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{FOLDER}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#,
        pause = image::PAUSE,
        plugins = cni_plugins.display(),
    )
}

pub(crate) fn kubelet(state: &State, node: Node, kubernetes: &Path) -> Vec<String> {
    vec![
        kubernetes.join("kubelet").display().to_string(),
        format!("--config={FOLDER}/kubelet.json"),
        format!("--kubeconfig={}", Identity::kubelet(node).kubeconfig(state).display()),
        format!("--hostname-override={}", node.name()),
        format!("--node-ip={}", node.address()),
    ]
}

fn kubelet_config(state: &State, node: Node) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address(),
        "healthzBindAddress": node.address(),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file(state, "ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": file(state, &format!("{}.crt", node.name())),
        "tlsPrivateKeyFile": file(state, &format!("{}.key", node.name())),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups::node_group(node),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        // Chains for hostPorts, which no plugin of ours serves; they would stay on the machine.
        "makeIPTablesUtilChains": false,
        "podLogsDir": format!("{FOLDER}/pod-logs"),
        "volumePluginDir": format!("{FOLDER}/volume-plugins"),
        "clusterDNS": [Node::FIRST.address()],
        "clusterDomain": dns::DOMAIN,
        "resolvConf": format!("{FOLDER}/resolv.conf"),
        // The machine's disk is shared with everything else on it: how full it is must not end pods, nor remove
        // images, which nobody could fetch again.
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    })
}

pub(crate) fn kube_proxy(state: &State, node: Node, kubernetes: &Path) -> Vec<String> {
    vec![
        kubernetes.join("kube-proxy").display().to_string(),
        format!("--kubeconfig={}", Identity::proxy().kubeconfig(state).display()),
        format!("--hostname-override={}", node.name()),
        format!("--cluster-cidr={}", plan::POD_NETWORK),
        "--proxy-mode=nftables".to_owned(),
        format!("--healthz-bind-address={}:10256", node.address()),
        format!("--metrics-bind-address={}:10249", node.address()),
        "--oom-score-adj=0".to_owned(),
        // The machine's connection tracking stays as it is.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-tcp-timeout-established=0".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0".to_owned(),
    ]
}

/// `ctr` for what the kubelet of the node sees.
fn ctr(anchor: u32, arguments: &[&str]) -> Command {
    let words = inside(anchor, ["ctr", "--namespace", "k8s.io"].iter().chain(arguments).map(|word| (*word).to_owned()));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Whether containerd of the node answers.
pub(crate) fn runs_containers(anchor: u32) -> bool {
    let mut command = ctr(anchor, &["version"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Gives the node the image in the archive `file`.
pub(crate) fn import_image(anchor: u32, file: &Path) -> Result<()> {
    let archive = fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let mut command = ctr(anchor, &["images", "import", "-"]);
    let output = command.stdin(archive).output().context("cannot run ctr, which is part of containerd")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot import {}: {}", file.display(), told.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::at(Path::new("/a/target")).expect("an ordinary folder")
    }

    #[test]
    fn only_further_nodes_have_a_network_of_their_own() {
        let has_network = |node| anchor(&state(), node).contains(&"--net".to_owned());
        assert!(!has_network(Node(1)));
        assert!(has_network(Node(2)));
    }

    #[test]
    fn nodes_share_neither_group_nor_address_nor_certificate() {
        let (one, two) = (kubelet_config(&state(), Node(1)), kubelet_config(&state(), Node(2)));
        for own in ["cgroupRoot", "address", "healthzBindAddress", "tlsCertFile", "tlsPrivateKeyFile"] {
            assert!(one[own].is_string(), "{own}");
            assert_ne!(one[own], two[own], "{own}");
        }
        assert_eq!(two["cgroupRoot"], "/slimfaas-cluster/node-2");
    }

    #[test]
    fn containerd_uses_our_pause_image_and_the_plugins_it_is_given() {
        let config = containerd_config(Path::new("/usr/lib/cni"));
        assert!(config.contains("sandbox_image = \"slimfaas-pause:dev\""), "{config}");
        assert!(config.contains("bin_dir = \"/usr/lib/cni\""), "{config}");
    }
}
