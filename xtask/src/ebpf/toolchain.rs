//! A compiler that can make kernel programs. Two kinds are known to work; the pinned stable one is not among them.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::TARGET;

/// Names a compiler that has a core library for the target, elsewhere than where it is looked for.
const COMPILER: &str = "SLIMFAAS_BPF_RUSTC";

/// The first kind, on Debian 12: the compiler, and what the linker is built against.
pub(crate) const DEBIAN_PACKAGES: &[&str] =
    &["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev"];

const ADVICE: &str = "\
no compiler for kernel programs was found. Install one of:
  Debian 12:  apt-get install rustc-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev libzstd-dev zlib1g-dev
  elsewhere:  rustup toolchain install nightly --profile minimal --component rust-src, and LLVM of nightly's major
              version with its headers
or name in SLIMFAAS_BPF_RUSTC a rustc with a core library for bpfel-unknown-none";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    kind: Kind,
    /// The major version of the compiler's LLVM.
    pub(crate) llvm: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Brings a core library for the target; of a stable release, so it must be told that it may use what it has.
    Prebuilt(PathBuf),
    /// rustup's nightly with the sources of the core library.
    Nightly,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Prebuilt(rustc) => write!(f, "{} (LLVM {})", rustc.display(), self.llvm),
            Kind::Nightly => write!(f, "rustup's nightly (LLVM {})", self.llvm),
        }
    }
}

impl Toolchain {
    /// The first that works, of those that need the least.
    pub(crate) fn find() -> Result<Self> {
        let named = std::env::var_os(COMPILER).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(rustc) = named {
            match prebuilt(&rustc) {
                Some(toolchain) => return Ok(toolchain),
                None => bail!("{COMPILER} names {}, which has no core library for {TARGET}", rustc.display()),
            }
        }
        // Distributions' own; `rustc` on the path is mostly rustup's, whose releases have no such library.
        match prebuilt(Path::new("/usr/bin/rustc")).or_else(nightly) {
            Some(toolchain) => Ok(toolchain),
            None => bail!("{ADVICE}"),
        }
    }

    /// Cargo, so that it compiles with this.
    pub(crate) fn cargo(&self) -> Command {
        match &self.kind {
            Kind::Prebuilt(rustc) => {
                let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
                let mut command = Command::new(program);
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Kind::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
                // Cargo tells its children which it is; the other one must find out for itself.
                command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        }
    }

    /// A program that takes the debugger's data out of an object of the target.
    pub(crate) fn strip(&self) -> Option<PathBuf> {
        let own = llvm_prefix(self.llvm).join("bin/llvm-strip");
        if own.is_file() {
            return Some(own);
        }
        let runs = output(Command::new("llvm-strip").arg("--version")).is_some();
        runs.then(|| PathBuf::from("llvm-strip"))
    }
}

/// Where Debian and those after it keep one version of LLVM.
pub(crate) fn llvm_prefix(version: u32) -> PathBuf {
    let set = std::env::var_os("LLVM_PREFIX").filter(|value| !value.is_empty()).map(PathBuf::from);
    set.unwrap_or_else(|| PathBuf::from(format!("/usr/lib/llvm-{version}")))
}

fn prebuilt(rustc: &Path) -> Option<Toolchain> {
    let folder = output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
    let has_core = std::fs::read_dir(folder.trim()).ok()?.flatten().any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("libcore-")
    });
    let llvm = llvm_version(&output(Command::new(rustc).arg("-vV"))?)?;
    has_core.then(|| Toolchain { kind: Kind::Prebuilt(rustc.to_owned()), llvm })
}

fn nightly() -> Option<Toolchain> {
    let rustc = |arguments: &[&str]| output(Command::new("rustup").args(["run", "nightly", "rustc"]).args(arguments));
    let sysroot = rustc(&["--print", "sysroot"])?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    let llvm = llvm_version(&rustc(&["-vV"])?)?;
    sources.is_file().then_some(Toolchain { kind: Kind::Nightly, llvm })
}

/// From `LLVM version: 22.1.8`.
fn llvm_version(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_llvm_is_read() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(llvm_version(text), expected, "{text:?}");
        check("rustc 1.96.0\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n", Some(22));
        check("LLVM version: 23.0", Some(23));
        check("LLVM version: x", None);
        check("rustc 1.96.0", None);
    }
}
