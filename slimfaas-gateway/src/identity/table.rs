//! Names to numbers, for all workloads of the watched namespaces at once: only so can it be seen that two have one
//! number, of which then neither is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slimfaas_ebpf::contract::{ExclusionKey, GuardFlags, Identity, IdentityEntry, IdentityFlags, Key, NamespaceId};
use slimfaas_ebpf::identity::{identity_of, namespace_of};

use crate::model::caller::Caller;
use crate::model::function::FunctionId;

/// Something that pods belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub id: FunctionId,
    /// As Kubernetes spells it.
    pub kind: Arc<str>,
    /// What its calls are to the gateway.
    pub caller: Caller,
    pub flags: IdentityFlags,
    /// Ports of its pods that are guarded.
    pub guarded: BTreeMap<u16, GuardFlags>,
    /// Names of workloads of its namespace that it excludes.
    pub excludes: BTreeSet<String>,
}

/// What the agents are told.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    pub known: BTreeMap<Identity, IdentityEntry>,
    pub guarded: BTreeMap<(Identity, u16), GuardFlags>,
    pub exclusions: BTreeSet<ExclusionKey>,
}

/// What the gateway itself goes by.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Table {
    pub policy: Policy,
    callers: BTreeMap<Identity, Caller>,
    /// Pairs of workloads, or of namespaces, with one number: for a complaint.
    pub contested: Vec<(String, String)>,
}

impl Table {
    /// Workloads of the same namespace, kind and name are one.
    pub fn new(salt: Key, workloads: &[Workload]) -> Self {
        let mut table = Self::default();
        let contested_namespaces = table.number_namespaces(salt, workloads);
        let mut names: BTreeMap<Identity, String> = BTreeMap::new();
        let mut by_name: BTreeMap<&FunctionId, Vec<Identity>> = BTreeMap::new();
        for workload in workloads {
            let FunctionId { namespace, name } = &workload.id;
            let identity = identity_of(salt, namespace, &workload.kind, name);
            let namespace_id = namespace_of(salt, namespace);
            let full_name = format!("{namespace}/{}/{name}", workload.kind);
            let mut flags = workload.flags;
            if contested_namespaces.contains(&namespace_id) {
                flags = flags.with(IdentityFlags::CONTESTED);
            }
            if let Some(other) = names.insert(identity, full_name.clone()).filter(|other| *other != full_name) {
                flags = flags.with(IdentityFlags::CONTESTED);
                table.contested.push((other, full_name));
            }
            if let Some(earlier) = table.policy.known.get(&identity) {
                flags = flags.with(earlier.flags);
            }
            table.policy.known.insert(identity, IdentityEntry { namespace: namespace_id, flags });
            table.callers.insert(identity, workload.caller.clone());
            by_name.entry(&workload.id).or_default().push(identity);
            for (port, flags) in &workload.guarded {
                table.policy.guarded.insert((identity, *port), *flags);
            }
        }
        for function in workloads.iter().filter(|workload| !workload.guarded.is_empty()) {
            let own = identity_of(salt, &function.id.namespace, &function.kind, &function.id.name);
            for name in &function.excludes {
                let excluded = FunctionId::new(&function.id.namespace, name);
                let callers = by_name.get(&excluded).into_iter().flatten();
                table.policy.exclusions.extend(callers.map(|caller| ExclusionKey { function: own, caller: *caller }));
            }
        }
        table
    }

    /// Notes namespaces with one number; returns these numbers.
    fn number_namespaces(&mut self, salt: Key, workloads: &[Workload]) -> BTreeSet<NamespaceId> {
        let mut names: BTreeMap<NamespaceId, &str> = BTreeMap::new();
        let mut contested = BTreeSet::new();
        let namespaces: BTreeSet<&str> = workloads.iter().map(|workload| &*workload.id.namespace).collect();
        for namespace in namespaces {
            let id = namespace_of(salt, namespace);
            if let Some(other) = names.insert(id, namespace) {
                contested.insert(id);
                self.contested.push((other.to_owned(), namespace.to_owned()));
            }
        }
        contested
    }

