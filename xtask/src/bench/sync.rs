//! `bench sync`: synchronous calls. Rounds are interleaved (every target once, then again), so that whatever else
//! happens on the machine happens to all of them; each number is the median over the rounds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::load::Outcome;
use super::measure::{Sample, measure};
use super::report::{median, table};
use super::target::{Kind, Target, check_installed, start_backend, start_proxy};
use super::usage::of_tree;
use super::{Scratch, loopback};
use crate::process::check_interrupted;
use crate::terminal::{line, progress};
use crate::{repository, test};

/// Before each measurement: connections open, pools fill, the core's clock rises.
const WARMUP: Duration = Duration::from_millis(700);
/// For a target to settle before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(1);
const LARGE: usize = 64 * 1024;

#[derive(Args)]
pub(crate) struct Options {
    /// Workers of each proxy; as many as there are cores when absent
    #[arg(long)]
    cores: Option<usize>,
    /// Length of one measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measurements of each target and case
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Targets to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "direct,nginx,haproxy,gateway")]
    only: Vec<Kind>,
    /// Connections at once
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    connections: Vec<u64>,
    /// Also write every measurement to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is asked.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    upload: usize,
    download: usize,
}

const SHAPES: &[Shape] = &[
    Shape { name: "GET, 64 bytes down", upload: 0, download: 64 },
    Shape { name: "GET, 64 KiB down", upload: 0, download: LARGE },
    Shape { name: "POST, 64 KiB up, 64 bytes down", upload: LARGE, download: 64 },
];

/// One line of a table: a target with a shape and a number of connections.
type Case = (usize, u64, Kind);

pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.seconds > 0.0, "there is nothing to measure");
    check_installed(&options.only)?;
    let cores = match options.cores {
        Some(cores) => cores,
        None => std::thread::available_parallelism().context("cannot count the cores")?.get(),
    };
    let wanted = options.only.contains(&Kind::Gateway);
    let gateway = if wanted { test::gateway_binary(&repository())? } else { PathBuf::new() };
    let scratch = Scratch::new()?;
    let mut targets = start_all(&options.only, &scratch, cores, &gateway)?;
    std::thread::sleep(SETTLE);
    let idle = idle_memory(&targets)?;
    let samples = measure_all(options, &mut targets)?;
    show(options, &samples, &idle);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&json(&samples, &idle))?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        line(&format!("\nevery measurement: {}", path.display()));
    }
    Ok(())
}

/// The backend, which `direct` calls, comes first.
fn start_all(kinds: &[Kind], scratch: &Scratch, cores: usize, gateway: &Path) -> Result<Vec<Target>> {
    let mut targets = vec![start_backend()?];
    for kind in [Kind::Nginx, Kind::Haproxy, Kind::Gateway] {
        if kinds.contains(&kind) {
            progress(&format!("starting {}", kind.name()));
            targets.push(start_proxy(kind, scratch.path(), targets[0].port, cores, gateway)?);
        }
    }
    Ok(targets)
}

fn idle_memory(targets: &[Target]) -> Result<BTreeMap<Kind, u64>> {
    targets.iter().map(|target| Ok((target.kind, of_tree(target.running.id())?.resident_bytes))).collect()
}

fn measure_all(options: &Options, targets: &mut [Target]) -> Result<BTreeMap<Case, Vec<Sample>>> {
    let mut samples: BTreeMap<Case, Vec<Sample>> = BTreeMap::new();
    let period = Duration::from_secs_f64(options.seconds);
    for (index, shape) in SHAPES.iter().enumerate() {
        for connections in &options.connections {
            for round in 1..=options.rounds {
                for target in targets.iter_mut().filter(|target| options.only.contains(&target.kind)) {
                    check_interrupted()?;
                    target.running.check_alive()?;
                    // The CPU of `direct` is the backend's.
                    let load = arguments(target, *shape, *connections, period);
                    let sample = measure(&load, &[target.running.id()]).with_context(|| {
                        format!("{}, {}, {connections} connections", target.kind.name(), shape.name)
                    })?;
                    let rate = sample.rate();
                    let name = target.kind.name();
                    progress(&format!(
                        "{}, {connections:>2} connections, round {round}: {name:<8} {rate:>7.0}/s",
                        shape.name
                    ));
                    samples.entry((index, *connections, target.kind)).or_default().push(sample);
                }
            }
        }
    }
    Ok(samples)
}

