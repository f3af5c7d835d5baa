extern crate std;

use proptest::prelude::*;

use super::*;

const SHOP: NamespaceId = NamespaceId(100);
const OTHER: NamespaceId = NamespaceId(200);
const CALLER: Identity = Identity(42);
const PLAIN: IdentityFlags = IdentityFlags(0);

fn entry(namespace: NamespaceId, flags: IdentityFlags) -> Option<IdentityEntry> {
    Some(IdentityEntry { namespace, flags })
}

#[test]
fn only_a_bare_syn_opens_a_connection() {
    let opening = [0x02, 0x42, 0xC2, 0x0A, 0x03, 0x22];
    let others = [0x00, 0x12, 0x10, 0x18, 0x04, 0x06, 0x11, 0x14, 0x16, 0x01];
    for flags in opening {
        assert!(opens_connection(flags), "{flags:#x}");
    }
    for flags in others {
        assert!(!opens_connection(flags), "{flags:#x}");
    }
}

#[test]
fn verdicts() {
    let check = |check: TagCheck, entry: Option<IdentityEntry>, expected: Verdict| {
        assert_eq!(decide_verdict(check, entry), expected, "{check:?} {entry:?}");
        let reply = answer_caller(check, entry);
        assert_eq!(reply.verdict, expected.as_u32());
        let shown = entry.filter(|_| expected == Verdict::Known).unwrap_or_default();
        assert_eq!((reply.namespace, reply.flags), (shown.namespace, shown.flags), "{check:?} {entry:?}");
    };
    let known = entry(SHOP, IdentityFlags::UNTRUSTED);
    check(TagCheck::Untagged, None, Verdict::Untagged);
    check(TagCheck::Untagged, known, Verdict::Untagged);
    check(TagCheck::Forged(CALLER), None, Verdict::Forged);
    check(TagCheck::Forged(CALLER), known, Verdict::Forged);
    check(TagCheck::Valid(CALLER), None, Verdict::Foreign);
    check(TagCheck::Valid(CALLER), known, Verdict::Known);
    check(TagCheck::Valid(CALLER), entry(SHOP, IdentityFlags::CONTESTED), Verdict::Foreign);
    check(
        TagCheck::Valid(CALLER),
        entry(SHOP, IdentityFlags::CONTESTED.with(IdentityFlags::GATEWAY)),
        Verdict::Foreign,
    );
    // Reserved identities are no workload, whatever the table says.
    check(TagCheck::Valid(Identity::NODE), None, Verdict::Foreign);
    check(TagCheck::Valid(Identity::NODE), known, Verdict::Foreign);
    check(TagCheck::Valid(Identity::NONE), known, Verdict::Foreign);
}

#[test]
fn the_answer_names_the_identity_that_was_claimed() {
    let known = entry(SHOP, PLAIN);
    assert_eq!(answer_caller(TagCheck::Valid(CALLER), known).identity, CALLER);
    assert_eq!(answer_caller(TagCheck::Forged(CALLER), known).identity, CALLER);
    assert_eq!(answer_caller(TagCheck::Untagged, known).identity, Identity::NONE);
}

#[test]
fn internal_is_known_trusted_and_of_the_same_namespace() {
    let check = |verdict: u32, namespace: NamespaceId, flags: IdentityFlags, function: NamespaceId, expected: bool| {
        let reply = CallerReply { identity: CALLER, verdict, namespace, flags };
        assert_eq!(is_internal(&reply, function), expected, "{reply:?} {function:?}");
    };
    let known = Verdict::Known.as_u32();
    check(known, SHOP, PLAIN, SHOP, true);
    check(known, OTHER, PLAIN, SHOP, false);
    check(known, SHOP, IdentityFlags::UNTRUSTED, SHOP, false);
    check(known, NamespaceId::NONE, PLAIN, NamespaceId::NONE, false);
    for verdict in [Verdict::Untagged, Verdict::Foreign, Verdict::Forged] {
        check(verdict.as_u32(), SHOP, PLAIN, SHOP, false);
    }
    check(4, SHOP, PLAIN, SHOP, false);
}

