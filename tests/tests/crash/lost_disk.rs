//! A node that comes back under its name and without its disk.

use std::time::{Duration, Instant};

use anyhow::Result;
use slimfaas_tests::process::Signal;
use slimfaas_tests::report::line;

use super::scenario::{Scenario, in_namespaces};

/// Of the function's calls: they are under way, and in the queue, when the leader goes.
const SLOW: Duration = Duration::from_millis(500);

#[test]
fn the_leader_loses_its_disk_amid_slow_calls() -> Result<()> {
    let mut scenario = Scenario::start("leader-without-disk")?;
    scenario.sink.take(SLOW);
    scenario.load(512);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(2));
        let leader = scenario.cluster.leader()?;
        scenario.kill(leader)?;
        std::fs::remove_dir_all(&scenario.cluster.nodes[leader].folder)?;
        scenario.start_again(leader)?;
        let begin = Instant::now();
        scenario.cluster.wait_until_whole()?;
        line(format_args!("crash/leader-without-disk: whole again after {} ms", begin.elapsed().as_millis()));
    }
    scenario.stop_load();
    scenario.sink.take(Duration::from_millis(20));
    scenario.finish().map(drop)
}

/// A pod's node is gone: nothing answers at its address any more, not even a refusal, and another pod comes with its
/// name, elsewhere.
#[test]
fn the_leader_vanishes_and_comes_back_elsewhere_without_its_disk() -> Result<()> {
    in_namespaces(
        "the_leader_vanishes_and_comes_back_elsewhere_without_its_disk",
        "vanished-leader",
        |scenario, spaces| {
            for _ in 0..2 {
                std::thread::sleep(Duration::from_secs(2));
                let leader = scenario.cluster.leader()?;
                spaces.plug(leader, false)?;
                scenario.kill(leader)?;
                std::fs::remove_dir_all(&scenario.cluster.nodes[leader].folder)?;
                std::thread::sleep(scenario.random.millis(100, 4000));
                let place = spaces.move_away(leader)?;
                spaces.plug(leader, true)?;
                scenario.moved(leader, place);
                scenario.start_again(leader)?;
                let begin = Instant::now();
                scenario.cluster.wait_until_whole()?;
                line(format_args!("crash/vanished-leader: whole again after {} ms", begin.elapsed().as_millis()));
            }
            Ok(())
        },
    )
}

/// A pod that is deleted by force: the next one of its name, with another disk and address, is there while the former
/// still ends, and still leads.
#[test]
fn the_leaders_successor_is_there_before_it_ends() -> Result<()> {
    in_namespaces("the_leaders_successor_is_there_before_it_ends", "two-of-a-name", |scenario, spaces| {
        scenario.sink.take(SLOW);
        std::thread::sleep(Duration::from_secs(2));
        let leader = scenario.cluster.leader()?;
        scenario.disturb(leader, "SIGTERM");
        let former = scenario.cluster.take(leader)?;
        let place = spaces.move_to_spare(leader)?;
        former.signal(Signal::TERM)?;
        let node = &mut scenario.cluster.nodes[leader];
        node.prefix = spaces.prefix(leader);
        node.folder = node.folder.with_extension("second");
        scenario.moved(leader, place);
        scenario.start_again(leader)?;
        std::thread::sleep(Duration::from_secs(3));
        scenario.disturb(leader, "kill -9 of the former");
        former.kill()?;
        let begin = Instant::now();
        scenario.cluster.wait_until_whole()?;
        line(format_args!("crash/two-of-a-name: whole again after {} ms", begin.elapsed().as_millis()));
        Ok(())
    })
}
