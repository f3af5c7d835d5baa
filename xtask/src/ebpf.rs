//! `cargo xtask build-ebpf`: the object of kernel programs, which the agent loads. Nothing else needs the tools for it.

mod kernels;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::terminal::{line, progress};
use crate::{repository, test, tools};
use toolchain::Toolchain;

/// The object's name, in the target folder and beside the agent in its image.
pub(crate) const OBJECT: &str = "slimfaas-programs.o";
/// Tells tests and benches where the object is.
pub(crate) const OBJECT_VARIABLE: &str = "SLIMFAAS_PROGRAMS";
/// The same, of the one that says what it drops.
pub(crate) const LOGGING_OBJECT_VARIABLE: &str = "SLIMFAAS_LOGGING_PROGRAMS";
const TARGET: &str = "bpfel-unknown-none";

#[derive(Args)]
pub(crate) struct Options {
    /// Do not ask this machine's kernel what it thinks of the programs
    #[arg(long)]
    no_verify: bool,
    /// Have the programs say which connections they drop, in the agent's log: for looking into things, since each line
    /// costs time and whoever is dropped decides how many there are
    #[arg(long)]
    log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// What is shipped.
    Silent,
    Logging,
}

impl Variant {
    fn features(self) -> &'static str {
        match self {
            Self::Silent => "programs",
            Self::Logging => "programs,log",
        }
    }

    fn object(self) -> &'static str {
        match self {
            Self::Silent => OBJECT,
            Self::Logging => "slimfaas-logging-programs.o",
        }
    }
}

/// Builds the object, and says what the kernel thinks of it where this process may ask it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let object = build(if options.log { Variant::Logging } else { Variant::Silent })?;
    let size = fs::metadata(&object)?.len();
    line(&format!("{} {:.1} KiB", object.display(), size as f64 / 1024.0));
    if options.no_verify {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        line("not root: whether this machine's kernel accepts the programs was not tried");
        return Ok(());
    }
    let check = ["run", "--quiet", "--package", "slimfaas-gateway", "--bin", "slimfaas-agent", "--", "verify"];
    let mut command = test::cargo(&repository(), &check);
    let status = command.arg(&object).status().context("cannot run cargo")?;
    ensure!(status.success(), "this machine's kernel does not take the programs");
    Ok(())
}

/// Sees to it that the object can be built, and tried on older kernels, where that can be done without asking: as root on
/// Debian 12 or later.
pub(crate) fn install_toolchain() -> Result<()> {
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/apt-get").is_file() {
        // What is missing is said by the tests that need it.
        return Ok(());
    }
    let mut packages = Vec::new();
    if Toolchain::find().is_err() {
        packages.extend(toolchain::DEBIAN_PACKAGES);
    }
    if !Path::new("/usr/bin/qemu-system-x86_64").is_file() {
        packages.extend(kernels::PACKAGES);
    }
    if !packages.is_empty() {
        progress(&format!("installing {}", packages.join(", ")));
        let install = [&["install", "-q", "--yes", "--no-install-recommends"], packages.as_slice()].concat();
        for arguments in [vec!["update", "-q"], install] {
            let mut apt = Command::new("apt-get");
            apt.args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
            let status = apt.status().context("cannot run apt-get")?;
            ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
        }
    }
    kernels::install()
}

/// Builds the object; returns where it is.
///
/// # Errors
/// Without a toolchain for it; the message says what to install.
pub(crate) fn build(variant: Variant) -> Result<PathBuf> {
    let root = repository();
    let toolchain = Toolchain::find()?;
    line(&format!("kernel programs by {toolchain}"));
    let linker = install_linker(toolchain.llvm)?;
    let folder = test::target_folder(&root).join("kernel-programs");
    let mut command = toolchain.cargo();
    command.args(["build", "--profile", "kernel", "--target", TARGET, "--package", "slimfaas-ebpf"]);
    command.args(["--features", variant.features(), "--bin", "slimfaas-programs", "--target-dir"]).arg(&folder);
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf"];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker);
    let status = command.current_dir(&root).stdin(Stdio::null()).status().context("cannot run cargo")?;
    ensure!(status.success(), "the kernel programs do not build");
    let built = folder.join(TARGET).join("kernel/slimfaas-programs");
    let object = folder.join(variant.object());
    strip(&toolchain, &built, &object)?;
    Ok(object)
}

/// Without the debugger's data: ten times the rest, and the kernel's own (BTF) stays.
fn strip(toolchain: &Toolchain, built: &Path, object: &Path) -> Result<()> {
    let partial = object.with_extension("partial");
    match toolchain.strip() {
        Some(program) => {
            let mut strip = Command::new(&program);
            strip.args(["--strip-debug", "-o"]).arg(&partial).arg(built);
            let status = strip.status().with_context(|| format!("cannot run {}", program.display()))?;
            ensure!(status.success(), "{} failed", program.display());
        }
        None => {
            progress("no llvm-strip: the object keeps the debugger's data, and is larger for it");
            fs::copy(built, &partial)?;
        }
    }
    fs::rename(&partial, object).with_context(|| format!("cannot write {}", object.display()))
}

/// The linker, built against the LLVM of the compiler: one cannot read the other's output otherwise.
fn install_linker(llvm: u32) -> Result<PathBuf> {
    const VERSION: &str = "0.13.0";
    let folder = tools::folder()?;
    let root = folder.join(format!("bpf-linker-{VERSION}-llvm-{llvm}"));
    let linker = root.join("bin/bpf-linker");
    if linker.is_file() {
        return Ok(linker);
    }
    progress(&format!("installing bpf-linker {VERSION} for LLVM {llvm}: some minutes"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut command = test::cargo(&folder, &["install", "bpf-linker", "--locked", "--version", VERSION]);
    command.args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"]).arg(&root);
    command.env("LLVM_PREFIX", toolchain::llvm_prefix(llvm)).env("CARGO_TARGET_DIR", root.join("build"));
    let status = command.status().context("cannot run cargo")?;
    ensure!(
        status.success(),
        "bpf-linker does not build: it needs LLVM {llvm} with its headers (Debian: llvm-{llvm}-dev libpolly-{llvm}-dev \
         libzstd-dev zlib1g-dev)"
    );
    // What is left of the build is large and of no use.
    fs::remove_dir_all(root.join("build")).context("cannot remove the linker's build folder")?;
    Ok(linker)
}
