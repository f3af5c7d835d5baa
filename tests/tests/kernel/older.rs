//! The verifiers of older kernels, asked by booting them in an emulator: what one version takes, another may find too
//! large or too unclear.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use slimfaas_tests::process::{Scratch, run};
use slimfaas_tests::report;
use slimfaas_tests::require::skip_or_fail;
use slimfaas_tests::tools::{agent_binary, kernels};

/// To boot, and to go through all ways of the programs; without hardware's help, and beside other tests.
const TIMEOUT: Duration = Duration::from_secs(180);
/// The first process of the booted kernel.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t cgroup2 cgroup /sys/fs/cgroup
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/slimfaas-agent verify
echo verified: $?
/bin/busybox poweroff -f
";

#[test]
fn older_kernels_take_the_programs() {
    let found = needs().and_then(|object| Ok((object, kernels()?)));
    match found {
        Ok((object, kernels)) => boot_all(&object, &kernels).unwrap_or_else(|error| panic!("{error:#}")),
        Err(reason) => skip_or_fail("kernel", "older_kernels_take_the_programs", format!("{reason:#}")),
    }
}

fn needs() -> Result<PathBuf> {
    for (program, package) in
        [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("cpio", "cpio")]
    {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let is_there = std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
        ensure!(is_there, "{program} is missing: install {package}");
    }
    match std::env::var_os("SLIMFAAS_PROGRAMS") {
        Some(object) => Ok(object.into()),
        None => bail!("there is no object of kernel programs: cargo xtask test kernel builds one"),
    }
}

fn boot_all(object: &Path, kernels: &[PathBuf]) -> Result<()> {
    let scratch = Scratch::new("older")?;
    let image = initial_files(scratch.path(), object)?;
    for kernel in kernels {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", "Nehalem", "-m", "1024", "-nographic", "-no-reboot", "-kernel"]);
        qemu.arg(kernel).arg("-initrd").arg(&image);
        qemu.args(["-append", "console=ttyS0 panic=-1 edd=off nokaslr quiet"]);
        let (_, said) =
            run("qemu", &mut qemu, TIMEOUT, scratch.path()).with_context(|| kernel.display().to_string())?;
        ensure!(said.contains("verified: 0"), "{}: {said}", kernel.display());
        let guard = said.lines().find(|line| line.starts_with("guard_ingress")).unwrap_or_default();
        report::line(format_args!("{}: {}", kernel.display(), guard.trim_end()));
    }
    Ok(())
}

/// The agent with all that it is linked to, and a shell to start it.
fn initial_files(scratch: &Path, object: &Path) -> Result<PathBuf> {
    let root = scratch.join("root");
    for folder in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let agent = agent_binary()?;
    let stripped = Command::new("strip").arg("-o").arg(root.join("bin/slimfaas-agent")).arg(&agent).status()?;
    ensure!(stripped.success(), "strip failed");
    fs::copy(object, root.join("bin/slimfaas-programs.o"))?;
    let busybox = Command::new("sh").args(["-c", "command -v busybox"]).output()?;
    fs::copy(String::from_utf8(busybox.stdout)?.trim(), root.join("bin/busybox"))?;
    let linked = String::from_utf8(Command::new("ldd").arg(&agent).output()?.stdout)?;
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().context("a library is in a folder")?)?;
        fs::copy(library, target)?;
    }
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let image = scratch.join("initrd");
    let archive = format!("find . | cpio --quiet -o -H newc > {}", image.display());
    ensure!(Command::new("sh").args(["-c", &archive]).current_dir(&root).status()?.success(), "cpio failed");
    Ok(image)
}
