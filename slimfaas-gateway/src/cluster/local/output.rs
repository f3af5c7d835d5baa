//! The log of all processes on one terminal, a line at a time, like compose's.
//!
//! Lines go to a thread of their own through a bounded channel. When the terminal is slower than the processes,
//! lines are left out and counted, so that neither a process nor the gateway waits for a terminal.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

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

    /// Shows the lines of a pipe until it ends, and keeps what they are made of.
    pub(super) async fn pump(self, mut pipe: impl AsyncRead + Unpin, kept: Option<Arc<Kept>>) {
        let mut line: Vec<u8> = Vec::new();
        let mut chunk = vec![0; LINE_BYTES_MAX];
        while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
            if let Some(kept) = &kept {
                kept.push(&chunk[..read]);
            }
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

/// The last output of one process, for those who ask for it.
pub(super) struct Kept {
    max: usize,
    written: Mutex<Written>,
    /// Changes with each change of `written`.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Written {
    bytes: VecDeque<u8>,
    /// What was before `bytes` and is no longer kept.
    forgotten: u64,
    is_closed: bool,
}

impl Kept {
    pub(super) fn new(max: usize) -> Self {
        Self { max, written: Mutex::default(), changes: watch::Sender::new(()) }
    }

    fn push(&self, bytes: &[u8]) {
        self.change(|written| {
            written.bytes.extend(bytes);
            let over = written.bytes.len().saturating_sub(self.max);
            written.bytes.drain(..over);
            written.forgotten += over as u64;
        });
    }

    /// Nothing more will be written.
    pub(super) fn close(&self) {
        self.change(|written| written.is_closed = true);
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_replace(());
    }

    /// What was written from the byte `from` on, as far as it is kept, and where it ends. With `follow` it waits for
    /// more. `None`: there is no more.
    pub(super) async fn after(&self, from: u64, follow: bool) -> Option<(Bytes, u64)> {
        let mut changes = self.changes.subscribe();
        loop {
            {
                let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
                let end = written.forgotten + written.bytes.len() as u64;
                if end > from {
                    let skip = usize::try_from(from.saturating_sub(written.forgotten)).unwrap_or(usize::MAX);
                    return Some((written.bytes.iter().skip(skip).copied().collect(), end));
                }
                if !follow || written.is_closed {
                    return None;
                }
            }
            changes.changed().await.ok()?;
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
        output.source("fib-0", 1, 7).pump(input, None).await;
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

    #[tokio::test]
    async fn the_last_output_is_kept_and_followed() {
        let kept = Kept::new(4);
        assert_eq!(kept.after(0, false).await, None);
        kept.push(b"abc");
        assert_eq!(kept.after(0, false).await, Some((Bytes::from_static(b"abc"), 3)));
        kept.push(b"def");
        assert_eq!(kept.after(3, true).await, Some((Bytes::from_static(b"def"), 6)));
        assert_eq!(kept.after(0, true).await, Some((Bytes::from_static(b"cdef"), 6)), "the first two are no more");
        let (more, ()) = tokio::join!(kept.after(6, true), async { kept.push(b"g") });
        assert_eq!(more, Some((Bytes::from_static(b"g"), 7)));
        let (end, ()) = tokio::join!(kept.after(7, true), async { kept.close() });
        assert_eq!(end, None);
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
