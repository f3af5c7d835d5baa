//! What the agent has learnt so far, from the API server, the gateways, the Secret and the node itself, and what of it
//! the kernel is to hold. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use slimfaas_ebpf::contract::{GuardEntry, GuardKey, Identity, TagKeys};

use super::desired::Desired;
use crate::identity::table::Policy;

/// A number of the hierarchy at one moment; they are never used again.
pub type CgroupId = u64;

/// What of a node's hierarchy matters.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Found {
    pub root: CgroupId,
    /// What holds all pods of a kubelet.
    pub parents: BTreeSet<CgroupId>,
    pub pods: BTreeMap<Arc<str>, PodCgroup>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    pub id: CgroupId,
    pub path: PathBuf,
}

#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// By the UID of the pod.
    pods: BTreeMap<Arc<str>, Identity>,
    /// Whether all pods of the node have been told.
    listed: bool,
    found: Found,
    /// None before a gateway has told one.
    policy: Option<Policy>,
    keys: TagKeys,
}

impl Knowledge {
    pub fn put_pod(&mut self, uid: Arc<str>, identity: Identity) {
        self.pods.insert(uid, identity);
    }

    pub fn remove_pod(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    pub fn set_listed(&mut self) {
        self.listed = true;
    }

    /// Whether something else was found before.
    pub fn set_found(&mut self, found: Found) -> bool {
        let changed = self.found != found;
        self.found = found;
        changed
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = Some(policy);
    }

    /// Whether they were others before.
    pub fn set_keys(&mut self, keys: TagKeys) -> bool {
        let generation = self.keys.generation;
        let changed = keys != TagKeys { generation: keys.generation, ..self.keys };
        if changed {
            self.keys = TagKeys { generation: generation.wrapping_add(1), ..keys };
        }
        changed
    }

    /// Pods whose cgroup has not been seen: either it is about to be made, or the pod is not of this kernel.
    pub fn awaited(&self) -> usize {
        self.pods.keys().filter(|uid| !self.found.pods.contains_key(*uid)).count()
    }

    /// What is still missing before all is in force, for people.
    pub fn pending(&self) -> Vec<&'static str> {
        let missing = [
            (!self.listed, "the node's pods from the API server"),
            (self.found.parents.is_empty(), "the cgroup of the kubelet's pods"),
            (self.policy.is_none(), "the policy from a gateway"),
            (self.keys.present & TagKeys::HAS_CURRENT == 0, "the key of tags"),
        ];
        missing.into_iter().filter(|(is_missing, _)| *is_missing).map(|(_, what)| what).collect()
    }

    /// What the kernel is to hold, given what it holds. Of what has not been learnt yet it keeps what an earlier agent
    /// has told it.
    pub fn desired(&self, held: &Desired) -> Desired {
        let cgroups = self.cgroups(held);
        let mut desired = Desired { cgroups, ..held.clone() };
        if self.keys.present != 0 {
            desired.keys = self.keys;
        }
        match &self.policy {
            Some(policy) => {
                desired.known = policy.known.clone();
                desired.exclusions = policy.exclusions.clone();
                desired.guards = guards(policy, &desired.cgroups);
            }
            // What is gone is not to be guarded.
            None => desired.guards.retain(|key, _| desired.cgroups.contains_key(&key.cgroup)),
        }
        desired
    }

    /// The cgroups of pods that have a guarded port.
    pub fn guarded(&self, held: &Desired) -> BTreeMap<CgroupId, PathBuf> {
        let guarded: BTreeSet<CgroupId> = held.guards.keys().map(|key| key.cgroup).collect();
        let pods = self.found.pods.values().filter(|pod| guarded.contains(&pod.id));
        pods.map(|pod| (pod.id, pod.path.clone())).collect()
    }

    /// Whose each cgroup is. The root is the node's only once it is known where pods are: before, a pod could be taken
    /// for the node.
    fn cgroups(&self, held: &Desired) -> BTreeMap<CgroupId, Identity> {
        let mut cgroups = BTreeMap::new();
        if !self.found.parents.is_empty() {
            cgroups.insert(self.found.root, Identity::NODE);
        }
        cgroups.extend(self.found.parents.iter().map(|parent| (*parent, Identity::NONE)));
        let present: BTreeSet<&CgroupId> = self.found.pods.values().map(|pod| &pod.id).collect();
        if !self.listed {
            cgroups.extend(held.cgroups.iter().filter(|(cgroup, _)| present.contains(cgroup)));
        }
        for (uid, identity) in &self.pods {
            cgroups.extend(self.found.pods.get(uid).map(|pod| (pod.id, *identity)));
        }
        cgroups
    }
}