    /// Whose calls have this identity in a true tag. Who is not known, and who is contested, is outside.
    pub fn caller(&self, identity: Identity) -> Caller {
        let entry = self.policy.known.get(&identity);
        let believed = entry.is_some_and(|entry| !entry.flags.has(IdentityFlags::CONTESTED));
        let caller = self.callers.get(&identity).filter(|_| believed);
        caller.cloned().unwrap_or(Caller::Outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::visibility::Trust;

    const SALT: Key = Key::from_secret([3; 16]);

    fn workload(namespace: &str, kind: &str, name: &str) -> Workload {
        let id = FunctionId::new(namespace, name);
        Workload {
            caller: Caller::Pod { workload: id.clone(), trust: Trust::Trusted },
            id,
            kind: kind.into(),
            flags: IdentityFlags(0),
            guarded: BTreeMap::new(),
            excludes: BTreeSet::new(),
        }
    }

    #[test]
    fn workloads_become_numbers() {
        let mut orders = workload("shop", "Deployment", "orders");
        orders.guarded = [(8080, GuardFlags(0))].into();
        orders.excludes = ["tracker".to_owned(), "nobody".to_owned()].into();
        let mut shady = workload("shop", "Deployment", "shady");
        shady.flags = IdentityFlags::UNTRUSTED;
        let all = [
            orders.clone(),
            shady.clone(),
            workload("shop", "Deployment", "tracker"),
            workload("shop", "StatefulSet", "tracker"),
            workload("bank", "Deployment", "tracker"),
        ];
        let table = Table::new(SALT, &all);
        let of = |namespace: &str, kind: &str, name: &str| identity_of(SALT, namespace, kind, name);
        let (own, shady_id) = (of("shop", "Deployment", "orders"), of("shop", "Deployment", "shady"));
        assert_eq!(table.policy.known.len(), 5);
        assert_eq!(
            table.policy.known[&shady_id],
            IdentityEntry { namespace: namespace_of(SALT, "shop"), flags: IdentityFlags::UNTRUSTED }
        );
        assert_eq!(table.policy.guarded, [((own, 8080), GuardFlags(0))].into());
        let excluded = ["Deployment", "StatefulSet"].map(|kind| of("shop", kind, "tracker"));
        assert_eq!(
            table.policy.exclusions,
            excluded.into_iter().map(|caller| ExclusionKey { function: own, caller }).collect()
        );
        assert_eq!(table.caller(own), orders.caller);
        assert_eq!(table.caller(Identity(2)), Caller::Outside);
        assert_eq!(table.caller(Identity::NODE), Caller::Outside);
        assert!(table.contested.is_empty());
        assert_eq!(Table::new(SALT, &[shady.clone(), shady]).policy.known.len(), 1);
    }

    /// Two of 200,000 names have one number of 32 bits, with a probability of 99 %; these two do under this salt.
    #[test]
    fn of_two_with_one_number_neither_is_believed() {
        let mut seen: BTreeMap<Identity, String> = BTreeMap::new();
        let names = (0..400_000).map(|number| format!("f{number}"));
        let (one, other) = names
            .into_iter()
            .find_map(|name| {
                let identity = identity_of(SALT, "shop", "Deployment", &name);
                seen.insert(identity, name.clone()).map(|other| (other, name))
            })
            .expect("some two of so many have one number");
        let pair = [workload("shop", "Deployment", &one), workload("shop", "Deployment", &other)];
        let table = Table::new(SALT, &pair);
        let identity = identity_of(SALT, "shop", "Deployment", &one);
        assert!(table.policy.known[&identity].flags.has(IdentityFlags::CONTESTED));
        assert_eq!(table.caller(identity), Caller::Outside);
        assert_eq!(table.contested, [(format!("shop/Deployment/{one}"), format!("shop/Deployment/{other}"))]);
    }
}
