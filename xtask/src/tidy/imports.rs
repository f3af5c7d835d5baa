//! Which module of the gateway may import which: the direction of the architecture, as data.
//!
//! `model` ← pure cores ← handles ← shells ← `app` ← `bin`. Invariant: the most specific row decides, and what no row
//! allows is a finding.

use super::Finding;
use super::source::{NamedPath, Token, paths, production_code, tokens};

/// One module (with all below it) and what it may import beside itself, [`EVERYWHERE`] and its own pure cores.
struct Row {
    module: &'static str,
    may: &'static [&'static str],
    /// A group of modules that it may import too.
    group: &'static [&'static str],
}

const fn row(module: &'static str, may: &'static [&'static str]) -> Row {
    Row { module, may, group: &[] }
}

impl Row {
    const fn and(self, group: &'static [&'static str]) -> Self {
        Self { group, ..self }
    }

    fn allowed(&self) -> impl Iterator<Item = &'static str> {
        self.may.iter().chain(self.group).copied()
    }
}

/// Imported by anything: values without behaviour, and the value types of time.
const EVERYWHERE: &[&str] = &["model", "clock"];

/// What may import everything.
const ROOT: &str = "app";

const TABLE: &[Row] = &[
    // Beside the gateway itself: the verbs that need no gateway (validate a manifest, be a replica, be the example).
    row(
        "bin",
        &[
            "app",
            "agent",
            "config",
            "events::publisher",
            "telemetry",
            "signal",
            "example",
            "cluster::local::child",
            "cluster::local::manifest",
        ],
    ),
    row("example", &["net", "signal", "drain"]),
    row("model", &[]),
    row("clock", &[]),
    row("net", &[]),
    row("config", &[]),
    row("drain", &[]),
    row("readiness", &[]),
    row("signal", &[]),
    // Gauges are read from the table when somebody asks for them.
    row("telemetry", &["config", "table", "peer"]),
    // The channel between nodes knows nothing of what goes through it but functions' activity.
    row("peer", &["net", "table", "drain"]),
    row("peer::digest", &[]),
    row("peer::frame", &[]),
    row("peer::inbox", &["peer::frame"]),
    row("peer::outbox", &["peer::frame"]),
    row("table", &["net"]),
    // `config` here and elsewhere: the plain values of what the operator asked for.
    row("proxy", &["table", "events", "telemetry", "net", "config", "drain"]),
    row("proxy::visibility", &[]),
    // Our own routes call handles and answer through the same bodies and rejections as the proxy.
    row(
        "api",
        &[
            "table",
            "queue",
            "scaler",
            "jobs",
            "events",
            "store",
            "cluster",
            "proxy",
            "config",
            "telemetry",
            "readiness",
            "drain",
        ],
    ),
    row(
        "queue",
        &[
            "store",
            "bodies",
            "table",
            "proxy::enqueue",
            "proxy::deliver",
            "proxy::rejection",
            "proxy::wake",
            "telemetry",
            "drain",
        ],
    ),
    // Large bodies of what is stored. They read the store, and propose nothing.
    row("bodies", &["peer", "store", "drain"]).and(QUEUE_CORES),
    row("bodies::wire", &[]).and(QUEUE_CORES),
    row("queue::codec", &[]).and(QUEUE_CORES),
    row("queue::command", &[]).and(QUEUE_CORES),
    row("queue::element", &[]).and(QUEUE_CORES),
    row("queue::function", &[]).and(QUEUE_CORES),
    row("queue::plan", &[]).and(QUEUE_CORES),
    row("queue::request", &[]).and(QUEUE_CORES),
    row("queue::retry", &[]).and(QUEUE_CORES),
    row("queue::tables", &[]).and(QUEUE_CORES),
    row("store", &["peer"]).and(QUEUE_CORES),
    row("store::command", STORE_CORES).and(QUEUE_CORES),
    row("store::state", STORE_CORES).and(QUEUE_CORES),
    row("store::snapshot", STORE_CORES).and(QUEUE_CORES),
    row("scaler", &["table", "store", "cluster", "telemetry", "drain"]),
    row("scaler::decide", SCALER_CORES),
    row("scaler::depends", SCALER_CORES),
    row("scaler::history", SCALER_CORES),
    row("scaler::schedule", SCALER_CORES),
    row("scaler::stabilize", SCALER_CORES),
    // What an event is; `proxy::publish` delivers it, over the connections of the core that was asked.
    row("events", &["net"]),
    row("events::cloud_event", &["events::name"]),
    row("events::name", &[]),
    row("events::prefer", &[]),
    // Runs of jobs are named by the ids that the log has for them.
    row("cluster", &["table", "config", "identity", "net", "telemetry", "drain", "readiness", "queue::element"]),
    row("cluster::seen_runs", &["queue::element"]),
    row("jobs", &["cluster", "config", "store", "queue::command", "queue::element", "table", "proxy::wake", "drain"]),
    row("jobs::command", &[]).and(QUEUE_CORES),
    row("jobs::plan", &[]).and(QUEUE_CORES),
    row("jobs::duties", &["cluster::seen_runs", "queue::element", "jobs::command", "jobs::plan"]),
    row("jobs::quantity", &[]),
    row("jobs::resolve", &["jobs::quantity"]),
    row("identity", &[]),
    row("agent", &["cluster::kube", "identity", "peer", "net", "drain", "signal"]),
    row("agent::desired", &[]),
    row("agent::knowledge", &["identity", "agent::desired"]),
];

