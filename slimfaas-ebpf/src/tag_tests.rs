extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const KEY: Key = Key::from_secret([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const NEXT: Key = Key { k0: 0x1111, k1: 0x2222 };
const PREVIOUS: Key = Key { k0: 0x3333, k1: 0x4444 };
const STRANGE: Key = Key { k0: 0x5555, k1: 0x6666 };

fn keys(present: u32) -> TagKeys {
    TagKeys { current: KEY, next: NEXT, previous: PREVIOUS, present, generation: 1 }
}

/// A header's options, filled up with zeros, and their length.
fn header(options: &[&[u8]]) -> ([u8; OPTIONS_ROOM], usize) {
    let joined: Vec<u8> = options.concat();
    let mut bytes = [0; OPTIONS_ROOM];
    bytes[..joined.len()].copy_from_slice(&joined);
    (bytes, joined.len())
}

/// Identity and sequence number are chosen so that the signed bytes are 0, 1, …, 7, whose hash under this key is a
/// published vector.
#[test]
fn the_mac_of_known_bytes_is_the_published_vector() {
    let tag = Tag::sign(Identity(0x0001_0203), 0x0405_0607, KEY);
    assert_eq!(tag.mac, 0x93f5_f579_9a93_2462);
    let option = [254, 16, 0x5F, 0xA5, 0, 1, 2, 3, 0x93, 0xF5, 0xF5, 0x79, 0x9A, 0x93, 0x24, 0x62];
    assert_eq!(tag.encode(), option);
    assert_eq!(Tag::decode(&option), Some(tag));
    assert_eq!(option_for(Identity(0x0001_0203), 0x0405_0607, &keys(TagKeys::HAS_CURRENT)), Some(option));
    assert_eq!(
        verify(Found::Option(option), 0x0405_0607, &keys(TagKeys::HAS_CURRENT)),
        TagCheck::Valid(Identity(0x0001_0203))
    );
}

#[test]
fn nothing_is_signed_without_identity_or_current_key() {
    assert_eq!(option_for(Identity::NONE, 1, &keys(7)), None);
    assert_eq!(option_for(Identity(9), 1, &keys(TagKeys::HAS_NEXT | TagKeys::HAS_PREVIOUS)), None);
    assert!(option_for(Identity::NODE, 1, &keys(TagKeys::HAS_CURRENT)).is_some());
}

#[test]
fn options_of_others_are_not_decoded() {
    let good = Tag::sign(Identity(5), 6, KEY).encode();
    for (at, value) in [(0, 253), (1, 15), (1, 17), (2, 0x5E), (3, 0xA4)] {
        let mut option = good;
        option[at] = value;
        assert_eq!(Tag::decode(&option), None, "byte {at} = {value}");
        assert_eq!(verify(Found::Option(option), 6, &keys(7)), TagCheck::Forged(Identity::NONE));
    }
}

#[test]
fn identity_none_is_forged_even_under_a_true_key() {
    let option = Tag::sign(Identity::NONE, 6, KEY).encode();
    assert_eq!(verify(Found::Option(option), 6, &keys(7)), TagCheck::Forged(Identity::NONE));
}

#[test]
fn rotation_verifies_exactly_the_slots_in_use() {
    let check = |signed_with: Key, present: u32, expected: Option<KeySlot>| {
        let tag = Tag::sign(Identity(77), 1234, signed_with);
        assert_eq!(matching_key(tag, 1234, &keys(present)), expected, "present {present:#b}");
        let outcome = match expected {
            Some(_) => TagCheck::Valid(Identity(77)),
            None => TagCheck::Forged(Identity(77)),
        };
        assert_eq!(verify(Found::Option(tag.encode()), 1234, &keys(present)), outcome, "present {present:#b}");
    };
    for present in 0..8 {
        let when = |bit, slot| (present & bit != 0).then_some(slot);
        check(KEY, present, when(TagKeys::HAS_CURRENT, KeySlot::Current));
        check(NEXT, present, when(TagKeys::HAS_NEXT, KeySlot::Next));
        check(PREVIOUS, present, when(TagKeys::HAS_PREVIOUS, KeySlot::Previous));
        check(STRANGE, present, None);
    }
}

/// A tag made just before a rotation is verified by a node that has rotated, and one made just after it by a node
/// that has not.
#[test]
fn a_rotation_has_no_gap() {
    let before = TagKeys { current: KEY, next: NEXT, previous: STRANGE, present: 7, generation: 1 };
    let after = TagKeys { current: NEXT, next: STRANGE, previous: KEY, present: 7, generation: 2 };
    for (sender, receiver) in [(before, after), (after, before), (before, before), (after, after)] {
        let option = option_for(Identity(3), 9, &sender).expect("there is a current key");
        assert_eq!(verify(Found::Option(option), 9, &receiver), TagCheck::Valid(Identity(3)));
    }
}

#[test]
fn a_zeroed_key_map_verifies_nothing() {
    let option = Tag::sign(Identity(3), 9, Key::default()).encode();
    assert_eq!(verify(Found::Option(option), 9, &TagKeys::default()), TagCheck::Forged(Identity(3)));
}

#[test]
fn the_option_is_found_among_others() {
    let ours = Tag::sign(Identity(5), 6, KEY).encode();
    let other_ours = Tag::sign(Identity(8), 6, KEY).encode();
    // What Linux sends with a SYN: MSS, SACK permitted, timestamps, padding, window scale.
    let linux: &[u8] = &[2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let mptcp: &[u8] = &[30, 4, 1, 1];
    let other_experiment: &[u8] = &[254, 6, 0xF9, 0x89, 0, 0];
    let check = |options: &[&[u8]], expected: Found| {
        let (bytes, length) = header(options);
        assert_eq!(find(&bytes, length, |next| next), expected, "{options:?}");
    };
    check(&[], Found::Nothing);
    check(&[linux], Found::Nothing);
    check(&[&ours], Found::Option(ours));
    check(&[linux, &ours], Found::Option(ours));
    check(&[linux, mptcp, &ours], Found::Option(ours));
    check(&[other_experiment, &ours], Found::Option(ours));
    check(&[&[1, 1, 1, 1], linux, &ours], Found::Option(ours));
    check(&[&ours, &other_ours], Found::Option(ours));
    // The end of the list hides what follows; so does a length that cannot be.
    check(&[&[0], &ours], Found::Nothing);
    check(&[&[2, 0], &ours], Found::Nothing);
    check(&[&[2, 1], &ours], Found::Nothing);
    check(&[&[2, 255], &ours], Found::Nothing);
    check(&[&[2]], Found::Nothing);
    // Ours by its name, but not by its length.
    check(&[&[254, 4, 0x5F, 0xA5], linux], Found::Malformed);
    check(&[&[254, 15], &ours[2..], &[0]], Found::Malformed);
    check(&[&[254, 17], &ours[2..], &[0]], Found::Malformed);
    check(&[linux, &ours[..15]], Found::Malformed);
    // Too short to bear the name that the next bytes happen to spell.
    check(&[&[254, 2, 0x5F, 0xA5]], Found::Nothing);
}

#[test]
fn bytes_past_the_stated_length_are_not_read() {
    let ours = Tag::sign(Identity(5), 6, KEY).encode();
    let (bytes, length) = header(&[&ours]);
    assert_eq!(find(&bytes, length - 1, |next| next), Found::Malformed);
    assert_eq!(find(&bytes, 3, |next| next), Found::Nothing);
    assert_eq!(find(&bytes, 0, |next| next), Found::Nothing);
    assert_eq!(find(&bytes, usize::MAX, |next| next), Found::Option(ours));
}

#[test]
fn a_check_survives_socket_storage() {
    for check in [TagCheck::Untagged, TagCheck::Valid(Identity(7)), TagCheck::Forged(Identity(8))] {
        assert_eq!(TagCheck::load(check.store()), check);
    }
    assert_eq!(TagCheck::load(SocketTag::default()), TagCheck::Untagged);
    assert_eq!(TagCheck::load(SocketTag { identity: Identity(9), check: 3 }), TagCheck::Forged(Identity(9)));
}

fn any_key() -> impl Strategy<Value = Key> {
    any::<(u64, u64)>().prop_map(|(k0, k1)| Key { k0, k1 })
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_it_back(identity: u32, mac: u64) {
        let tag = Tag { identity: Identity(identity), mac };
        prop_assert_eq!(Tag::decode(&tag.encode()), Some(tag));
    }

    #[test]
    fn what_is_decoded_encodes_to_the_same_bytes(bytes: [u8; 12]) {
        let mut option = [254, 16, 0x5F, 0xA5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        option[4..].copy_from_slice(&bytes);
        prop_assert_eq!(Tag::decode(&option).map(Tag::encode), Some(option));
    }

    #[test]
    fn a_true_tag_is_valid(identity in 1..u32::MAX, isn: u32, current in any_key()) {
        let keys = TagKeys { current, present: TagKeys::HAS_CURRENT, ..TagKeys::default() };
        let option = option_for(Identity(identity), isn, &keys).expect("there is a current key");
        prop_assert_eq!(verify(Found::Option(option), isn, &keys), TagCheck::Valid(Identity(identity)));
    }

    #[test]
    fn no_flipped_bit_is_valid(identity in 1..u32::MAX, isn: u32, current in any_key(), bit in 0..128_usize) {
        let keys = TagKeys { current, present: TagKeys::HAS_CURRENT, ..TagKeys::default() };
        let mut option = Tag::sign(Identity(identity), isn, current).encode();
        option[bit / 8] ^= 1 << (bit % 8);
        let outcome = verify(Found::Option(option), isn, &keys);
        prop_assert!(matches!(outcome, TagCheck::Forged(_)), "{:?}", outcome);
    }

    #[test]
    fn no_other_sequence_number_is_valid(identity in 1..u32::MAX, isn: u32, other: u32, current in any_key()) {
        prop_assume!(isn != other);
        let keys = TagKeys { current, present: TagKeys::HAS_CURRENT, ..TagKeys::default() };
        let option = Tag::sign(Identity(identity), isn, current).encode();
        prop_assert_eq!(verify(Found::Option(option), other, &keys), TagCheck::Forged(Identity(identity)));
    }

    #[test]
    fn no_other_key_is_valid(identity in 1..u32::MAX, isn: u32, current in any_key(), stranger in any_key()) {
        prop_assume!(current != stranger);
        let keys = TagKeys { current, present: TagKeys::HAS_CURRENT, ..TagKeys::default() };
        let option = Tag::sign(Identity(identity), isn, stranger).encode();
        prop_assert_eq!(verify(Found::Option(option), isn, &keys), TagCheck::Forged(Identity(identity)));
    }

    /// Whatever an attacker writes into a header, the walk ends and what it finds has our name.
    #[test]
    fn any_header_can_be_walked(bytes in prop::collection::vec(any::<u8>(), OPTIONS_ROOM), length in 0..60_usize) {
        let bytes: [u8; OPTIONS_ROOM] = bytes.try_into().expect("the strategy makes exactly so many");
        if let Found::Option(option) = find(&bytes, length, |next| next) {
            prop_assert!(Tag::decode(&option).is_some());
        }
    }
}
