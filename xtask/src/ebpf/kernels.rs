//! Older kernels that the kernel suite boots in an emulator to ask their verifiers: Debian's, from its packages.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::terminal::progress;
use crate::tools;

/// What boots them.
pub(super) const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static", "cpio"];
/// A release of Debian, and the version of its kernels.
const RELEASES: &[(&str, &str)] = &[("bullseye", "5.10"), ("bookworm", "6.1"), ("trixie", "6.12")];
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Gets what is missing; a release that Debian does not offer any more is left out.
pub(super) fn install() -> Result<()> {
    let folder = tools::folder()?.join("kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (release, version) in RELEASES {
        let prefix = format!("vmlinuz-{version}.");
        let has =
            fs::read_dir(&folder)?.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        if !has && let Err(error) = fetch(&folder, release, version) {
            progress(&format!("no kernel of {release}: {error:#}"));
        }
    }
    Ok(())
}

/// With lists of packages of its own, so that the machine's are left alone.
fn fetch(folder: &Path, release: &str, version: &str) -> Result<()> {
    progress(&format!("getting Linux {version} of {release}"));
    let work = folder.join(format!("{release}.partial"));
    for part in ["lists/partial", "cache/archives/partial", "tree"] {
        fs::create_dir_all(work.join(part))?;
    }
    // From where the machine has its own packages.
    let sites = output(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]), &work)?;
    let site =
        sites.lines().find(|site| site.ends_with("/debian")).context("apt has no source of Debian's packages")?;
    fs::write(work.join("list"), format!("deb [signed-by={KEYS}] {site} {release} main\n"))?;
    let at = |name: &str| work.join(name).display().to_string();
    let settings = [
        format!("Dir::Etc::sourcelist={}", at("list")),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::Cache={}", at("cache")),
    ];
    let apt = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        settings.iter().for_each(|setting| _ = command.args(["-o", setting]));
        command.args(arguments);
        output(&mut command, &work)
    };
    apt("apt-get", &["-q", "update"])?;
    let pattern = format!("^linux-image-{}.*cloud-amd64$", version.replace('.', "\\."));
    let listed = apt("apt-cache", &["search", "--names-only", &pattern])?;
    let name = listed.lines().filter_map(|line| line.split(' ').next()).next_back().context("there is none")?;
    apt("apt-get", &["-q", "download", name])?;
    let mut files = fs::read_dir(&work)?.flatten().map(|entry| entry.path());
    let package = files.find(|path| path.extension().is_some_and(|end| end == "deb")).context("no package came")?;
    output(Command::new("dpkg-deb").arg("-x").arg(package).arg(work.join("tree")), &work)?;
    for entry in fs::read_dir(work.join("tree/boot"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("vmlinuz-") {
            fs::rename(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    fs::remove_dir_all(&work).context("cannot remove what was fetched")
}

fn output(command: &mut Command, folder: &Path) -> Result<String> {
    let output = command.current_dir(folder).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
