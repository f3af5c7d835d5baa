//! One child process: its start, its end, and nothing of what it is for.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::child::SUBCOMMAND;
use super::expand::Placeholders;
use super::manifest::Launch;
use super::output::{Kept, Source};
use super::state::{STATE_VARIABLE, StateDirectory};
use crate::net;
use crate::table::view::Address;

/// For the last lines of an ended process to be read.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);

/// What all processes of one `up` are started with.
pub(super) struct Launcher {
    /// The `slimfaas` program, whose `local-child` ties a process's life to this one's. `None`: started directly.
    pub(super) wrapper: Option<PathBuf>,
    pub(super) state: Arc<StateDirectory>,
}

/// How to ask a process to end before it is told to.
pub(super) struct AskToEnd {
    pub(super) address: Address,
    pub(super) path: String,
}

/// A running process with its own group. Dropping it kills the group.
pub(super) struct Process {
    child: Child,
    group: Pid,
    state: Arc<StateDirectory>,
    output: JoinSet<()>,
    /// Its end was seen and its group killed.
    is_over: bool,
}

impl Launcher {
    /// Must be called on a thread that lives as long as the gateway: Linux takes the end of the thread that started a
    /// process for the end of its parent. Threads of a runtime's pool for blocking work do not qualify.
    pub(super) fn start(&self, launch: &Launch, fill: Placeholders, output: &Source) -> io::Result<Process> {
        self.start_kept(launch, fill, output, None)
    }

    /// The same for a process without a port, whose output is kept.
    pub(super) fn start_job(&self, launch: &Launch, output: &Source, kept: Arc<Kept>) -> io::Result<Process> {
        self.start_kept(launch, Placeholders { port: None, replica: 0 }, output, Some(kept))
    }

    fn start_kept(
        &self,
        launch: &Launch,
        fill: Placeholders,
        output: &Source,
        kept: Option<Arc<Kept>>,
    ) -> io::Result<Process> {
        let mut command = self.command(launch, fill);
        command.current_dir(&launch.directory).envs(self.environment(launch, fill));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let group = pid.expect("a child that was not waited for has a pid");
        self.state.record(group);
        let mut pumps = JoinSet::new();
        if let Some(pipe) = child.stdout.take() {
            pumps.spawn(output.clone().pump(pipe, kept.clone()));
        }
        if let Some(pipe) = child.stderr.take() {
            pumps.spawn(output.clone().pump(pipe, kept));
        }
        Ok(Process { child, group, state: Arc::clone(&self.state), output: pumps, is_over: false })
    }

    fn command(&self, launch: &Launch, fill: Placeholders) -> Command {
        let mut words = launch.command.iter().map(|word| fill.fill(word));
        match &self.wrapper {
            Some(wrapper) => {
                let mut command = Command::new(wrapper);
                command.arg(SUBCOMMAND).arg(std::process::id().to_string()).args(words);
                command
            }
            None => {
                let mut command = Command::new(words.next().expect("a checked launch has a program"));
                command.args(words);
                command
            }
        }
    }

    /// The manifest's variables, then ours (reference §7.3).
    fn environment(&self, launch: &Launch, fill: Placeholders) -> BTreeMap<String, String> {
        let own = launch.environment.iter().map(|(name, value)| (name.clone(), fill.fill(value)));
        let mut environment: BTreeMap<String, String> = own.collect();
        if let Some(port) = fill.port {
            environment.insert("PORT".into(), port.to_string());
            environment.insert("SLIMFAAS_PORT".into(), port.to_string());
            environment.entry("ASPNETCORE_URLS".into()).or_insert_with(|| format!("http://127.0.0.1:{port}"));
        }
        environment.insert("SLIMFAAS_REPLICA_INDEX".into(), fill.replica.to_string());
        environment.insert(STATE_VARIABLE.into(), self.state.path().display().to_string());
        environment
    }
}

impl Process {
    /// Of the process and of its group.
    pub(super) fn pid(&self) -> Pid {
        self.group
    }

    /// Waits for its end; what it leaves running in its group is ended too.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        // Right away, since the number of a group with no member left may be given to somebody else some day.
        self.kill_group();
        self.is_over = true;
        let pumps = async { while self.output.join_next().await.is_some() {} };
        timeout(OUTPUT_TIMEOUT, pumps).await.ok();
        status
    }

    /// Asks, then tells (SIGTERM), and kills `limit` after the beginning.
    pub(super) async fn end(mut self, ask: Option<AskToEnd>, limit: Duration) {
        let polite = async {
            if let Some(ask) = ask {
                tokio::select! {
                    _ = self.child.wait() => return,
                    () = ask.send() => {}
                }
            }
            // It may have ended by itself.
            kill_process_group(self.group, Signal::TERM).ok();
            self.child.wait().await.ok();
        };
        if timeout(limit, polite).await.is_err() {
            tracing::warn!(pid = self.group.as_raw_nonzero().get(), "did not end in time: killed");
            self.kill_group();
        }
        self.ended().await.ok();
    }

    fn kill_group(&self) {
        kill_process_group(self.group, Signal::KILL).ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill_group();
        }
        self.state.forget(self.group);
    }
}

impl AskToEnd {
    /// POSTs to the path; the answer does not matter, nor does its absence for long.
    async fn send(self) {
        let limit = Duration::from_secs(2);
        let asked = async {
            let stream = net::connect(&self.address, limit).await.ok()?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            let request = Request::post(&self.path).header(header::HOST, self.address.to_string());
            let request = request.header(header::CONTENT_LENGTH, 0).body(Empty::<Bytes>::new()).ok()?;
            tokio::select! {
                answer = sender.send_request(request) => answer.ok().map(|_| ()),
                _ = connection => None,
            }
        };
        tokio::select! {
            _ = asked => {}
            () = sleep(limit) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::TcpListener;

    #[tokio::test]
    async fn a_process_is_asked_with_a_post() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Socket(listener.local_addr().unwrap());
        let asking = AskToEnd { address: address.clone(), path: "/bye?x=1".into() }.send();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(head[..read].to_vec()).unwrap()
        };
        let ((), head) = tokio::join!(asking, answering);
        assert_eq!(head, format!("POST /bye?x=1 HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n"));
    }
}