/// The state machines of the queue and of jobs. The store runs them, and knows nothing else of either.
const QUEUE_CORES: &[&str] = &[
    "jobs::command",
    "jobs::plan",
    "queue::codec",
    "queue::command",
    "queue::element",
    "queue::function",
    "queue::plan",
    "queue::request",
    "queue::retry",
    "queue::tables",
];

const STORE_CORES: &[&str] = &["store::command", "store::state", "store::snapshot"];

const SCALER_CORES: &[&str] =
    &["scaler::decide", "scaler::depends", "scaler::history", "scaler::schedule", "scaler::stabilize"];

/// Decisions: values in, values out. They run the same on every node and in every simulation.
const PURE: &[&[&str]] = &[
    &["agent::desired", "agent::knowledge", "identity"],
    &["model", "peer::digest", "peer::frame", "peer::inbox", "peer::outbox", "proxy::visibility"],
    &["bodies::wire"],
    &["events::cloud_event", "events::name", "events::prefer"],
    &["cluster::seen_runs", "jobs::duties", "jobs::quantity", "jobs::resolve"],
    QUEUE_CORES,
    SCALER_CORES,
    STORE_CORES,
];

/// Words that no pure module contains.
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("async", "waits for nothing"),
    ("await", "waits for nothing"),
    ("HashMap", "has an order: use BTreeMap"),
    ("HashSet", "has an order: use BTreeSet"),
    ("tokio", "does no I/O"),
    ("hyper", "does no I/O"),
    ("rand", "is not random"),
];

/// Paths that no pure module names; what is below them is covered too.
const IMPURE_PATHS: &[&str] =
    &["std::fs", "std::env", "std::process", "std::thread", "std::net::TcpStream", "std::net::TcpListener"];

/// The parts of `clock` that are values. Everything else of it reads a clock.
const CLOCK_VALUES: &[&str] = &["Tick", "Instant"];

/// Heavy dependencies, each with the one module that knows it. A trailing `*` stands for any rest.
const OWNERS: &[(&str, &str)] = &[
    ("aya*", "agent"),
    ("curve25519_dalek", "peer::noise"),
    ("k8s_openapi", "cluster::kube"),
    ("kube", "cluster::kube"),
    ("openraft*", "store::raft"),
    ("opentelemetry*", "telemetry"),
    ("prometheus", "telemetry"),
    ("redb", "store::raft"),
    ("ring", "bodies::folder"),
    ("serde_saphyr", "cluster::local"),
    ("snow", "peer::noise"),
];

/// The gateway's source folder, as git names it.
pub(crate) const GATEWAY_SOURCE: &str = "slimfaas-gateway/src/";

/// Everything that `file` of the gateway (a path below the repository's root) names and should not.
pub(crate) fn check(file: &str, text: &str, findings: &mut Vec<Finding>) {
    let Some(module) = module_of(file) else { return };
    let tokens = tokens(&production_code(text));
    let paths = paths(&tokens);
    for path in &paths {
        let named = absolute(&module, path);
        let message = import_problem(&module, &named).or_else(|| owner_problem(&module, &named));
        findings.extend(message.map(|message| Finding::at(file, path.line, message)));
    }
    if is_pure(&module) {
        purity_problems(file, &module, &tokens, &paths, findings);
    }
}

