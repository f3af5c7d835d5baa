//! Names to numbers. Under a secret salt, so that nobody can compute a workload's identity, or search for a name that
//! has another's.
//!
//! 32 bits are few enough to collide by chance: a cluster of 3,000 workloads has a pair with one number with a
//! probability of about 1 in 1,000. Whoever builds the table must look for such pairs, also between workloads that are
//! watched and those that are not, and mark the entry `CONTESTED`, which makes both untrusted; for two watched
//! namespaces with one number likewise, every workload of the two.

use crate::contract::{Identity, Key, NamespaceId};
use crate::siphash::SipHasher;

/// Low 32 bits of SipHash(salt, "namespace/kind/workload"), kind as Kubernetes spells it (`Deployment`). Names of
/// Kubernetes have no slash, so no two workloads share the text. The two reserved numbers are moved up by two:
/// 0 becomes 2 and 1 becomes 3.
pub fn identity_of(salt: Key, namespace: &str, kind: &str, workload: &str) -> Identity {
    let mut hasher = SipHasher::new(salt);
    hasher.write(namespace.as_bytes());
    hasher.write(b"/");
    hasher.write(kind.as_bytes());
    hasher.write(b"/");
    hasher.write(workload.as_bytes());
    identity_from_hash(hasher.finish())
}

/// Low 32 bits of SipHash(salt, "namespace"); the reserved 0 becomes 1. The text has no slash, so it is no workload's.
pub fn namespace_of(salt: Key, namespace: &str) -> NamespaceId {
    let mut hasher = SipHasher::new(salt);
    hasher.write(namespace.as_bytes());
    namespace_from_hash(hasher.finish())
}

const fn identity_from_hash(hash: u64) -> Identity {
    let low = hash as u32;
    Identity(if low <= Identity::NODE.0 { low + 2 } else { low })
}

const fn namespace_from_hash(hash: u64) -> NamespaceId {
    let low = hash as u32;
    NamespaceId(if low == NamespaceId::NONE.0 { 1 } else { low })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_numbers_are_never_made() {
        let table = [
            (0, 2),
            (1, 3),
            (2, 2),
            (3, 3),
            (0xFFFF_FFFF_0000_0000, 2),
            (0xFFFF_FFFF_0000_0001, 3),
            (0x1234_5678_9ABC_DEF0, 0x9ABC_DEF0),
            (u64::MAX, u32::MAX),
        ];
        for (hash, identity) in table {
            assert_eq!(identity_from_hash(hash), Identity(identity), "{hash:#x}");
        }
        assert_eq!(namespace_from_hash(0xFFFF_FFFF_0000_0000), NamespaceId(1));
        assert_eq!(namespace_from_hash(0xFFFF_FFFF_0000_0001), NamespaceId(1));
        assert_eq!(namespace_from_hash(7), NamespaceId(7));
    }

    /// Computed apart from this crate, with another implementation of SipHash-2-4, for the salt 0, 1, …, 15.
    #[test]
    fn identities_are_stable() {
        let salt = Key::from_secret(core::array::from_fn(|i| i as u8));
        assert_eq!(identity_of(salt, "default", "Deployment", "fibonacci1"), Identity(0x6D3D_DF1E));
        assert_eq!(namespace_of(salt, "default"), NamespaceId(0xEB0E_F6A7));
    }

    #[test]
    fn every_part_and_the_salt_matter() {
        let salt = Key { k0: 1, k1: 2 };
        let base = identity_of(salt, "a", "Deployment", "b");
        assert_ne!(base, identity_of(salt, "b", "Deployment", "b"));
        assert_ne!(base, identity_of(salt, "a", "StatefulSet", "b"));
        assert_ne!(base, identity_of(salt, "a", "Deployment", "c"));
        assert_ne!(base, identity_of(Key { k0: 1, k1: 3 }, "a", "Deployment", "b"));
    }

    proptest! {
        #[test]
        fn the_text_is_what_is_hashed(salt: (u64, u64), a in "[a-z0-9-]{1,63}", b in "[a-z0-9-]{1,63}") {
            let salt = Key { k0: salt.0, k1: salt.1 };
            let mut hasher = SipHasher::new(salt);
            hasher.write(format!("{a}/Deployment/{b}").as_bytes());
            let identity = identity_of(salt, &a, "Deployment", &b);
            prop_assert_eq!(identity, identity_from_hash(hasher.finish()));
            prop_assert!(identity > Identity::NODE);
        }
    }
}
