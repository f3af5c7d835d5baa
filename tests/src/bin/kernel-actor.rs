//! A process that kernel tests put into a cgroup and a network namespace. It does what its standard input says, a line
//! at a time, and answers each with a line: what was asked for, or `error` and why.
#![expect(
    clippy::disallowed_methods,
    reason = "the suites stand outside of the gateway: they own their environment, clock and sockets"
)]

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use slimfaas_gateway::net::socket_options::{keep_syns, kernel_caller};
use slimfaas_tests::forge;

/// For what must come; what must not is waited for as long as a second SYN takes.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

#[derive(Default)]
struct Actor {
    listener: Option<TcpListener>,
    accepted: Option<TcpStream>,
    /// Connections that were opened; kept, so that the other end sees none close.
    opened: Vec<TcpStream>,
}

fn main() -> Result<()> {
    let cgroup = std::env::args_os().nth(1).context("name the cgroup to join")?;
    join(Path::new(&cgroup))?;
    let mut actor = Actor::default();
    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    for line in io::stdin().lock().lines() {
        match actor.act(&line?) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => writeln!(out, "error {error:#}")?,
        }
    }
    Ok(())
}

impl Actor {
    fn act(&mut self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            // As a gateway does, whose kernel then finds the tags of its callers.
            ["listen", address] => self.listen(address.parse()?, true),
            // As everybody else does.
            ["listen-plainly", address] => self.listen(address.parse()?, false),
            ["accept"] => self.accept(),
            ["ask"] => self.ask(),
            ["connect", address] => self.connect(address.parse()?),
            ["knock", address, millis] => knock(address.parse()?, Duration::from_millis(millis.parse()?)),
            ["get", address, path, forwarded] => get(address.parse()?, path, forwarded),
            // A connection, a byte and back: both ends work.
            ["exchange"] => self.exchange(),
            ["echo"] => self.echo(),
            ["close"] => {
                self.opened.clear();
                self.accepted = None;
                Ok("closed".to_owned())
            }
            ["serve"] => self.serve(),
            ["pump", address, millis] => pump(address.parse()?, Duration::from_millis(millis.parse()?)),
            ["question", count] => self.question(count.parse()?),
            ["join", cgroup] => {
                join(Path::new(cgroup))?;
                Ok("joined".to_owned())
            }
            ["measure", address, count] => measure(address.parse()?, count.parse()?),
            ["forge", from, to, isn, option] => {
                let (from, to): (SocketAddrV4, SocketAddrV4) = (from.parse()?, to.parse()?);
                let option = forge::from_hex(option).context("the option is no hexadecimal")?;
                let answered = forge::open(from, to, isn.parse()?, &option, CONNECT_TIMEOUT)?;
                Ok(if answered { "answered" } else { "ignored" }.to_owned())
            }
            ["forge-get", from, to, isn, option, path] => {
                let (from, to): (SocketAddrV4, SocketAddrV4) = (from.parse()?, to.parse()?);
                let option = forge::from_hex(option).context("the option is no hexadecimal")?;
                let request = request(path, "-");
                let answer = forge::exchange(from, to, isn.parse()?, &option, request.as_bytes(), TIMEOUT)?;
                answer.map_or_else(|| Ok("ignored".to_owned()), |head| status(&head))
            }
            _ => bail!("unknown command {line:?}"),
        }
    }

    fn listen(&mut self, address: SocketAddr, keep: bool) -> Result<String> {
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        if keep {
            keep_syns(&listener)?;
        }
        // Room for all that is measured at once: a full queue would cost a connect a second.
        socket2::SockRef::from(&listener).listen(4096)?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.listener = Some(listener);
        Ok(port.to_string())
    }

    fn accept(&mut self) -> Result<String> {
        let listener = self.listener.as_ref().context("nothing listens")?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    self.accepted = Some(stream);
                    return self.ask();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error).context("nobody connects"),
            }
        }
    }

    /// What the kernel says of the caller of the last accepted connection, and the caller's address.
    fn ask(&self) -> Result<String> {
        let stream = self.accepted.as_ref().context("nothing was accepted")?;
        let peer = stream.peer_addr()?.ip().to_canonical();
        Ok(match kernel_caller(stream)? {
            Some(reply) => {
                let (identity, namespace, flags) = (reply.identity.0, reply.namespace.0, reply.flags.0);
                format!("caller {identity} {} {namespace} {flags} {peer}", reply.verdict)
            }
            None => format!("unanswered {peer}"),
        })
    }

    /// From now on takes every connection, reads what comes, and tells nothing of it.
    fn serve(&mut self) -> Result<String> {
        let listener = self.listener.take().context("nothing listens")?;
        listener.set_nonblocking(false)?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            for stream in listener.incoming() {
                // One at a time: the measured client opens no second one before it is done.
                let Ok(mut stream) = stream else { return };
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
        });
        Ok("serving".to_owned())
    }

    /// Asks so often who opened the connection that was accepted last; says how many nanoseconds one question took.
    fn question(&self, count: u32) -> Result<String> {
        let stream = self.accepted.as_ref().context("nothing was accepted")?;
        let start = Instant::now();
        for _ in 0..count {
            std::hint::black_box(kernel_caller(stream)?);
        }
        Ok((start.elapsed() / count).as_nanos().to_string())
    }

    fn connect(&mut self, address: SocketAddr) -> Result<String> {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                self.opened.push(stream);
                Ok("connected".to_owned())
            }
            Err(error) => unconnected(error),
        }
    }

    fn exchange(&mut self) -> Result<String> {
        let stream = self.opened.last_mut().context("nothing was opened")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"x")?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok(if byte == *b"x" { "exchanged" } else { "garbled" }.to_owned())
    }

    fn echo(&mut self) -> Result<String> {
        let stream = self.accepted.as_mut().context("nothing was accepted")?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
        Ok("echoed".to_owned())
    }
}

