//! The maps, typed. Keys and values cross as their bytes, which the contract spells.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use slimfaas_ebpf::contract::{
    Counter, ExclusionKey, GuardEntry, GuardKey, Identity, IdentityEntry, TagKeys, map_names,
};
use slimfaas_ebpf::policy::GuardOutcome;

use super::KernelError;
use crate::agent::desired::{Change, Desired};

/// A hash map of the kernel, with its name for errors.
struct Table<K: aya::Pod, V: aya::Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

impl<K: aya::Pod, V: aya::Pod> Table<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, KernelError> {
        let map = HashMap::try_from(take(ebpf, name)?).map_err(|error| KernelError::map(name, error))?;
        Ok(Self { name, map })
    }

    fn insert(&mut self, key: &K, value: &V) -> Result<(), KernelError> {
        self.map.insert(key, value, 0).map_err(|error| KernelError::map(self.name, error))
    }

    /// What is not there any more is removed.
    fn remove(&mut self, key: &K) -> Result<(), KernelError> {
        match self.map.remove(key) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(KernelError::map(self.name, error)),
        }
    }

    fn read(&self) -> Result<Vec<(K, V)>, KernelError> {
        self.map.iter().map(|element| element.map_err(|error| KernelError::map(self.name, error))).collect()
    }
}

pub(super) struct Maps {
    cgroups: Table<u64, u32>,
    known: Table<u32, [u8; 8]>,
    guards: Table<[u8; 16], [u8; 12]>,
    exclusions: Table<[u8; 8], u8>,
    keys: Table<u32, [u8; 56]>,
    forgers: Table<[u8; 16], u64>,
    counters: PerCpuArray<MapData, u64>,
}

/// What the kernel programs have counted.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections to guarded ports.
    pub outcomes: BTreeMap<GuardOutcome, u64>,
    pub counted: BTreeMap<Counter, u64>,
}

/// An address that sent forged tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forger {
    pub address: IpAddr,
    /// Forged tags since the address was last forgotten.
    pub count: u64,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let counters = PerCpuArray::try_from(take(ebpf, map_names::COUNTERS)?)
            .map_err(|error| KernelError::map(map_names::COUNTERS, error))?;
        Ok(Self {
            cgroups: Table::take(ebpf, map_names::CGROUPS)?,
            known: Table::take(ebpf, map_names::KNOWN)?,
            guards: Table::take(ebpf, map_names::GUARDS)?,
            exclusions: Table::take(ebpf, map_names::EXCLUSIONS)?,
            keys: Table::take(ebpf, map_names::KEYS)?,
            forgers: Table::take(ebpf, map_names::FORGERS)?,
            counters,
        })
    }

    pub(super) fn read(&self) -> Result<Desired, KernelError> {
        let known = |(identity, entry): (u32, [u8; 8])| (Identity(identity), IdentityEntry::from_bytes(&entry));
        let guard = |(key, entry): ([u8; 16], [u8; 12])| (GuardKey::from_bytes(&key), GuardEntry::from_bytes(&entry));
        let keys = self.keys.read()?.first().map(|(_, keys)| TagKeys::from_bytes(keys));
        Ok(Desired {
            cgroups: self.cgroups.read()?.into_iter().map(|(cgroup, identity)| (cgroup, Identity(identity))).collect(),
            known: self.known.read()?.into_iter().map(known).collect(),
            guards: self.guards.read()?.into_iter().map(guard).collect(),
            exclusions: self.exclusions.read()?.iter().map(|(key, _)| ExclusionKey::from_bytes(key)).collect(),
            keys: keys.unwrap_or_default(),
        })
    }

    pub(super) fn apply(&mut self, change: Change) -> Result<(), KernelError> {
        match change {
            Change::SetKeys(keys) => self.keys.insert(&0, &keys.to_bytes()),
            Change::Guard(key, guard) => self.guards.insert(&key.to_bytes(), &guard.to_bytes()),
            Change::Unguard(key) => self.guards.remove(&key.to_bytes()),
            Change::Exclude(key) => self.exclusions.insert(&key.to_bytes(), &1),
            Change::Include(key) => self.exclusions.remove(&key.to_bytes()),
            Change::Know(identity, entry) => self.known.insert(&identity.0, &entry.to_bytes()),
            Change::Forget(identity) => self.known.remove(&identity.0),
            Change::Assign(cgroup, identity) => self.cgroups.insert(&cgroup, &identity.0),
            Change::Release(cgroup) => self.cgroups.remove(&cgroup),
        }
    }

    pub(super) fn counters(&self) -> Result<Counters, KernelError> {
        let count = |place: usize| {
            let place = u32::try_from(place).expect("there are few counters");
            let values = self.counters.get(&place, 0).map_err(|error| KernelError::map(map_names::COUNTERS, error))?;
            Ok::<u64, KernelError>(values.iter().sum())
        };
        let mut counters = Counters::default();
        for outcome in GuardOutcome::ALL {
            counters.outcomes.insert(outcome, count(outcome as usize)?);
        }
        for counter in Counter::ALL {
            counters.counted.insert(counter, count(GuardOutcome::ALL.len() + counter as usize)?);
        }
        Ok(counters)
    }

    pub(super) fn forgers(&self) -> Result<Vec<Forger>, KernelError> {
        let forger = |(address, count): ([u8; 16], u64)| Forger {
            address: IpAddr::from(Ipv6Addr::from(address)).to_canonical(),
            count,
        };
        let forgers: BTreeSet<Forger> = self.forgers.read()?.into_iter().map(forger).collect();
        Ok(forgers.into_iter().collect())
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name).ok_or(KernelError::Missing(name))
}