#[test]
fn guard_of_a_private_function() {
    let guard = GuardEntry { function: Identity(7), namespace: SHOP, flags: GuardFlags(0) };
    let check = |check: TagCheck, entry: Option<IdentityEntry>, excluded: bool, expected: GuardOutcome| {
        assert_eq!(decide_guard(check, entry, guard, excluded), expected, "{check:?} {entry:?} {excluded}");
    };
    let caller = TagCheck::Valid(CALLER);
    check(caller, entry(SHOP, PLAIN), false, GuardOutcome::Neighbour);
    check(caller, entry(SHOP, PLAIN), true, GuardOutcome::Excluded);
    check(caller, entry(SHOP, IdentityFlags::UNTRUSTED), false, GuardOutcome::Untrusted);
    check(caller, entry(SHOP, IdentityFlags::CONTESTED), false, GuardOutcome::Foreign);
    check(caller, entry(OTHER, PLAIN), false, GuardOutcome::OtherNamespace);
    check(caller, entry(NamespaceId::NONE, PLAIN), false, GuardOutcome::OtherNamespace);
    check(caller, None, false, GuardOutcome::Foreign);
    // The gateway passes from any namespace, and cannot be excluded; the agent has nothing to do here.
    check(caller, entry(OTHER, IdentityFlags::GATEWAY), true, GuardOutcome::Gateway);
    check(caller, entry(OTHER, IdentityFlags::GATEWAY.with(IdentityFlags::CONTESTED)), false, GuardOutcome::Foreign);
    check(caller, entry(OTHER, IdentityFlags::AGENT), false, GuardOutcome::OtherNamespace);
    // The kubelet's probes.
    check(TagCheck::Valid(Identity::NODE), None, false, GuardOutcome::Node);
    check(TagCheck::Valid(Identity::NODE), entry(OTHER, PLAIN), true, GuardOutcome::Node);
    // Without proof the table does not help.
    check(TagCheck::Untagged, entry(SHOP, IdentityFlags::GATEWAY), false, GuardOutcome::Untagged);
    check(TagCheck::Forged(CALLER), entry(SHOP, IdentityFlags::GATEWAY), false, GuardOutcome::Forged);
    check(TagCheck::Forged(Identity::NODE), None, false, GuardOutcome::Forged);
    check(TagCheck::Valid(Identity::NONE), entry(SHOP, PLAIN), false, GuardOutcome::Foreign);
}

#[test]
fn guard_of_the_peer_port() {
    let guard = GuardEntry { function: Identity(7), namespace: SHOP, flags: GuardFlags::PEER_PORT };
    let check = |check: TagCheck, entry: Option<IdentityEntry>, expected: GuardOutcome| {
        assert_eq!(decide_guard(check, entry, guard, false), expected, "{check:?} {entry:?}");
    };
    let caller = TagCheck::Valid(CALLER);
    check(caller, entry(SHOP, IdentityFlags::GATEWAY), GuardOutcome::Gateway);
    check(caller, entry(OTHER, IdentityFlags::AGENT), GuardOutcome::Agent);
    check(caller, entry(SHOP, PLAIN), GuardOutcome::NotAPeer);
    check(caller, entry(SHOP, IdentityFlags::GATEWAY.with(IdentityFlags::CONTESTED)), GuardOutcome::NotAPeer);
    check(caller, None, GuardOutcome::NotAPeer);
    check(TagCheck::Valid(Identity::NODE), None, GuardOutcome::NotAPeer);
    check(TagCheck::Untagged, entry(SHOP, IdentityFlags::GATEWAY), GuardOutcome::Untagged);
    check(TagCheck::Forged(CALLER), entry(SHOP, IdentityFlags::GATEWAY), GuardOutcome::Forged);
}

