//! `bench queue`: durable storing of asynchronous calls, beside what NATS JetStream and Redis Streams take for the same
//! on the same disk in the same minutes. Everybody has a message on the disks of a majority before answering.
//!
//! Rounds are interleaved, and each ratio is of one round: whatever else happens on the machine happens to all.

mod end_to_end;
mod nats;
mod redis;
mod target;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::target::{Kind, Programs, Target};
use super::Scratch;
use super::disk::Disk;
use super::load::Outcome;
use super::measure::{Sample, measure};
use super::report::{median, quantile, table};
use crate::process::check_interrupted;
use crate::terminal::{Colour, line, paint, progress};
use crate::{repository, test, tools};

/// What each caller stores.
const BODY_BYTES: usize = 1024;
/// Before each measurement: connections open, and groups of writes find their size.
const WARMUP: Duration = Duration::from_millis(300);

#[derive(Args)]
pub(crate) struct Options {
    /// Nodes of each target
    #[arg(long, value_delimiter = ',', default_value = "1,3", value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: Vec<u16>,
    /// Callers at once, each waiting for its answer before it calls again
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,256", value_parser = clap::value_parser!(u64).range(1..))]
    callers: Vec<u64>,
    /// Length of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measurements of each target and case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One round: for a first look
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Targets to measure
    #[arg(long, value_enum, value_delimiter = ',', default_value = "gateway,nats,nats-shared,redis")]
    only: Vec<Kind>,
    /// Calls whose way to the function is measured; 0 leaves this out
    #[arg(long, default_value_t = 200)]
    calls: usize,
    /// Also write every measurement to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One line of a table: nodes, callers, target.
type Case = (u16, u64, Kind);

/// All that was found with a number of nodes.
struct Found {
    samples: BTreeMap<Case, Vec<Sample>>,
    /// Milliseconds of a sync of the disk, by nodes.
    disk: BTreeMap<u16, Vec<f64>>,
    end_to_end: BTreeMap<u16, end_to_end::Times>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (rounds, seconds) = (if options.quick { 1 } else { options.rounds }, options.seconds);
    ensure!(rounds > 0 && seconds > 0.0, "there is nothing to measure");
    let programs = find_programs(options)?;
    let scratch = Scratch::new()?;
    let mut found = Found { samples: BTreeMap::new(), disk: BTreeMap::new(), end_to_end: BTreeMap::new() };
    for nodes in &options.nodes {
        let folder = scratch.path().join(nodes.to_string());
        std::fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut disk = Disk::new(&folder)?;
        measure_nodes(options, &programs, &folder, *nodes, (rounds, seconds), &mut disk, &mut found)?;
        if options.calls > 0 && options.only.contains(&Kind::Gateway) {
            progress(&format!("{nodes} node(s): the way to the function"));
            let times = end_to_end::measure(&programs.gateway, &folder, *nodes, options.calls)?;
            found.end_to_end.insert(*nodes, times);
        }
        disk.look()?;
        found.disk.insert(*nodes, disk.millis);
        // A disk that fills up gets slower for whoever comes later.
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    show(options, &found);
    line(&format!("\nmedian of {rounds} × {seconds} s each; each ratio is the median of the rounds' own"));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&json(&found))?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        line(&format!("every measurement: {}", path.display()));
    }
    Ok(())
}

/// Says aloud what cannot be measured, and why.
fn find_programs(options: &Options) -> Result<Programs> {
    let wants = |kind| options.only.contains(&kind);
    let skip = |kind: Kind, why: String| line(&paint(Colour::Yellow, &format!("skipped: {}: {why}", kind.name())));
    let nats = if wants(Kind::Nats) || wants(Kind::NatsShared) { tools::nats_server().map(Some) } else { Ok(None) };
    let nats = nats.unwrap_or_else(|error| {
        skip(Kind::Nats, format!("{error:#}"));
        None
    });
    let redis = if wants(Kind::Redis) { redis::installed() } else { None };
    if wants(Kind::Redis) && redis.is_none() {
        skip(Kind::Redis, "there is no redis-server (`apt-get install redis-server`)".to_owned());
    }
    let gateway = if wants(Kind::Gateway) { test::gateway_binary(&repository())? } else { PathBuf::new() };
    Ok(Programs { gateway, nats, redis })
}

fn measure_nodes(
    options: &Options,
    programs: &Programs,
    folder: &Path,
    nodes: u16,
    (rounds, seconds): (usize, f64),
    disk: &mut Disk,
    found: &mut Found,
) -> Result<()> {
    let mut targets = Vec::new();
    for kind in &options.only {
        progress(&format!("{nodes} node(s): starting {}", kind.name()));
        targets.extend(Target::start(*kind, programs, folder, nodes)?);
    }
    let period = Duration::from_secs_f64(seconds);
    for callers in &options.callers {
        for round in 1..=rounds {
            disk.look()?;
            for target in &mut targets {
                check_interrupted()?;
                let kind = target.kind;
                let name = kind.name();
                let Some(spread) = target.spread(*callers) else { continue };
                target.prepare()?;
                let sample = measure(&arguments(target, spread, period), &target.ids())
                    .with_context(|| format!("{name}, {nodes} node(s), {callers} caller(s)"))?;
                let rate = sample.rate();
                progress(&format!("{nodes} node(s), {callers:>3} caller(s), round {round}: {name:<12} {rate:>7.0}/s"));
                found.samples.entry((nodes, *callers, kind)).or_default().push(sample);
            }
            // Whoever comes first has the machine in another state than whoever comes last.
            let first = usize::from(!targets.is_empty());
            targets.rotate_left(first);
        }
    }
    Ok(())
}

