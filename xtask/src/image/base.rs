//! What a program needs of a system, and nothing else: the shared libraries that it is linked to with their loader,
//! user names, how names are resolved, certificates, and a folder for temporary files. No shell, no package manager.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::archive::Layer;

/// The account that programs run as. The number is the one that distroless images use for it.
pub(crate) const NONROOT: &str = "65532:65532";

const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
const NSSWITCH: &str = "hosts: files dns\n";
/// Where Debian, and so the images that we look like, has the authorities that it trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The layer below `programs`: the same for all images of one build, so that a node keeps it once.
pub(crate) fn layer(programs: &[PathBuf]) -> Result<Layer> {
    let mut layer = Layer::default();
    layer.file("/etc/passwd", 0o644, PASSWD.into())?;
    layer.file("/etc/group", 0o644, GROUP.into())?;
    layer.file("/etc/nsswitch.conf", 0o644, NSSWITCH.into())?;
    layer.folder("/tmp", 0o1777)?;
    if let Ok(certificates) = fs::read(CERTIFICATES) {
        layer.file(CERTIFICATES, 0o644, certificates)?;
    }
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(needed_libraries(program)?);
    }
    for library in libraries {
        let content = fs::read(&library).with_context(|| format!("cannot read {library}"))?;
        layer.file(&library, 0o755, content)?;
    }
    Ok(layer)
}

/// Paths of all libraries that the program is linked to, and of the loader that finds them.
fn needed_libraries(program: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd, which is part of the C library")?;
    let told = String::from_utf8_lossy(&output.stderr);
    // It fails for a program that needs nothing.
    if told.contains("not a dynamic executable") {
        return Ok(BTreeSet::new());
    }
    ensure!(output.status.success(), "ldd {} failed: {}", program.display(), told.trim());
    parse_libraries(&String::from_utf8_lossy(&output.stdout))
}

/// Lines of `ldd`: `name => path (address)`, or `path (address)` for the loader, or a name alone for what is in the
/// kernel.
fn parse_libraries(listed: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for line in listed.lines().map(str::trim).filter(|line| *line != "statically linked") {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        if place == "not found" {
            bail!("a library is missing: {line}");
        }
        let path = place.rsplit_once(" (").map_or(place, |(path, _)| path);
        if path.starts_with('/') {
            found.insert(path.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found_in_what_ldd_says() {
        let listed = "\tlinux-vdso.so.1 (0x00007fff)\n\
            \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f01)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f03)\n";
        let expected =
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib64/ld-linux-x86-64.so.2"];
        let found = parse_libraries(listed).expect("all are there");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        assert!(parse_libraries("\tstatically linked\n").expect("nothing is missing").is_empty());
        parse_libraries("\tlibmissing.so => not found\n").expect_err("one is missing");
    }

    #[test]
    fn a_program_of_this_machine_finds_its_libraries() {
        let own = std::env::current_exe().expect("this program has a file");
        let found = needed_libraries(&own).expect("ldd is there");
        assert!(found.iter().any(|path| path.contains("libc.")), "{found:?}");
        assert!(found.iter().any(|path| path.contains("ld-linux") || path.contains("ld-musl")), "{found:?}");
    }
}
