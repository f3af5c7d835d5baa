//! Whatever the other scenarios do, in random order, and often to two nodes at once.

use std::time::Duration;

use anyhow::Result;
use slimfaas_tests::process::Signal;

use super::cluster::NODES;
use super::namespaces::Namespaces;
use super::partitions::{CUTS, Cut};
use super::scenario::{Scenario, in_namespaces};

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Kill,
    Stop,
    Cut(Cut),
    /// Of one node at a time: what lies on the disks of two of three may be nowhere else.
    LoseDisk,
}

impl Trouble {
    fn any(scenario: &mut Scenario, with_disk: bool) -> Self {
        match scenario.random.below(if with_disk { 4 } else { 3 }) {
            0 => Self::Kill,
            1 => Self::Stop,
            2 => Self::Cut(CUTS[scenario.random.below(CUTS.len())]),
            _ => Self::LoseDisk,
        }
    }

    fn make(self, scenario: &mut Scenario, spaces: &Namespaces, node: usize) -> Result<()> {
        scenario.disturb(node, &format!("{self:?}"));
        match self {
            Self::Kill => scenario.cluster.kill(node),
            Self::Stop => scenario.cluster.signal(node, Signal::STOP),
            Self::Cut(cut) => cut.make(spaces, node),
            Self::LoseDisk => {
                scenario.cluster.kill(node)?;
                Ok(std::fs::remove_dir_all(&scenario.cluster.nodes[node].folder)?)
            }
        }
    }

    fn end(self, scenario: &mut Scenario, spaces: &Namespaces, node: usize) -> Result<()> {
        match self {
            Self::Kill | Self::LoseDisk => scenario.start_again(node),
            Self::Stop => {
                scenario.remark(node, "go on");
                scenario.cluster.signal(node, Signal::CONT)
            }
            Self::Cut(_) => {
                scenario.remark(node, "healed");
                spaces.heal()?;
                spaces.plug(node, true)
            }
        }
    }
}

#[test]
fn troubles_come_together() -> Result<()> {
    in_namespaces("troubles_come_together", "mixed", |scenario, spaces| {
        while scenario.goes_on()? {
            let node = scenario.random.below(NODES);
            let first = Trouble::any(scenario, true);
            first.make(scenario, spaces, node)?;
            std::thread::sleep(scenario.random.millis(0, 1500));
            let other = (node + 1 + scenario.random.below(NODES - 1)) % NODES;
            let second = (scenario.random.below(2) == 0).then(|| Trouble::any(scenario, false));
            if let Some(second) = second {
                second.make(scenario, spaces, other)?;
                std::thread::sleep(scenario.random.millis(0, 3000));
            }
            // Healing heals both where both are cut.
            first.end(scenario, spaces, node)?;
            std::thread::sleep(scenario.random.millis(0, 1000));
            if let Some(second) = second {
                second.end(scenario, spaces, other)?;
            }
            scenario.cluster.wait_until_whole()?;
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    })
}
