//! The binary form of Raft's own values, on disk and between peers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload};

use super::types::{Content, Entry, LogId, Member, Membership, StoredMembership, Vote};
use crate::queue::codec::{DecodeError, Reader, Result, Writer};

pub(super) fn write_log_id(writer: &mut Writer, id: &LogId) {
    writer.number(id.leader_id.term);
    writer.fixed(id.leader_id.node_id);
    writer.number(id.index);
}

pub(super) fn read_log_id(reader: &mut Reader) -> Result<LogId> {
    let leader = CommittedLeaderId::new(reader.number()?, reader.fixed()?);
    Ok(LogId::new(leader, reader.number()?))
}

pub(super) fn write_log_id_option(writer: &mut Writer, id: Option<&LogId>) {
    writer.option(id, write_log_id);
}

pub(super) fn write_vote(writer: &mut Writer, vote: &Vote) {
    writer.number(vote.leader_id.term);
    writer.fixed(vote.leader_id.node_id);
    writer.flag(vote.committed);
}

pub(super) fn read_vote(reader: &mut Reader) -> Result<Vote> {
    let mut vote = Vote::new(reader.number()?, reader.fixed()?);
    vote.committed = reader.flag()?;
    Ok(vote)
}

fn write_membership(writer: &mut Writer, membership: &Membership) {
    writer.list(membership.get_joint_config().iter(), |writer, config| {
        writer.list(config.iter(), |writer, id| writer.fixed(*id));
    });
    let nodes: Vec<_> = membership.nodes().collect();
    writer.list(nodes.into_iter(), |writer, (id, member)| {
        writer.fixed(*id);
        writer.text(&member.name);
    });
}

fn read_membership(reader: &mut Reader) -> Result<Membership> {
    let set = |reader: &mut Reader| Ok(reader.list(Reader::fixed)?.into_iter().collect::<BTreeSet<u64>>());
    let configs = reader.list(set)?;
    let nodes = reader.list(|reader| Ok((reader.fixed()?, Member { name: reader.text()? })))?;
    Ok(Membership::new(configs, nodes.into_iter().collect::<BTreeMap<u64, Member>>()))
}

pub(super) fn write_stored_membership(writer: &mut Writer, stored: &StoredMembership) {
    write_log_id_option(writer, stored.log_id().as_ref());
    write_membership(writer, stored.membership());
}

pub(super) fn read_stored_membership(reader: &mut Reader) -> Result<StoredMembership> {
    Ok(StoredMembership::new(reader.option(read_log_id)?, read_membership(reader)?))
}

pub(super) fn write_entry(writer: &mut Writer, entry: &Entry) {
    write_log_id(writer, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => writer.byte(0),
        EntryPayload::Normal(content) => {
            writer.byte(1);
            writer.bytes(&content.0);
        }
        EntryPayload::Membership(membership) => {
            writer.byte(2);
            write_membership(writer, membership);
        }
    }
}

pub(super) fn read_entry(reader: &mut Reader) -> Result<Entry> {
    let log_id = read_log_id(reader)?;
    let payload = match reader.byte()? {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(Content(reader.bytes()?)),
        2 => EntryPayload::Membership(read_membership(reader)?),
        _ => return Err(DecodeError("has an unknown kind of entry")),
    };
    Ok(Entry { log_id, payload })
}

/// Bytes that an encoded entry takes, by and large.
pub(super) fn entry_size(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(content) => content.0.len() + 32,
        EntryPayload::Blank | EntryPayload::Membership(_) => 256,
    }
}

pub(super) fn encoded(size: usize, write: impl FnOnce(&mut Writer)) -> Bytes {
    let mut writer = Writer::with_capacity(size);
    write(&mut writer);
    writer.0.into()
}