/// Of the load.
fn arguments(target: &Target, shape: Shape, connections: u64, period: Duration) -> Vec<OsString> {
    let arguments = [
        ("--address", loopback(target.port).to_string()),
        ("--path", target.path(shape.download)),
        ("--upload", shape.upload.to_string()),
        ("--download", shape.download.to_string()),
        ("--connections", connections.to_string()),
        ("--warmup-millis", WARMUP.as_millis().to_string()),
        ("--millis", period.as_millis().to_string()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

fn show(options: &Options, samples: &BTreeMap<Case, Vec<Sample>>, idle: &BTreeMap<Kind, u64>) {
    const HEAD: &[&str] =
        &["target", "req/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/req", "req/s ÷ nginx", "CPU ÷ nginx", "p50 + µs"];
    for (index, shape) in SHAPES.iter().enumerate() {
        for connections in &options.connections {
            let middle = |kind, value: &dyn Fn(&Sample) -> f64| {
                median(samples.get(&(index, *connections, kind))?.iter().map(value).collect())
            };
            let rows: Vec<Vec<String>> = options.only.iter().map(|kind| row(*kind, &middle)).collect();
            let plural = if *connections == 1 { "" } else { "s" };
            table(&format!("{}, {connections} connection{plural}", shape.name), HEAD, &rows);
        }
    }
    let most = |kind: Kind| samples.iter().filter(move |((.., of), _)| *of == kind).flat_map(|(_, samples)| samples);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let memory = options.only.iter().map(|kind| {
        let most = most(*kind).flat_map(|sample| &sample.resident_max).max().copied().unwrap_or(0);
        vec![kind.name().to_owned(), mib(idle[kind]), mib(most)]
    });
    table(
        "Memory (RSS of all its processes)",
        &["target", "idle MiB", "most under load MiB"],
        &memory.collect::<Vec<_>>(),
    );
    let Options { rounds, seconds, .. } = options;
    line(&format!("\nmedian of {rounds} × {seconds} s each; the CPU of \"direct\" is the function's own"));
}

/// The median over the rounds of one number of a target; `None` where it was not measured.
type Middle<'a> = dyn Fn(Kind, &dyn Fn(&Sample) -> f64) -> Option<f64> + 'a;

/// One target's numbers, and what they are beside nginx's and beside no proxy at all.
fn row(kind: Kind, middle: &Middle<'_>) -> Vec<String> {
    let text = |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    let micros = |pick: fn(&Outcome) -> u64| middle(kind, &move |sample| pick(&sample.outcome) as f64 / 1e3);
    let beside_nginx = |value: fn(&Sample) -> f64| match kind {
        Kind::Direct => None,
        _ => Some(middle(kind, &value)? / middle(Kind::Nginx, &value)?),
    };
    let direct = middle(Kind::Direct, &|sample| sample.outcome.p50 as f64 / 1e3);
    let added = micros(|outcome| outcome.p50).zip(direct).map(|(own, direct)| own - direct);
    vec![
        kind.name().to_owned(),
        text(middle(kind, &Sample::rate), 0),
        text(micros(|outcome| outcome.p50), 1),
        text(micros(|outcome| outcome.p99), 1),
        text(micros(|outcome| outcome.p999), 1),
        text(middle(kind, &Sample::cpu_per_request), 1),
        text(beside_nginx(Sample::rate), 2),
        text(beside_nginx(Sample::cpu_per_request), 2),
        text(added.filter(|_| kind != Kind::Direct), 1),
    ]
}

fn json(samples: &BTreeMap<Case, Vec<Sample>>, idle: &BTreeMap<Kind, u64>) -> serde_json::Value {
    let measurements = samples.iter().flat_map(|((shape, connections, kind), samples)| {
        samples.iter().map(move |sample| {
            let Outcome { requests, elapsed, p50, p99, p999, max } = &sample.outcome;
            serde_json::json!({
                "target": kind.name(), "shape": SHAPES[*shape].name, "connections": connections,
                "requests": requests, "nanos": elapsed,
                "p50_nanos": p50, "p99_nanos": p99, "p999_nanos": p999, "max_nanos": max,
                "cpu_micros": sample.cpu_micros, "resident_max_bytes": sample.resident_max[0],
            })
        })
    });
    let idle: BTreeMap<&str, u64> = idle.iter().map(|(kind, bytes)| (kind.name(), *bytes)).collect();
    serde_json::json!({ "measurements": measurements.collect::<Vec<_>>(), "idle_resident_bytes": idle })
}
