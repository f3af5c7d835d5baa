//! `cargo xtask sim`: runs seeds, as many at a time as there are cores.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use slimfaas_sim::faults::Fault;
use slimfaas_sim::run::{Figures, Options, Outcome, Scenario, run};

#[derive(Parser)]
struct Arguments {
    /// How many seeds, from --seed or 1 on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated milliseconds of torment; as the seed says if not given
    #[arg(long, default_value_t = 0)]
    steps: u64,
    /// Only these faults, with commas between (kill, kill-leader, lose-disk, lose-leaders-disk, pause, partition, one-way,
    /// bad-weather, slow-disk, wall-clock, resize, replicas), on so many nodes, so often
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    #[arg(long, default_value_t = 3)]
    size: usize,
    #[arg(long, default_value_t = 2000)]
    every_ms: u64,
    /// Show everything that happens
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.show {
        // Logs of the nodes stand between the events.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .without_time()
            .with_writer(std::io::stderr)
            .init();
    }
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed.saturating_add(arguments.seeds);
    let has_failed = AtomicBool::new(false);
    let total = Mutex::new(Figures::default());
    #[expect(clippy::disallowed_methods, reason = "real time, for people")]
    let began = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let shown = arguments.show.then(|| Box::new(std::io::stderr()) as Box<dyn Write>);
            let scenario = (!arguments.faults.is_empty()).then(|| Scenario {
                size: arguments.size,
                kinds: arguments.faults.clone(),
                every_ms: arguments.every_ms,
            });
            let options = Options { steps: arguments.steps, shown, scenario, ..Options::default() };
            let outcome = run(seed, options);
            if arguments.seeds == 1 {
                say(&format!("{outcome:#?}"));
            }
            if let Some((invariant, problem)) = &outcome.violation {
                has_failed.store(true, Ordering::Relaxed);
                say(&format!("seed {seed}: {invariant}: {problem}\n  reproduce: cargo xtask sim --seed {seed}"));
            }
            add(&mut total.lock().expect("no panic while it is held"), &outcome);
        }
    };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    say(&format!("{total:?} in {:?}", began.elapsed()));
    if has_failed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn add(total: &mut Figures, outcome: &Outcome) {
    total.acknowledged += outcome.figures.acknowledged;
    total.calls += outcome.figures.calls;
    total.simulated_ms += outcome.figures.simulated_ms;
    for (reply, count) in &outcome.figures.replies {
        *total.replies.entry(reply).or_default() += count;
    }
}

fn say(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}").is_err();
}
