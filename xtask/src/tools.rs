//! `cargo xtask tools`: the public conformance suites and the checker that the black-box tests run, at fixed versions,
//! built from their packages into a cache outside `target/`. `slimfaas_tests::tools` finds them there. And the NATS
//! server, which `cargo xtask bench queue` installs there when it first needs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::packages;
use crate::terminal::{line, progress};

/// Overrides where the tools are kept.
pub(crate) const FOLDER: &str = "SLIMFAAS_TOOLS";

const H2SPEC: &str = "2.2.1";
const AUTOBAHN: &str = "25.10.1";
const NATS: &str = "2.15.2";

/// The module that pins h2spec: `go install` refuses it, because its release is older than Go's modules.
const H2SPEC_MODULE: &[(&str, &str)] = &[
    ("go.mod", include_str!("../tools/h2spec/go.mod")),
    ("go.sum", include_str!("../tools/h2spec/go.sum")),
    ("require.go", include_str!("../tools/h2spec/require.go")),
];

/// The module that pins the NATS server and all that it stands on.
const NATS_MODULE: &[(&str, &str)] = &[
    ("go.mod", include_str!("../tools/nats-server/go.mod")),
    ("go.sum", include_str!("../tools/nats-server/go.sum")),
    ("require.go", include_str!("../tools/nats-server/require.go")),
];

/// Autobahn's test suite and all that it stands on. It is written in Python 2.
const AUTOBAHN_REQUIREMENTS: &str = include_str!("../tools/autobahn/requirements.txt");

/// The function that Autobahn's client is pointed at.
const AUTOBAHN_ECHO: &str = include_str!("../tools/autobahn/wsecho.py");

/// The checker of the crash suite's histories, and the module that pins what it stands on.
const PORCUPINE: &str = "1.3.1";
const HISTORYCHECK_MODULE: &[(&str, &str)] = &[
    ("go.mod", include_str!("../tools/porcupine/go.mod")),
    ("go.sum", include_str!("../tools/porcupine/go.sum")),
    ("main.go", include_str!("../tools/porcupine/main.go")),
];

/// What the crash suite cuts links, fills disks and shifts clocks with, and the Debian package of each.
const CRASH_PACKAGES: &[(&str, &str)] =
    &[("ip", "iproute2"), ("nft", "nftables"), ("mkfs.ext4", "e2fsprogs"), ("mount", "mount")];
const FAKETIME_PACKAGE: &str = "libfaketime";
/// Where that puts its library, for each kind of processor.
const FAKETIME_FOLDERS: &[&str] = &["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime"];

/// Where the tools are: `bin/h2spec`, `bin/historycheck`, `bin/wstest` and `bin/wsecho` below it.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let folder = set(FOLDER).or_else(|| Some(cache()?.join("slimfaas-tools")));
    let folder = folder.with_context(|| format!("set {FOLDER} or HOME: there is no place to keep tools in"))?;
    Ok(std::path::absolute(folder)?)
}

/// Installs what is missing or of another version.
pub(crate) fn install_all() -> Result<()> {
    // Only root can install packages, and only root's tests need them.
    if rustix::process::geteuid().is_root() {
        packages::install("the crash suite", missing_packages)?;
    }
    let folder = folder()?;
    std::fs::create_dir_all(folder.join("bin")).with_context(|| format!("cannot create {}", folder.display()))?;
    let recipe = |module: &[(&str, &str)]| module.iter().map(|(_, content)| *content).collect::<String>();
    install(&folder, "historycheck", PORCUPINE, &recipe(HISTORYCHECK_MODULE), build_historycheck)?;
    install(&folder, "h2spec", H2SPEC, &recipe(H2SPEC_MODULE), build_h2spec)?;
    install(&folder, "wstest", AUTOBAHN, &[AUTOBAHN_REQUIREMENTS, AUTOBAHN_ECHO].concat(), build_autobahn)?;
    Ok(())
}

fn missing_packages() -> Vec<&'static str> {
    let programs = CRASH_PACKAGES.iter().filter(|(program, _)| packages::find(program).is_none());
    let mut missing: Vec<&str> = programs.map(|(_, package)| *package).collect();
    if !FAKETIME_FOLDERS.iter().any(|folder| Path::new(folder).is_dir()) {
        missing.push(FAKETIME_PACKAGE);
    }
    missing
}

/// The NATS server that `bench queue` measures, installed if it is missing.
pub(crate) fn nats_server() -> Result<PathBuf> {
    const NAME: &str = "nats-server";
    let folder = folder()?;
    std::fs::create_dir_all(folder.join("bin")).with_context(|| format!("cannot create {}", folder.display()))?;
    let module: String = NATS_MODULE.iter().map(|(_, content)| *content).collect();
    install(&folder, NAME, NATS, &module, build_nats)?;
    Ok(folder.join("bin").join(NAME))
}

