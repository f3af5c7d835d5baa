//! What durable storing costs on this machine, beside what its disk takes for one sync in the same run.
//!
//! `cargo bench --bench store`, or `-- million` for a queue of a million elements. All nodes are in this process, each
//! with its own file, on a network that costs nothing: what remains is disk, Raft and the state machine. Files lie in
//! the folder that TMPDIR names; a memory file system would make every figure a lie.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use slimfaas_gateway::clock;
use slimfaas_gateway::model::function::FunctionId;
use slimfaas_gateway::model::peer::Peer;
use slimfaas_gateway::queue::command::{Command, Enqueue, Reply};
use slimfaas_gateway::queue::element::{ElementId, End, Place, Policy};
use slimfaas_gateway::queue::request::{Body, StoredRequest};
use slimfaas_gateway::store::transport::{Calling, Lane, Transport, TransportError};
use slimfaas_gateway::store::{DiskWriter, Effect, Effects, LOG_BYTES, Options, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;

const TIMEOUT: Duration = Duration::from_secs(10);
const BODY_BYTES: usize = 1024;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Default)]
struct Net(Mutex<BTreeMap<SocketAddr, Store>>);

struct Port(Arc<Net>);

impl Transport for Port {
    fn call(&self, to: SocketAddr, _lane: Lane, payload: Bytes, timeout: Duration) -> Calling<'_> {
        Box::pin(async move {
            let store = self.0.0.lock().map_err(|_poisoned| TransportError::NotSent(String::new()))?.get(&to).cloned();
            let Some(store) = store else { return Err(TransportError::NotSent(to.to_string())) };
            let answer = tokio::time::timeout(timeout, store.serve(payload)).await;
            answer.map_err(|_late| TransportError::NotAnswered(to.to_string()))
        })
    }
}

struct Cluster {
    stores: Vec<Store>,
    effects: Vec<Effects>,
    _tasks: JoinSet<()>,
}

async fn cluster(folder: &Path, count: u16) -> Result<Cluster> {
    let net = Arc::new(Net::default());
    let peers: Arc<[Peer]> = (1..=count)
        .map(|port| Peer {
            name: format!("node-{port}").into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            ready: true,
        })
        .collect();
    let listed = watch::Sender::new(Arc::clone(&peers));
    let mut cluster = Cluster { stores: Vec::new(), effects: Vec::new(), _tasks: JoinSet::new() };
    for peer in peers.iter() {
        let folder = folder.join(&*peer.name);
        std::fs::create_dir_all(&folder)?;
        let options = Options {
            name: Arc::clone(&peer.name),
            folder,
            backend: None,
            writer: DiskWriter::Thread,
            transport: Arc::new(Port(Arc::clone(&net))),
            peers: listed.subscribe(),
            found_after: Duration::ZERO,
            log_bytes: LOG_BYTES,
        };
        let (store, running, effects) = Store::open(options).await?;
        net.0.lock().map_err(|_poisoned| "a thread panicked")?.insert(peer.address, store.clone());
        cluster._tasks.spawn(running.run(std::future::pending()));
        cluster.stores.push(store);
        cluster.effects.push(effects);
    }
    for store in &cluster.stores {
        let mut role = store.role();
        let ready = role.wait_for(|role| role.voters == usize::from(count) && role.leader.is_some());
        tokio::time::timeout(Duration::from_secs(60), ready).await??;
    }
    Ok(cluster)
}

fn enqueue(id: u64) -> Command {
    let request = StoredRequest {
        method: "POST".to_owned(),
        path_and_query: "/orders?customer=17".to_owned(),
        headers: vec![("content-type".to_owned(), Bytes::from_static(b"application/json"))],
        body: Body::Inline(Bytes::from(vec![b'x'; BODY_BYTES])),
    };
    let policy =
        Policy { timeout_ms: 120_000, retry_delays_ms: vec![2000, 4000, 8000], retry_statuses: vec![500, 502, 503] };
    Command::Enqueue(Enqueue {
        id: new_id(id),
        function: FunctionId::new("default", "fibonacci"),
        policy,
        request: request.encode(),
        place: Place::default(),
        body_file: None,
    })
}

