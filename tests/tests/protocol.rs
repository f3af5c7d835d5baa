//! Needs the public conformance suites (`cargo xtask tools`): what they find through the gateway.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use slimfaas_tests::process::{Scratch, Server, free_address};
use slimfaas_tests::{http2, require, tools, websocket};

const SUITE: &str = "protocol";
/// The one function.
const FUNCTION: &str = "conform";

/// Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing, sizes to 16 MiB and fragments of them; of
/// compression, which the gateway neither offers nor reads, one message size of each kind.
const WEBSOCKET_CASES: &[&str] =
    &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "12.2.1", "13.1.1"];
/// Fewer than this were not all of them.
const WEBSOCKET_CASES_MIN: usize = 290;
/// Of many changed verdicts, these tell enough.
const SHOWN_MAX: usize = 10;
const HTTP2_CASES_MIN: u32 = 140;
/// A gateway before one function at `function`, which never scales.
fn start_gateway(function: SocketAddr, scratch: &Scratch) -> Result<Server> {
    let address = free_address()?;
    let functions = format!(r#"{{"Functions":[{{"Name":"{FUNCTION}"}}],"Slimfaas":[{{"Name":"slimfaas-1"}}]}}"#);
    let mut command = Command::new(tools::gateway_binary()?);
    command.arg("gateway").env("MOCK_KUBERNETES_FUNCTIONS", functions);
    command.env("BASE_FUNCTION_URL", format!("http://{function}"));
    command.env("SLIMFAAS_PORTS", address.port().to_string());
    Server::start("gateway", &mut command, address, scratch.path())
}

/// Runs after the first one, if that had failures.
const RACES_MAX: usize = 3;

#[test]
fn h2spec() -> Result<()> {
    let h2spec = match tools::find("h2spec") {
        Ok(path) => path,
        Err(missing) => {
            require::skip_or_fail(SUITE, "h2spec", missing);
            return Ok(());
        }
    };
    let scratch = Scratch::new("h2spec")?;
    let mut gateway = start_gateway(start_function()?, &scratch)?;
    let path = format!("/function/{FUNCTION}/");
    let mut report = http2::check(&h2spec, gateway.address, &path, scratch.path())?;
    // A case that sends more after its request races the end of the response: what is wrong fails every time.
    for _ in 0..RACES_MAX {
        if report.failed.is_empty() {
            break;
        }
        let again = http2::check(&h2spec, gateway.address, &path, scratch.path())?;
        report.passed = report.passed.max(again.passed);
        report.failed.retain(|case| again.failed.contains(case));
    }
    assert!(report.failed.is_empty(), "{:?} failed: {}", report.failed, report.text);
    assert!(report.passed >= HTTP2_CASES_MIN, "only {} cases passed: {}", report.passed, report.text);
    gateway.check_alive()
}

#[test]
fn autobahn() -> Result<()> {
    let wstest = match tools::find("wstest") {
        Ok(path) => path,
        Err(missing) => {
            require::skip_or_fail(SUITE, "autobahn", missing);
            return Ok(());
        }
    };
    let scratch = Scratch::new("websocket")?;
    let echo = websocket::start_echo(&tools::find("wsecho")?, scratch.path())?;
    let mut gateway = start_gateway(echo.address, &scratch)?;
    let servers = [
        ("direct", format!("ws://{}/", echo.address)),
        ("gateway", format!("ws://{}/function/{FUNCTION}/", gateway.address)),
    ];
    let verdicts = websocket::check(&wstest, &servers, WEBSOCKET_CASES)?;
    let (direct, through) = (&verdicts["direct"], &verdicts["gateway"]);
    assert!(direct.len() >= WEBSOCKET_CASES_MIN, "only {} cases ran", direct.len());
    assert!(direct.values().all(websocket::Verdict::is_pass), "the function itself does not conform: {direct:?}");
    let changed = direct.iter().filter(|(case, verdict)| through.get(*case) != Some(verdict));
    let changed: Vec<String> =
        changed.map(|(case, verdict)| format!("{case}: {verdict:?}, now {:?}", through.get(case))).collect();
    let shown = changed.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join("\n");
    assert!(changed.is_empty(), "{} verdict(s) change through the gateway:\n{shown}", changed.len());
    gateway.check_alive()
}

/// A function that reads each request whole and answers a few bytes, one connection a thread. It ends with the test.
fn start_function() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot bind a loopback port")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A connection that the gateway cuts, because its client broke the protocol, is no fault of the function.
            std::thread::spawn(move || while answer(&stream).is_ok() {});
        }
    });
    Ok(address)
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut chunked, mut whole) = (0, false, false);
    for line in reader.by_ref().lines() {
        let line = line?.to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse()?,
            Some(("transfer-encoding", _)) => chunked = true,
            _ if line.is_empty() => {
                whole = true;
                break;
            }
            _ => {}
        }
    }
    ensure!(whole, "the connection ended");
    if chunked {
        read_chunks(&mut reader)?;
    } else {
        reader.read_exact(&mut vec![0; length])?;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nHello, world")?;
    Ok(())
}

fn read_chunks(reader: &mut impl BufRead) -> Result<()> {
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the body has no end");
        let length = usize::from_str_radix(line.trim(), 16)?;
        reader.read_exact(&mut vec![0; length + 2])?;
        if length == 0 {
            return Ok(());
        }
    }
}
