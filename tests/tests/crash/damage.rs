//! One bit of a node's file that the disk changed while the node was down.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slimfaas_tests::report::line;

use super::cluster::NODES;
use super::history::{Call, Kind};
use super::scenario::Scenario;

#[test]
fn a_flipped_bit_is_found_named_and_repaired() -> Result<()> {
    let mut scenario = Scenario::start("flipped-bit")?;
    scenario.load(512);
    std::thread::sleep(Duration::from_secs(3));
    let leader = scenario.cluster.leader()?;
    let node = (leader + 1) % NODES;
    scenario.kill(node)?;
    let folder = scenario.cluster.nodes[node].folder.clone();
    let file = folder.join("store.log");
    let needle = a_stored_request(&scenario)?;
    let places = places(&file, needle.as_bytes())?;
    ensure!(!places.is_empty(), "the node's file does not hold {needle}");
    let aside = folder.join("store.redb.damaged");
    let mut found = false;
    // A slot that is used again may hold what was in the log before, and that is nobody's.
    for place in &places {
        flip(&file, *place)?;
        scenario.start_again(node)?;
        scenario.cluster.wait_until_whole()?;
        if aside.exists() {
            found = true;
            break;
        }
        scenario.kill(node)?;
        flip(&file, *place)?;
    }
    ensure!(found, "a bit was flipped at each of {places:?}, one after the other, and nobody noticed");
    let said = scenario.cluster.nodes[node].output();
    let named = said.lines().find(|line| line.contains("ERROR") && line.contains("damaged"));
    let named = named.with_context(|| format!("the log does not name the damage: {said}"))?;
    ensure!(named.contains(&*aside.to_string_lossy()), "the log does not say where the damaged file is: {named}");
    line(format_args!("crash/flipped-bit: {}", named.trim()));
    // What it was given by the others is worth something: with one of them gone it makes the majority.
    scenario.kill(leader)?;
    std::thread::sleep(Duration::from_secs(2));
    let before = accepted(&scenario);
    std::thread::sleep(Duration::from_secs(1));
    ensure!(accepted(&scenario) > before, "the repaired node does not help to accept calls");
    scenario.start_again(leader)?;
    scenario.cluster.wait_until_whole()?;
    scenario.finish().map(drop)
}

fn accepted(scenario: &Scenario) -> usize {
    let is_accepted = |call, kind| call == Call::Enqueue && kind == Kind::Ok;
    scenario.history.events().iter().filter(|event| is_accepted(event.call, event.kind)).count()
}

/// A part of a body that was acknowledged a second before the node's end, so that the node has it in its log.
fn a_stored_request(scenario: &Scenario) -> Result<String> {
    let events = scenario.history.events();
    let last = events.last().context("an empty history")?.at;
    let is_old = |at: u64| at + 1_000_000 < last;
    let accepted =
        events.iter().rev().find(|event| event.call == Call::Enqueue && event.kind == Kind::Ok && is_old(event.at));
    Ok(format!(";{};", accepted.context("nothing was accepted")?.id))
}

/// One offset in each page that holds the text.
fn places(file: &Path, needle: &[u8]) -> Result<Vec<u64>> {
    const PAGE: usize = 4096;
    let bytes = std::fs::read(file)?;
    let mut found: Vec<u64> = Vec::new();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        let within = page.windows(needle.len()).position(|window| window == needle);
        found.extend(within.map(|at| (number * PAGE + at + 1) as u64));
    }
    Ok(found)
}

fn flip(file: &Path, at: u64) -> Result<()> {
    let open = || -> std::io::Result<File> { OpenOptions::new().read(true).write(true).open(file) };
    let file = open().with_context(|| format!("cannot open {}", file.display()))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    file.sync_all()?;
    Ok(())
}
