//! `slimfaas.local.yaml`: files to a [`Manifest`], with every problem at once.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::document::{self, Node, Place};
use super::env_file;
use super::expand::{Variables, expand_all};
use super::overlay::{conform, merge};
use super::reading::Cursor;
use super::report::Report;
use super::schema::ROOT;
use crate::config::{annotations, jobs, suggest};
use crate::model::job::{self, JobSpec};
use crate::model::problem::Problem;
use crate::model::spec::{Dependency, FunctionSpec};
use crate::table::view::Address;

/// Read when no file is named.
pub const DEFAULT_FILE: &str = "slimfaas.local.yaml";

/// The variable that names the running binary, so that a manifest can use the example function.
const OWN_PROGRAM: &str = "SLIMFAAS_EXE";

/// Far above any manifest; keeps a wrong `-f` from filling the memory.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A checked manifest: what `slimfaas local up` runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub name: String,
    /// Gateway nodes, all in one process.
    pub nodes: u16,
    /// The port that stays the same whatever the number of nodes; the first one listens there.
    pub entrypoint_port: u16,
    /// The first node's own HTTP port; the others follow.
    pub node_http_port: u16,
    /// The first node's peer port, when there are several.
    pub raft_port: u16,
    /// `None`: the file does not say.
    pub log_level: Option<LogLevel>,
    /// Ports that replicas are given.
    pub process_ports: RangeInclusive<u16>,
    pub state: State,
    pub functions: BTreeMap<String, FunctionEntry>,
    pub processes: BTreeMap<String, ProcessEntry>,
    pub jobs: BTreeMap<String, JobEntry>,
}

/// `cluster.nodeLogLevel`, in the words of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Information,
    Warning,
    Error,
    Critical,
    None,
}

