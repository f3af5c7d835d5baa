//! `cargo xtask image`: images of this repository's programs, made without Docker and without the network. For those
//! who have Docker there is `deploy/docker/Dockerfile`.

mod archive;
mod base;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::terminal::{failure, line};
use crate::{ebpf, repository, test};
use archive::{Image, Layer};

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "slimfaas-pause:dev";
/// Its program, which needs neither this workspace nor a system below it.
const PAUSE_SOURCE: &str = "xtask/pause/pause.rs";

#[derive(Args)]
pub(crate) struct Options {
    /// Make only these
    names: Vec<Name>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The gateway
    #[value(name = "slimfaas")]
    Gateway,
    /// The node agent
    #[value(name = "slimfaas-agent")]
    Agent,
    /// The example function
    #[value(name = "slimfaas-example")]
    Example,
    /// What holds a pod's namespaces
    #[value(name = "slimfaas-pause")]
    Pause,
}

impl Name {
    /// What runs on a cluster; the pause image is loaded by `cluster up`.
    const WORKLOADS: &[Self] = &[Self::Gateway, Self::Example];
    const WORKLOADS_AND_AGENT: &[Self] = &[Self::Gateway, Self::Example, Self::Agent];

    fn reference(self) -> &'static str {
        match self {
            Self::Gateway => "slimfaas:dev",
            Self::Agent => "slimfaas-agent:dev",
            Self::Example => "slimfaas-example:dev",
            Self::Pause => PAUSE,
        }
    }

    fn file(self) -> String {
        self.reference().replace(":dev", ".tar")
    }

    fn title(self) -> &'static str {
        match self {
            Self::Gateway => "SlimFaas",
            Self::Agent => "SlimFaas node agent",
            Self::Example => "SlimFaas example function",
            Self::Pause => "SlimFaas pause",
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let all = Name::value_variants();
    let names = if options.names.is_empty() { all } else { &options.names };
    build(names).map(|_| ())
}

/// The images of what runs on a cluster; without the agent's where its kernel programs cannot be built, and why not.
pub(crate) fn build_workloads() -> Result<(Vec<PathBuf>, Option<String>)> {
    let lack = ebpf::build(ebpf::Variant::Silent).err().map(|error| format!("{error:#}"));
    let names = if lack.is_none() { Name::WORKLOADS_AND_AGENT } else { Name::WORKLOADS };
    Ok((build(names)?, lack))
}

pub(crate) fn build_pause() -> Result<PathBuf> {
    Ok(build(&[Name::Pause])?.remove(0))
}

/// Where the archives are, and a folder below it of this run alone, removed when dropped.
struct Workshop {
    archives: PathBuf,
    scratch: PathBuf,
}

impl Workshop {
    fn new(archives: PathBuf) -> Result<Self> {
        let scratch = archives.join(format!("{}.partial", std::process::id()));
        fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        Ok(Self { archives, scratch })
    }

    fn write(&self, name: Name, image: &Image) -> Result<PathBuf> {
        let archive = image.archive()?;
        let (file, partial) = (self.archives.join(name.file()), self.scratch.join(name.file()));
        fs::write(&partial, &archive.bytes).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, &file)?;
        let mebibytes = archive.bytes.len() as f64 / f64::from(1 << 20);
        line(&format!("{} {mebibytes:.1} MiB {} {}", name.reference(), archive.digest, file.display()));
        Ok(file)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.scratch) {
            failure(&format!("cannot remove {}: {error}", self.scratch.display()));
        }
    }
}

/// Makes the images; returns their archives.
fn build(names: &[Name]) -> Result<Vec<PathBuf>> {
    let workshop = Workshop::new(test::target_folder(&repository()).join("images"))?;
    let needs_programs = names.iter().any(|name| *name != Name::Pause);
    let programs = if needs_programs { Some(Programs::build(names.contains(&Name::Agent))?) } else { None };
    let mut files = Vec::new();
    for name in names {
        let image = match &programs {
            Some(programs) if *name != Name::Pause => programs.image(*name, &workshop.scratch)?,
            _ => pause_image(&workshop.scratch)?,
        };
        files.push(workshop.write(*name, &image)?);
    }
    Ok(files)
}

/// The programs of one build, and the layer that all their images share.
struct Programs {
    gateway: PathBuf,
    /// Only where it is asked for: it takes minutes to build.
    agent: Option<PathBuf>,
    /// The kernel programs that the agent loads.
    object: Option<PathBuf>,
    base: Layer,
}

impl Programs {
    fn build(with_agent: bool) -> Result<Self> {
        let root = repository();
        let gateway = test::gateway_binary(&root)?;
        let agent = with_agent.then(|| test::agent_binary(&root)).transpose()?;
        let object = with_agent.then(|| ebpf::build(ebpf::Variant::Silent)).transpose()?;
        let programs: Vec<PathBuf> = [gateway.clone()].into_iter().chain(agent.clone()).collect();
        let base = base::layer(&programs)?;
        Ok(Self { gateway, agent, object, base })
    }

