//! A node that stands still (SIGSTOP), as under a hypervisor that has other things to do, and does not know it.

use anyhow::Result;
use slimfaas_tests::process::Signal;

use super::cluster::NODES;
use super::scenario::Scenario;

#[test]
fn nodes_stand_still_for_longer_than_an_election() -> Result<()> {
    let mut scenario = Scenario::start("pauses")?;
    scenario.load(512);
    let mut count = 0;
    while scenario.goes_on()? || count < 4 {
        // The leader every other time.
        let leader = scenario.cluster.leader()?;
        let node = if count % 2 == 0 { leader } else { scenario.random.below(NODES) };
        count += 1;
        scenario.disturb(node, "stop");
        scenario.cluster.signal(node, Signal::STOP)?;
        // An election takes 0.7 s; after 3 s of silence a node's deliveries go to others.
        std::thread::sleep(scenario.random.millis(800, 5000));
        scenario.cluster.signal(node, Signal::CONT)?;
        scenario.remark(node, "go on");
        scenario.cluster.wait_until_whole()?;
        std::thread::sleep(scenario.random.millis(0, 500));
    }
    scenario.finish().map(drop)
}
