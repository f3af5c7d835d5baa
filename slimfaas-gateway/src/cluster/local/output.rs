//! The log of all processes on one terminal, a line at a time, like compose's.
//!
//! Lines go to a thread of their own through a bounded channel. When the terminal is slower than the processes,
//! lines are left out and counted, so that neither a process nor the gateway waits for a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Lines that wait for the terminal: some hundred kilobytes at most in practice.
const LINES_MAX: usize = 4096;
/// Of one line; what is longer continues on the next one.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Compose's colours, then their bright forms.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// Where the lines of all processes go.
#[derive(Clone)]
pub struct Output {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    colour: bool,
}

impl Output {
    /// To standard output; coloured on a terminal unless `NO_COLOR` is set, which the caller reads.
    pub fn to_stdout(no_color: bool) -> Self {
        let stdout = std::io::stdout();
        let colour = stdout.is_terminal() && !no_color;
        Self::new(stdout, colour)
    }

    /// To any writer, which may block.
    pub fn new(writer: impl Write + Send + 'static, colour: bool) -> Self {
        let (lines, receiver) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let dropped_by_senders = Arc::clone(&dropped);
        let thread = std::thread::Builder::new().name("process-output".into());
        // The thread ends with the last sender. Without it nothing is shown, and everything else works.
        if let Err(error) = thread.spawn(move || write_lines(writer, &receiver, &dropped_by_senders)) {
            tracing::warn!(%error, "the output of processes is not shown: no thread for it");
        }
        Self { lines, dropped, colour }
    }

    /// The lines of one process; `position` chooses the colour, `width` lines the bars up.
    pub(super) fn source(&self, name: &str, position: usize, width: usize) -> Source {
        let mut prefix = String::new();
        let written = if self.colour {
            write!(prefix, "\x1b[{}m{name:width$} |\x1b[0m ", COLOURS[position % COLOURS.len()])
        } else {
            write!(prefix, "{name:width$} | ")
        };
        written.expect("writing to a String succeeds");
        Source { output: self.clone(), prefix: prefix.into_bytes() }
    }
}

fn write_lines(mut writer: impl Write, lines: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    while let Ok(line) = lines.recv() {
        let left_out = dropped.swap(0, Ordering::Relaxed);
        let mut written = writer.write_all(&line);
        if left_out > 0 {
            let note = format!("({left_out} lines left out: the terminal is slower than the processes)\n");
            written = written.and_then(|()| writer.write_all(note.as_bytes()));
        }
        // A terminal that is gone takes nothing more; the processes go on.
        if written.and_then(|()| writer.flush()).is_err() {
            return;
        }
    }
}

#[derive(Clone)]
pub(super) struct Source {
    output: Output,
    prefix: Vec<u8>,
}

impl Source {
    /// Shows one line, or counts it as left out.
    pub(super) fn line(&self, text: &[u8]) {
        let mut line = Vec::with_capacity(self.prefix.len() + text.len() + 1);
        line.extend_from_slice(&self.prefix);
        line.extend_from_slice(text);
        line.push(b'\n');
        if self.output.lines.try_send(line).is_err() {
            self.output.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Shows the lines of a pipe until it ends.
    pub(super) async fn pump(self, mut pipe: impl AsyncRead + Unpin) {
        let mut line: Vec<u8> = Vec::new();
        let mut chunk = vec![0; LINE_BYTES_MAX];
        while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
            for piece in chunk[..read].split_inclusive(|b| *b == b'\n') {
                line.extend_from_slice(piece);
                if line.last() == Some(&b'\n') {
                    line.pop();
                    self.line(line.strip_suffix(b"\r").unwrap_or(&line));
                    line.clear();
                } else if line.len() >= LINE_BYTES_MAX {
                    self.line(&line);
                    line.clear();
                }
            }
        }
        if !line.is_empty() {
            self.line(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Sends what is written to the test.
    struct Wire(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    async fn shown(input: &[u8], colour: bool) -> String {
        let (sender, receiver) = channel();
        let output = Output::new(Wire(sender), colour);
        output.source("fib-0", 1, 7).pump(input).await;
        drop(output);
        String::from_utf8(receiver.iter().flatten().collect()).unwrap()
    }

    #[tokio::test]
    async fn lines_are_prefixed() {
        assert_eq!(shown(b"a\nb\r\n\nc", false).await, "fib-0   | a\nfib-0   | b\nfib-0   | \nfib-0   | c\n");
        assert_eq!(shown(b"a\n", true).await, "\x1b[33mfib-0   |\x1b[0m a\n");
        assert_eq!(shown(b"", false).await, "");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_in_bounded_pieces() {
        let shown = shown(&[b'x'; 100_000], false).await;
        assert!(shown.lines().all(|line| line.len() <= 2 * LINE_BYTES_MAX));
        assert_eq!(shown.bytes().filter(|b| *b == b'x').count(), 100_000);
    }

    #[test]
    fn a_stuck_terminal_stops_nobody_and_the_gap_shows() {
        /// Blocks until the test lets go.
        struct Stuck(Receiver<()>, std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.recv().ok();
                self.1.send(bytes.to_vec()).map_err(std::io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (let_go, stuck) = channel();
        let (sender, receiver) = channel();
        let output = Output::new(Stuck(stuck, sender), false);
        let source = output.source("fib-0", 0, 5);
        for _ in 0..LINES_MAX + 100 {
            source.line(b"x");
        }
        drop(let_go);
        drop((output, source));
        let mut written: Vec<u8> = Vec::new();
        while let Ok(bytes) = receiver.recv_timeout(Duration::from_secs(5)) {
            written.extend(bytes);
        }
        let text = String::from_utf8(written).unwrap();
        assert!(text.contains("lines left out"), "{}", &text[..200]);
    }
}