impl LogLevel {
    /// The nearest filter of our log.
    pub fn as_filter(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Information => "info",
            Self::Warning => "warn",
            Self::Error | Self::Critical => "error",
            Self::None => "off",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Kept from one `up` to the next.
    pub persistent: bool,
    pub directory: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FunctionEntry {
    pub runs: Runs,
    pub spec: Arc<FunctionSpec>,
    /// Of the annotations; the function runs all the same.
    pub problems: Arc<[Problem]>,
    pub health: Health,
    pub shutdown: Option<Shutdown>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Runs {
    Processes(Launch),
    /// `debugUrl`: somebody else (an IDE) runs the one replica.
    Elsewhere(Address),
}

/// How to start one process. Placeholders are not filled in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    pub directory: PathBuf,
    pub environment: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// May hold placeholders.
    pub path: String,
    pub period: Duration,
    pub timeout: Duration,
    /// From a process's start to its first healthy answer.
    pub startup_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// May hold placeholders.
    pub path: String,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobEntry {
    pub launch: Launch,
    pub spec: Arc<JobSpec>,
    /// Of the annotations; the job runs all the same.
    pub problems: Arc<[Problem]>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProcessEntry {
    pub launch: Launch,
    pub port: ProcessPort,
    pub restart: RestartPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPort {
    Absent,
    Fixed(u16),
    /// One of the pool.
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

const PORTS: RangeInclusive<u16> = 1..=u16::MAX;

/// Reads `files`, each over the ones before it. `env` is the process environment; later `env_files` win over earlier.
///
/// Answers the manifest and its warnings, or everything that is wrong.
pub fn load(
    files: &[PathBuf],
    env_files: &[PathBuf],
    env: &BTreeMap<String, String>,
) -> Result<(Manifest, Vec<Problem>), Vec<Problem>> {
    let report = Report::new(files.iter().map(|file| file.display().to_string()).collect());
    let mut root = Node::empty_map(Place { file: 0, line: 1 });
    for (index, file) in files.iter().enumerate() {
        if let Some(node) = read_document(file, index, &report) {
            merge(&mut root, conform(node, &ROOT, "", &report));
        }
    }
    let env_layers: Vec<BTreeMap<String, String>> = env_files.iter().map(|file| read_env_file(file, &report)).collect();
    let own = own_variables();
    let mut layers = vec![env];
    layers.extend(env_layers.iter().rev());
    layers.push(&own);
    expand_all(&mut root, &Variables::new(layers), "", &report);
    let base = files.first().and_then(|file| file.parent()).unwrap_or(Path::new(""));
    let manifest = read_manifest(&Cursor::root(&root, &report), base);
    if report.has_problems() { Err(report.into_problems()) } else { Ok((manifest, report.into_warnings())) }
}

fn own_variables() -> BTreeMap<String, String> {
    let program = std::env::current_exe().ok();
    program.iter().map(|path| (OWN_PROGRAM.to_owned(), path.display().to_string())).collect()
}

fn read_document(file: &Path, index: usize, report: &Report) -> Option<Node> {
    let source = read_text(file, report)?;
    match document::parse(&source, index) {
        Ok(node) => Some(node),
        Err(error) => {
            report.problem(Place { file: index, line: error.line }, "", error.message);
            None
        }
    }
}

fn read_env_file(file: &Path, report: &Report) -> BTreeMap<String, String> {
    let Some(source) = read_text(file, report) else { return BTreeMap::new() };
    let (variables, problems) = env_file::parse(&source, &file.display().to_string());
    problems.into_iter().for_each(|problem| report.problem_of(problem));
    variables
}

fn read_text(file: &Path, report: &Report) -> Option<String> {
    let told = |message: String| {
        report.problem_of(Problem::new(file.display().to_string(), message));
        None
    };
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return told(format!("larger than {FILE_BYTES_MAX} bytes; check that this is the file that you mean"));
        }
        Ok(_) => {}
        Err(error) => return told(format!("cannot be read: {error}")),
    }
    match fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) => told(format!("cannot be read: {error}")),
    }
}

fn read_manifest(root: &Cursor<'_>, base: &Path) -> Manifest {
    root.child("schemaVersion").number(&(1..=1), 1);
    let name = read_name(&root.child("name"));
    let cluster = root.child("cluster");
    let state = root.child("state");
    let directory = state.child("directory").text().unwrap_or_else(|| format!(".slimfaas/{name}"));
    let persistent = state.child("mode").choice(&[("persistent", true), ("ephemeral", false)]).unwrap_or(true);
    let manifest = Manifest {
        nodes: cluster.child("nodes").number(&(1..=3), 1),
        entrypoint_port: cluster.child("entrypointPort").number(&PORTS, 30020),
        node_http_port: cluster.child("nodeHttpPortBase").number(&PORTS, 30021),
        raft_port: cluster.child("raftPortBase").number(&PORTS, 3262),
        log_level: read_log_level(&cluster.child("nodeLogLevel")),
        process_ports: read_pool(&root.child("processPorts")),
        state: State { persistent, directory: base.join(directory) },
        functions: read_functions(&root.child("functions"), base),
        processes: read_processes(&root.child("processes"), base),
        jobs: read_jobs(&root.child("jobs"), base),
        name,
    };
    check_ports(&manifest, root);
    check_process_dependencies(&manifest, &root.child("functions"));
    manifest
}

fn read_name(cursor: &Cursor<'_>) -> String {
    let name = cursor.text().unwrap_or_else(|| "slimfaas-local".to_owned());
    if !is_process_name(&name.to_ascii_lowercase()) {
        cursor.problem("letters, digits, `_`, `.` and `-`, at most 63, the first a letter or digit");
    }
    name
}

fn read_log_level(cursor: &Cursor<'_>) -> Option<LogLevel> {
    let choices = [
        ("Trace", LogLevel::Trace),
        ("Debug", LogLevel::Debug),
        ("Information", LogLevel::Information),
        ("Warning", LogLevel::Warning),
        ("Error", LogLevel::Error),
        ("Critical", LogLevel::Critical),
        ("None", LogLevel::None),
    ];
    cursor.choice(&choices)
}

fn read_pool(cursor: &Cursor<'_>) -> RangeInclusive<u16> {
    // 1024: the ones below need privileges.
    let allowed = 1024..=u16::MAX;
    let from = cursor.child("from").number(&allowed, 5000);
    let to = cursor.child("to").number(&allowed, 5999);
    if from > to {
        cursor.problem(format!("from ({from}) is above to ({to})"));
        return 5000..=5999;
    }
    from..=to
}

fn check_ports(manifest: &Manifest, root: &Cursor<'_>) {
    let cluster = root.child("cluster");
    let of_each_node = |key, base: u16| (0..manifest.nodes).map(move |node| (key, base.saturating_add(node)));
    let named: Vec<(&str, u16)> = std::iter::once(("entrypointPort", manifest.entrypoint_port))
        .chain(of_each_node("nodeHttpPortBase", manifest.node_http_port))
        .chain(of_each_node("raftPortBase", manifest.raft_port))
        .collect();
    for (i, (key, port)) in named.iter().enumerate() {
        if let Some((other, _)) = named[..i].iter().find(|(_, taken)| taken == port) {
            cluster.child(key).problem(format!("{port} is cluster.{other} already"));
        }
        if manifest.process_ports.contains(port) {
            cluster.child(key).problem(format!("{port} is inside of processPorts; move one of them"));
        }
    }
    let mut taken: BTreeMap<u16, String> = named.iter().map(|(key, port)| (*port, format!("cluster.{key}"))).collect();
    for (name, process) in &manifest.processes {
        let ProcessPort::Fixed(port) = process.port else { continue };
        if let Some(other) = taken.insert(port, format!("processes.{name}.port")) {
            root.child("processes").child(name).child("port").problem(format!("{port} is {other} already"));
        }
    }
}

fn check_process_dependencies(manifest: &Manifest, functions: &Cursor<'_>) {
    let names: Vec<&str> = manifest.processes.keys().map(String::as_str).collect();
    for (name, entry) in &manifest.functions {
        for dependency in &entry.spec.depends_on {
            let Dependency::Process(process) = dependency else { continue };
            if !manifest.processes.contains_key(process) {
                let hint = suggest::did_you_mean(process, names.iter().copied());
                let cursor = functions.child(name).child("annotations").child("SlimFaas/DependsOn");
                cursor.problem(format!("there is no process {process:?} under processes{hint}"));
            }
        }
    }
}

fn read_functions(cursor: &Cursor<'_>, base: &Path) -> BTreeMap<String, FunctionEntry> {
    let named = cursor.entries().into_iter();
    named
        .map(|(name, function)| {
            check_function_name(name, &function);
            (name.to_owned(), read_function(&function, base))
        })
        .collect()
}

fn read_function(cursor: &Cursor<'_>, base: &Path) -> FunctionEntry {
    let debug_url = cursor.child("debugUrl");
    let runs = match debug_url.text() {
        Some(url) => Runs::Elsewhere(read_debug_url(&debug_url, &url)),
        None => Runs::Processes(read_launch(cursor, base)),
    };
    let written = cursor.child("annotations");
    let texts = written.text_map();
    if !annotations::is_function(&texts) {
        written.problem("SlimFaas/Function: \"true\" is required");
    }
    let (spec, problems) = annotations::parse(&texts);
    for problem in &problems {
        written.child(&problem.key).warning(problem.message.clone());
    }
    FunctionEntry {
        runs,
        spec: Arc::new(spec),
        problems: problems.into(),
        health: read_health(&cursor.child("health")),
        shutdown: read_shutdown(&cursor.child("shutdown")),
    }
}

fn read_launch(cursor: &Cursor<'_>, base: &Path) -> Launch {
    let directory = cursor.child("workingDirectory");
    let path = base.join(directory.text().unwrap_or_else(|| ".".to_owned()));
    // A relative command would otherwise depend on where `up` was called.
    let path = std::path::absolute(&path).unwrap_or(path);
    if !path.is_dir() {
        directory.problem("there is no such directory; it is relative to the first manifest file");
    }
    let environment = cursor.child("environment");
    for (name, entry) in environment.entries() {
        if name.is_empty() || name.contains(['=', '\0']) {
            entry.problem("not the name of an environment variable");
        }
    }
    Launch { command: cursor.child("command").command(), directory: path, environment: environment.text_map() }
}

fn read_debug_url(cursor: &Cursor<'_>, url: &str) -> Address {
    let uri: Option<http::Uri> = url.parse().ok();
    let is_ours = |uri: &http::Uri| uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
    let address = uri.filter(is_ours).and_then(|uri| {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16()?;
        Some(match host.parse() {
            Ok(ip) => Address::Socket(std::net::SocketAddr::new(ip, port)),
            Err(_) => Address::Host(host.into(), port),
        })
    });
    address.unwrap_or_else(|| {
        cursor.problem("must be an absolute http URL with a port and no path, such as http://localhost:5005");
        Address::Host("localhost".into(), 1)
    })
}

/// A day: longer than anything that a person waits for.
const SECONDS: RangeInclusive<u64> = 1..=86_400;

fn read_seconds(cursor: &Cursor<'_>, default: u64) -> Duration {
    Duration::from_secs(cursor.number(&SECONDS, default))
}

fn read_health(cursor: &Cursor<'_>) -> Health {
    Health {
        path: cursor.child("path").url_path("/health"),
        period: read_seconds(&cursor.child("periodSeconds"), 1),
        timeout: read_seconds(&cursor.child("timeoutSeconds"), 2),
        startup_timeout: read_seconds(&cursor.child("startupTimeoutSeconds"), 120),
    }
}

fn read_shutdown(cursor: &Cursor<'_>) -> Option<Shutdown> {
    cursor.is_present().then(|| Shutdown {
        path: cursor.child("path").url_path("/shutdown"),
        timeout: read_seconds(&cursor.child("timeoutSeconds"), 5),
    })
}

fn read_processes(cursor: &Cursor<'_>, base: &Path) -> BTreeMap<String, ProcessEntry> {
    let named = cursor.entries().into_iter();
    named
        .map(|(name, process)| {
            if !is_process_name(name) {
                process.problem(
                    "a process is named by lower-case letters, digits, `_`, `.` and `-`, at most 63, the first a letter or digit",
                );
            }
            (name.to_owned(), read_process(&process, base))
        })
        .collect()
}

fn read_process(cursor: &Cursor<'_>, base: &Path) -> ProcessEntry {
    let port = cursor.child("port");
    let policies =
        [("always", RestartPolicy::Always), ("onFailure", RestartPolicy::OnFailure), ("never", RestartPolicy::Never)];
    ProcessEntry {
        launch: read_launch(cursor, base),
        port: match port.text() {
            None => ProcessPort::Absent,
            Some(text) if text.eq_ignore_ascii_case("auto") => ProcessPort::Auto,
            Some(text) => text.parse().ok().filter(|port| PORTS.contains(port)).map_or_else(
                || {
                    port.problem("must be `auto` or a port from 1 to 65535; leave it out for a process without a port");
                    ProcessPort::Absent
                },
                ProcessPort::Fixed,
            ),
        },
        restart: cursor.child("restartPolicy").choice(&policies).unwrap_or(RestartPolicy::Always),
    }
}

fn read_jobs(cursor: &Cursor<'_>, base: &Path) -> BTreeMap<String, JobEntry> {
    let named = cursor.entries().into_iter();
    named
        .map(|(name, job)| {
            if !jobs::is_name(name) {
                job.problem("jobs are named by 3 to 30 lower-case letters, digits, `_` and `-`");
            }
            (name.to_owned(), read_job(name, &job, base))
        })
        .collect()
}

fn read_job(name: &str, cursor: &Cursor<'_>, base: &Path) -> JobEntry {
    let policies = [("Never", job::RestartPolicy::Never), ("OnFailure", job::RestartPolicy::OnFailure)];
    let mut spec = JobSpec {
        ttl_seconds: cursor.child("ttlSecondsAfterFinished").number(&(0..=u32::MAX), 60),
        backoff_limit: cursor.child("backoffLimit").number(&(0..=u32::MAX), 1),
        restart_policy: cursor.child("restartPolicy").choice(&policies).unwrap_or_default(),
        // Not enforced here.
        resources: job::Resources::default(),
        ..JobSpec::default()
    };
    let written = cursor.child("annotations");
    let texts = written.text_map();
    if !jobs::is_job(&texts) {
        written.problem("SlimFaas/Job: \"true\" is required");
    }
    let problems = jobs::annotate(name, &mut spec, &texts);
    for problem in &problems {
        written.child(&problem.key).warning(problem.message.clone());
    }
    JobEntry { launch: read_launch(cursor, base), spec: Arc::new(spec), problems: problems.into() }
}

fn check_function_name(name: &str, cursor: &Cursor<'_>) {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if !(3..=63).contains(&name.len()) || !name.bytes().all(letters) {
        cursor.problem("functions are named by 3 to 63 lower-case letters, digits, `_` and `-`");
    }
}

fn is_process_name(name: &str) -> bool {
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let rest = |b: u8| first(b) || matches!(b, b'_' | b'.' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().next().is_some_and(first) && name.bytes().all(rest)
}

#[cfg(test)]
mod tests;
