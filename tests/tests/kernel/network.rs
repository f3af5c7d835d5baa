//! Network namespaces of a test alone, and cables between them.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Dropping it removes it, with the ends of cables in it.
pub(crate) struct Network {
    pub(crate) name: String,
}

impl Network {
    pub(crate) fn new(name: String) -> Result<Self> {
        run(&["ip", "netns", "add", &name], "")?;
        let network = Self { name };
        network.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(network)
    }

    /// Runs a program in it.
    pub(crate) fn run(&self, command: &[&str]) -> Result<()> {
        run(&[&["ip", "netns", "exec", &self.name], command].concat(), "")
    }

    /// Loads firewall rules.
    pub(crate) fn rules(&self, rules: &str) -> Result<()> {
        run(&["ip", "netns", "exec", &self.name, "nft", "-f", "-"], rules)
    }

    /// Lays a cable to another one; each end gets its addresses, with the length of the prefix.
    pub(crate) fn connect(&self, cable: &str, own: &[&str], other: &Self, others: &[&str]) -> Result<()> {
        let (near, far) = (format!("{cable}0"), format!("{cable}1"));
        run(
            &["ip", "link", "add", &near, "netns", &self.name, "type", "veth", "peer", &far, "netns", &other.name],
            "",
        )?;
        for (network, end, addresses) in [(self, near, own), (other, far, others)] {
            for address in addresses {
                let command = ["ip", "address", "add", address, "dev", &end];
                // Without "nodad" an IPv6 address cannot be used for the first second.
                let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                network.run(&[&command, nodad].concat())?;
            }
            network.run(&["ip", "link", "set", &end, "up"])?;
        }
        Ok(())
    }

    pub(crate) fn sysctl(&self, setting: &str) -> Result<()> {
        self.run(&["sysctl", "-q", "-w", setting])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Nothing of a test depends on it, and a second panic would hide the first.
        let _left_behind = run(&["ip", "netns", "delete", &self.name], "");
    }
}

fn run(command: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command[0]))?;
    child.stdin.take().context("it has an input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {said}", command.join(" "));
    Ok(())
}