/// The guarded ports of the pods that are here.
fn guards(policy: &Policy, cgroups: &BTreeMap<CgroupId, Identity>) -> BTreeMap<GuardKey, GuardEntry> {
    let mut guards = BTreeMap::new();
    for (cgroup, function) in cgroups {
        let Some(entry) = policy.known.get(function) else { continue };
        let all_ports = (*function, 0)..=(*function, u16::MAX);
        for ((_, port), flags) in policy.guarded.range(all_ports) {
            let key = GuardKey { cgroup: *cgroup, port: *port, reserved_a: 0, reserved_b: 0 };
            guards.insert(key, GuardEntry { function: *function, namespace: entry.namespace, flags: *flags });
        }
    }
    guards
}

#[cfg(test)]
mod tests {
    use slimfaas_ebpf::contract::{GuardFlags, IdentityEntry, IdentityFlags, Key, NamespaceId};

    use super::*;

    const ORDERS: Identity = Identity(50);
    const ENTRY: IdentityEntry = IdentityEntry { namespace: NamespaceId(7), flags: IdentityFlags(0) };

    fn found(pods: &[(&str, CgroupId)]) -> Found {
        let pod =
            |(uid, id): &(&str, CgroupId)| ((*uid).into(), PodCgroup { id: *id, path: format!("pods/{uid}").into() });
        let pods = pods.iter().map(pod).collect();
        Found { root: 1, parents: [2].into(), pods }
    }

    fn policy() -> Policy {
        Policy {
            known: [(ORDERS, ENTRY)].into(),
            guarded: [((ORDERS, 8080), GuardFlags(0)), ((Identity(51), 80), GuardFlags(0))].into(),
            ..Policy::default()
        }
    }

    fn keys(k0: u64) -> TagKeys {
        TagKeys { current: Key { k0, k1: 0 }, present: TagKeys::HAS_CURRENT, ..TagKeys::default() }
    }

    #[test]
    fn before_anything_is_learnt_the_kernel_keeps_what_it_holds() {
        let guard = GuardEntry { function: ORDERS, namespace: NamespaceId(7), flags: GuardFlags(0) };
        let key = |cgroup| GuardKey { cgroup, port: 8080, reserved_a: 0, reserved_b: 0 };
        let held = Desired {
            cgroups: [(1, Identity::NODE), (2, Identity::NONE), (10, ORDERS), (11, ORDERS)].into(),
            known: [(ORDERS, ENTRY)].into(),
            guards: [(key(10), guard), (key(11), guard)].into(),
            keys: keys(1),
            ..Desired::default()
        };
        let mut knowledge = Knowledge::default();
        knowledge.set_found(found(&[("a", 10)]));
        // The pod of 11 has gone while there was no agent.
        let mut expected = held.clone();
        expected.cgroups.remove(&11);
        expected.guards.remove(&key(11));
        assert_eq!(knowledge.desired(&held), expected);
        assert_eq!(
            knowledge.pending(),
            ["the node's pods from the API server", "the policy from a gateway", "the key of tags"]
        );
        // Once all pods have been told, who is not among them is nobody's.
        knowledge.set_listed();
        assert_eq!(knowledge.desired(&held).cgroups, [(1, Identity::NODE), (2, Identity::NONE)].into());
    }

    #[test]
    fn a_pod_is_known_and_guarded_with_its_cgroup() {
        let mut knowledge = Knowledge::default();
        knowledge.set_listed();
        knowledge.set_policy(policy());
        assert!(knowledge.set_keys(keys(1)));
        knowledge.put_pod("a".into(), ORDERS);
        // Before it is known where pods are, nobody is the node.
        assert_eq!(knowledge.desired(&Desired::default()).cgroups, BTreeMap::new());
        knowledge.set_found(found(&[]));
        assert_eq!(knowledge.awaited(), 1);
        assert!(knowledge.desired(&Desired::default()).guards.is_empty());
        knowledge.set_found(found(&[("a", 10), ("stranger", 12)]));
        assert_eq!(knowledge.awaited(), 0);
        assert!(knowledge.pending().is_empty());
        let desired = knowledge.desired(&Desired::default());
        assert_eq!(desired.cgroups, [(1, Identity::NODE), (2, Identity::NONE), (10, ORDERS)].into());
        let key = GuardKey { cgroup: 10, port: 8080, reserved_a: 0, reserved_b: 0 };
        let guard = GuardEntry { function: ORDERS, namespace: NamespaceId(7), flags: GuardFlags(0) };
        assert_eq!(desired.guards, [(key, guard)].into());
        assert_eq!(knowledge.guarded(&desired), [(10, "pods/a".into())].into());
        assert_eq!(desired.known, policy().known);
        knowledge.remove_pod("a");
        let desired = knowledge.desired(&desired);
        assert_eq!(desired.cgroups, [(1, Identity::NODE), (2, Identity::NONE)].into());
        assert!(desired.guards.is_empty());
    }

    #[test]
    fn each_change_of_the_keys_has_a_number_of_its_own() {
        let mut knowledge = Knowledge::default();
        assert!(knowledge.set_keys(keys(1)));
        assert!(!knowledge.set_keys(keys(1)));
        assert!(knowledge.set_keys(keys(2)));
        assert_eq!(knowledge.desired(&Desired::default()).keys, TagKeys { generation: 2, ..keys(2) });
    }
}
