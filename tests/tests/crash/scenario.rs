//! One run: a cluster under load, something that is done to it, and the judgement.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use slimfaas_tests::report::line;
use slimfaas_tests::require::skip_or_fail;

use super::checker;
use super::client::eventually;
use super::cluster::{Cluster, Place, SLOTS, on_loopback};
use super::history::{self, Call, Event, History, Kind};
use super::load::Load;
use super::namespaces::{Namespaces, reason_against};
use super::sink::Sink;
use super::verdict::{Summary, judge};

pub(super) const SUITE: &str = "crash";
/// How long each scenario is under load, in seconds.
const SECONDS: &str = "SLIMFAAS_CRASH_SECONDS";
/// Where the scenario is random, what it is random from.
const SEED: &str = "SLIMFAAS_CRASH_SEED";
const SECONDS_DEFAULT: u64 = 15;
/// Of the function's calls once nothing is disturbed any more, whatever they took before.
const QUICK: Duration = Duration::from_millis(20);
/// For everything that was accepted to be delivered once nothing is disturbed any more.
const DRAIN: Duration = Duration::from_secs(60);

/// The nodes of one scenario and all that surrounds them.
pub(super) struct Scenario {
    pub(super) cluster: Cluster,
    pub(super) history: Arc<History>,
    pub(super) sink: Sink,
    pub(super) random: Random,
    name: &'static str,
    folder: PathBuf,
    load: Option<Load>,
    began: Instant,
    _alone: Alone,
}