fn new_id(number: u64) -> ElementId {
    let millis = u64::try_from(clock::utc().timestamp_millis()).unwrap_or(0);
    let mut entropy = [0; 10];
    entropy[2..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    ElementId::new(millis, entropy)
}

/// The disk's own time for one write and sync.
fn disk(folder: &Path) -> io::Result<Histogram<u64>> {
    let file = std::fs::File::create(folder.join("sync"))?;
    file.set_len(16 << 20)?;
    file.write_all_at(&vec![0; 16 << 20], 0)?;
    file.sync_data()?;
    let mut times = new_histogram();
    for number in 0..500_u64 {
        let began = clock::now();
        file.write_all_at(&[number as u8; 4096], number * 4096)?;
        file.sync_data()?;
        record(&mut times, began);
    }
    Ok(times)
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are a valid precision")
}

fn record(times: &mut Histogram<u64>, began: clock::Instant) {
    let micros = clock::now().saturating_duration_since(began).as_micros();
    times.record(u64::try_from(micros).unwrap_or(u64::MAX)).expect("the histogram grows by itself");
}

/// Callers that each propose again as soon as they have their reply, spread over the nodes.
async fn load(
    stores: &[Store],
    callers: usize,
    lasts: Duration,
    next: &Arc<AtomicU64>,
) -> Result<(f64, Histogram<u64>)> {
    let over = Arc::new(AtomicBool::new(false));
    let began = clock::now();
    let mut tasks: JoinSet<Result<Histogram<u64>>> = JoinSet::new();
    for caller in 0..callers {
        let (store, over, next) = (stores[caller % stores.len()].clone(), Arc::clone(&over), Arc::clone(next));
        tasks.spawn(async move {
            let mut times = new_histogram();
            while !over.load(Ordering::Relaxed) {
                let began = clock::now();
                let reply = store.propose(enqueue(next.fetch_add(1, Ordering::Relaxed)), TIMEOUT).await?;
                if reply != Reply::Done {
                    return Err(format!("refused: {reply:?}").into());
                }
                record(&mut times, began);
            }
            Ok(times)
        });
    }
    tokio::time::sleep(lasts).await;
    over.store(true, Ordering::Relaxed);
    let mut all = new_histogram();
    while let Some(times) = tasks.join_next().await {
        all.add(times??)?;
    }
    let seconds = clock::now().saturating_duration_since(began).as_secs_f64();
    Ok((all.len() as f64 / seconds, all))
}

fn line(out: &mut impl Write, what: &str, rate: Option<f64>, times: &Histogram<u64>) -> io::Result<()> {
    let rate = rate.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    let max = times.max() as f64 / 1000.0;
    writeln!(out, "| {what} | {rate} | {:.2} | {:.2} | {max:.2} |", at(0.5), at(0.99))
}

async fn table(folder: &Path) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "| | per second | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")?;
    line(&mut out, "this disk, 4 KiB and fdatasync", None, &disk(folder)?)?;
    let number = |at| std::env::args().nth(at).and_then(|text| text.parse::<u64>().ok());
    let seconds = number(1).unwrap_or(5);
    for nodes in [1, 3].into_iter().filter(|nodes| number(2).is_none_or(|only| only == u64::from(*nodes))) {
        let folder = folder.join(format!("of-{nodes}"));
        let cluster = cluster(&folder, nodes).await?;
        let limits = slimfaas_gateway::queue::command::Limits { function_elements: u64::MAX, ..Default::default() };
        cluster.stores[0].propose(Command::Limits(limits), TIMEOUT).await?;
        let next = Arc::new(AtomicU64::new(0));
        let chosen = |callers: &usize| number(3).is_none_or(|only| only == *callers as u64);
        for callers in [1, 4, 16, 64, 256, 1024].into_iter().filter(chosen) {
            let before = cpu_seconds()?;
            let (rate, times) = load(&cluster.stores, callers, Duration::from_secs(seconds), &next).await?;
            let each = (cpu_seconds()? - before) * 1e6 / times.len() as f64;
            let what = format!("{nodes} node(s), {callers} callers ({each:.0} µs of CPU each)");
            line(&mut out, &what, Some(rate), &times)?;
        }
        for store in &cluster.stores {
            let counters = store.counters();
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let syncs = count(&counters.syncs).max(1);
            let (mean, max) = (count(&counters.sync_nanos) / syncs / 1000, count(&counters.sync_nanos_max) / 1000);
            let commands = count(&counters.commands) / syncs;
            writeln!(
                out,
                "\nsyncs {syncs}, mean {mean} µs, max {max} µs, {commands} commands each; leads: {}",
                store.role().borrow().leads
            )?;
        }
    }
    line(&mut out, "this disk, 4 KiB and fdatasync", None, &disk(folder)?)?;
    Ok(())
}

