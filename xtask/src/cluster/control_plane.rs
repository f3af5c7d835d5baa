//! etcd, the API server, the controllers and the scheduler: command lines as plain values.

use std::path::{Path, PathBuf};

use super::access::{Identity, file};
use super::plan::{self, Node};
use super::state::State;

/// The part that answers everybody, also the process's name.
pub(crate) const API_SERVER: &str = "kube-apiserver";

/// What is written to the audit log: the requests of service accounts, without bodies.
pub(crate) const AUDIT_POLICY: &str = "audit-policy.json";
pub(crate) const AUDIT_POLICY_TEXT: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"}
    ]
}"#;

pub(crate) fn audit_log(state: &State) -> PathBuf {
    state.logs().join("audit.log")
}

/// Where the binaries are.
pub(crate) struct Binaries<'a> {
    pub(crate) kubernetes: &'a Path,
    pub(crate) etcd: &'a Path,
}

/// A part of the control plane: its name, and its command.
pub(crate) type Part = (&'static str, Vec<String>);

fn part(name: &'static str, program: &Path, options: Vec<String>) -> Part {
    (name, std::iter::once(program.display().to_string()).chain(options).collect())
}

pub(crate) fn etcd(state: &State, binaries: &Binaries<'_>) -> Part {
    let clients = format!("http://127.0.0.1:{}", plan::ETCD_PORT);
    let peers = format!("http://127.0.0.1:{}", plan::ETCD_PEER_PORT);
    let options = vec![
        format!("--data-dir={}", state.etcd().display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // Nothing here outlives the cluster, so nothing needs to be on the disk.
        "--unsafe-no-fsync".to_owned(),
    ];
    part("etcd", binaries.etcd, options)
}

pub(crate) fn api_server(state: &State, binaries: &Binaries<'_>) -> Part {
    let access = |name: &str| file(state, name);
    let options = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", plan::ETCD_PORT),
        format!("--bind-address={}", Node::FIRST.address()),
        format!("--advertise-address={}", Node::FIRST.address()),
        format!("--secure-port={}", plan::API_PORT),
        format!("--service-cluster-ip-range={}", plan::SERVICE_NETWORK),
        format!("--tls-cert-file={}", access("api-server.crt")),
        format!("--tls-private-key-file={}", access("api-server.key")),
        format!("--client-ca-file={}", access("ca.crt")),
        format!("--token-auth-file={}", access("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", access("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", access("service-accounts.key")),
        format!("--kubelet-certificate-authority={}", access("ca.crt")),
        format!("--kubelet-client-certificate={}", access("kubelet-client.crt")),
        format!("--kubelet-client-key={}", access("kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // The node agent asks for capabilities.
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
        // Who asked for what: a test compares it with what the gateway's Role grants.
        format!("--audit-policy-file={}", access(AUDIT_POLICY)),
        format!("--audit-log-path={}", audit_log(state).display()),
    ];
    part(API_SERVER, &binaries.kubernetes.join(API_SERVER), options)
}

/// What may start once the API server answers.
pub(crate) fn controllers(state: &State, binaries: &Binaries<'_>) -> [Part; 2] {
    let kubeconfig = |identity: Identity| format!("--kubeconfig={}", identity.kubeconfig(state).display());
    let common = |identity: Identity| {
        vec![
            kubeconfig(identity),
            format!("--bind-address={}", Node::FIRST.address()),
            // There is one of each.
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
        ]
    };
    let mut manager = common(Identity::controller_manager());
    manager.extend([
        format!("--root-ca-file={}", file(state, "ca.crt")),
        format!("--service-account-private-key-file={}", file(state, "service-accounts.key")),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        // Made where it does not exist: not at its usual place on the machine.
        format!("--flex-volume-plugin-dir={}", state.folder().join("volume-plugins").display()),
    ]);
    let scheduler = common(Identity::scheduler());
    let binary = |name: &str| binaries.kubernetes.join(name);
    [
        part("kube-controller-manager", &binary("kube-controller-manager"), manager),
        part("kube-scheduler", &binary("kube-scheduler"), scheduler),
    ]
}
