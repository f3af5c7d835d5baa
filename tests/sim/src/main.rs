//! `cargo xtask sim`: runs seeds, as many at a time as there are cores.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use slimfaas_sim::faults::Fault;
use slimfaas_sim::run::{Figures, Options, Outcome, Scenario, run};
use tracing_subscriber::EnvFilter;

/// What `cargo xtask test` runs: about a minute of two cores.
const SEEDS: u64 = 250;

const PROGRESS_EVERY: u64 = 500;

/// A seed takes a second, or some on a machine that has other things to do.
const SEED_MAX: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    /// How many seeds; 250, or one if --seed is given
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; 1 if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Simulated milliseconds of torment; as the seed says if not given
    #[arg(long, default_value_t = 0)]
    steps: u64,
    /// Only these faults, with commas between (kill, kill-leader, lose-disk, lose-leaders-disk, pause, partition, one-way,
    /// bad-weather, slow-disk, wall-clock, resize, replicas, api-server), on so many nodes, so often
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
        // What the nodes log stands between the events.
        let filter = EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    let first = arguments.seed.unwrap_or(1);
    let seeds = arguments.seeds.unwrap_or(if arguments.seed.is_some() { 1 } else { SEEDS });
    let seeds =
        Seeds { arguments, next: AtomicU64::new(first), end: first.saturating_add(seeds), done: Mutex::default() };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| seeds.run());
        }
    });
    let done = seeds.done.into_inner().expect("no panic while it is held");
    let Figures { acknowledged, calls, simulated_ms, replies } = &done.figures;
    say(&format!(
        "{} seeds, {} failed: {} s simulated, {acknowledged} elements acknowledged, {calls} calls; replies: {replies:?}",
        done.seeds,
        done.failed,
        simulated_ms / 1000
    ));
    if done.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The work, and what was done of it.
struct Seeds {
    arguments: Arguments,
    next: AtomicU64,
    end: u64,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    seeds: u64,
    failed: u64,
    figures: Figures,
}

impl Seeds {
    fn run(&self) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                return;
            }
            let outcome = self.watched(seed);
            if let Some((invariant, problem)) = &outcome.violation {
                say(&format!("seed {seed}: {invariant}: {problem}\n  reproduce: cargo xtask sim --seed {seed}"));
            }
            let mut done = self.done.lock().expect("no panic while it is held");
            done.seeds += 1;
            done.failed += u64::from(outcome.violation.is_some());
            add(&mut done.figures, &outcome);
            if done.seeds.is_multiple_of(PROGRESS_EVERY) {
                say(&format!("{} seeds, {} failed", done.seeds, done.failed));
            }
        }
    }

    /// A node that spins holds up simulated time for ever: nothing but real time ends that.
    fn watched(&self, seed: u64) -> Outcome {
        let (done, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if ended.recv_timeout(SEED_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                    say(&format!("seed {seed}: does not end\n  reproduce: cargo xtask sim --seed {seed} --show"));
                    std::process::exit(1);
                }
            });
            let outcome = run(seed, self.options());
            drop(done);
            outcome
        })
    }

    fn options(&self) -> Options {
        let arguments = &self.arguments;
        let shown = arguments.show.then(|| Box::new(std::io::stderr()) as Box<dyn Write>);
        let scenario = (!arguments.faults.is_empty()).then(|| Scenario {
            size: arguments.size,
            kinds: arguments.faults.clone(),
            every_ms: arguments.every_ms,
        });
        Options { steps: arguments.steps, shown, scenario, planted: None }
    }
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