/// Held by the scenario that runs: three nodes under load are all that a machine can carry.
pub(super) struct Alone(#[expect(dead_code, reason = "it is held, not read")] MutexGuard<'static, ()>);

impl Alone {
    pub(super) fn wait() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        Self(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Scenario {
    /// Three nodes on loopback with a leader, and no load yet.
    pub(super) fn start(name: &'static str) -> Result<Self> {
        let mut scenario = Self::on_loopback(name)?;
        scenario.cluster.start_all()?;
        Ok(scenario)
    }

    /// Nothing runs yet but the function.
    pub(super) fn on_loopback(name: &'static str) -> Result<Self> {
        let alone = Alone::wait();
        Self::prepare(alone, name, &on_loopback()?, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same, with nodes and the function elsewhere.
    pub(super) fn prepare(alone: Alone, name: &'static str, places: &[Place], function: SocketAddr) -> Result<Self> {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash").join(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => std::fs::create_dir_all(&folder)?,
        }
        let history = Arc::new(History::new());
        let sink = Sink::start(function, &history)?;
        let cluster = Cluster::new(places, sink.address, &folder)?;
        let random = Random::from_environment()?;
        line(format_args!("crash/{name}: seed {}", random.seed));
        Ok(Self { cluster, history, sink, random, name, folder, load: None, began: Instant::now(), _alone: alone })
    }

    /// Clients begin to send.
    pub(super) fn load(&mut self, body_bytes: usize) {
        self.load = Some(Load::start(&self.cluster.addresses(), &self.history, body_bytes));
        self.began = Instant::now();
    }

    /// Whether the scenario's time is not over.
    pub(super) fn goes_on(&self) -> Result<bool> {
        let seconds = match std::env::var(SECONDS) {
            Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{SECONDS} is a number"))?,
            _ => SECONDS_DEFAULT,
        };
        Ok(self.began.elapsed() < Duration::from_secs(seconds))
    }

    /// Writes down something that makes the log take a node's deliveries from it.
    pub(super) fn disturb(&self, node: usize, what: &str) -> u64 {
        self.history.add(Event::new("nemesis", Kind::Info, Call::Disturb, &format!("node-{node}")).note(what))
    }

    /// Writes down something that costs nobody anything.
    pub(super) fn remark(&self, node: usize, what: &str) -> u64 {
        self.history.add(Event::new("nemesis", Kind::Ok, Call::Disturb, &format!("node-{node}")).note(what))
    }

    pub(super) fn kill(&mut self, node: usize) -> Result<u64> {
        let at = self.disturb(node, "kill -9");
        self.cluster.kill(node)?;
        Ok(at)
    }

    pub(super) fn start_again(&mut self, node: usize) -> Result<()> {
        self.remark(node, "start");
        self.cluster.start(node)
    }

    /// A node that does not run gets another address.
    pub(super) fn moved(&mut self, node: usize, to: Place) {
        self.remark(node, &format!("moves to {}", to.address));
        if let Some(load) = &self.load {
            load.moved(node, to.address);
        }
        self.cluster.nodes[node].place = to;
    }

    pub(super) fn stop_load(&mut self) {
        if let Some(load) = self.load.take() {
            load.stop();
        }
    }

    /// Ends the load, waits until all queues are empty, and judges. Everything must be whole again.
    pub(super) fn finish(mut self) -> Result<Summary> {
        self.stop_load();
        let drained = self.drain();
        let events = self.history.events();
        let file = self.folder.join("history.jsonl");
        history::write(&events, &file)?;
        let (summary, mut wrong) = judge(&events, SLOTS);
        line(format_args!("crash/{}: {summary}", self.name));
        match drained {
            Ok(enqueued) => {
                let most = summary.accepted + summary.unknown;
                if !(summary.accepted..=most).contains(&enqueued) {
                    wrong.push(format!("{enqueued} requests were stored: not {} to {most}", summary.accepted));
                }
            }
            Err(error) => wrong.insert(0, format!("{error:#}")),
        }
        wrong.truncate(20);
        ensure!(wrong.is_empty(), "{} (history and logs: {})", wrong.join("\n"), self.folder.display());
        checker::check(self.name, &file, &self.folder)?;
        for node in &mut self.cluster.nodes {
            // They are of no use any more, and large. What does not let itself be removed is a mount, and ends later.
            for file in ["store.redb", "store.log"] {
                let _kept = std::fs::remove_file(node.folder.join(file));
            }
        }
        Ok(summary)
    }

    /// Waits until no node has anything left and all have the same figures. Returns how many requests were stored.
    fn drain(&self) -> Result<usize> {
        let begin = Instant::now();
        let mut last = Vec::new();
        let all = eventually("all queues empty, and all nodes of one mind", DRAIN, || {
            let figures = self.cluster.figures()?;
            let first = &figures[0];
            let same = |node: &super::cluster::Figures| {
                let of = |n: &super::cluster::Figures| (n.pending, n.dead, n.enqueued, n.succeeded, n.failed_attempts);
                of(node) == of(first) && node.votes
            };
            let is_done = first.pending == 0 && figures.iter().all(same);
            last.clone_from(&figures);
            Ok(is_done.then_some(figures))
        })
        .with_context(|| format!("{last:?}"))?;
        ensure!(all[0].dead == 0, "{} dead letters, though the function never refuses a last try", all[0].dead);
        ensure!(all[0].succeeded == all[0].enqueued, "stored and never ended: {:?}", all[0]);
        self.history.add(Event::new("nemesis", Kind::Ok, Call::Drained, ""));
        line(format_args!("crash/{}: drained {} ms after the last call", self.name, begin.elapsed().as_millis()));
        Ok(usize::try_from(all[0].enqueued)?)
    }
}

/// Runs three nodes, each in a namespace of its own, under load; what they are called is looked up.
pub(super) fn in_namespaces(
    test: &str,
    name: &'static str,
    disturb: impl FnOnce(&mut Scenario, &mut Namespaces) -> Result<()> + Send,
) -> Result<()> {
    if let Some(reason) = reason_against() {
        skip_or_fail(SUITE, test, reason);
        return Ok(());
    }
    let run = move || -> Result<()> {
        let alone = Alone::wait();
        let mut spaces = Namespaces::new()?;
        spaces.enter()?;
        let mut scenario = Scenario::prepare(alone, name, &spaces.places(), Namespaces::function())?;
        for (number, node) in scenario.cluster.nodes.iter_mut().enumerate() {
            node.prefix = spaces.prefix(number);
        }
        scenario.cluster.start_all()?;
        scenario.load(512);
        disturb(&mut scenario, &mut spaces)?;
        scenario.stop_load();
        scenario.sink.take(QUICK);
        let finished = scenario.finish();
        drop(spaces);
        finished.map(drop)
    };
    // A namespace is entered by a thread, and this one belongs to the test harness.
    std::thread::scope(|scope| scope.spawn(run).join().expect("errors are returned"))
}

/// Small and reproducible: xorshift.
pub(super) struct Random {
    pub(super) seed: u64,
    state: u64,
}

impl Random {
    fn from_environment() -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{SEED} is a number"))?,
            _ => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() % 1_000_000,
        };
        Ok(Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 })
    }

    /// Below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 33).expect("31 bits") % end
    }

    pub(super) fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from)) as u64)
    }
}