/// Runs `build`, which leaves executables in the folder it is given, unless it already did with this very recipe.
fn install(
    folder: &Path,
    name: &str,
    version: &str,
    recipe: &str,
    build: fn(work: &Path, executables: &Path) -> Result<()>,
) -> Result<()> {
    let executables = folder.join("bin");
    let stamp = folder.join(format!("{name}.recipe"));
    let recipe = format!("{version}\n{recipe}");
    if !std::fs::read_to_string(&stamp).is_ok_and(|done| done == recipe) || !executables.join(name).is_file() {
        progress(&format!("installing {name} {version}"));
        let work = folder.join(format!("{name}.build"));
        fresh_folder(&work)?;
        build(&work, &executables).with_context(|| format!("cannot install {name} {version}"))?;
        // Last, so that an interrupted installation starts again.
        std::fs::write(&stamp, recipe)?;
    }
    line(&format!("{name} {version}: {}", executables.join(name).display()));
    Ok(())
}

fn fresh_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", folder.display()))
        }
        _ => std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display())),
    }
}

fn build_h2spec(work: &Path, executables: &Path) -> Result<()> {
    build_go(work, H2SPEC_MODULE, "github.com/summerwind/h2spec/cmd/h2spec", &executables.join("h2spec"))
}

fn build_historycheck(work: &Path, executables: &Path) -> Result<()> {
    build_go(work, HISTORYCHECK_MODULE, ".", &executables.join("historycheck"))
}

fn build_nats(work: &Path, executables: &Path) -> Result<()> {
    build_go(work, NATS_MODULE, "github.com/nats-io/nats-server/v2", &executables.join("nats-server"))
}

/// Builds `package` as `module`, written to `work`, pins it.
fn build_go(work: &Path, module: &[(&str, &str)], package: &str, program: &Path) -> Result<()> {
    for (name, content) in module {
        std::fs::write(work.join(name), content)?;
    }
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"]).arg(program).arg(package);
    go.current_dir(work).env("CGO_ENABLED", "0");
    run(&mut go, "go (1.26 or newer), which builds it")
}

fn build_autobahn(work: &Path, executables: &Path) -> Result<()> {
    let python = python2()?;
    std::fs::write(work.join("requirements.txt"), AUTOBAHN_REQUIREMENTS)?;
    let packages = work.join("packages");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"]);
    pip.arg(work.join("requirements.txt")).arg("--target").arg(&packages);
    // Python 2 is announced to be out of support at every call; we know.
    pip.env("PYTHONWARNINGS", "ignore").env("PIP_NO_PYTHON_VERSION_WARNING", "1");
    run(&mut pip, "pip for Python 2.7")?;
    std::fs::write(work.join("wsecho.py"), AUTOBAHN_ECHO)?;
    let client = "from autobahntestsuite.wstest import run; run()";
    let echo = format!("execfile(\"{}\")", work.join("wsecho.py").display());
    for (name, program) in [("wstest", client), ("wsecho", &*echo)] {
        // `site` makes the namespace packages in there importable, which a plain search path does not.
        let script = format!(
            "#!/bin/sh\nexec '{}' -B -c 'import site, sys; site.addsitedir(\"{}\"); sys.argv[0] = \"{name}\"; {program}' \"$@\"\n",
            python.display(),
            packages.display(),
        );
        let executable = executables.join(name);
        std::fs::write(&executable, script)?;
        std::fs::set_permissions(&executable, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let mut trial = Command::new(executables.join("wstest"));
    run(trial.arg("--help").stdout(Stdio::null()), "wstest itself")
}

/// A Python 2.7 with pip: on the path, or among pyenv's versions.
fn python2() -> Result<PathBuf> {
    let mut candidates = vec![PathBuf::from("python2.7"), PathBuf::from("python2")];
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    if let Some(versions) = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok()) {
        let pythons = versions.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("2.7."));
        candidates.extend(pythons.map(|entry| entry.path().join("bin/python2.7")));
    }
    let works = |python: &PathBuf| {
        let mut trial = Command::new(python);
        trial.args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    };
    match candidates.into_iter().find(works) {
        Some(python) => Ok(python),
        None => bail!(
            "Autobahn's test suite needs Python 2.7 with pip: none is on the path or in pyenv (`pyenv install 2.7.18`)"
        ),
    }
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {what}"))?;
    ensure!(status.success(), "{what} failed: {status}");
    Ok(())
}
