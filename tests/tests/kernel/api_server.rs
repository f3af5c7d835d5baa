//! As much of a Kubernetes API server as an agent asks for: the pods of its node, listed and watched.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

#[derive(Default)]
struct State {
    version: u64,
    pods: Vec<Value>,
    watchers: Vec<TcpStream>,
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
    pub(crate) fn add(&self, uid: &str, namespace: &str, kind: &str, owner: &str) -> Result<()> {
        let mut state = self.state.lock().expect("nobody panicked");
        state.version += 1;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{owner}-{uid}"), "namespace": namespace, "uid": uid,
                "resourceVersion": state.version.to_string(),
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": owner, "controller": true}
                ],
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running"},
        });
        state.pods.push(pod.clone());
        let event = json!({"type": "ADDED", "object": pod});
        state.watchers.retain_mut(|watcher| send_chunk(watcher, &event).is_ok());
        Ok(())
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().expect("nobody panicked").requests.clone()
    }
}

fn send_chunk(stream: &mut TcpStream, event: &Value) -> Result<()> {
    let line = format!("{event}\n");
    Ok(write!(stream, "{:x}\r\n{line}\r\n", line.len())?)
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    loop {
        let request = lines.next().context("the client is gone")??;
        while !lines.next().context("the client is gone")??.is_empty() {}
        let mut state = state.lock().expect("nobody panicked");
        let target = request.split(' ').nth(1).unwrap_or_default().to_owned();
        state.requests.push(target.clone());
        if target.contains("watch=true") {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            // What came between the list and this.
            let since = target.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next());
            let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or(0);
            let version = |pod: &Value| pod["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
            let missed: Vec<Value> = state.pods.iter().filter(|pod| version(pod) > Some(since)).cloned().collect();
            for pod in missed {
                send_chunk(&mut stream, &json!({"type": "ADDED", "object": pod}))?;
            }
            state.watchers.push(stream.try_clone()?);
            return Ok(());
        }
        let list = json!({
            "apiVersion": "v1", "kind": "PodList",
            "metadata": {"resourceVersion": state.version.to_string()}, "items": state.pods,
        })
        .to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", list.len());
        stream.write_all((head + &list).as_bytes())?;
    }
}
