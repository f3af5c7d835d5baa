//! Where a kernel test happens: nodes, which are cgroups with programs and maps of their own, and their pods.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use slimfaas_ebpf::contract::{
    GuardEntry, GuardFlags, GuardKey, Identity, IdentityEntry, IdentityFlags, Key, NamespaceId, TagKeys,
};
use slimfaas_gateway::agent::capabilities::facts::Facts;
use slimfaas_gateway::agent::desired::Desired;
use slimfaas_gateway::agent::kernel::{Kernel, LoadOptions};
use slimfaas_gateway::agent::pins::Pins;
use slimfaas_tests::require::skip_or_fail;

use super::actor::Actor;
use super::network::Network;

/// The object that `cargo xtask build-ebpf` made; `cargo xtask test` sets it.
const PROGRAMS: &str = "SLIMFAAS_PROGRAMS";
/// Says why there is none.
const NO_PROGRAMS: &str = "SLIMFAAS_NO_PROGRAMS";

pub(crate) const KEY: Key = Key::from_secret([7; 16]);
pub(crate) const OTHER_KEY: Key = Key::from_secret([8; 16]);
pub(crate) const SHOP: NamespaceId = NamespaceId(70);
pub(crate) const BANK: NamespaceId = NamespaceId(71);

/// Keys of which only the current one is there.
pub(crate) fn only(current: Key) -> TagKeys {
    TagKeys { current, present: TagKeys::HAS_CURRENT, ..TagKeys::default() }
}

pub(crate) struct Site {
    object: Vec<u8>,
    unique: String,
    cgroup: PathBuf,
}

/// A cgroup that is a node to the programs attached to it.
pub(crate) struct Node {
    pub(crate) kernel: Kernel,
    pub(crate) state: Desired,
    /// Pods that have a guarded port.
    pub(crate) guarded: BTreeMap<u64, PathBuf>,
    root: PathBuf,
}

/// A pod's cgroup.
pub(crate) struct Pod {
    pub(crate) cgroup: PathBuf,
    pub(crate) id: u64,
}

/// Runs a test where it can run, and says so where it cannot.
#[track_caller]
pub(crate) fn on_site(name: &str, test: impl FnOnce(&Site) -> Result<()>) {
    match Site::new(name) {
        Ok(site) => test(&site).unwrap_or_else(|error| panic!("{name}: {error:#}")),
        Err(reason) => skip_or_fail("kernel", name, format!("{reason:#}")),
    }
}

impl Site {
    fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(rustix::process::geteuid().is_root(), "needs root");
        if let Ok(reason) = std::env::var(NO_PROGRAMS) {
            bail!("{reason}");
        }
        let unset = || format!("{PROGRAMS} names no object of kernel programs: cargo xtask test kernel builds one");
        let object = std::env::var_os(PROGRAMS).with_context(unset)?;
        let object = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
        let facts = Facts::read(Path::new("/"));
        let root = facts.cgroup_roots.first().context("cgroup v2 is not mounted")?;
        let unique = format!("sf{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = root.join(format!("slimfaas-test-{unique}-{name}"));
        fs::create_dir(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
        let site = Self { object, unique, cgroup };
        // What a machine without the tools, or a kernel without network namespaces, lacks shows here.
        site.network("probe")?.rules("flush ruleset")?;
        Ok(site)
    }

    /// A network namespace; the name need only be unique in the test.
    pub(crate) fn network(&self, name: &str) -> Result<Network> {
        Network::new(format!("{}-{name}", self.unique))
    }

    /// A cgroup for somebody else's programs.
    pub(crate) fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// A node whose programs are attached and whose tags have [`KEY`].
    pub(crate) fn node(&self, name: &str) -> Result<Node> {
        let mut node = self.bare_node(name, None)?;
        node.kernel.attach(&node.root, &node.guarded)?;
        node.change(|state| state.keys = only(KEY))?;
        Ok(node)
    }

    /// A node whose programs are loaded and nothing else.
    pub(crate) fn bare_node(&self, name: &str, pins: Option<Pins>) -> Result<Node> {
        let root = self.cgroup.join(name);
        for folder in ["system", "pods"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let kernel = Kernel::load(LoadOptions { object: &self.object, pins })?;
        let mut node = Node { kernel, state: Desired::default(), guarded: BTreeMap::new(), root: root.clone() };
        node.state = node.kernel.read()?;
        node.change(|state| {
            state.cgroups.insert(id(&root), Identity::NODE);
            state.cgroups.insert(id(&root.join("pods")), Identity::NONE);
        })?;
        Ok(node)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Nothing of a test depends on it, and a second panic would hide the first.
        let _left_behind = remove_cgroup(&self.cgroup);
    }
}

/// Bottom up: the files of a cgroup's directory cannot be removed, only the directory.
fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn id(cgroup: &Path) -> u64 {
    fs::metadata(cgroup).expect("the cgroup is there").ino()
}

impl Node {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where processes are that are in no pod.
    pub(crate) fn system(&self) -> PathBuf {
        self.root.join("system")
    }

    /// Brings the maps to another state.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Desired)) -> Result<()> {
        let mut wanted = self.state.clone();
        change(&mut wanted);
        self.kernel.apply(&self.state.changes(&wanted))?;
        self.state = wanted;
        Ok(())
    }

    /// A pod's cgroup that no agent knows of.
    pub(crate) fn unknown_pod(&self, name: &str) -> Result<Pod> {
        // As below a real one: processes are in the containers' cgroups.
        let pod = self.root.join("pods").join(name);
        let cgroup = pod.join("container");
        fs::create_dir_all(&cgroup)?;
        Ok(Pod { id: id(&pod), cgroup })
    }

    /// A pod of a workload.
    pub(crate) fn pod(&mut self, name: &str, identity: Identity) -> Result<Pod> {
        let pod = self.unknown_pod(name)?;
        self.change(|state| _ = state.cgroups.insert(pod.id, identity))?;
        Ok(pod)
    }

    pub(crate) fn know(&mut self, identity: Identity, namespace: NamespaceId, flags: IdentityFlags) -> Result<()> {
        self.change(|state| _ = state.known.insert(identity, IdentityEntry { namespace, flags }))
    }

    /// Guards a pod's port for a function of this namespace.
    pub(crate) fn guard(&mut self, pod: &Pod, port: u16, namespace: NamespaceId, flags: GuardFlags) -> Result<()> {
        let key = GuardKey { cgroup: pod.id, port, reserved_a: 0, reserved_b: 0 };
        let guard = GuardEntry { function: FUNCTION, namespace, flags };
        self.change(|state| _ = state.guards.insert(key, guard))?;
        let folder = pod.cgroup.parent().context("a pod's cgroup")?;
        self.guarded.insert(pod.id, folder.to_owned());
        Ok(self.kernel.guard(&self.guarded)?)
    }
}

/// The workload of guarded functions.
pub(crate) const FUNCTION: Identity = Identity(500);

impl Pod {
    pub(crate) fn actor(&self, network: &Network) -> Result<Actor> {
        Actor::start(&network.name, &self.cgroup)
    }
}