/// `slimfaas-gateway/src/proxy/slot.rs` → `proxy::slot`. `None` for files outside, for `lib.rs` and for test modules.
fn module_of(file: &str) -> Option<String> {
    let path = file.strip_prefix(GATEWAY_SOURCE)?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let name = path.rsplit('/').next()?;
    let exempt = path == "lib" || path == "main" || name == "tests" || name.ends_with("_tests");
    (!exempt).then(|| path.replace('/', "::"))
}

/// The path seen from the crate's root (`crate::table::view`), with `self` and `super` resolved; others as they are.
fn absolute(module: &str, path: &NamedPath) -> Vec<String> {
    let segments = &path.segments;
    match &*segments[0] {
        // The binaries see the library as another crate.
        "slimfaas_gateway" => [&["crate".to_owned()], &segments[1..]].concat(),
        "self" | "super" => {
            let mut base: Vec<&str> = module.split("::").collect();
            let steps = segments.iter().take_while(|segment| matches!(&***segment, "self" | "super"));
            let (ups, total) = steps.fold((0, 0), |(ups, total), step| (ups + usize::from(step == "super"), total + 1));
            base.truncate(base.len().saturating_sub(ups));
            let base = std::iter::once("crate").chain(base).map(str::to_owned);
            base.chain(segments[total..].iter().cloned()).collect()
        }
        _ => segments.clone(),
    }
}

fn import_problem(module: &str, named: &[String]) -> Option<String> {
    let target = match named.split_first() {
        Some((first, rest)) if first == "crate" && !rest.is_empty() => rest.join("::"),
        _ => return None,
    };
    if is_within(module, ROOT) {
        return None;
    }
    let Some(row) = row_of(module) else {
        return Some(format!("module `{module}` has no row in xtask/src/tidy/imports.rs"));
    };
    // A parent names its children, and children their parent's other children, unless a row of their own says less.
    let own = is_within(&target, row.module);
    let listed = row.allowed().chain(EVERYWHERE.iter().copied()).any(|allowed| is_within(&target, allowed));
    (!own && !listed).then(|| format!("`{}` may not import `{target}`", row.module))
}

fn owner_problem(module: &str, named: &[String]) -> Option<String> {
    let krate = &named[0];
    let (_, owner) = OWNERS.iter().find(|(pattern, _)| matches_crate(pattern, krate))?;
    (!is_within(module, owner)).then(|| format!("only `{owner}` may know the crate `{krate}`"))
}

fn matches_crate(pattern: &str, krate: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => krate == start || krate.strip_prefix(start).is_some_and(|rest| rest.starts_with('_')),
        None => krate == pattern,
    }
}

fn purity_problems(file: &str, module: &str, tokens: &[Token], paths: &[NamedPath], findings: &mut Vec<Finding>) {
    for token in tokens {
        if let Some((word, why)) = IMPURE_WORDS.iter().find(|(word, _)| *word == token.text) {
            findings.push(Finding::at(file, token.line, format!("pure module `{module}` contains `{word}`: it {why}")));
        }
    }
    for path in paths {
        let named = absolute(module, path);
        let joined = named.join("::");
        // With `use crate::clock`, a call reads `clock::now()`.
        let clock = named.iter().position(|segment| segment == "clock").filter(|at| *at <= 1);
        let reads_clock = clock.is_some_and(|at| named.get(at + 1).is_none_or(|item| !CLOCK_VALUES.contains(&&**item)));
        if reads_clock || IMPURE_PATHS.iter().any(|impure| is_within(&joined, impure)) {
            findings.push(Finding::at(file, path.line, format!("pure module `{module}` names `{joined}`")));
        }
        if named.len() >= 2 && named[named.len() - 1] == "now" {
            findings.push(Finding::at(file, path.line, format!("pure module `{module}` reads a clock (`{joined}`)")));
        }
    }
}

fn is_pure(module: &str) -> bool {
    PURE.iter().copied().flatten().any(|pure| is_within(module, pure))
}

fn row_of(module: &str) -> Option<&'static Row> {
    TABLE.iter().filter(|row| is_within(module, row.module)).max_by_key(|row| row.module.len())
}

/// Whether `module` is `area` or below it.
fn is_within(module: &str, area: &str) -> bool {
    module.strip_prefix(area).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests;