    fn image(&self, name: Name, scratch: &Path) -> Result<Image> {
        let (binary, program) = match name {
            Name::Agent => (self.agent.as_ref().context("the agent was not built")?, "/usr/bin/slimfaas-agent"),
            Name::Gateway | Name::Example | Name::Pause => (&self.gateway, "/usr/bin/slimfaas"),
        };
        let mut layer = Layer::default();
        layer.file(program, 0o755, without_debugger_data(binary, scratch)?)?;
        if name == Name::Agent {
            let object = self.object.as_ref().context("the kernel programs were not built")?;
            let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
            layer.file(&format!("/usr/bin/{}", ebpf::OBJECT), 0o644, bytes)?;
        }
        let mut entrypoint = vec![program.to_owned()];
        let mut command = Vec::new();
        match name {
            Name::Example => entrypoint.push("example-function".to_owned()),
            Name::Gateway => command.push("gateway".to_owned()),
            Name::Agent => command.push("run".to_owned()),
            Name::Pause => {}
        }
        // The agent loads kernel programs: capabilities that a pod grants reach a program of another user than root
        // only as ambient ones, which Kubernetes cannot grant.
        let user = if name == Name::Agent { "0:0" } else { base::NONROOT };
        Ok(image(name, vec![self.base.clone(), layer], user, entrypoint, command))
    }
}

/// The program as it runs: line numbers are two thirds of it, and nobody debugs in the image.
fn without_debugger_data(binary: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let stripped = scratch.join("stripped");
    let mut strip = Command::new("strip");
    strip.args(["--strip-debug", "-o"]).arg(&stripped).arg(binary);
    let status = strip.status().context("cannot run strip, which is part of binutils")?;
    ensure!(status.success(), "strip {} failed", binary.display());
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

fn image(name: Name, layers: Vec<Layer>, user: &'static str, entrypoint: Vec<String>, command: Vec<String>) -> Image {
    let labels = vec![
        ("title", name.title().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("licenses", env!("CARGO_PKG_LICENSE").to_owned()),
    ];
    Image { reference: name.reference().to_owned(), layers, user, entrypoint, command, labels }
}

fn pause_image(scratch: &Path) -> Result<Image> {
    let mut layer = Layer::default();
    layer.file("/pause", 0o755, pause_program(scratch)?)?;
    Ok(image(Name::Pause, vec![layer], base::NONROOT, vec!["/pause".to_owned()], Vec::new()))
}

/// Compiles the pause program: static, so that its image needs no layer below it.
fn pause_program(scratch: &Path) -> Result<Vec<u8>> {
    let (source, program) = (repository().join(PAUSE_SOURCE), scratch.join("pause"));
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(compiler);
    rustc.args(["--edition=2024", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Ccodegen-units=1"]);
    rustc.arg("-Ctarget-feature=+crt-static");
    // A pod's address space is its own: a fixed place spares the relocations.
    rustc.arg("-Crelocation-model=static").arg("-o").arg(&program).arg(&source);
    let status = rustc.current_dir(repository()).stdin(Stdio::null()).status().context("cannot run rustc")?;
    ensure!(status.success(), "the pause program does not compile: a static C library is needed (libc6-dev)");
    fs::read(&program).context("cannot read the pause program")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A workshop that is gone after the test.
    fn workshop(test: &str) -> Workshop {
        let archives = std::env::temp_dir();
        let scratch = archives.join(format!("slimfaas-image-{}-{test}", std::process::id()));
        fs::create_dir(&scratch).expect("a new folder");
        Workshop { archives, scratch }
    }

    #[test]
    fn the_same_sources_give_the_same_pause_image() {
        let build = |test| {
            let image = pause_image(&workshop(test).scratch).expect("it can be built");
            image.archive().expect("it can be archived")
        };
        let (one, other) = (build("one"), build("other"));
        assert_eq!(one.digest, other.digest);
        assert!(one.bytes == other.bytes);
    }

    #[test]
    fn images_of_one_build_share_their_base_and_only_the_agent_is_root() {
        // Any program will do: this one is linked to the same libraries.
        let own = std::env::current_exe().expect("this program has a file");
        let programs = || {
            let base = base::layer(std::slice::from_ref(&own)).expect("its libraries are there");
            Programs { gateway: own.clone(), agent: Some(own.clone()), object: Some(own.clone()), base }
        };
        let (images, workshop) = (programs(), workshop("shared"));
        let image = |name| images.image(name, &workshop.scratch).expect("it can be made");
        assert_eq!(image(Name::Gateway).layers[0], image(Name::Agent).layers[0]);
        let users = [Name::Gateway, Name::Example, Name::Agent].map(|name| image(name).user);
        assert_eq!(users, ["65532:65532", "65532:65532", "0:0"]);
        assert_eq!(image(Name::Example).entrypoint, ["/usr/bin/slimfaas", "example-function"]);
        let digest = |image: Image| image.archive().expect("it can be archived").digest;
        let again = programs().image(Name::Gateway, &workshop.scratch).expect("it can be made");
        assert_eq!(digest(image(Name::Gateway)), digest(again));
    }
}
