//! The agent comes and goes; what it told the kernel stays until somebody detaches it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use slimfaas_ebpf::contract::{GuardFlags, Identity, IdentityFlags, Verdict};
use slimfaas_gateway::agent::kernel::attached_programs;
use slimfaas_gateway::agent::pins::Pins;
use slimfaas_tests::process::Scratch;

use super::actor::Actor;
use super::site::{KEY, SHOP, on_site, only};

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
        node.kernel.attach(&root)?;
        node.change(|state| state.keys = only(KEY))?;
        node.know(WEB, SHOP, IdentityFlags(0))?;
        let pod = node.pod("server", SERVER)?;
        let mut server = pod.actor(&network)?;
        let port: u16 = server.tell("listen 127.0.0.1:0")?.parse()?;
        node.guard(&pod, port, SHOP, GuardFlags(0))?;
        let mut web = node.pod("web", WEB)?.actor(&network)?;
        let mut stranger = node.unknown_pod("stranger")?.actor(&network)?;
        let address = format!("connect 127.0.0.1:{port}");
        let state = node.state.clone();
        let mut check = |step: &str, server: &mut Actor| -> Result<()> {
            assert_eq!(web.tell(&address)?, "connected", "{step}");
            let caller = server.accept()?;
            assert_eq!((caller.identity, caller.verdict), (WEB.0, Verdict::Known.as_u32()), "{step}");
            assert_eq!(stranger.tell(&address)?, "ignored", "{step}");
            Ok(())
        };
        check("the agent runs", &mut server)?;
        assert_eq!(attached(&root)?, 5);
        // The process is gone, in whatever way: all that it held is closed.
        drop(node);
        check("the agent is gone", &mut server)?;
        let mut node = site.bare_node("node", Some(Pins::new(&bpffs.pins())))?;
        assert_eq!(node.state, state, "the maps are taken over");
        check("the next agent has loaded", &mut server)?;
        node.kernel.attach(&root)?;
        assert_eq!(attached(&root)?, 5, "the earlier programs are gone");
        check("the next agent has attached", &mut server)?;
        let before = server.ask()?;
        assert_eq!(before.verdict, Verdict::Known.as_u32());
        drop(node);
        assert_eq!(Pins::new(&bpffs.pins()).detach()?, 5 + 8);
        assert!(!bpffs.pins().try_exists()?);
        assert_eq!(attached(&root)?, 0);
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
        let node = site.node("node")?;
        let root = node.root().to_owned();
        assert_eq!(attached(&root)?, 5);
        drop(node);
        assert_eq!(attached(&root)?, 0);
        Ok(())
    });
}
