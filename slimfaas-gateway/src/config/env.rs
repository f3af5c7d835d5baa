//! Environment variables to `Config`.
//!
//! Every option is one row of `options::OPTIONS`: its names, default, limits and meaning. Bad values are all
//! reported at once and nothing runs with them; names that look like ours and are not only make a warning.

mod option;
mod options;
#[cfg(test)]
mod tests;
mod unused;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::config::annotations::quoted;
use crate::config::suggest;
use crate::config::url_template::UrlTemplate;
use crate::config::{ClusterSource, Config, fixed_functions};
use crate::model::problem::Problem;
use option::{Choice, Draft, Opt};
use unused::{UNUSED, Unused};

/// In a pod, this file names its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// What begins like this is meant for us, so an unknown name is worth a warning. Compared in upper case.
const PREFIXES: &[&str] =
    &["SLIMFAAS", "SLIMDATA", "WORKERS__", "KESTREL__", "OPENTELEMETRY__", "RAFTCLIENTHANDLER__", "DATA__"];

/// A configuration that can run.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// Names that are unknown, not used, or given twice.
    pub warnings: Vec<Problem>,
}

/// Every reason why there is no configuration; the caller exits with 64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the environment cannot be used")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// The configuration of this process; only this file reads its environment.
pub fn from_process() -> Result<Loaded, Invalid> {
    from_variables(BTreeMap::new())
}

/// The same for the local mode, whatever orchestrator the variables name.
pub fn from_process_for_local() -> Result<Loaded, Invalid> {
    from_variables(BTreeMap::from([(options::ORCHESTRATOR.to_owned(), "Local".to_owned())]))
}

/// `given` wins over the process's variables.
fn from_variables(given: BTreeMap<String, String>) -> Result<Loaded, Invalid> {
    let (mut vars, not_utf8) = decode(std::env::vars_os());
    vars.extend(given);
    add_pod_namespace(&mut vars, std::fs::read_to_string(NAMESPACE_FILE).ok());
    let mut result = load(vars);
    if !not_utf8.is_empty() {
        let (mut problems, warnings) = match result {
            Ok(loaded) => (Vec::new(), loaded.warnings),
            Err(invalid) => (invalid.problems, invalid.warnings),
        };
        problems.extend(not_utf8);
        result = Err(Invalid { problems, warnings });
    }
    result
}

/// The environment as text, for what a manifest may refer to; what is not UTF-8 is left out.
pub fn process_variables() -> BTreeMap<String, String> {
    decode(std::env::vars_os()).0
}

/// What the operator says explicitly wins over where the pod runs.
fn add_pod_namespace(vars: &mut BTreeMap<String, String>, pod_namespace: Option<String>) {
    let option = options::all().find(|option| option.name == options::NAMESPACE).expect("it is an option");
    let is_given = given(option, vars).iter().any(|given| !given.text.is_empty());
    if let Some(namespace) = pod_namespace.filter(|_| !is_given) {
        vars.insert(options::NAMESPACE.to_owned(), namespace);
    }
}

/// The variables as text. What is not UTF-8 is a problem where its name is one of ours.
fn decode(vars: impl IntoIterator<Item = (OsString, OsString)>) -> (BTreeMap<String, String>, Vec<Problem>) {
    let mut texts = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, value) in vars {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(text) => {
                texts.insert(name, text);
            }
            Err(_) if options::all().any(|option| option.names().any(|known| is_same(known, &name))) => {
                problems.push(Problem::new(name, "the value is not UTF-8 text"));
            }
            Err(_) => {}
        }
    }
    (texts, problems)
}

