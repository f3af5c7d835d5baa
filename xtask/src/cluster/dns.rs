//! The cluster's DNS: CoreDNS on node 1, beside the control plane. Services and pods of headless ones have names, which
//! StatefulSets need to find each other; other names are asked of whom the machine asks.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::access::Identity;
use super::control_plane::Part;
use super::plan::Node;
use super::state::State;

/// The process, and the role of its account.
pub(crate) const NAME: &str = "coredns";
/// What Services' names end in.
pub(crate) const DOMAIN: &str = "cluster.local";
/// For an answer to be kept: as long as the plugin says that its names are good for.
const KEPT_SECONDS: u32 = 5;
const RESOLVERS: &str = "/etc/resolv.conf";

/// The configuration, given the machine's own.
fn corefile(kubeconfig: &Path, resolvers: &str) -> String {
    let has_resolver = resolvers.lines().any(|line| line.trim_start().starts_with("nameserver"));
    // Without anybody to ask, the plugin would refuse to start.
    let forward = if has_resolver { format!("    forward . {RESOLVERS}\n") } else { String::new() };
    format!(
        ".:53 {{\n    bind {address}\n    errors\n    cache {KEPT_SECONDS}\n    kubernetes {DOMAIN} in-addr.arpa {{\n        \
         kubeconfig {kubeconfig}\n    }}\n{forward}}}\n",
        address = Node::FIRST.address(),
        kubeconfig = kubeconfig.display(),
    )
}

/// Writes the configuration; returns the process.
pub(crate) fn part(state: &State, program: &Path) -> Result<Part> {
    let resolvers = fs::read_to_string(RESOLVERS).unwrap_or_default();
    let file = state.access().join("Corefile");
    let content = corefile(&Identity::dns().kubeconfig(state), &resolvers);
    fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    let command = [program.display().to_string(), "-conf".to_owned(), file.display().to_string()];
    Ok((NAME, command.into()))
}

/// The manifest of what it may read.
pub(crate) fn access() -> Value {
    let read = |group: &str, resources: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": ["list", "watch"] });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": NAME },
        "rules": [read("", &["services", "pods", "namespaces"]), read("discovery.k8s.io", &["endpointslices"])],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": NAME },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": Identity::dns().user() }],
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [role, binding] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_are_asked_of_the_machines_resolvers_if_it_has_any() {
        let config = |resolvers| corefile(Path::new("/a/kubeconfig"), resolvers);
        let alone = ".:53 {\n    bind 10.245.0.1\n    errors\n    cache 5\n    kubernetes cluster.local in-addr.arpa {\n        \
                     kubeconfig /a/kubeconfig\n    }\n}\n";
        assert_eq!(config("# none\n"), alone);
        let forwarding = alone.replace("    }\n}\n", "    }\n    forward . /etc/resolv.conf\n}\n");
        assert_eq!(config("nameserver 192.0.2.1\n"), forwarding);
    }
}
