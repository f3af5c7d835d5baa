//! Links between nodes that fail: both ways, one way, some of them, or all.

use std::time::{Duration, Instant};

use anyhow::Result;
use slimfaas_tests::report::line;

use super::cluster::NODES;
use super::namespaces::Namespaces;
use super::scenario::in_namespaces;

/// What is cut. The node in question comes with it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// Between it and both others; clients still reach it.
    Apart,
    /// It hears nobody, and is heard.
    Deaf,
    /// It is heard by nobody, and hears.
    Mute,
    /// Between it and one other, while the third hears both.
    OneLink,
    /// From everything, clients and the function too.
    Unplugged,
}

pub(super) const CUTS: &[Cut] = &[Cut::Apart, Cut::Deaf, Cut::Mute, Cut::OneLink, Cut::Unplugged];

impl Cut {
    pub(super) fn make(self, spaces: &Namespaces, node: usize) -> Result<()> {
        let others = || (1..NODES).map(|step| (node + step) % NODES);
        match self {
            Self::Apart => others().try_for_each(|other| both(spaces, node, other)),
            Self::Deaf => others().try_for_each(|other| spaces.deafen(node, other)),
            Self::Mute => others().try_for_each(|other| spaces.deafen(other, node)),
            Self::OneLink => both(spaces, node, (node + 1) % NODES),
            Self::Unplugged => spaces.plug(node, false),
        }
    }
}

fn both(spaces: &Namespaces, one: usize, other: usize) -> Result<()> {
    spaces.deafen(one, other)?;
    spaces.deafen(other, one)
}

#[test]
fn links_between_nodes_fail_in_every_way() -> Result<()> {
    in_namespaces("links_between_nodes_fail_in_every_way", "partitions", |scenario, spaces| {
        // Each cut once at the leader and once elsewhere, however short the scenario.
        let mut rounds: Vec<(Cut, bool)> = CUTS.iter().flat_map(|cut| [(*cut, true), (*cut, false)]).collect();
        while !rounds.is_empty() || scenario.goes_on()? {
            let next = scenario.random.below(rounds.len().max(1));
            let (cut, of_leader) = match rounds.is_empty() {
                false => rounds.swap_remove(next),
                true => (CUTS[scenario.random.below(CUTS.len())], scenario.random.below(2) == 0),
            };
            let leader = scenario.cluster.leader()?;
            let node = if of_leader { leader } else { (leader + 1 + scenario.random.below(NODES - 1)) % NODES };
            let role = if of_leader { "leader" } else { "follower" };
            scenario.disturb(node, &format!("{cut:?}, {role}"));
            cut.make(spaces, node)?;
            // Some are over before the others take the node for gone, and some are not.
            std::thread::sleep(scenario.random.millis(500, 5000));
            spaces.heal()?;
            spaces.plug(node, true)?;
            scenario.remark(node, "healed");
            let begin = Instant::now();
            scenario.cluster.wait_until_whole()?;
            let took = begin.elapsed().as_millis();
            line(format_args!("crash/partitions: {cut:?} of a {role}: whole again {took} ms after the cut"));
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    })
}