/// The configuration that `vars` ask for. An empty value counts as absent.
pub fn load(vars: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Invalid> {
    load_onto(Draft::blank(), vars)
}

fn load_onto(mut draft: Draft, vars: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Invalid> {
    let vars: BTreeMap<String, String> = vars.into_iter().filter(|(_, text)| !text.trim().is_empty()).collect();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut read: BTreeSet<String> = BTreeSet::new();
    for option in options::all() {
        let given = given(option, &vars);
        read.extend(given.iter().flat_map(|given| given.vars.iter().map(|name| (*name).to_owned())));
        let Some(used) = given.first() else {
            option.reads.read(&mut draft, option.default).expect("a default is valid");
            continue;
        };
        for other in given.iter().skip(1).filter(|other| other.text != used.text) {
            let message = format!("it is ignored, since {} is given too, with another value", used.vars[0]);
            warnings.push(Problem::new(other.vars[0], message));
        }
        if let Err(reason) = option.reads.read(&mut draft, &used.text) {
            problems.push(Problem::new(used.vars[0], format!("found {}; {reason}", quoted(&used.text))));
        }
    }
    warnings.append(&mut draft.warnings);
    choose_cluster(&mut draft, &mut problems, &mut warnings);
    check_nodes(&draft.config, &mut problems, &mut warnings);
    warnings.extend(vars.iter().filter(|(name, _)| !read.contains(*name)).filter_map(warn_about));
    if problems.is_empty() {
        Ok(Loaded { config: draft.config, warnings })
    } else {
        Err(Invalid { problems, warnings })
    }
}

/// One way in which an option is given.
struct Given<'v> {
    /// The variables that say so: one, or those of a numbered list.
    vars: Vec<&'v str>,
    text: String,
}

/// All ways in which `option` is given, the one that counts first: current names before old ones.
fn given<'v>(option: &Opt, vars: &'v BTreeMap<String, String>) -> Vec<Given<'v>> {
    let mut all = Vec::new();
    for known in option.names() {
        if let Some((name, text)) = vars.get_key_value(known) {
            all.push(Given { vars: vec![name], text: text.trim().to_owned() });
        }
        let other_case = vars.iter().filter(|(name, _)| *name != known && is_same(known, name));
        all.extend(other_case.map(|(name, text)| Given { vars: vec![name], text: text.trim().to_owned() }));
        if option.is_list && is_hierarchical(known) {
            all.extend(numbered(known, vars));
        }
    }
    all
}

/// `Name__0`, `Name__1`, … as one comma-separated text.
fn numbered<'v>(known: &str, vars: &'v BTreeMap<String, String>) -> Option<Given<'v>> {
    let mut items: Vec<(u32, &str, &str)> = Vec::new();
    for (name, text) in vars {
        if let Some((start, number)) = name.rsplit_once("__")
            && is_same(known, start)
            && let Ok(number) = number.parse()
        {
            items.push((number, name, text.trim()));
        }
    }
    items.sort_unstable();
    let text: Vec<&str> = items.iter().map(|(_, _, text)| *text).collect();
    let vars: Vec<&str> = items.iter().map(|(_, name, _)| *name).collect();
    if vars.is_empty() { None } else { Some(Given { vars, text: text.join(",") }) }
}

/// Hierarchical names have no case, as in .NET; flat ones have.
fn is_same(known: &str, name: &str) -> bool {
    if is_hierarchical(known) { known.eq_ignore_ascii_case(name) } else { known == name }
}

fn is_hierarchical(name: &str) -> bool {
    name.contains("__")
}

/// Where the manifests mount a volume.
const KUBERNETES_STORE: &str = "/var/lib/slimfaas";

/// Nodes of a cluster learn of a pod's end within a second or two; load balancers in front take a little longer.
const KUBERNETES_DRAIN_DELAY: Duration = Duration::from_secs(5);