/// Resident memory of this process, in MiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? / 1024)
}

/// CPU time of this process so far.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().ok_or("no fields")?.split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|field| field.parse().unwrap_or(0.0)).sum();
    // Linux counts in hundredths of a second here, whatever its timer.
    Ok(ticks / 100.0)
}

async fn million(folder: &Path) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut cluster = cluster(&folder.join("million"), 1).await?;
    let store = cluster.stores[0].clone();
    let limits = slimfaas_gateway::queue::command::Limits { function_elements: u64::MAX, ..Default::default() };
    store.propose(Command::Limits(limits), TIMEOUT).await?;
    let next = Arc::new(AtomicU64::new(0));
    writeln!(out, "| elements | per second | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|")?;
    let (rate, times) = load(&cluster.stores, 1, Duration::from_secs(3), &next).await?;
    line(&mut out, "one caller at the start", Some(rate), &times)?;
    let mut written = 0;
    while next.load(Ordering::Relaxed) < 1_000_000 {
        let (rate, times) = load(&cluster.stores, 256, Duration::from_secs(2), &next).await?;
        if next.load(Ordering::Relaxed) / 200_000 > written {
            written = next.load(Ordering::Relaxed) / 200_000;
            let what = format!("{} ({} MiB resident)", next.load(Ordering::Relaxed), resident()?);
            line(&mut out, &what, Some(rate), &times)?;
        }
    }
    let (rate, times) = load(&cluster.stores, 1, Duration::from_secs(3), &next).await?;
    line(&mut out, "one caller at the end", Some(rate), &times)?;
    let size = |file: &str| std::fs::metadata(folder.join("million/node-1").join(file)).map(|file| file.len());
    let size = (size("store.redb")? + size("store.log")?) >> 20;
    writeln!(out, "\nfile: {size} MiB; resident: {} MiB", resident()?)?;
    let began = clock::now();
    let function = FunctionId::new("default", "fibonacci");
    store.propose(Command::Budget { function: function.clone(), slots: 256 }, TIMEOUT).await?;
    let effects = &mut cluster.effects[0];
    let mut tasks = JoinSet::new();
    let total = store.totals().0;
    let mut done = 0;
    while done < total {
        let Some(Effect::Deliver(delivery)) = effects.recv().await else { return Err("no delivery".into()) };
        let (element, attempt) = (delivery.assignment.element, delivery.assignment.attempt);
        let store = store.clone();
        tasks.spawn(async move {
            store.propose(Command::Complete { element, attempt, end: End::Status(200) }, TIMEOUT).await
        });
        while tasks.try_join_next().is_some() {}
        done += 1;
        if done % 200_000 == 0 {
            let seconds = clock::now().saturating_duration_since(began).as_secs_f64();
            writeln!(out, "drained {done}: {:.0} per second, {} MiB resident", done as f64 / seconds, resident()?)?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let is_million = std::env::args().any(|argument| argument == "million");
    runtime.block_on(async { if is_million { million(folder.path()).await } else { table(folder.path()).await } })
}
