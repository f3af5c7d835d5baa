//! Callers of every kind on each of two nodes, functions of every kind with a pod on each, and a gateway and an agent
//! on each. Callers are processes in the control groups and network namespaces of real pods.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slimfaas_tests::http1::Connection;
use slimfaas_tests::report;
use slimfaas_tests::require::skip_or_fail;

use crate::e2e::actor::Actor;
use crate::e2e::cluster::wait;
use crate::e2e::site::{Install, Site};

/// Who calls. `watched` and `foreign` are pods of other namespaces, of which the gateway watches the first; `node` is a
/// process of a node outside every pod, and `outside` one of another machine.
pub(super) const CALLERS: [&str; 8] =
    ["neighbour", "excluded", "untrusted", "host-network", "watched", "foreign", "node", "outside"];
/// Private in `mixed`.
pub(super) const PATH: &str = "/hello/secret";
const SOON: Duration = Duration::from_secs(90);
/// What `cargo xtask test` tells of its cluster.
const CLUSTER_CGROUP: &str = "SLIMFAAS_CLUSTER_CGROUP";
const NO_AGENT: &str = "SLIMFAAS_NO_AGENT";
/// The bridge between nodes of that cluster, to which a machine of its own is connected.
const NODE_BRIDGE: &str = "sfnodes";
const OUTSIDE: &str = "10.245.0.200/24";

const FUNCTION: (&str, &str) = ("SlimFaas/Function", "true");
const TWO: (&str, &str) = ("SlimFaas/ReplicasMin", "2");
const PRIVATE: (&str, &str) = ("SlimFaas/DefaultVisibility", "Private");
const EXCLUDES: (&str, &str) = ("SlimFaas/ExcludeDeploymentsFromVisibilityPrivate", "excluded");

/// Functions of the table, by their annotations.
const FUNCTIONS: &[(&str, &[(&str, &str)])] = &[
    ("public", &[FUNCTION, TWO]),
    ("private", &[FUNCTION, TWO, PRIVATE, EXCLUDES]),
    ("mixed", &[FUNCTION, TWO, EXCLUDES, ("SlimFaas/PathsStartWithVisibility", "Private:/hello/secret")]),
    ("open", &[FUNCTION, TWO, PRIVATE, EXCLUDES, ("SlimFaas/DirectAccess", "Open")]),
    ("closed", &[FUNCTION, TWO, ("SlimFaas/DirectAccess", "Guarded")]),
    ("untrusted", &[FUNCTION, TWO, ("SlimFaas/DefaultTrust", "Untrusted")]),
];

pub(super) struct Scene {
    pub(super) callers: Vec<Caller>,
    pub(super) site: Site,
    nodes: [String; 2],
    /// Of all processes of the cluster.
    cgroup: PathBuf,
    _machine: Machine,
}

pub(super) struct Caller {
    pub(super) kind: &'static str,
    pub(super) node: usize,
    pub(super) actor: Actor,
}

#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) address: IpAddr,
    pub(super) restarts: u64,
    pub(super) ready: bool,
    node: String,
    uid: String,
}

#[derive(Clone, Copy)]
pub(super) struct Service {
    pub(super) inside: SocketAddr,
    /// Its port on each node.
    pub(super) outside: [SocketAddr; 2],
}

impl Pod {
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    fn of(pod: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let container = &pod["status"]["containerStatuses"][0];
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return None;
        }
        Some(Self {
            address: pod["status"]["podIP"].as_str()?.parse().ok()?,
            restarts: container["restartCount"].as_u64()?,
            ready: container["ready"].as_bool()?,
            node: text(&pod["spec"]["nodeName"])?,
            uid: text(&pod["metadata"]["uid"])?,
        })
    }
}