/// The orchestrator and the fixed list decide together; the list is checked here, so that nothing fails later.
fn choose_cluster(draft: &mut Draft, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    let functions = draft.functions.take();
    draft.config.cluster = match (draft.orchestrator, functions) {
        (Choice::Unsaid | Choice::Fixed, Some(text)) => {
            // A bad template has been reported already.
            if let Ok(base) = UrlTemplate::parse(&draft.config.base_function_url) {
                match fixed_functions::parse(&text, &base, &draft.config.namespace) {
                    Ok(list) => warnings.extend(list.warnings),
                    Err(errors) => problems.extend(errors),
                }
            }
            ClusterSource::Fixed(text)
        }
        (Choice::Fixed, None) => {
            let message = format!("the orchestrator is Mock, but {} is not set", fixed_functions::KEY);
            problems.push(Problem::new(options::ORCHESTRATOR, message));
            ClusterSource::Fixed(String::new())
        }
        (Choice::Unsaid | Choice::Kubernetes, None) => ClusterSource::Kubernetes,
        (Choice::Local, None) => ClusterSource::Local,
        (named, Some(_)) => {
            let message = "it is ignored, since another orchestrator is asked for: set SLIMFAAS_ORCHESTRATOR to Mock";
            warnings.push(Problem::new(fixed_functions::KEY, message));
            if named == Choice::Local { ClusterSource::Local } else { ClusterSource::Kubernetes }
        }
    };
    let is_kubernetes = draft.config.cluster == ClusterSource::Kubernetes;
    let usual = if is_kubernetes { KUBERNETES_DRAIN_DELAY } else { Duration::ZERO };
    draft.config.drain_delay = draft.drain_delay.unwrap_or(usual);
    if is_kubernetes && draft.config.store_directory.is_none() {
        draft.config.store_directory = Some(KUBERNETES_STORE.into());
    }
}

fn check_nodes(config: &Config, problems: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
    if config.peer.nodes.is_empty() {
        return;
    }
    if !matches!(config.cluster, ClusterSource::Fixed(_)) {
        let message = "it is ignored: only with a fixed list of functions are the nodes listed too";
        warnings.push(Problem::new(options::PEER_NODES, message));
    } else if config.peer.key_file.is_none() {
        let message = "nodes need a key to trust each other: set SlimFaas__Peer__KeyFile to the same on all of them";
        problems.push(Problem::new(options::PEER_NODES, message));
    }
}

/// A variable that no option has read.
fn warn_about((name, text): (&String, &String)) -> Option<Problem> {
    if let Some(unused) = UNUSED.iter().find(|unused| unused.names().any(|known| is_same(known, name))) {
        return Some(Problem::new(name, format!("accepted, not used: {}", unused.why)));
    }
    let upper = name.to_ascii_uppercase();
    if !PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) || is_service_variable(name, text) {
        return None;
    }
    let known = options::all().flat_map(Opt::names).chain(UNUSED.iter().flat_map(Unused::names));
    Some(Problem::new(name, format!("there is no such option, it is ignored{}", suggest::did_you_mean(name, known))))
}

/// Kubernetes describes each Service to each pod: a Service `slimfaas` as `SLIMFAAS_SERVICE_HOST`,
/// `SLIMFAAS_SERVICE_PORT_HTTP`, `SLIMFAAS_PORT=tcp://…`, `SLIMFAAS_PORT_5000_TCP_ADDR`.
fn is_service_variable(name: &str, text: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    if name.ends_with("_PORT") && text.contains("://") {
        return true;
    }
    name.match_indices("_PORT_").any(|(at, port)| {
        let mut words = name[at + port.len()..].split('_');
        let is_number = words.next().is_some_and(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_digit()));
        is_number
            && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(words.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && words.next().is_none()
    })
}

/// The text of `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = include_str!("env/head.md").to_owned();
    for option in options::all() {
        let old: Vec<String> = option.old.iter().map(|name| format!("`{name}`")).collect();
        let default = if option.default.is_empty() { "not set".to_owned() } else { format!("`{}`", option.default) };
        let Opt { name, doc, .. } = option;
        let (old, allowed) = (old.join(", "), option.reads.allowed());
        writeln!(out, "| `{name}` | {old} | {allowed} | {default} | {doc} |").expect("writing to a string succeeds");
    }
    out.push_str(include_str!("env/unused.md"));
    for Unused { name, old, why } in UNUSED {
        let old = old.map_or_else(String::new, |old| format!("`{old}`"));
        writeln!(out, "| `{name}` | {old} | {why} |").expect("writing to a string succeeds");
    }
    out
}