#[test]
fn guard_of_a_function_that_is_called_through_the_gateway_alone() {
    let guard = GuardEntry { function: Identity(7), namespace: SHOP, flags: GuardFlags::GATEWAYS_ONLY };
    let check = |check: TagCheck, entry: Option<IdentityEntry>, expected: GuardOutcome| {
        assert_eq!(decide_guard(check, entry, guard, false), expected, "{check:?} {entry:?}");
    };
    let caller = TagCheck::Valid(CALLER);
    check(caller, entry(OTHER, IdentityFlags::GATEWAY), GuardOutcome::Gateway);
    check(TagCheck::Valid(Identity::NODE), None, GuardOutcome::Node);
    check(caller, entry(SHOP, PLAIN), GuardOutcome::NotAGateway);
    check(caller, entry(OTHER, IdentityFlags::AGENT), GuardOutcome::NotAGateway);
    check(caller, None, GuardOutcome::Foreign);
    check(TagCheck::Untagged, entry(SHOP, PLAIN), GuardOutcome::Untagged);
}

/// A map that was never filled lets nobody in but the node.
#[test]
fn zeroed_entries_let_no_workload_in() {
    let outcome = decide_guard(TagCheck::Valid(CALLER), Some(IdentityEntry::default()), GuardEntry::default(), false);
    assert_eq!(outcome, GuardOutcome::OtherNamespace);
}

#[test]
fn an_exclusion_is_of_this_function_and_this_caller() {
    let guard = GuardEntry { function: Identity(7), namespace: SHOP, flags: GuardFlags(0) };
    assert_eq!(exclusion_key(guard, CALLER), ExclusionKey { function: Identity(7), caller: CALLER });
}

#[test]
fn outcomes_are_numbered_by_their_place() {
    for (place, outcome) in GuardOutcome::ALL.into_iter().enumerate() {
        assert_eq!(outcome as usize, place);
        assert_eq!(outcome.allows(), place < 4, "{outcome:?}");
    }
}

fn any_check() -> impl Strategy<Value = TagCheck> {
    let identity = prop_oneof![0..4_u32, any::<u32>()].prop_map(Identity);
    (0..3_u8, identity).prop_map(|(kind, identity)| match kind {
        0 => TagCheck::Untagged,
        1 => TagCheck::Valid(identity),
        _ => TagCheck::Forged(identity),
    })
}

fn any_entry() -> impl Strategy<Value = Option<IdentityEntry>> {
    prop::option::of((0..3_u32, 0..16_u32).prop_map(|(namespace, flags)| IdentityEntry {
        namespace: NamespaceId(namespace),
        flags: IdentityFlags(flags),
    }))
}

proptest! {
    /// The rule of the guard, said once more and otherwise: as one condition.
    #[test]
    fn the_guard_admits_exactly_who_it_should(
        check in any_check(),
        entry in any_entry(),
        namespace in 0..3_u32,
        peer_port: bool,
        gateways_only: bool,
        excluded: bool,
    ) {
        let flags = GuardFlags(u32::from(peer_port) | u32::from(gateways_only) << 1);
        let guard = GuardEntry { function: Identity(7), namespace: NamespaceId(namespace), flags };
        let is_node = check == TagCheck::Valid(Identity(1));
        let workload = match (check, entry) {
            (TagCheck::Valid(Identity(2..)), Some(entry)) if entry.flags.0 & 8 == 0 => Some(entry),
            _ => None,
        };
        let has = |bit: u32| workload.is_some_and(|entry| entry.flags.0 & bit != 0);
        let is_neighbour = namespace != 0 && workload.is_some_and(|entry| entry.namespace.0 == namespace);
        let expected = if peer_port {
            has(1) || has(2)
        } else {
            is_node || has(1) || (!gateways_only && is_neighbour && !has(4) && !excluded)
        };
        prop_assert_eq!(decide_guard(check, entry, guard, excluded).allows(), expected);
    }

    /// The guard and the gateway agree about neighbours: who is internal by one is a neighbour by the other.
    #[test]
    fn guard_and_gateway_agree(check in any_check(), entry in any_entry(), namespace in 0..3_u32) {
        let guard = GuardEntry { function: Identity(7), namespace: NamespaceId(namespace), flags: GuardFlags(0) };
        let outcome = decide_guard(check, entry, guard, false);
        prop_assume!(outcome != GuardOutcome::Gateway);
        let internal = is_internal(&answer_caller(check, entry), NamespaceId(namespace));
        prop_assert_eq!(internal, outcome == GuardOutcome::Neighbour);
    }
}