/// Of the load.
fn arguments(target: &Target, (connections, window): (u64, u64), period: Duration) -> Vec<OsString> {
    let addresses: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
    let arguments = [
        ("--address", addresses.join(",")),
        ("--dialect", target.dialect.to_owned()),
        ("--path", target.path.to_owned()),
        ("--upload", BODY_BYTES.to_string()),
        ("--status", target.status.to_string()),
        ("--download", "0".to_owned()),
        ("--connections", connections.to_string()),
        ("--window", window.to_string()),
        ("--warmup-millis", WARMUP.as_millis().to_string()),
        ("--millis", period.as_millis().to_string()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

fn show(options: &Options, found: &Found) {
    const HEAD: &[&str] = &["callers, target", "req/s", "p50 ms", "p99 ms", "CPU µs/req", "gateway ÷ this"];
    for nodes in &options.nodes {
        let disk = &found.disk[nodes];
        let mut rows = vec![disk_row(disk)];
        for callers in &options.callers {
            rows.extend(options.only.iter().filter_map(|kind| row(found, (*nodes, *callers, *kind))));
        }
        let plural = if *nodes == 1 { "" } else { "s" };
        table(&format!("Storing {BODY_BYTES} bytes durably, {nodes} node{plural}"), HEAD, &rows);
        if let Some(times) = found.end_to_end.get(nodes) {
            show_end_to_end(times, disk);
        }
    }
}

fn disk_row(millis: &[f64]) -> Vec<String> {
    let at = |part| decimals(quantile(millis.to_vec(), part), 2);
    let per_second = median(millis.to_vec()).map(|millis| 1e3 / millis);
    let none = || "–".to_owned();
    vec!["this disk, 4 KiB and fdatasync".to_owned(), decimals(per_second, 0), at(0.5), at(0.99), none(), none()]
}

fn row(found: &Found, case: Case) -> Option<Vec<String>> {
    let (nodes, callers, kind) = case;
    let samples = found.samples.get(&case)?;
    let middle = |value: fn(&Sample) -> f64| median(samples.iter().map(value).collect());
    let own = found.samples.get(&(nodes, callers, Kind::Gateway)).filter(|_| kind != Kind::Gateway);
    let ratios = own.map(|own| own.iter().zip(samples).map(|(own, other)| own.rate() / other.rate()).collect());
    Some(vec![
        format!("{callers:>3} {}", kind.name()),
        decimals(middle(Sample::rate), 0),
        decimals(middle(|sample| sample.outcome.p50 as f64 / 1e6), 2),
        decimals(middle(|sample| sample.outcome.p99 as f64 / 1e6), 2),
        decimals(middle(Sample::cpu_per_request), 0),
        decimals(ratios.and_then(median), 2),
    ])
}

fn show_end_to_end(times: &end_to_end::Times, disk: &[f64]) {
    let sync = median(disk.to_vec());
    let row = |name: &str, millis: &[f64]| {
        let at = |part| quantile(millis.to_vec(), part);
        let syncs = at(0.5).zip(sync).map(|(own, sync)| own / sync);
        vec![name.to_owned(), decimals(at(0.5), 2), decimals(at(0.99), 2), decimals(syncs, 2)]
    };
    table(
        "One call at a time",
        &["from a caller's first byte to", "p50 ms", "p99 ms", "p50 ÷ the disk's"],
        &[row("the answer 202", &times.accepted), row("the function's being called", &times.called)],
    );
}

fn decimals(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

fn json(found: &Found) -> serde_json::Value {
    let measurements = found.samples.iter().flat_map(|((nodes, callers, kind), samples)| {
        samples.iter().map(move |sample| {
            let Outcome { requests, elapsed, p50, p99, p999, max } = &sample.outcome;
            serde_json::json!({
                "target": kind.name(), "nodes": nodes, "callers": callers,
                "requests": requests, "nanos": elapsed,
                "p50_nanos": p50, "p99_nanos": p99, "p999_nanos": p999, "max_nanos": max,
                "cpu_micros": sample.cpu_micros, "resident_max_bytes": sample.resident_max,
            })
        })
    });
    let end_to_end = found.end_to_end.iter().map(|(nodes, times)| {
        serde_json::json!({ "nodes": nodes, "accepted_millis": times.accepted, "called_millis": times.called })
    });
    serde_json::json!({
        "measurements": measurements.collect::<Vec<_>>(),
        "end_to_end": end_to_end.collect::<Vec<_>>(),
        "disk_sync_millis": found.disk,
    })
}
