//! `bench depth`: a million calls stored for a function of which nothing runs, then all of them delivered. Memory and
//! the time to store one must not depend on how many there are.
//!
//! The function is paused meanwhile: like one at zero it has no slot, so nothing is assigned, and unlike with one at zero
//! nobody tries to wake it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::disk::Disk;
use super::gateways::{Gateways, function};
use super::measure::{Sample, measure};
use super::report::{quantile, table};
use super::target::start_backend;
use super::usage::of_tree;
use super::{Scratch, loopback};
use crate::process::check_interrupted;
use crate::terminal::{line, progress};
use crate::{repository, test};

const NAME: &str = "deep";
const BODY_BYTES: usize = 1024;
/// Stored between two looks.
const STEP: u64 = 50_000;
/// For one step, and for as many to be delivered.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// Between two looks at what is delivered.
const LOOK: Duration = Duration::from_millis(500);
/// For memory to be given back before the last look.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Options {
    /// Gateway nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: u16,
    /// Calls to store; a multiple of 50000
    #[arg(long, default_value_t = 1_000_000)]
    elements: u64,
    /// Callers at once
    #[arg(long, default_value_t = 64)]
    callers: u64,
    /// Calls that the function takes at once, when it is not paused
    #[arg(long, default_value_t = 64)]
    slots: u32,
    /// Also write every measurement to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How the queue was emptied.
struct Drain {
    /// Seconds since the pause ended, and calls that had succeeded by then.
    looks: Vec<(f64, u64)>,
    /// The most memory of each node.
    resident_max: Vec<u64>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { nodes, elements, callers, slots, .. } = options;
    ensure!(*elements > 0 && elements.is_multiple_of(STEP), "--elements is no multiple of {STEP}");
    let binary = test::gateway_binary(&repository())?;
    let scratch = Scratch::new()?;
    let mut disk = Disk::new(scratch.path())?;
    disk.look()?;
    let backend = start_backend()?;
    let gateways = Gateways::start(&binary, scratch.path(), *nodes, &[function(NAME, backend.port, *slots)])?;
    gateways.set_paused(NAME, true)?;
    let idle = resident(&gateways)?;
    let mut samples = Vec::new();
    for step in 1..=elements / STEP {
        let sample = measure(&arguments(&gateways, *callers), &gateways.ids())?;
        let memory = mib_of_each(&sample.resident_max);
        progress(&format!("{:>8} stored: {:>6.0}/s, {memory} MiB", step * STEP, sample.rate()));
        samples.push(sample);
    }
    std::thread::sleep(SETTLE);
    let (full, full_bytes) = (resident(&gateways)?, stored_bytes(scratch.path())?);
    gateways.set_paused(NAME, false)?;
    let drain = drain(&gateways)?;
    std::thread::sleep(SETTLE);
    let (empty, empty_bytes) = (resident(&gateways)?, stored_bytes(scratch.path())?);
    disk.look()?;

    show_steps(&format!("{nodes} node(s), {callers} callers, {BODY_BYTES} bytes each"), &samples);
    table(
        "Each node",
        &["", "RSS MiB", "files of all nodes MiB"],
        &[
            vec!["before the first call".to_owned(), mib_of_each(&idle), "–".to_owned()],
            vec![format!("{elements} stored"), mib_of_each(&full), mib(full_bytes)],
            vec!["most while they drain".to_owned(), mib_of_each(&drain.resident_max), "–".to_owned()],
            vec!["all delivered".to_owned(), mib_of_each(&empty), mib(empty_bytes)],
        ],
    );
    show_drain(&drain, *slots);
    let sync = |part| quantile(disk.millis.clone(), part).unwrap_or_default();
    line(&format!("\nthis disk, 4 KiB and fdatasync: p50 {:.2} ms, p99 {:.2} ms", sync(0.5), sync(0.99)));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&json(options, &samples, [&idle, &full, &empty], &drain))?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        line(&format!("every measurement: {}", path.display()));
    }
    Ok(())
}

