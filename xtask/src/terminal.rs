//! What a person sees: plain lines, coloured on a terminal (and where `CLICOLOR_FORCE` asks for it) unless `NO_COLOR`
//! is set. A closed output is no reason to stop.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
    Bold = 1,
    Dim = 2,
}

/// `text` in `colour`, where colours are shown.
pub(crate) fn paint(colour: Colour, text: &str) -> String {
    if coloured() { format!("\x1b[{}m{text}\x1b[0m", colour as u8) } else { text.to_owned() }
}

/// Whether output is coloured; decided once.
pub(crate) fn coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    *COLOURED.get_or_init(|| !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stdout().is_terminal()))
}

/// One line of the result, on standard output.
pub(crate) fn line(text: &str) {
    // Nobody reads any more: the exit code still tells.
    let _closed = writeln!(std::io::stdout().lock(), "{text}");
}

/// One line about long work, on standard error.
pub(crate) fn progress(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{}", paint(Colour::Dim, text));
}

/// Why the command ends badly, on standard error.
pub(crate) fn failure(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{} {text}", paint(Colour::Red, "error:"));
}
