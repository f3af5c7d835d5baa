//! A process in a cgroup and a network namespace, and what it is told to do.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Dropping it kills it.
pub(crate) struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What the kernel said of a caller: identity, verdict, namespace, flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) identity: u32,
    pub(crate) verdict: u32,
    pub(crate) namespace: u32,
    pub(crate) flags: u32,
    pub(crate) address: String,
}

impl Actor {
    pub(crate) fn start(namespace: &str, cgroup: &Path) -> Result<Self> {
        Self::start_at(Path::new(&format!("/run/netns/{namespace}")), cgroup)
    }

    /// `network`: the file of a network namespace.
    pub(crate) fn start_at(network: &Path, cgroup: &Path) -> Result<Self> {
        // Not "ip netns exec", which mounts a /sys without cgroups.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network.display())).arg(env!("CARGO_BIN_EXE_kernel-actor")).arg(cgroup);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start an actor")?;
        let input = child.stdin.take().context("it has an input")?;
        let output = BufReader::new(child.stdout.take().context("it has an output")?);
        let mut actor = Self { child, input, output };
        ensure!(actor.read()? == "ready", "the actor does not start");
        Ok(actor)
    }

    /// Has it do something, and waits for the answer.
    pub(crate) fn tell(&mut self, line: &str) -> Result<String> {
        self.begin(line)?;
        let answer = self.read()?;
        ensure!(!answer.starts_with("error"), "{line}: {answer}");
        Ok(answer)
    }

    /// Has it do something; [`Actor::read`] gives the answer.
    pub(crate) fn begin(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("the actor has ended")
    }

    pub(crate) fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Accepts a connection; who opened it.
    pub(crate) fn accept(&mut self) -> Result<Caller> {
        parse(&self.tell("accept")?)
    }

    /// Who opened the connection that was accepted last, as the kernel says now.
    pub(crate) fn ask(&mut self) -> Result<Caller> {
        parse(&self.tell("ask")?)
    }
}

fn parse(answer: &str) -> Result<Caller> {
    let words: Vec<&str> = answer.split(' ').collect();
    let ["caller", identity, verdict, namespace, flags, address] = *words.as_slice() else {
        anyhow::bail!("the kernel does not tell the caller: {answer}")
    };
    Ok(Caller {
        identity: identity.parse()?,
        verdict: verdict.parse()?,
        namespace: namespace.parse()?,
        flags: flags.parse()?,
        address: address.to_owned(),
    })
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It may have ended by itself, which is all that we want.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
