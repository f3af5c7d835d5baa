//! The local cluster with real processes: the example function and `/bin/sh`.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use slimfaas_gateway::cluster::local::{LocalCluster, LocalOptions, Output, StateDirectory, manifest};
use slimfaas_gateway::cluster::{Cluster, Scaling};
use slimfaas_gateway::model::caller::Caller;
use slimfaas_gateway::model::function::FunctionId;
use slimfaas_gateway::model::spec::Dependency;
use slimfaas_gateway::model::visibility::{Trust, Visibility};
use slimfaas_gateway::table::view::{Address, Function, PodState};
use slimfaas_gateway::table::{CallerIndex, Table};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const SLIMFAAS: &str = env!("CARGO_BIN_EXE_slimfaas");

/// For anything that is waited for: far more than it takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster that runs, with a directory of its own.
struct Running {
    cluster: Arc<LocalCluster>,
    table: Arc<Table>,
    directory: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Ports of one test, apart from those of other tests and of other runs at the same time.
fn ports(test: u16) -> u16 {
    let run = u16::try_from(std::process::id() % 60).expect("less than 60");
    20_000 + run * 200 + test * 10
}

/// `{exe}` in `functions` is the slimfaas program, `{dir}` the test's directory.
fn run(test: u16, pool: u16, functions: &str) -> Running {
    let directory = std::env::temp_dir().join(format!("slimfaas-local-{}-{test}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let first = ports(test);
    let text = functions.replace("{exe}", "${SLIMFAAS_EXE}").replace("{dir}", &directory.display().to_string());
    let text = format!("processPorts: {{from: {first}, to: {}}}\n{text}", first + pool - 1);
    let file = directory.join("slimfaas.local.yaml");
    fs::write(&file, text).unwrap();
    let env = BTreeMap::from([("SLIMFAAS_EXE".to_owned(), SLIMFAAS.to_owned())]);
    let (manifest, _) = manifest::load(&[file], &[], &env).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let state = StateDirectory::open(&manifest, false).unwrap();
    let table = Table::new("default");
    let options = LocalOptions { output: Output::new(std::io::sink(), false), wrapper: Some(SLIMFAAS.into()) };
    let cluster = LocalCluster::new(manifest, state, Arc::clone(&table), "default", options);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    let running = Arc::clone(&cluster).run(async { drop(stopped.await) });
    tasks.spawn(running);
    Running { cluster, table, directory, stop: Some(stop), tasks }
}

/// One function `fib` that is the example function.
fn example(more: &str) -> String {
    format!(
        "functions:\n  fib:\n    command: ['{{exe}}', example-function]\n    environment: {{FUNCTION_NAME: fib}}\n    \
         annotations: {{SlimFaas/Function: 'true', SlimFaas/ReplicasAtStart: '3'}}\n{more}"
    )
}

/// One function `fib` that is a shell script.
fn script(script: &str, more: &str) -> String {
    format!(
        "functions:\n  fib:\n    command: [/bin/sh, -c, '{script}']\n    \
         annotations: {{SlimFaas/Function: 'true', SlimFaas/ReplicasMin: '1'}}\n{more}"
    )
}

fn to(replicas: u32) -> Scaling {
    Scaling { function: fib(), from: 0, to: replicas, reason: "a test".to_owned() }
}

fn fib() -> FunctionId {
    FunctionId::new("default", "fib")
}

impl Running {
    async fn scale(&self, replicas: u32) {
        self.cluster.scale(&to(replicas)).await.unwrap();
        assert_eq!(self.function().replicas_requested, replicas);
    }

    fn function(&self) -> Arc<Function> {
        Arc::clone(self.table.view().function(&fib()).expect("fib is in the table"))
    }

    /// Names and states of the pods.
    fn states(&self) -> Vec<(String, String)> {
        let states = self.function();
        states.pods.iter().map(|pod| (pod.name.to_string(), pod.state.as_str().to_owned())).collect()
    }

    /// Waits, woken by the table, until the pods are as wanted.
    async fn until(&self, wanted: impl Fn(&Function) -> bool) -> Arc<Function> {
        let mut changes = self.table.changes();
        let reached = async {
            loop {
                changes.borrow_and_update();
                let function = self.function();
                if wanted(&function) {
                    return function;
                }
                changes.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("not reached; the pods are {:?}", self.states()))
    }

    async fn until_ready(&self, replicas: usize) -> Arc<Function> {
        self.until(|function| function.endpoints.len() == replicas && function.pods.len() == replicas).await
    }

    async fn until_states(&self, wanted: &[(&str, &str)]) {
        let wanted: Vec<(String, String)> = wanted.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
        self.until(|_| self.states() == wanted).await;
    }

    async fn end(mut self) {
        self.stop.take().expect("ends once").send(()).unwrap();
        let ended = async { while self.tasks.join_next().await.transpose().unwrap().is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("run returns");
        assert_eq!(self.states(), []);
    }

    /// Waits for a file that a process writes.
    async fn file(&self, name: &str) -> String {
        let path = self.directory.join(name);
        let written = async {
            loop {
                match fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => return text,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("the process writes its file")
    }
}

/// What `GET path` of the function's n-th endpoint answers, from a thread, since it blocks.
async fn call(function: &Function, n: usize, path: &str) -> String {
    let (address, path) = (function.endpoints[n].address.to_string(), path.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer).unwrap_or_default()
    });
    asked.await.unwrap()
}

async fn until_gone(pid: i32) {
    let pid = Pid::from_raw(pid).unwrap();
    let gone = async {
        while test_kill_process(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the process is gone");
}

#[tokio::test]
async fn a_function_goes_from_zero_to_three_and_back() {
    let running = run(0, 5, &example(""));
    assert_eq!(running.states(), []);
    running.scale(1).await;
    let one = running.until_ready(1).await;
    assert!(call(&one, 0, "/hello/you").await.ends_with("\r\n\r\nHello you from fib-0\n"));
    running.scale(3).await;
    let three = running.until_ready(3).await;
    assert!(call(&three, 2, "/hello/you").await.ends_with("Hello you from fib-2\n"));
    assert!(Arc::ptr_eq(&three.endpoints[0], &one.endpoints[0]), "the first one is untouched");
    running.scale(2).await;
    assert_eq!(running.function().endpoints.len(), 2, "gone from the table when scale returns");
    running.until_ready(2).await;
    running.until_states(&[("fib-0", "Running"), ("fib-1", "Running")]).await;
    running.scale(0).await;
    running.until(|function| function.pods.is_empty()).await;
    for endpoint in three.endpoints.iter() {
        assert!(std::net::TcpStream::connect(endpoint.address.to_string()).is_err());
    }
    // No more than the maximum, which is ReplicasAtStart here.
    running.cluster.scale(&to(9)).await.unwrap();
    assert_eq!(running.function().replicas_requested, 3);
    running.end().await;
}

#[tokio::test]
async fn what_ends_by_itself_starts_again() {
    let running = run(1, 3, &example(""));
    running.scale(1).await;
    let before = running.until_ready(1).await;
    assert_eq!(call(&before, 0, "/crash").await, "");
    running.until_states(&[("fib-0", "CrashLoopBackOff")]).await;
    let after = running.until_ready(1).await;
    assert!(!Arc::ptr_eq(&after.endpoints[0], &before.endpoints[0]));
    assert!(call(&after, 0, "/hello/you").await.ends_with("from fib-0\n"));
    running.end().await;
}

#[tokio::test]
async fn a_crash_loop_and_a_missing_program_show() {
    let running = run(
        2,
        3,
        &script(
            "exit 3",
            "  gone: {command: [/no/such/program], annotations: {SlimFaas/Function: 'true', SlimFaas/ReplicasMin: '1'}}\n",
        ),
    );
    running.until_states(&[("fib-0", "CrashLoopBackOff")]).await;
    let gone = FunctionId::new("default", "gone");
    let failed = |_: &Function| {
        let view = running.table.view();
        view.function(&gone).is_some_and(|f| f.pods[0].state == PodState::Failed("CrashLoopBackOff".into()))
    };
    running.until(failed).await;
    // A scale-down does not wait for the delay.
    running.scale(0).await;
    running.until(|function| function.pods.is_empty()).await;
    running.end().await;
}

#[tokio::test]
async fn a_replica_without_a_port_shows_and_takes_the_next_one() {
    let running = run(3, 1, &example(""));
    running.scale(2).await;
    running.until_states(&[("fib-0", "Running"), ("fib-1", "PortRangeExhausted")]).await;
    // The one that does not serve goes first.
    running.scale(1).await;
    running.until_states(&[("fib-0", "Running")]).await;
    running.scale(2).await;
    running.until_states(&[("fib-0", "Running"), ("fib-1", "PortRangeExhausted")]).await;
    running.scale(0).await;
    running.until(|function| function.pods.is_empty()).await;
    running.scale(1).await;
    running.until_ready(1).await;
    running.end().await;
}

#[tokio::test]
async fn a_replica_finishes_its_requests_before_it_ends() {
    let running = run(4, 3, &example(""));
    running.scale(1).await;
    let function = running.until_ready(1).await;
    let endpoint = Arc::clone(&function.endpoints[0]);
    endpoint.in_flight.fetch_add(1, Ordering::SeqCst);
    running.scale(0).await;
    assert_eq!(running.states(), [("fib-0".to_owned(), "Terminating".to_owned())]);
    assert!(running.function().endpoints.is_empty() && endpoint.is_retired());
    // Longer than a process needs to end.
    assert!(call(&function, 0, "/slow?ms=700").await.starts_with("HTTP/1.1 200"));
    assert!(call(&function, 0, "/hello/you").await.starts_with("HTTP/1.1 200"));
    assert_eq!(running.states(), [("fib-0".to_owned(), "Terminating".to_owned())]);
    endpoint.in_flight.fetch_sub(1, Ordering::SeqCst);
    running.until(|function| function.pods.is_empty()).await;
    assert!(std::net::TcpStream::connect(endpoint.address.to_string()).is_err());
    running.end().await;
}

#[tokio::test]
async fn a_woken_replica_does_not_wait_for_one_that_drains() {
    let running = run(5, 3, &example(""));
    running.scale(1).await;
    let first = running.until_ready(1).await;
    first.endpoints[0].in_flight.fetch_add(1, Ordering::SeqCst);
    running.scale(0).await;
    running.scale(1).await;
    running.until_states(&[("fib-0", "Terminating"), ("fib-1", "Running")]).await;
    first.endpoints[0].in_flight.fetch_sub(1, Ordering::SeqCst);
    running.until_states(&[("fib-1", "Running")]).await;
    running.end().await;
}

#[tokio::test]
async fn the_stop_ends_what_does_not_want_to_end_and_what_it_left_behind() {
    let stubborn = "trap \"\" TERM; sleep 300 & echo $! > {dir}/left; echo $$$$ > {dir}/own; while :; do sleep 1; done";
    let running = run(6, 3, &script(stubborn, "    shutdown: {path: /bye, timeoutSeconds: 1}\n"));
    let pids = [running.file("own").await, running.file("left").await].map(|text| text.trim().parse().unwrap());
    running.end().await;
    for pid in pids {
        until_gone(pid).await;
    }
}

#[tokio::test]
async fn processes_get_their_environment() {
    let print = "env | sort > {dir}/tmp; echo {port} {replica} >> {dir}/tmp; mv {dir}/tmp {dir}/env; exec sleep 300";
    let running = run(7, 3, &script(print, "    environment: {URL: 'http://me:{port}/{replica}', PORT: '1'}\n"));
    let text = running.file("env").await;
    let port = ports(7);
    for line in [
        format!("PORT={port}"),
        format!("SLIMFAAS_PORT={port}"),
        "SLIMFAAS_REPLICA_INDEX=0".into(),
        format!("ASPNETCORE_URLS=http://127.0.0.1:{port}"),
        format!("URL=http://me:{port}/0"),
        format!("{port} 0"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    running.end().await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_caller_of_a_loopback_connection_is_known() {
    let running = run(8, 3, &example(""));
    running.scale(1).await;
    let function = running.until_ready(1).await;
    let callers = running.cluster.callers();
    let pod = Caller::Pod { workload: fib(), trust: Trust::Trusted };
    for listener in ["127.0.0.1:0", "[::]:0"].map(|address| TcpListener::bind(address).unwrap()) {
        let url = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let path = format!("/call?url=http://{url}/x");
        let (answer, ()) = tokio::join!(call(&function, 0, &path), async {
            let accept = tokio::task::spawn_blocking(move || (listener.accept().unwrap(), listener));
            let ((mut stream, peer), listener) = accept.await.unwrap();
            assert_eq!(callers.identify(peer, stream.local_addr().unwrap()).await, pod);
            stream.write_all(b"HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n").unwrap();
            // This test is no process of the cluster.
            let own = std::net::TcpStream::connect(&url).unwrap();
            let ours = (own.local_addr().unwrap(), own.peer_addr().unwrap());
            assert_eq!(callers.identify(ours.0, ours.1).await, Caller::Outside);
            drop(listener);
        });
        assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    }
    running.end().await;
}

#[tokio::test]
async fn dependencies_on_processes_are_known_when_they_serve() {
    let processes = "processes:\n  db: {command: ['{exe}', example-function], port: auto}\n  \
                     once: {command: [/bin/sh, -c, 'exit 0'], restartPolicy: never}\n";
    let running = run(9, 3, &example(processes));
    let ready = |name: &str| running.cluster.dependency_ready(&fib(), &Dependency::Process(name.into()));
    let mut changes = running.cluster.dependency_changes();
    let up = async {
        while ready("db") != Some(true) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("db is ready");
    std::net::TcpStream::connect(("127.0.0.1", ports(9))).unwrap();
    assert_eq!(ready("nobody"), None);
    assert_eq!(running.cluster.dependency_ready(&fib(), &Dependency::Workload("mysql".into())), None);
    let over = async {
        while ready("once") != Some(false) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("once has ended");
    running.end().await;
}

#[tokio::test]
async fn a_debug_url_is_ready_while_somebody_serves_it() {
    let port = ports(10) + 5;
    let function = format!(
        "functions: {{fib: {{debugUrl: 'http://127.0.0.1:{port}', annotations: {{SlimFaas/Function: 'true'}}}}}}"
    );
    let running = run(10, 3, &function);
    running.until_states(&[("fib-debug", "Starting")]).await;
    let mut ide = Command::new(SLIMFAAS).args(["example-function", "--port", &port.to_string()]).spawn().unwrap();
    let ready = running.until_ready(1).await;
    assert_eq!(ready.endpoints[0].address, Address::Socket(([127, 0, 0, 1], port).into()));
    ide.kill().unwrap();
    ide.wait().unwrap();
    running.until_states(&[("fib-debug", "Starting")]).await;
    running.end().await;
}

#[test]
fn the_example_manifest_is_flawless() {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../slimfaas.local.yaml"));
    let (manifest, warnings) = manifest::load(&[file], &[], &BTreeMap::new()).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((manifest.entrypoint_port, manifest.node_http_port), (30020, 30021));
    let functions: Vec<_> = manifest
        .functions
        .iter()
        .map(|(name, function)| (name.as_str(), function.spec.default_visibility, function.spec.depends_on.clone()))
        .collect();
    let second = vec![Dependency::Workload("fibonacci2".into())];
    assert_eq!(
        functions,
        [
            ("fibonacci1", Visibility::Public, vec![]),
            ("fibonacci2", Visibility::Private, vec![]),
            ("fibonacci3", Visibility::Public, second),
        ]
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_replica_dies_with_the_gateway() {
    let script = "\"$0\" local-child $$ sleep 300 & echo $!; wait";
    let mut gateway = Command::new("/bin/sh").args(["-c", script, SLIMFAAS]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(gateway.stdout.take().unwrap()), &mut line).unwrap();
    let pid: i32 = line.trim().parse().unwrap();
    let name = format!("/proc/{pid}/comm");
    let reached = |wanted: &dyn Fn(Option<String>) -> bool| {
        (0..2000).any(|_| {
            std::thread::park_timeout(Duration::from_millis(5));
            wanted(fs::read_to_string(&name).ok())
        })
    };
    assert!(reached(&|name| name.as_deref() == Some("sleep\n")));
    kill_process(Pid::from_raw(gateway.id().cast_signed()).unwrap(), Signal::KILL).unwrap();
    gateway.wait().unwrap();
    // A zombie until the init process takes it: gone all the same.
    let is_gone = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    assert!(reached(&|_| is_gone()));
}

#[test]
fn a_replica_of_a_gateway_that_is_gone_does_not_start() {
    let output = Command::new(SLIMFAAS).args(["local-child", "1", "/bin/sh", "-c", "echo started"]).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(127), &b""[..]));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "slimfaas: the gateway has ended\n");
}
