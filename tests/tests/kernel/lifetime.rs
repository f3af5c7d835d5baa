//! The agent comes and goes; what it told the kernel stays until somebody detaches it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use slimfaas_ebpf::contract::{GuardFlags, Identity, IdentityFlags, Verdict};
use slimfaas_gateway::agent::kernel::attached_programs;
use slimfaas_gateway::agent::pins::Pins;
use slimfaas_tests::process::Scratch;

use super::actor::Actor;
use super::site::{KEY, Pod, SHOP, on_site, only};

const WEB: Identity = Identity(400);
const SERVER: Identity = Identity(401);

/// A bpffs of the test alone.
pub(crate) struct Bpffs {
    folder: Scratch,
}

impl Bpffs {
    pub(crate) fn mount() -> Result<Self> {
        let folder = Scratch::new("bpffs")?;
        rustix::mount::mount("bpf", folder.path(), "bpf", rustix::mount::MountFlags::empty(), None)
            .context("cannot mount a bpffs")?;
        Ok(Self { folder })
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.folder.path().join("slimfaas")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Nothing of a test depends on it, and a second panic would hide the first.
        let _left_behind = rustix::mount::unmount(self.folder.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Programs that are attached to a cgroup itself, by what the kernel says.
fn attached(cgroup: &Path) -> Result<usize> {
    Ok(attached_programs(cgroup)?)
}

#[test]
fn enforcement_outlives_the_agent_and_ends_with_detach() {
    on_site("enforcement_outlives_the_agent", |site| {
        let bpffs = Bpffs::mount()?;
        let network = site.network("n")?;
        let mut node = site.bare_node("node", Some(Pins::new(&bpffs.pins())))?;
        let root = node.root().to_owned();
        node.kernel.attach(&root, &node.guarded)?;
        node.change(|state| state.keys = only(KEY))?;
        node.know(WEB, SHOP, IdentityFlags(0))?;
        let pod = node.pod("server", SERVER)?;
        let mut server = pod.actor(&network)?;
        let port: u16 = server.tell("listen 127.0.0.1:0")?.parse()?;
        node.guard(&pod, port, SHOP, GuardFlags(0))?;
        let mut web = node.pod("web", WEB)?.actor(&network)?;
        let mut stranger = node.unknown_pod("stranger")?.actor(&network)?;
        let address = format!("connect 127.0.0.1:{port}");
        let (state, guarded) = (node.state.clone(), node.guarded.clone());
        let mut check = |step: &str, server: &mut Actor| -> Result<()> {
            assert_eq!(web.tell(&address)?, "connected", "{step}");
            let caller = server.accept()?;
            assert_eq!((caller.identity, caller.verdict), (WEB.0, Verdict::Known.as_u32()), "{step}");
            assert_eq!(stranger.tell(&address)?, "ignored", "{step}");
            Ok(())
        };
        check("the agent runs", &mut server)?;
        let function = pod.cgroup.parent().context("a pod's cgroup")?;
        assert_eq!((attached(&root)?, attached(function)?), (4, 1));
        // The process is gone, in whatever way: all that it held is closed.
        drop(node);
        check("the agent is gone", &mut server)?;
        let mut node = site.bare_node("node", Some(Pins::new(&bpffs.pins())))?;
        assert_eq!(node.state, state, "the maps are taken over");
        check("the next agent has loaded", &mut server)?;
        node.kernel.guard(&guarded)?;
        assert_eq!(attached(function)?, 2, "one guard follows the other without a gap");
        node.kernel.attach(&root, &guarded)?;
        assert_eq!((attached(&root)?, attached(function)?), (4, 1), "the earlier programs are gone");
        check("the next agent has attached", &mut server)?;
        let before = server.ask()?;
        assert_eq!(before.verdict, Verdict::Known.as_u32());
        drop(node);
        assert_eq!(Pins::new(&bpffs.pins()).detach()?, 4 + 1 + 8);
        assert!(!bpffs.pins().try_exists()?);
        assert_eq!((attached(&root)?, attached(function)?), (0, 0));
        // Nothing is asked, nothing answers, and nothing is guarded.
        assert_eq!(stranger.tell(&address)?, "connected");
        assert_eq!(server.tell("accept")?, "unanswered 127.0.0.1");
        assert_eq!(Pins::new(&bpffs.pins()).detach()?, 0, "a second time there is nothing to do");
        Ok(())
    });
}

#[test]
fn without_pins_it_ends_with_the_agent() {
    on_site("without_pins_it_ends_with_the_agent", |site| {
        let mut node = site.node("node")?;
        let root = node.root().to_owned();
        let pod = node.pod("server", SERVER)?;
        let function = pod.cgroup.parent().context("a pod's cgroup")?;
        node.guard(&pod, 5000, SHOP, GuardFlags(0))?;
        assert_eq!((attached(&root)?, attached(function)?), (4, 1));
        drop(node);
        assert_eq!((attached(&root)?, attached(function)?), (0, 0));
        Ok(())
    });
}

/// A pod pays for the guard while it has a guarded port, and one that has gone is no error.
#[test]
fn the_guard_comes_to_a_pod_and_leaves_it() {
    on_site("the_guard_comes_to_a_pod", |site| {
        let bpffs = Bpffs::mount()?;
        for pins in [None, Some(Pins::new(&bpffs.pins()))] {
            let name = if pins.is_some() { "pinned" } else { "held" };
            let mut node = site.bare_node(name, pins)?;
            let (one, two) = (node.pod("one", SERVER)?, node.pod("two", SERVER)?);
            let folder = |pod: &Pod| pod.cgroup.parent().expect("a pod's cgroup").to_owned();
            let (first, second) = (folder(&one), folder(&two));
            let mut guard = |pods: &[(&Pod, &Path)]| {
                node.kernel.guard(&pods.iter().map(|(pod, path)| (pod.id, path.to_path_buf())).collect())
            };
            guard(&[(&one, &first), (&two, &second)])?;
            assert_eq!((attached(&first)?, attached(&second)?), (1, 1));
            guard(&[(&two, &second)])?;
            assert_eq!((attached(&first)?, attached(&second)?), (0, 1));
            std::fs::remove_dir(&two.cgroup)?;
            std::fs::remove_dir(&second)?;
            guard(&[(&one, &first), (&two, &second)])?;
            assert_eq!(attached(&first)?, 1);
            guard(&[])?;
            assert_eq!(attached(&first)?, 0);
            guard(&[(&two, &second)])?;
        }
        Ok(())
    });
}

/// A start that fails changes nothing: else one that is tried again and again would heap up guards.
#[test]
fn a_start_that_fails_leaves_what_was_there() {
    on_site("a_start_that_fails", |site| {
        let bpffs = Bpffs::mount()?;
        let mut node = site.bare_node("node", Some(Pins::new(&bpffs.pins())))?;
        let root = node.root().to_owned();
        let pod = node.pod("server", SERVER)?;
        let function = pod.cgroup.parent().context("a pod's cgroup")?;
        node.guard(&pod, 5000, SHOP, GuardFlags(0))?;
        node.kernel.attach(&root, &node.guarded)?;
        let guarded = node.guarded.clone();
        drop(node);
        let mut node = site.bare_node("node", Some(Pins::new(&bpffs.pins())))?;
        let mut with_other = guarded.clone();
        with_other.insert(u64::MAX, std::env::temp_dir());
        let refused = node.kernel.attach(&root, &with_other).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|error| error.starts_with("cannot attach the program guard_ingress")));
        assert_eq!((attached(&root)?, attached(function)?), (4, 1));
        node.kernel.attach(&root, &guarded)?;
        assert_eq!((attached(&root)?, attached(function)?), (4, 1));
        drop(node);
        assert_eq!(Pins::new(&bpffs.pins()).detach()?, 4 + 1 + 8);
        Ok(())
    });
}
