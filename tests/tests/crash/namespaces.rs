//! Network namespaces of a test's own: one for each node and one to spare, joined by a bridge in a further one, in which
//! the clients and the function are. Whatever happens in them, the machine's own network is not touched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::cluster::{NODES, Place};

const NAME: &str = "slimfaas-crash";
/// Where `ip netns exec` looks for what is to replace files of `/etc`.
const SETTINGS: &str = "/etc/netns";
const PORT: u16 = 5000;
const PEER_PORT: u16 = 3262;
const TABLE: &str = "add table inet cut; add chain inet cut in { type filter hook input priority 0; }";

/// Removed when dropped, and by the next test if this process is killed before.
pub(super) struct Namespaces {
    hub: String,
    spaces: Vec<String>,
    /// How often each of them has got another address.
    moves: [u8; NODES + 1],
    /// In which of them each node is.
    homes: [usize; NODES],
}

/// Why there can be none; `None`: they can be made.
pub(super) fn reason_against() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and mounts need root".to_owned());
    }
    let absent = |program: &&&str| run(program, &["-V"]).is_err();
    let missing: Vec<&str> = ["ip", "nft"].iter().filter(absent).copied().collect();
    (!missing.is_empty()).then(|| format!("{} is missing: install iproute2 and nftables", missing.join(" and ")))
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    // Where an administrator's programs are, which is not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).args(arguments).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(arguments: &str) -> Result<String> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

fn address(last: u8) -> IpAddr {
    // Addresses for documentation: nobody's (RFC 5737).
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

/// The address that a namespace has first, and those that it gets later.
fn of_space(number: usize, moves: u8) -> IpAddr {
    address(10 + u8::try_from(number).expect("few nodes") + 10 * moves)
}

impl Namespaces {
    pub(super) fn new() -> Result<Self> {
        // The next test may begin while the namespaces of the one before are being removed.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        sweep()?;
        let own = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = Self {
            hub: format!("{NAME}-{own}-hub"),
            spaces: (0..=NODES).map(|number| format!("{NAME}-{own}-{number}")).collect(),
            moves: [0; NODES + 1],
            homes: std::array::from_fn(|node| node),
        };
        made.tell_names()?;
        let hub = &made.hub;
        for space in made.all() {
            ip(&format!("netns add {space}"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        ip(&format!("-n {hub} link add bridge0 type bridge"))?;
        ip(&format!("-n {hub} addr add {}/24 dev bridge0", address(1)))?;
        ip(&format!("-n {hub} link set bridge0 up"))?;
        for (number, space) in made.spaces.iter().enumerate() {
            ip(&format!("-n {hub} link add to{number} type veth peer name eth0 netns {space}"))?;
            ip(&format!("-n {hub} link set to{number} master bridge0 up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", of_space(number, 0)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            made.nft(number, TABLE)?;
        }
        Ok(made)
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.hub).chain(&self.spaces)
    }

    /// Moves the calling thread, and what it starts from now on, to where clients and the function are.
    pub(super) fn enter(&self) -> Result<()> {
        let file = std::fs::File::open(format!("/run/netns/{}", self.hub))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter a namespace")
    }

    fn at(&self, node: usize) -> IpAddr {
        let home = self.homes[node];
        of_space(home, self.moves[home])
    }

    /// Where a node is to listen.
    pub(super) fn place(&self, node: usize) -> Place {
        let at = |port| SocketAddr::new(self.at(node), port);
        Place { address: at(PORT), peer: at(PEER_PORT), known_as: format!("node-{node}:{PEER_PORT}") }
    }

    pub(super) fn places(&self) -> Vec<Place> {
        (0..NODES).map(|node| self.place(node)).collect()
    }

    /// Gives a node another address, as a pod that is replaced gets one; nobody answers at the former one.
    pub(super) fn move_away(&mut self, node: usize) -> Result<Place> {
        let home = self.homes[node];
        self.moves[home] += 1;
        let space = &self.spaces[home];
        ip(&format!("-n {space} addr flush dev eth0"))?;
        ip(&format!("-n {space} addr add {}/24 dev eth0", self.at(node)))?;
        self.tell_names()?;
        Ok(self.place(node))
    }

    /// A node's name is from now on that of the spare namespace; what is in its former one stays there. Once only.
    pub(super) fn move_to_spare(&mut self, node: usize) -> Result<Place> {
        self.homes[node] = NODES;
        self.tell_names()?;
        Ok(self.place(node))
    }

    /// Writes what nodes are called into the hosts' file that `ip netns exec` puts in the place of the machine's.
    fn tell_names(&self) -> Result<()> {
        let names = (0..NODES).map(|node| format!("{} node-{node}\n", self.at(node)));
        let hosts: String = std::iter::once("127.0.0.1 localhost\n".to_owned()).chain(names).collect();
        for space in &self.spaces {
            let folder = Path::new(SETTINGS).join(space);
            std::fs::create_dir_all(&folder)?;
            // In place: a running node sees this very file.
            std::fs::write(folder.join("hosts"), &hosts)?;
        }
        Ok(())
    }

    /// Where the function is.
    pub(super) fn function() -> SocketAddr {
        SocketAddr::new(address(1), PORT)
    }

    /// What stands before a node's program.
    pub(super) fn prefix(&self, node: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.spaces[self.homes[node]]].map(str::to_owned).to_vec()
    }

    fn nft(&self, space: usize, rules: &str) -> Result<()> {
        run("ip", &["netns", "exec", &self.spaces[space], "nft", rules]).map(drop)
    }

    /// `node` no longer gets what `from` sends.
    pub(super) fn deafen(&self, node: usize, from: usize) -> Result<()> {
        self.nft(self.homes[node], &format!("add rule inet cut in ip saddr {} drop", self.at(from)))
    }

    /// All nodes hear each other again.
    pub(super) fn heal(&self) -> Result<()> {
        (0..=NODES).try_for_each(|space| self.nft(space, "flush chain inet cut in"))
    }

    /// Pulls a node's cable, or puts it in again.
    pub(super) fn plug(&self, node: usize, is_up: bool) -> Result<()> {
        let state = if is_up { "up" } else { "down" };
        ip(&format!("-n {} link set to{} {state}", self.hub, self.homes[node])).map(drop)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for space in self.all() {
            // What is left is removed by the next run.
            let _left = remove(space);
        }
    }
}

fn remove(space: &str) -> Result<()> {
    let folder = Path::new(SETTINGS).join(space);
    if folder.is_dir() {
        std::fs::remove_dir_all(folder)?;
    }
    ip(&format!("netns del {space}")).map(drop)
}

/// Removes namespaces of tests whose process is gone.
fn sweep() -> Result<()> {
    for line in ip("netns list")?.lines() {
        let space = line.split(' ').next().unwrap_or_default();
        let Some(rest) = space.strip_prefix(NAME) else { continue };
        let owner = rest.trim_start_matches('-').split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(space)?;
        }
    }
    Ok(())
}
