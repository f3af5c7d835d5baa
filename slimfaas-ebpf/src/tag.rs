//! The tag in a SYN: an identity, and the proof that a node of this cluster put it there for this SYN.
//!
//! The proof covers the identity and the initial sequence number, and not the addresses, since those change on the way
//! (NAT). So who can read a tag on its way can send it again under the same sequence number, for as long as the key is
//! verified; how long that is, is the rotation's to bound.

use crate::contract::{
    Identity, Key, KeySlot, OPTION_EXID, OPTION_KIND, OPTION_LEN, OPTIONS_LEN_MAX, OPTIONS_ROOM, SocketTag, TagKeys,
};
use crate::siphash::siphash_word;

const KIND_END: u8 = 0;
const KIND_PADDING: u8 = 1;
const EXID: [u8; 2] = OPTION_EXID.to_be_bytes();

/// What the option says, believed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub identity: Identity,
    pub mac: u64,
}

impl Tag {
    #[inline(always)]
    pub fn sign(identity: Identity, isn: u32, key: Key) -> Self {
        Self { identity, mac: mac(identity, isn, key) }
    }

    /// The option as it goes into the header.
    #[inline(always)]
    pub const fn encode(self) -> [u8; OPTION_LEN] {
        let [i0, i1, i2, i3] = self.identity.0.to_be_bytes();
        let [m0, m1, m2, m3, m4, m5, m6, m7] = self.mac.to_be_bytes();
        [OPTION_KIND, OPTION_LEN as u8, EXID[0], EXID[1], i0, i1, i2, i3, m0, m1, m2, m3, m4, m5, m6, m7]
    }

    /// `None` when the bytes are not an option of ours of the right length.
    #[inline(always)]
    pub const fn decode(option: &[u8; OPTION_LEN]) -> Option<Self> {
        let [kind, length, e0, e1, i0, i1, i2, i3, m0, m1, m2, m3, m4, m5, m6, m7] = *option;
        if kind != OPTION_KIND || length as usize != OPTION_LEN || e0 != EXID[0] || e1 != EXID[1] {
            return None;
        }
        Some(Self {
            identity: Identity(u32::from_be_bytes([i0, i1, i2, i3])),
            mac: u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
        })
    }
}

/// SipHash of the identity and the initial sequence number, both big endian, in this order.
#[inline(always)]
pub fn mac(identity: Identity, isn: u32, key: Key) -> u64 {
    let signed = (identity.0 as u64) << 32 | isn as u64;
    // The hash reads little-endian words; the signed bytes are big endian.
    siphash_word(key, signed.swap_bytes())
}

/// What the options of a SYN hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// An option of ours with another length, or cut short.
    Malformed,
    Option([u8; OPTION_LEN]),
}

/// Looks for our option among the first `length` bytes of a header's options, 40 at most. The first one of ours counts,
/// and options that cannot be walked end the search, as in the kernel's own lookup.
///
/// It looks at every place in turn and asks whether an option starts there, instead of going from option to option: so
/// the verifier, which follows every way that the walk can take, sees the same places on all of them. `forget` returns
/// its argument, of which the verifier then knows nothing: else where the next option starts would be another matter to
/// it on each way, and some versions would follow more than a million instructions.
#[inline(always)]
pub fn find(options: &[u8; OPTIONS_ROOM], length: usize, forget: impl Fn(usize) -> usize) -> Found {
    let end = length.min(OPTIONS_LEN_MAX);
    let mut next = forget(0);
    for at in 0..OPTIONS_LEN_MAX {
        if at != next {
            continue;
        }
        let kind = options[at];
        if at >= end || kind == KIND_END {
            return Found::Nothing;
        }
        if kind == KIND_PADDING {
            next = forget(at + 1);
            continue;
        }
        let size = options[at + 1] as usize;
        if at + 1 >= end || size < 2 {
            return Found::Nothing;
        }
        let is_named = at + 3 < end && options[at + 2] == EXID[0] && options[at + 3] == EXID[1];
        if kind == OPTION_KIND && size >= 4 && is_named {
            return copy_option(options, at, end, size);
        }
        next = forget(at + size);
    }
    Found::Nothing
}

#[inline(always)]
fn copy_option(options: &[u8; OPTIONS_ROOM], at: usize, end: usize, size: usize) -> Found {
    if size != OPTION_LEN || at + OPTION_LEN > end {
        return Found::Malformed;
    }
    let mut option = [0; OPTION_LEN];
    for (to, from) in option.iter_mut().zip(options.iter().skip(at)) {
        *to = *from;
    }
    Found::Option(option)
}

/// The outcome of checking a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagCheck {
    Untagged,
    /// One of the cluster's keys made this tag for this SYN.
    Valid(Identity),
    /// With the identity it claims.
    Forged(Identity),
}

impl TagCheck {
    const UNTAGGED: u32 = 0;
    const VALID: u32 = 1;
    const FORGED: u32 = 2;

    /// For the accepted socket's storage.
    #[inline(always)]
    pub const fn store(self) -> SocketTag {
        match self {
            Self::Untagged => SocketTag { identity: Identity::NONE, check: Self::UNTAGGED },
            Self::Valid(identity) => SocketTag { identity, check: Self::VALID },
            Self::Forged(identity) => SocketTag { identity, check: Self::FORGED },
        }
    }

    /// From the accepted socket's storage; a number that is not ours says nothing in the caller's favour.
    #[inline(always)]
    pub const fn load(stored: SocketTag) -> Self {
        match stored.check {
            Self::UNTAGGED => Self::Untagged,
            Self::VALID => Self::Valid(stored.identity),
            _ => Self::Forged(stored.identity),
        }
    }
}

/// Checks what was found in a SYN with this initial sequence number.
#[inline(always)]
pub fn verify(found: Found, isn: u32, keys: &TagKeys) -> TagCheck {
    let option = match found {
        Found::Nothing => return TagCheck::Untagged,
        Found::Malformed => return TagCheck::Forged(Identity::NONE),
        Found::Option(option) => option,
    };
    let Some(tag) = Tag::decode(&option) else { return TagCheck::Forged(Identity::NONE) };
    // Nobody signs for "none": even under a true key it is no tag of ours.
    if tag.identity == Identity::NONE || matching_key(tag, isn, keys).is_none() {
        return TagCheck::Forged(tag.identity);
    }
    TagCheck::Valid(tag.identity)
}

/// The key that made this tag for a SYN with this initial sequence number. The comparison is of one machine word, so
/// its time does not depend on how much of a guess is right; which of the three keys matched is no secret.
#[inline(always)]
pub fn matching_key(tag: Tag, isn: u32, keys: &TagKeys) -> Option<KeySlot> {
    let matches = |slot| keys.key(slot).is_some_and(|key| mac(tag.identity, isn, key) == tag.mac);
    if matches(KeySlot::Current) {
        Some(KeySlot::Current)
    } else if matches(KeySlot::Next) {
        Some(KeySlot::Next)
    } else if matches(KeySlot::Previous) {
        Some(KeySlot::Previous)
    } else {
        None
    }
}

/// The option for a SYN of this identity. `None` when there is nothing to say, or no key to say it with: the SYN then
/// goes out untagged.
#[inline(always)]
pub fn option_for(identity: Identity, isn: u32, keys: &TagKeys) -> Option<[u8; OPTION_LEN]> {
    if identity == Identity::NONE {
        return None;
    }
    keys.key(KeySlot::Current).map(|key| Tag::sign(identity, isn, key).encode())
}

#[cfg(test)]
#[path = "tag_tests.rs"]
mod tests;
