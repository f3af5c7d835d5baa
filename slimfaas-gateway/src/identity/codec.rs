//! The policy on its way from a gateway to an agent: a version, three counts, and so many records in the kernel's
//! layout, little endian. Both run the same release in the end; in between, another version is refused and what was
//! known stays.

use slimfaas_ebpf::contract::{
    EXCLUSIONS_MAX, ExclusionKey, GuardFlags, Identity, IdentityEntry, IdentityFlags, KNOWN_MAX, Key, NamespaceId,
};
use slimfaas_ebpf::siphash::SipHasher;

use super::table::Policy;

const VERSION: u32 = 1;
/// Workloads with a guarded port, times their ports.
const GUARDED_MAX: u32 = KNOWN_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it is of version {0}, not 1: gateways and agents must run the same release")]
    Version(u32),
    #[error("it is cut short, or goes on after its end")]
    Length,
    #[error("it names more than the kernel's maps hold")]
    TooMany,
}

/// The policy as bytes; the same one always as the same.
pub fn encode(policy: &Policy) -> Vec<u8> {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let counts = [policy.known.len(), policy.guarded.len(), policy.exclusions.len()].map(count);
    let known = policy.known.iter().flat_map(|(identity, entry)| [identity.0, entry.namespace.0, entry.flags.0]);
    let guarded = policy.guarded.iter().flat_map(|((identity, port), flags)| [identity.0, u32::from(*port), flags.0]);
    let exclusions = policy.exclusions.iter().flat_map(|key| [key.function.0, key.caller.0]);
    let words = [VERSION].into_iter().chain(counts).chain(known).chain(guarded).chain(exclusions);
    words.flat_map(u32::to_le_bytes).collect()
}

/// Tells two encoded policies apart.
pub fn digest(encoded: &[u8]) -> [u8; 8] {
    let mut hasher = SipHasher::new(Key { k0: 0, k1: 0 });
    hasher.write(encoded);
    hasher.finish().to_le_bytes()
}

pub fn decode(bytes: &[u8]) -> Result<Policy, DecodeError> {
    let mut words = Words { bytes };
    let version = words.next()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let [known, guarded, exclusions] = [words.next()?, words.next()?, words.next()?];
    if known > KNOWN_MAX || guarded > GUARDED_MAX || exclusions > EXCLUSIONS_MAX {
        return Err(DecodeError::TooMany);
    }
    let mut policy = Policy::default();
    for _ in 0..known {
        let identity = Identity(words.next()?);
        let entry = IdentityEntry { namespace: NamespaceId(words.next()?), flags: IdentityFlags(words.next()?) };
        policy.known.insert(identity, entry);
    }
    for _ in 0..guarded {
        let (identity, port) = (Identity(words.next()?), words.next()?);
        let port = u16::try_from(port).map_err(|_large| DecodeError::Length)?;
        policy.guarded.insert((identity, port), GuardFlags(words.next()?));
    }
    for _ in 0..exclusions {
        policy.exclusions.insert(ExclusionKey { function: Identity(words.next()?), caller: Identity(words.next()?) });
    }
    if words.bytes.is_empty() { Ok(policy) } else { Err(DecodeError::Length) }
}

struct Words<'a> {
    bytes: &'a [u8],
}

impl Words<'_> {
    fn next(&mut self) -> Result<u32, DecodeError> {
        let (word, rest) = self.bytes.split_first_chunk().ok_or(DecodeError::Length)?;
        self.bytes = rest;
        Ok(u32::from_le_bytes(*word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_policy() -> impl Strategy<Value = Policy> {
        let identity = || any::<u32>().prop_map(Identity);
        let entry = any::<(u32, u32)>().prop_map(|(namespace, flags)| IdentityEntry {
            namespace: NamespaceId(namespace),
            flags: IdentityFlags(flags),
        });
        let known = prop::collection::btree_map(identity(), entry, 0..8);
        let guarded = prop::collection::btree_map((identity(), any::<u16>()), any::<u32>().prop_map(GuardFlags), 0..8);
        let exclusion = (identity(), identity()).prop_map(|(function, caller)| ExclusionKey { function, caller });
        let exclusions = prop::collection::btree_set(exclusion, 0..8);
        (known, guarded, exclusions).prop_map(|(known, guarded, exclusions)| Policy { known, guarded, exclusions })
    }

    #[test]
    fn another_version_and_wrong_lengths_are_refused() {
        let empty = encode(&Policy::default());
        assert_eq!(empty, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode(&empty), Ok(Policy::default()));
        let check = |bytes: &[u8], expected| assert_eq!(decode(bytes), Err(expected), "{bytes:?}");
        check(&[], DecodeError::Length);
        check(&[2, 0, 0, 0], DecodeError::Version(2));
        check(&empty[..15], DecodeError::Length);
        check(&[&empty[..], &[0]].concat(), DecodeError::Length);
        check(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], DecodeError::Length);
        check(&[1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], DecodeError::TooMany);
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(policy in any_policy()) {
            prop_assert_eq!(decode(&encode(&policy)), Ok(policy));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(policy) = decode(&bytes) {
                prop_assert!(encode(&policy).len() <= bytes.len());
            }
        }
    }
}
