//! Raft's calls and answers as bytes.

use bytes::Bytes;
use openraft::LogIdOptionExt;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use super::types::{LogId, SnapshotMeta, Types};
use super::wire::{
    encoded, entry_size, read_entry, read_log_id, read_stored_membership, read_vote, write_entry, write_log_id,
    write_log_id_option, write_stored_membership, write_vote,
};
use crate::queue::codec::{DecodeError, Reader, Result, Writer};

pub(super) fn append_request(rpc: &AppendEntriesRequest<Types>) -> Bytes {
    let size: usize = rpc.entries.iter().map(entry_size).sum();
    encoded(size + 96, |writer| {
        write_vote(writer, &rpc.vote);
        write_log_id_option(writer, rpc.prev_log_id.as_ref());
        write_log_id_option(writer, rpc.leader_commit.as_ref());
        writer.list(rpc.entries.iter(), write_entry);
    })
}

/// Refuses entries that leave a gap, and those of a later leader than who sends them: openraft would store both.
pub(super) fn read_append_request(reader: &mut Reader) -> Result<AppendEntriesRequest<Types>> {
    let request = AppendEntriesRequest::<Types> {
        vote: read_vote(reader)?,
        prev_log_id: reader.option(read_log_id)?,
        leader_commit: reader.option(read_log_id)?,
        entries: reader.list(read_entry)?,
    };
    let sender = request.vote.leader_id;
    let mut next = request.prev_log_id.next_index();
    for LogId { leader_id, index } in request.entries.iter().map(|entry| entry.log_id) {
        if index != next {
            return Err(DecodeError("has entries of the log that do not follow each other"));
        }
        if (leader_id.term, leader_id.node_id) > (sender.term, sender.node_id) {
            return Err(DecodeError("has entries of a later leader than its sender"));
        }
        next = next.saturating_add(1);
    }
    Ok(request)
}

pub(super) fn append_response(response: &AppendEntriesResponse<u64>) -> Bytes {
    encoded(32, |writer| match response {
        AppendEntriesResponse::Success => writer.byte(0),
        AppendEntriesResponse::PartialSuccess(matching) => {
            writer.byte(1);
            write_log_id_option(writer, matching.as_ref());
        }
        AppendEntriesResponse::Conflict => writer.byte(2),
        AppendEntriesResponse::HigherVote(vote) => {
            writer.byte(3);
            write_vote(writer, vote);
        }
    })
}

pub(super) fn read_append_response(reader: &mut Reader) -> Result<AppendEntriesResponse<u64>> {
    Ok(match reader.byte()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(reader.option(read_log_id)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(read_vote(reader)?),
        _ => return Err(DecodeError("has an unknown kind of answer")),
    })
}

pub(super) fn vote_request(rpc: &VoteRequest<u64>) -> Bytes {
    encoded(48, |writer| {
        write_vote(writer, &rpc.vote);
        write_log_id_option(writer, rpc.last_log_id.as_ref());
    })
}

pub(super) fn read_vote_request(reader: &mut Reader) -> Result<VoteRequest<u64>> {
    Ok(VoteRequest::new(read_vote(reader)?, reader.option(read_log_id)?))
}

pub(super) fn vote_response(response: &VoteResponse<u64>) -> Bytes {
    encoded(48, |writer| {
        write_vote(writer, &response.vote);
        writer.flag(response.vote_granted);
        write_log_id_option(writer, response.last_log_id.as_ref());
    })
}

pub(super) fn read_vote_response(reader: &mut Reader) -> Result<VoteResponse<u64>> {
    Ok(VoteResponse {
        vote: read_vote(reader)?,
        vote_granted: reader.flag()?,
        last_log_id: reader.option(read_log_id)?,
    })
}

pub(super) fn write_snapshot_meta(writer: &mut Writer, meta: &SnapshotMeta) {
    writer.option(meta.last_log_id.as_ref(), write_log_id);
    write_stored_membership(writer, &meta.last_membership);
    writer.text(&meta.snapshot_id);
}

pub(super) fn read_snapshot_meta(reader: &mut Reader) -> Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: reader.option(read_log_id)?,
        last_membership: read_stored_membership(reader)?,
        snapshot_id: reader.text()?,
    })
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::store::raft::types::{Entry, Vote};

    #[test]
    fn entries_that_leave_a_gap_or_are_a_later_leaders_are_refused() {
        let id = |index| LogId::new(CommittedLeaderId::new(3, 7), index);
        let read = |sender: (u64, u64), previous: Option<u64>, indices: &[u64]| {
            let entry = |index: &u64| Entry { log_id: id(*index), payload: EntryPayload::Blank };
            let request = AppendEntriesRequest::<Types> {
                vote: Vote::new_committed(sender.0, sender.1),
                prev_log_id: previous.map(id),
                leader_commit: Some(id(2)),
                entries: indices.iter().map(entry).collect(),
            };
            let read = read_append_request(&mut Reader::new(append_request(&request)));
            assert!(read.as_ref().is_ok_and(|read| format!("{read:?}") == format!("{request:?}")) || read.is_err());
            read.is_ok()
        };
        for (previous, indices, is_taken) in [
            (None, &[][..], true),
            (None, &[0, 1], true),
            (None, &[1], false),
            (Some(4), &[], true),
            (Some(4), &[5, 6, 7], true),
            (Some(4), &[6, 7], false),
            (Some(4), &[5, 7], false),
            (Some(4), &[4, 5], false),
            (Some(4), &[5, 5], false),
        ] {
            assert_eq!(read((3, 7), previous, indices), is_taken, "{indices:?} after {previous:?}");
        }
        for (sender, is_taken) in [((3, 8), true), ((4, 1), true), ((3, 6), false), ((2, 9), false)] {
            assert_eq!(read(sender, Some(4), &[5, 6]), is_taken, "{sender:?}");
        }
    }
}
