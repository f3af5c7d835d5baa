//! What the kernel's maps are to hold, and the way there from what they hold. Pure.

use std::collections::{BTreeMap, BTreeSet};

use slimfaas_ebpf::contract::{ExclusionKey, GuardEntry, GuardKey, Identity, IdentityEntry, TagKeys};

/// Everything that the kernel programs go by.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Desired {
    /// By the inode number of the cgroup v2 directory. The innermost one that a process is in says who it is: the root
    /// is the node's, what holds all pods is nobody's, and each pod's is its workload's.
    pub cgroups: BTreeMap<u64, Identity>,
    /// Workloads of the watched namespaces, and the gateways and agents.
    pub known: BTreeMap<Identity, IdentityEntry>,
    pub guards: BTreeMap<GuardKey, GuardEntry>,
    pub exclusions: BTreeSet<ExclusionKey>,
    pub keys: TagKeys,
}

/// One call to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    SetKeys(TagKeys),
    Guard(GuardKey, GuardEntry),
    Unguard(GuardKey),
    Exclude(ExclusionKey),
    Include(ExclusionKey),
    /// Also replaces what was known.
    Know(Identity, IdentityEntry),
    Forget(Identity),
    /// Also replaces whose it was.
    Assign(u64, Identity),
    Release(u64),
}

impl Desired {
    /// The changes from `self` to `to`, what takes rights away before what gives some: a change that is interrupted
    /// leaves nobody with more than both states allow, but for those of one and the same workload.
    pub fn changes(&self, to: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(missing(&self.cgroups, &to.cgroups).map(|(cgroup, _)| Change::Release(*cgroup)));
        changes.extend(missing(&self.known, &to.known).map(|(identity, _)| Change::Forget(*identity)));
        changes.extend(new(&self.guards, &to.guards).map(|(key, guard)| Change::Guard(*key, *guard)));
        changes.extend(to.exclusions.difference(&self.exclusions).map(|key| Change::Exclude(*key)));
        if self.keys != to.keys {
            changes.push(Change::SetKeys(to.keys));
        }
        changes.extend(new(&self.known, &to.known).map(|(identity, entry)| Change::Know(*identity, *entry)));
        changes.extend(new(&self.cgroups, &to.cgroups).map(|(cgroup, identity)| Change::Assign(*cgroup, *identity)));
        changes.extend(self.exclusions.difference(&to.exclusions).map(|key| Change::Include(*key)));
        changes.extend(missing(&self.guards, &to.guards).map(|(key, _)| Change::Unguard(*key)));
        changes
    }

    /// What the maps hold after a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::SetKeys(keys) => self.keys = keys,
            Change::Guard(key, guard) => _ = self.guards.insert(key, guard),
            Change::Unguard(key) => _ = self.guards.remove(&key),
            Change::Exclude(key) => _ = self.exclusions.insert(key),
            Change::Include(key) => _ = self.exclusions.remove(&key),
            Change::Know(identity, entry) => _ = self.known.insert(identity, entry),
            Change::Forget(identity) => _ = self.known.remove(&identity),
            Change::Assign(cgroup, identity) => _ = self.cgroups.insert(cgroup, identity),
            Change::Release(cgroup) => _ = self.cgroups.remove(&cgroup),
        }
    }
}

/// What `from` has under a key that `to` does not have.
fn missing<'a, K: Ord, V>(from: &'a BTreeMap<K, V>, to: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    from.iter().filter(|(key, _)| !to.contains_key(key))
}

/// What `to` has and `from` has not, or has otherwise.
fn new<'a, K: Ord, V: PartialEq>(
    from: &'a BTreeMap<K, V>,
    to: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    to.iter().filter(|(key, value)| from.get(key) != Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slimfaas_ebpf::contract::{GuardFlags, IdentityFlags, Key, NamespaceId};

    use super::*;

    const ENTRY: IdentityEntry = IdentityEntry { namespace: NamespaceId(7), flags: IdentityFlags(0) };

    fn guard_key(port: u16) -> GuardKey {
        GuardKey { cgroup: 1, port, reserved_a: 0, reserved_b: 0 }
    }

    #[test]
    fn rights_are_taken_away_before_others_are_given() {
        let guard = GuardEntry { function: Identity(5), namespace: NamespaceId(7), flags: GuardFlags(0) };
        let exclusion = |caller| ExclusionKey { function: Identity(5), caller: Identity(caller) };
        let from = Desired {
            cgroups: [(10, Identity(5)), (11, Identity(6))].into(),
            known: [(Identity(5), ENTRY), (Identity(6), ENTRY)].into(),
            guards: [(guard_key(80), guard)].into(),
            exclusions: [exclusion(6)].into(),
            keys: TagKeys::default(),
        };
        let keys = TagKeys { present: TagKeys::HAS_CURRENT, current: Key { k0: 1, k1: 2 }, ..TagKeys::default() };
        let untrusted = IdentityEntry { flags: IdentityFlags::UNTRUSTED, ..ENTRY };
        let to = Desired {
            cgroups: [(10, Identity(5)), (12, Identity(8))].into(),
            known: [(Identity(5), untrusted), (Identity(8), ENTRY)].into(),
            guards: [(guard_key(81), guard)].into(),
            exclusions: [exclusion(8)].into(),
            keys,
        };
        assert_eq!(
            from.changes(&to),
            [
                Change::Release(11),
                Change::Forget(Identity(6)),
                Change::Guard(guard_key(81), guard),
                Change::Exclude(exclusion(8)),
                Change::SetKeys(keys),
                Change::Know(Identity(5), untrusted),
                Change::Know(Identity(8), ENTRY),
                Change::Assign(12, Identity(8)),
                Change::Include(exclusion(6)),
                Change::Unguard(guard_key(80)),
            ]
        );
    }

    fn any_desired() -> impl Strategy<Value = Desired> {
        let cgroups = prop::collection::btree_map(0..6_u64, (0..4_u32).prop_map(Identity), 0..5);
        let entry = (0..3_u32, 0..4_u32).prop_map(|(namespace, flags)| IdentityEntry {
            namespace: NamespaceId(namespace),
            flags: IdentityFlags(flags),
        });
        let known = prop::collection::btree_map((2..8_u32).prop_map(Identity), entry, 0..5);
        let guard =
            (0..3_u32).prop_map(|function| GuardEntry { function: Identity(function), ..GuardEntry::default() });
        let guards = prop::collection::btree_map((0..4_u16).prop_map(guard_key), guard, 0..4);
        let exclusion = (0..3_u32, 0..3_u32)
            .prop_map(|(function, caller)| ExclusionKey { function: Identity(function), caller: Identity(caller) });
        let exclusions = prop::collection::btree_set(exclusion, 0..5);
        (cgroups, known, guards, exclusions, 0..3_u32).prop_map(|(cgroups, known, guards, exclusions, generation)| {
            Desired { cgroups, known, guards, exclusions, keys: TagKeys { generation, ..TagKeys::default() } }
        })
    }

    proptest! {
        #[test]
        fn the_changes_lead_to_what_is_desired(from in any_desired(), to in any_desired()) {
            let mut state = from.clone();
            let changes = from.changes(&to);
            prop_assert_eq!(changes.is_empty(), from == to);
            for change in changes {
                state.apply(change);
            }
            prop_assert_eq!(state, to);
        }
    }
}
