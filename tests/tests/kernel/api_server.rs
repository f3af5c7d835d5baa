//! As much of a Kubernetes API server as an agent asks for, which are the pods of its node, and as a gateway needs to
//! know its callers: objects listed and watched. Whatever else is asked for is not found.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

#[derive(Default)]
struct State {
    version: u64,
    /// By the plural of their kind.
    objects: BTreeMap<&'static str, Vec<Value>>,
    watchers: BTreeMap<&'static str, Vec<TcpStream>>,
    /// What was asked for.
    requests: Vec<String>,
}

pub(crate) struct ApiServer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl ApiServer {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = Self { address: listener.local_addr()?, state: Arc::default() };
        let state = Arc::clone(&server.state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // A connection that breaks off is the agent's end.
                thread::spawn(move || serve(stream, &state).ok());
            }
        });
        Ok(server)
    }

    /// Makes a pod known to whoever watches.
    pub(crate) fn add(&self, uid: &str, namespace: &str, kind: &str, owner: &str) {
        self.add_object("pods", pod(uid, namespace, kind, owner));
    }

    pub(crate) fn add_object(&self, kind: &str, mut object: Value) {
        let kind = served(kind).expect("one of the kinds that are served");
        let mut state = self.state.lock().expect("nobody panicked");
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let event = json!({"type": "ADDED", "object": object});
        state.objects.entry(kind).or_default().push(object);
        state.watchers.entry(kind).or_default().retain_mut(|watcher| send_chunk(watcher, &event).is_ok());
    }

    /// For a client that is told of no other.
    pub(crate) fn kubeconfig(&self) -> String {
        let cluster = format!("clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n", self.address);
        let context =
            "contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {}}]\n";
        format!("apiVersion: v1\nkind: Config\n{cluster}{context}")
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().expect("nobody panicked").requests.clone()
    }
}

fn send_chunk(stream: &mut TcpStream, event: &Value) -> Result<()> {
    let line = format!("{event}\n");
    Ok(write!(stream, "{:x}\r\n{line}\r\n", line.len())?)
}

/// The plural of a kind, where there is a list of it.
fn served(kind: &str) -> Option<&'static str> {
    ["deployments", "statefulsets", "replicasets", "pods"].into_iter().find(|served| *served == kind)
}

/// A pod that runs.
pub(crate) fn pod(uid: &str, namespace: &str, kind: &str, owner: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{owner}-{uid}"), "namespace": namespace, "uid": uid,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": owner, "controller": true}
            ],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running"},
    })
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    loop {
        let request = lines.next().context("the client is gone")??;
        while !lines.next().context("the client is gone")??.is_empty() {}
        let mut state = state.lock().expect("nobody panicked");
        let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
        state.requests.push(target.clone());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let Some(kind) = path.rsplit('/').next().and_then(served) else {
            // Closed, since what is sent may have a body.
            write!(stream, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(());
        };
        if query.contains("watch=true") {
            return watch(stream, &mut state, kind, query);
        }
        let list = json!({
            "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": state.version.to_string()},
            "items": state.objects.get(kind).map_or(&[][..], Vec::as_slice),
        })
        .to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", list.len());
        stream.write_all((head + &list).as_bytes())?;
    }
}

/// Sends what came between the list and this, and has the rest sent when it comes.
fn watch(mut stream: TcpStream, state: &mut State, kind: &'static str, query: &str) -> Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let since = query.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next());
    let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or(0);
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    for object in state.objects.get(kind).into_iter().flatten().filter(|object| version(object) > Some(since)) {
        send_chunk(&mut stream, &json!({"type": "ADDED", "object": object}))?;
    }
    state.watchers.entry(kind).or_default().push(stream);
    Ok(())
}