impl Scene {
    /// `None` after saying why it cannot be set.
    pub(super) fn set(test: &str) -> Result<Option<Self>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let lack = match variable(CLUSTER_CGROUP) {
            None => Some(format!("{CLUSTER_CGROUP} is not set: the cluster is not one of cargo xtask on this machine")),
            Some(_) => variable(NO_AGENT),
        };
        if let Some(lack) = lack {
            skip_or_fail("e2e", test, lack);
            return Ok(None);
        }
        let cgroup = PathBuf::from(variable(CLUSTER_CGROUP).context("it is set")?);
        let in_pod = Path::new("/host/cgroup").join(cgroup.strip_prefix("/sys/fs/cgroup")?);
        let in_pod = in_pod.to_str().context("a folder with an odd name")?;
        let install = Install { replicas: 2, agents_cgroup: Some(in_pod), ..Install::default() };
        let Some(site) = Site::install(test, &install)? else { return Ok(None) };
        let listed = site.cluster.json(&["get", "nodes"])?;
        let items = listed["items"].as_array().into_iter().flatten();
        let names = items.filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect::<Vec<_>>();
        let nodes: [String; 2] = names.try_into().ok().context("the cluster needs two nodes")?;
        let machine = Machine::connect()?;
        let mut scene = Self { callers: Vec::new(), site, nodes, cgroup, _machine: machine };
        scene.populate()?;
        Ok(Some(scene))
    }

    fn populate(&mut self) -> Result<()> {
        for namespace in [self.namespace_of("watched"), self.namespace_of("foreign")] {
            self.site.cluster.kubectl(&["create", "namespace", &namespace])?;
        }
        let watched = self.namespace_of("watched");
        self.let_gateway_watch(&watched)?;
        // Not before it may: it waits for all that it is to watch.
        self.site.kubectl(&["set", "env", "statefulset/slimfaas", &format!("SlimFaas__Namespaces={watched}")])?;
        self.site.wait_ready("slimfaas", 2)?;
        for (name, annotations) in FUNCTIONS {
            self.apply_workload(name, annotations, false)?;
        }
        for name in ["neighbour", "excluded", "watched", "foreign"] {
            self.apply_workload(name, &[], false)?;
        }
        self.apply_workload("host-network", &[], true)?;
        let node_port = r#"{"spec": {"type": "NodePort"}}"#;
        self.site.kubectl(&["patch", "service", "slimfaas", "--patch", node_port])?;
        self.wait_agents()?;
        for node in 0..2 {
            for kind in CALLERS {
                let actor = self.caller_of(kind, node).with_context(|| format!("{kind} of node {node}"))?;
                self.callers.push(Caller { kind, node, actor });
            }
        }
        self.wait_guarded()
    }

    fn caller_of(&self, kind: &str, node: usize) -> Result<Actor> {
        match kind {
            // The network of the node itself, which its host-network pod is in too.
            "node" => {
                let (_, network) = self.process_of(&self.pod("host-network", node)?)?;
                Actor::start_at(&network, &self.cgroup.join("system"))
            }
            // No process of the cluster.
            "outside" => Actor::start(Machine::NAME, self.cgroup.parent().context("the root is above it")?),
            _ => self.enter(&self.pod(kind, node)?),
        }
    }

    /// A process in a pod.
    pub(super) fn enter(&self, pod: &Pod) -> Result<Actor> {
        let (cgroup, network) = self.process_of(pod)?;
        Actor::start_at(&network, &cgroup)
    }

    /// The same, which may send what its kernel would not, and whose kernel does not spoil it.
    pub(super) fn attacker(&self, pod: &Pod) -> Result<Actor> {
        let (_, network) = self.process_of(pod)?;
        let rules =
            "table inet raw { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }\n}";
        let network = format!("--net={}", network.display());
        let mut child = Command::new("nsenter").args([&network, "nft", "-f", "-"]).stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("it has an input")?.write_all(rules.as_bytes())?;
        ensure!(child.wait()?.success(), "nft refuses its rules");
        self.enter(pod)
    }

    /// A container's control group, and its network namespace.
    fn process_of(&self, pod: &Pod) -> Result<(PathBuf, PathBuf)> {
        let folder = find_folder(&self.cgroup, &format!("pod{}", pod.uid)).context("the pod has no control group")?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            if let Some(process) = processes.lines().next() {
                return Ok((path, PathBuf::from(format!("/proc/{process}/ns/net"))));
            }
        }
        anyhow::bail!("no process is in {}", folder.display())
    }

    fn namespace_of(&self, workload: &str) -> String {
        match workload {
            "watched" | "foreign" => format!("e2e-{workload}-{}", std::process::id()),
            _ => self.site.namespace.clone(),
        }
    }

    /// As in the gateway's own namespace, without the Lease.
    fn let_gateway_watch(&self, namespace: &str) -> Result<()> {
        let role = self.site.get("role", "slimfaas")?;
        let rules: Vec<&Value> = role["rules"].as_array().context("rules")?.iter().collect();
        let rules: Vec<_> = rules.into_iter().filter(|rule| rule["apiGroups"][0] != "coordination.k8s.io").collect();
        let name = json!({"name": "slimfaas", "namespace": namespace});
        let api = "rbac.authorization.k8s.io";
        let account = json!({"kind": "ServiceAccount", "name": "slimfaas", "namespace": self.site.namespace});
        let all = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": name, "rules": rules},
            {"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": name, "subjects": [account],
             "roleRef": {"apiGroup": api, "kind": "Role", "name": "slimfaas"}},
        ]});
        self.site.cluster.apply(namespace, &all.to_string())
    }

    /// A Deployment with a pod on each node, and its Service.
    pub(super) fn apply_workload(
        &mut self,
        name: &str,
        annotations: &[(&str, &str)],
        host_network: bool,
    ) -> Result<()> {
        let labels = json!({"app": name});
        let port = if host_network { 18_080 } else { 8080 };
        let probe = json!({"httpGet": {"path": "/health", "port": port}, "periodSeconds": 1});
        // What forging takes.
        let added = if name == "foreign" { json!({"add": ["NET_RAW"]}) } else { json!({}) };
        let container = json!({
            "name": "main", "image": "slimfaas-example:dev", "imagePullPolicy": "Never",
            "env": [{"name": "PORT", "value": port.to_string()}, {"name": "FUNCTION_NAME", "value": name}],
            "ports": [{"containerPort": port}], "readinessProbe": probe, "securityContext": {"capabilities": added},
        });
        let spread = json!({
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": labels},
        });
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let pod = json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {
                "terminationGracePeriodSeconds": 1, "hostNetwork": host_network, "containers": [container],
                "topologySpreadConstraints": [spread],
            },
        });
        let service = json!({
            "type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": port}],
        });
        let all = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
             "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": service},
        ]});
        self.site.cluster.apply(&self.namespace_of(name), &all.to_string())
    }

    fn list(&self, workload: &str, selector: &str) -> Result<Vec<Pod>> {
        let namespace = self.namespace_of(workload);
        let list = self.site.cluster.json(&["--namespace", &namespace, "get", "pods", "--selector", selector])?;
        Ok(list["items"].as_array().into_iter().flatten().filter_map(Pod::of).collect())
    }

    /// The ready pod of a node; waits for it.
    fn ready_pod(&self, workload: &str, selector: &str, node: usize) -> Result<Pod> {
        wait(&format!("{workload} is ready on {}", self.nodes[node]), SOON, || {
            let pods = self.list(workload, selector)?;
            Ok(pods.into_iter().find(|pod| pod.ready && pod.node == self.nodes[node]))
        })
    }

    pub(super) fn pod(&self, workload: &str, node: usize) -> Result<Pod> {
        self.ready_pod(workload, &format!("app={workload}"), node)
    }

    pub(super) fn gateway_pod(&self, node: usize) -> Result<Pod> {
        self.ready_pod("slimfaas", "app.kubernetes.io/name=slimfaas", node)
    }

    pub(super) fn agents(&self) -> Result<Vec<Pod>> {
        self.list("slimfaas-agent", "app.kubernetes.io/component=agent")
    }

    pub(super) fn agent_of(&self, node: usize) -> Result<Pod> {
        let agents = self.agents()?;
        agents.into_iter().find(|agent| agent.node == self.nodes[node]).context("the node has no agent")
    }

    pub(super) fn wait_agents(&self) -> Result<()> {
        let outcome = wait("an agent is ready on each node", SOON, || {
            let agents = self.agents()?;
            Ok((agents.len() == 2 && agents.iter().all(|agent| agent.ready)).then_some(()))
        });
        let selector = "--selector=app.kubernetes.io/component=agent";
        outcome.with_context(|| {
            let logs = self.site.kubectl(&["logs", selector, "--tail=20", "--prefix"]);
            let described = self.site.kubectl(&["describe", "pods", selector]);
            format!("{}\n{}", logs.unwrap_or_default(), described.unwrap_or_default())
        })
    }

    /// Until the agents know everybody, and guard: nothing is guarded before all gateways' connections are tagged.
    fn wait_guarded(&mut self) -> Result<()> {
        for node in 0..2 {
            let command = format!("get {} {PATH} -", self.pod("private", node)?.at(8080));
            let by_gateway = format!("get {} /function/private{PATH} -", self.site.address);
            for (kind, command, expected) in [
                ("foreign", &command, "ignored"),
                ("neighbour", &command, "200"),
                ("neighbour", &by_gateway, "200"),
                ("host-network", &by_gateway, "200"),
            ] {
                let caller = self.caller(kind, node);
                wait(&format!("{kind}, {command}: {expected}"), SOON, || {
                    Ok((caller.actor.tell(command)? == expected).then_some(()))
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn caller(&mut self, kind: &str, node: usize) -> &mut Caller {
        let found = self.callers.iter_mut().find(|caller| caller.kind == kind && caller.node == node);
        found.expect("there is one of every kind on every node")
    }

    pub(super) fn service(&self, name: &str) -> Result<Service> {
        let service = self.site.get("service", name)?;
        let ports = &service["spec"]["ports"][0];
        let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).context("a port");
        let inside = service["spec"]["clusterIP"].as_str().context("an address")?.parse()?;
        let on = |node: u8| {
            Ok::<_, anyhow::Error>(SocketAddr::from((Ipv4Addr::new(10, 245, 0, node), number(&ports["nodePort"])?)))
        };
        Ok(Service { inside: SocketAddr::new(inside, number(&ports["port"])?), outside: [on(1)?, on(2)?] })
    }

    /// Strangers of both nodes knock at the private pods of both; returns who.
    pub(super) fn begin_knocking(&mut self, millis: u64) -> Result<Vec<(String, usize)>> {
        let mut knocking = Vec::new();
        for node in 0..2 {
            let address = self.pod("private", node)?.at(8080);
            for kind in ["foreign", "outside", "neighbour"] {
                self.caller(kind, node).actor.begin(&format!("knock {address} {millis}"))?;
                knocking.push((kind.to_owned(), node));
            }
        }
        Ok(knocking)
    }

    /// Nobody may have been let in but who may.
    pub(super) fn end_knocking(&mut self, knocking: Vec<(String, usize)>) -> Result<()> {
        for (kind, node) in knocking {
            let answer = self.caller(&kind, node).actor.read()?;
            let (tried, answered) = answer.split_once(' ').with_context(|| answer.clone())?;
            let (tried, answered): (u32, u32) = (tried.parse()?, answered.parse()?);
            ensure!(tried > 100, "{kind} of node {node} knocked {tried} times");
            // A machine that is busy may keep who may come in waiting for longer than a knock lasts.
            let fine = if kind == "neighbour" { answered > tried / 2 } else { answered == 0 };
            ensure!(fine, "{kind} of node {node} got in {answered} times of {tried}");
        }
        Ok(())
    }

    /// All processes of a pod's container but the one that holds its namespaces, at once.
    pub(super) fn kill(&self, pod: &Pod) -> Result<()> {
        let folder = find_folder(&self.cgroup, &format!("pod{}", pod.uid)).context("the pod has no control group")?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path().join("cgroup.procs");
            for process in fs::read_to_string(path).unwrap_or_default().lines() {
                let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
                if name.starts_with("slimfaas-agent") {
                    let id = rustix::process::Pid::from_raw(process.parse()?).context("a process")?;
                    return Ok(rustix::process::kill_process(id, rustix::process::Signal::KILL)?);
                }
            }
        }
        anyhow::bail!("no agent runs in {}", folder.display())
    }

    /// As a process of this machine, which nobody guards the status ports from.
    pub(super) fn ask(&self, address: SocketAddr, path: &str) -> Result<String> {
        let mut connection = Connection::open_within(address, Duration::from_secs(5))?;
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: identity\r\nconnection: close\r\n\r\n"))?;
        Ok(connection.answer()?.text())
    }

    pub(super) fn gateway_says(&self, path: &str) -> Result<String> {
        self.ask(self.gateway_pod(0)?.at(5000), path)
    }

    /// As the documentation says: no agent runs, and then `detach` on each node with the same rights.
    pub(super) fn remove_agents(&self) -> Result<()> {
        let agents = self.site.get("daemonset", "slimfaas-agent")?;
        self.site.kubectl(&["delete", "daemonset", "slimfaas-agent", "--wait=true"])?;
        wait("no agent runs", SOON, || Ok(self.agents()?.is_empty().then_some(())))?;
        let labels = json!({"app": "detach"});
        let mut pod = agents["spec"]["template"].clone();
        pod["metadata"] = json!({"labels": labels});
        let mut detach = pod["spec"]["containers"][0].clone();
        detach["command"] = json!(["slimfaas-agent", "detach"]);
        for key in ["ports", "readinessProbe", "livenessProbe"] {
            detach.as_object_mut().context("a container")?.remove(key);
        }
        pod["spec"]["initContainers"] = json!([detach]);
        pod["spec"]["containers"] =
            json!([{"name": "main", "image": "slimfaas-example:dev", "imagePullPolicy": "Never"}]);
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "detach"},
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        });
        self.site.apply(&set.to_string())?;
        wait("what was pinned is gone from both nodes", SOON, || {
            Ok((self.site.get("daemonset", "detach")?["status"]["numberReady"] == 2).then_some(()))
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.callers.clear();
        // What is pinned goes with the nodes, or was taken away before; what has no namespace would stay.
        let mut commands = vec![vec!["delete", "clusterrole,clusterrolebinding", "slimfaas-agent"]];
        let others = [self.namespace_of("watched"), self.namespace_of("foreign")];
        commands.extend(others.iter().map(|name| vec!["delete", "namespace", name.as_str(), "--wait=false"]));
        if std::thread::panicking() || self.site.get("daemonset", "slimfaas-agent").is_ok() {
            // The tests after this one are not to be guarded.
            if let Err(error) = self.remove_agents() {
                report::line(format_args!("agents' programs may be left on the nodes: {error:#}"));
            }
        }
        for command in commands {
            if let Err(error) = self.site.cluster.kubectl(&command) {
                report::line(format_args!("{error:#}"));
            }
        }
    }
}

fn find_folder(below: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(below).ok()?.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        if entry.file_name() == name {
            return Some(path);
        }
        if let Some(found) = find_folder(&path, name) {
            return Some(found);
        }
    }
    None
}

/// A machine on the nodes' network that is none of them.
struct Machine;

impl Machine {
    const NAME: &str = "sf-outside";
    const CABLE: &str = "sfoutside";

    fn connect() -> Result<Self> {
        let (name, cable) = (Self::NAME, Self::CABLE);
        ip(&format!("netns add {name}"))?;
        let machine = Self;
        ip(&format!("link add {cable} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set {cable} master {NODE_BRIDGE} up"))?;
        ip(&format!("-n {name} address add {OUTSIDE} dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add 10.244.2.0/24 via 10.245.0.2"))?;
        ip(&format!("-n {name} route add default via 10.245.0.1"))?;
        Ok(machine)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The cable goes with it.
        let _left_behind = ip(&format!("netns delete {}", Self::NAME));
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