/// Connects again and again for so long, a SYN every 10 ms; says how often, and how often somebody answered.
fn knock(address: SocketAddr, time: Duration) -> Result<String> {
    const PATIENCE: Duration = Duration::from_millis(10);
    let (start, mut tried, mut answered) = (Instant::now(), 0, 0);
    while start.elapsed() < time {
        let next = Instant::now() + PATIENCE;
        tried += 1;
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => answered += 1,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => return Err(error).context("cannot connect"),
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(format!("{tried} {answered}"))
}

/// The status of the answer to a request on a connection of its own; `forwarded` is what it says of where it comes
/// from, `-` for nothing.
fn get(address: SocketAddr, path: &str, forwarded: &str) -> Result<String> {
    let mut stream = match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
        Ok(stream) => stream,
        Err(error) => return unconnected(error),
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request(path, forwarded).as_bytes())?;
    let mut head = vec![0; 64];
    let len = stream.read(&mut head)?;
    status(&head[..len])
}

fn request(path: &str, forwarded: &str) -> String {
    let forged = format!("x-forwarded-for: {forwarded}\r\nforwarded: for={forwarded}\r\nx-real-ip: {forwarded}\r\n");
    let forged = if forwarded == "-" { String::new() } else { forged };
    format!("GET {path} HTTP/1.1\r\nhost: identity\r\n{forged}connection: close\r\n\r\n")
}

fn status(head: &[u8]) -> Result<String> {
    let head = String::from_utf8_lossy(head);
    Ok(head.split(' ').nth(1).context("the answer is no response")?.to_owned())
}

fn unconnected(error: io::Error) -> Result<String> {
    match error.kind() {
        io::ErrorKind::TimedOut => Ok("ignored".to_owned()),
        io::ErrorKind::ConnectionRefused => Ok("refused".to_owned()),
        io::ErrorKind::PermissionDenied => Ok("forbidden".to_owned()),
        _ => Err(error).context("cannot connect"),
    }
}

/// Opens so many connections, one after the other; says how long each took, in nanoseconds, in order of time.
fn measure(address: SocketAddr, count: u32) -> Result<String> {
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        times.push(start.elapsed().as_nanos());
        // Reset rather than closed, so that ports do not run out.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(times.iter().map(u128::to_string).collect::<Vec<_>>().join(" "))
}

/// Sends for so long; says how many bytes a second went out.
fn pump(address: SocketAddr, time: Duration) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let bytes = vec![0; 1 << 17];
    let (start, mut sent) = (Instant::now(), 0.0);
    while start.elapsed() < time {
        stream.write_all(&bytes)?;
        sent += bytes.len() as f64;
    }
    Ok(format!("{:.0}", sent / start.elapsed().as_secs_f64()))
}

fn join(cgroup: &Path) -> Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0").context("cannot join the cgroup")
}
