//! The judge from outside: porcupine (`xtask/tools/porcupine`), which reads what a scenario has written.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use slimfaas_tests::process::run;
use slimfaas_tests::report::line;
use slimfaas_tests::require::skip_or_fail;
use slimfaas_tests::tools;

use super::scenario::SUITE;

const TIMEOUT: Duration = Duration::from_secs(120);

/// Has a history judged, where the checker is installed.
pub(super) fn check(scenario: &str, history: &Path, folder: &Path) -> Result<()> {
    match tools::find("historycheck") {
        Err(missing) => skip_or_fail(SUITE, &format!("{scenario} by porcupine"), missing),
        Ok(program) => {
            let (good, said) = run("porcupine", Command::new(program).arg(history), TIMEOUT, folder)?;
            ensure!(good, "porcupine refuses the history: {said}");
            let said = said.trim().trim_start_matches(&*history.to_string_lossy());
            line(format_args!("crash/{scenario}: porcupine{said}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::history::{Call, Event, Kind, write};
    use slimfaas_tests::process::Scratch;

    const GOOD: &[(Kind, Call, &str, u16)] = &[
        (Kind::Invoke, Call::Enqueue, "a", 0),
        // Delivered before its sender hears of it, and twice: both are allowed.
        (Kind::Invoke, Call::Deliver, "a", 0),
        (Kind::Ok, Call::Deliver, "a", 200),
        (Kind::Ok, Call::Enqueue, "a", 202),
        (Kind::Invoke, Call::Deliver, "a", 0),
        (Kind::Info, Call::Deliver, "a", 0),
        (Kind::Invoke, Call::Enqueue, "b", 0),
        (Kind::Info, Call::Enqueue, "b", 503),
        (Kind::Invoke, Call::Enqueue, "c", 0),
        (Kind::Info, Call::Enqueue, "c", 503),
        (Kind::Invoke, Call::Deliver, "c", 0),
        (Kind::Ok, Call::Deliver, "c", 200),
        (Kind::Invoke, Call::Enqueue, "d", 0),
        (Kind::Fail, Call::Enqueue, "d", 429),
    ];

    /// What the checker answers to these events, with the queues seen empty at the end.
    fn judged(program: &Path, events: &[(Kind, Call, &str, u16)]) -> Result<(bool, String)> {
        let scratch = Scratch::new("history")?;
        let file = scratch.path().join("history.jsonl");
        let last = [(Kind::Ok, Call::Drained, "", 0)];
        let all = (10..).zip(events.iter().chain(&last)).map(|(at, (kind, call, id, status))| {
            let mut event = Event::new("test", *kind, *call, id);
            (event.at, event.status) = (at, (*status > 0).then_some(*status));
            event
        });
        write(&all.collect::<Vec<_>>(), &file)?;
        run("porcupine", Command::new(program).arg(&file), TIMEOUT, scratch.path())
    }

    #[test]
    fn porcupine_refuses_what_must_not_happen() -> Result<()> {
        let program = match tools::find("historycheck") {
            Ok(program) => program,
            Err(missing) => {
                skip_or_fail(SUITE, "porcupine_refuses_what_must_not_happen", missing);
                return Ok(());
            }
        };
        let (good, said) = judged(&program, GOOD)?;
        ensure!(good && said.contains("good: 4 requests"), "{said}");
        let lost = [(Kind::Invoke, Call::Enqueue, "lost", 0), (Kind::Ok, Call::Enqueue, "lost", 202)];
        let refused = [(Kind::Invoke, Call::Deliver, "d", 0), (Kind::Ok, Call::Deliver, "d", 200)];
        let early = [
            (Kind::Invoke, Call::Deliver, "e", 0),
            (Kind::Ok, Call::Deliver, "e", 200),
            (Kind::Invoke, Call::Enqueue, "e", 0),
            (Kind::Ok, Call::Enqueue, "e", 202),
        ];
        let unsent = [(Kind::Invoke, Call::Deliver, "u", 0), (Kind::Ok, Call::Deliver, "u", 200)];
        let failed =
            [lost[0], lost[1], (Kind::Invoke, Call::Deliver, "lost", 0), (Kind::Ok, Call::Deliver, "lost", 500)];
        for (name, bad) in [("lost", &lost[..]), ("d", &refused), ("e", &early), ("u", &unsent), ("lost", &failed)] {
            let (good, said) = judged(&program, &[GOOD, bad].concat())?;
            if good || !said.contains(&format!("no order explains {name}:")) || said.lines().count() != 1 {
                bail!("{bad:?}: {said}");
            }
        }
        Ok(())
    }
}
