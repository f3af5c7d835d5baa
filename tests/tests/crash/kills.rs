//! `kill -9`: of any node, of the leader, of all at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use slimfaas_tests::report::line;

use super::cluster::NODES;
use super::scenario::Scenario;
use super::verdict::outages;

const BODY: usize = 512;
const LEADER_KILLS: usize = 20;

#[test]
fn without_a_disturbance_nothing_is_delivered_twice() -> Result<()> {
    let mut scenario = Scenario::start("undisturbed")?;
    scenario.load(BODY);
    std::thread::sleep(Duration::from_secs(5));
    let summary = scenario.finish()?;
    ensure!(summary.unknown == 0 && summary.refused.is_empty(), "not everything was accepted");
    ensure!(summary.retries > 0, "no first try failed");
    ensure!(summary.repeats == 0, "{} calls were repeated for no reason", summary.repeats);
    Ok(())
}

#[test]
fn random_nodes_are_killed_again_and_again() -> Result<()> {
    let mut scenario = Scenario::start("random-kills")?;
    scenario.load(BODY);
    while scenario.goes_on()? {
        let node = scenario.random.below(NODES);
        scenario.kill(node)?;
        std::thread::sleep(scenario.random.millis(50, 1500));
        scenario.start_again(node)?;
        // Another one only falls when this one is back: two of three are needed.
        scenario.cluster.wait_until_whole()?;
        std::thread::sleep(scenario.random.millis(0, 500));
    }
    scenario.finish().map(drop)
}

#[test]
fn requests_are_accepted_again_soon_after_the_leaders_end() -> Result<()> {
    let mut scenario = Scenario::start("leader-kills")?;
    scenario.load(BODY);
    std::thread::sleep(Duration::from_secs(1));
    let mut kills = Vec::new();
    for _ in 0..LEADER_KILLS {
        let leader = scenario.cluster.leader()?;
        kills.push(scenario.kill(leader)?);
        std::thread::sleep(Duration::from_millis(1500));
        scenario.start_again(leader)?;
        scenario.cluster.wait_until_whole()?;
        std::thread::sleep(Duration::from_millis(300));
    }
    let history = std::sync::Arc::clone(&scenario.history);
    scenario.finish()?;
    let outages = outages(&history.events(), &kills, 10_000_000);
    let millis = |index: usize| outages[index] / 1000;
    let (median, max) = (millis(LEADER_KILLS / 2), millis(LEADER_KILLS - 1));
    line("time without an accepted call after kill -9 of the leader, in ms:");
    line("| kills | least | p50 | p90 | max |\n|---|---|---|---|---|");
    line(format_args!("| {LEADER_KILLS} | {} | {median} | {} | {max} |", millis(0), millis(LEADER_KILLS * 9 / 10)));
    ensure!(median < 1000, "half of all leaders' ends cost more than a second: {outages:?}");
    // A machine with other things to do may be late, but elections must not fail one after the other.
    ensure!(max < 3000, "an election took too long: {outages:?}");
    Ok(())
}

#[test]
fn all_nodes_are_killed_at_once() -> Result<()> {
    let mut scenario = Scenario::start("power-cut")?;
    scenario.load(BODY);
    while scenario.goes_on()? {
        std::thread::sleep(scenario.random.millis(1000, 3000));
        for node in 0..NODES {
            scenario.kill(node)?;
        }
        for node in 0..NODES {
            scenario.start_again(node)?;
        }
        scenario.cluster.wait_until_whole()?;
    }
    scenario.finish().map(drop)
}