/// Of the load of one step.
fn arguments(gateways: &Gateways, callers: u64) -> Vec<OsString> {
    let addresses: Vec<String> = gateways.ports.iter().map(|port| loopback(*port).to_string()).collect();
    let arguments = [
        ("--address", addresses.join(",")),
        ("--path", format!("/async-function/{NAME}/0")),
        ("--upload", BODY_BYTES.to_string()),
        ("--status", "202".to_owned()),
        ("--download", "0".to_owned()),
        ("--connections", callers.to_string()),
        ("--warmup-millis", "0".to_owned()),
        ("--millis", STEP_TIMEOUT.as_millis().to_string()),
        ("--requests", STEP.to_string()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

/// Looks on until everything that was stored has succeeded.
fn drain(gateways: &Gateways) -> Result<Drain> {
    let start = Instant::now();
    let label = format!("function=\"{NAME}\"");
    let count = |name| gateways.metric(0, name, &label);
    let stored = count("slimfaas_async_enqueued_total")?;
    let mut drain = Drain { looks: vec![(0.0, 0)], resident_max: resident(gateways)? };
    let mut deadline = start + STEP_TIMEOUT;
    let mut told = 0;
    loop {
        std::thread::sleep(LOOK);
        check_interrupted()?;
        let done = count("slimfaas_async_succeeded_total")?;
        drain.looks.push((start.elapsed().as_secs_f64(), done));
        for (most, now) in drain.resident_max.iter_mut().zip(resident(gateways)?) {
            *most = now.max(*most);
        }
        if done >= told + STEP {
            told = done;
            deadline = Instant::now() + STEP_TIMEOUT;
            progress(&format!("{done:>8} of {stored} delivered, {} MiB", mib_of_each(&drain.resident_max)));
        }
        if done == stored {
            return Ok(drain);
        }
        ensure!(Instant::now() < deadline, "{done} of {stored} delivered, and then hardly any");
    }
}

fn resident(gateways: &Gateways) -> Result<Vec<u64>> {
    gateways.ids().into_iter().map(|id| Ok(of_tree(id)?.resident_bytes)).collect()
}

/// Bytes of all files below `folder`, as they take room on the disk.
fn stored_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        // What the gateway removes meanwhile takes none.
        let Ok(metadata) = entry.metadata() else { continue };
        let blocks = std::os::unix::fs::MetadataExt::blocks(&metadata);
        bytes += if metadata.is_dir() { stored_bytes(&entry.path())? } else { blocks * 512 };
    }
    Ok(bytes)
}

fn show_steps(title: &str, samples: &[Sample]) {
    let rows = samples.iter().enumerate().map(|(index, sample)| {
        let to = (index as u64 + 1) * STEP;
        vec![
            format!("{} to {to}", to - STEP),
            format!("{:.0}", sample.rate()),
            format!("{:.2}", sample.outcome.p50 as f64 / 1e6),
            format!("{:.2}", sample.outcome.p99 as f64 / 1e6),
            mib_of_each(&sample.resident_max),
        ]
    });
    let rows: Vec<_> = rows.collect();
    table(title, &["stored", "req/s", "p50 ms", "p99 ms", "RSS MiB of each node"], &rows);
}

/// By quarters of what there was to deliver.
fn show_drain(drain: &Drain, slots: u32) {
    let Some((seconds, all)) = drain.looks.last().copied() else { return };
    let rows = (1..=4).map(|quarter| {
        let reached = |part: u64| {
            let enough = |look: &&(f64, u64)| look.1 >= all * part / 4;
            drain.looks.iter().find(enough).copied().unwrap_or((seconds, all))
        };
        let (from, to) = (reached(quarter - 1), reached(quarter));
        vec![format!("quarter {quarter}"), format!("{:.0}", (to.1 - from.1) as f64 / (to.0 - from.0))]
    });
    let rows: Vec<_> = rows.collect();
    table(&format!("Delivered to a function that takes {slots} at once"), &["", "calls/s"], &rows);
    line(&format!("all {all} in {seconds:.0} s"));
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}

fn mib_of_each(bytes: &[u64]) -> String {
    bytes.iter().map(|bytes| mib(*bytes)).collect::<Vec<_>>().join(", ")
}

fn json(options: &Options, samples: &[Sample], resident: [&[u64]; 3], drain: &Drain) -> serde_json::Value {
    let steps = samples.iter().map(|sample| {
        serde_json::json!({
            "requests": sample.outcome.requests, "nanos": sample.outcome.elapsed,
            "p50_nanos": sample.outcome.p50, "p99_nanos": sample.outcome.p99, "max_nanos": sample.outcome.max,
            "resident_max_bytes": sample.resident_max,
        })
    });
    let [idle, full, empty] = resident;
    serde_json::json!({
        "nodes": options.nodes, "callers": options.callers, "slots": options.slots,
        "steps": steps.collect::<Vec<_>>(),
        "resident_bytes": { "idle": idle, "full": full, "drained": empty, "draining_max": drain.resident_max },
        "delivered": drain.looks,
    })
}
