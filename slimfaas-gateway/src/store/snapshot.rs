//! The state as a stream: its rows in order, in chunks that are sent one after the other. Neither side ever has more
//! than one chunk in memory.

use bytes::Bytes;

use crate::queue::codec::{DecodeError, Reader, Writer};
use crate::queue::element::{Element, ElementId};
use crate::queue::plan;
use crate::queue::tables::{Reading, Result, Row, Table, TableError};

/// A chunk ends after the row that exceeds this.
const CHUNK_BYTES: usize = 512 << 10;

/// Where the next chunk begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    table: Table,
    from: Vec<u8>,
}

impl Position {
    pub fn start() -> Self {
        Self { table: Table::ALL[0], from: Vec::new() }
    }
}

/// Rows of one chunk, encoded, and where the next one begins; `None`: this was the last.
pub fn chunk_at(tables: &impl Reading, position: &Position) -> Result<(Bytes, Option<Position>)> {
    let mut writer = Writer::with_capacity(CHUNK_BYTES + 4096);
    let mut from = position.from.clone();
    let first = Table::ALL.iter().position(|table| *table == position.table).unwrap_or(0);
    for table in &Table::ALL[first..] {
        while let Some((key, value)) = next_row(tables, *table, &from)? {
            writer.byte(*table as u8);
            writer.bytes(&key);
            writer.bytes(&value);
            // The smallest key above this one.
            from = key;
            from.push(0);
            if writer.0.len() > CHUNK_BYTES {
                return Ok((sealed(writer), Some(Position { table: *table, from })));
            }
        }
        from.clear();
    }
    Ok((sealed(writer), None))
}

/// Requests come from wherever they are: the peer does not have the log.
fn next_row(tables: &impl Reading, table: Table, from: &[u8]) -> Result<Option<Row>> {
    if table != Table::Requests {
        return tables.first(table, from);
    }
    let Some((key, value)) = tables.first(Table::Elements, from)? else { return Ok(None) };
    let damaged = |problem| TableError::damaged(Table::Elements, &key, problem);
    let element = Element::decode(value).map_err(|error| damaged(error.0))?;
    let id = key[..].try_into().map_err(|_length| damaged("is not an element's id"))?;
    let request = plan::request(tables, ElementId(id), &element)?;
    Ok(Some((key, request)))
}

/// The rows of a chunk; fails when any bit of it changed on its way.
pub fn rows_of(chunk: Bytes) -> std::result::Result<Vec<(Table, Row)>, DecodeError> {
    let Some(at) = chunk.len().checked_sub(4) else { return Err(DecodeError("ends too early")) };
    let (content, sum) = (chunk.slice(..at), chunk.slice(at..));
    if crc32fast::hash(&content).to_be_bytes() != sum[..] {
        return Err(DecodeError("does not have its checksum"));
    }
    let mut reader = Reader::new(content);
    let mut rows = Vec::new();
    while !reader.is_empty() {
        let table = Table::of(reader.byte()?).ok_or(DecodeError("has an unknown table"))?;
        rows.push((table, (reader.bytes()?.to_vec(), reader.bytes()?)));
    }
    Ok(rows)
}

fn sealed(mut writer: Writer) -> Bytes {
    let sum = crc32fast::hash(&writer.0);
    writer.raw(&sum.to_be_bytes());
    writer.0.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::element::{Phase, Place, Policy};
    use crate::queue::tables::{MemoryTables, Tables};

    #[test]
    fn a_state_arrives_as_it_was_in_chunks_of_bounded_size() {
        let mut tables = MemoryTables::default();
        let mut whole = MemoryTables::default();
        tables.entries.insert(1, vec![1; 1000].into());
        for number in 0..3000_u64 {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let element = element_at(Place { entry: 1, offset: 0, bytes: 1000 }).encode();
            for tables in [&mut tables, &mut whole] {
                tables.put(Table::Elements, &id, &element).unwrap();
            }
            // Some are in the log yet, and some are not.
            let request = if number % 2 == 0 { vec![1; 1000] } else { vec![2; 1000] };
            whole.put(Table::Requests, &id, &request).unwrap();
            if number % 2 == 1 {
                tables.put(Table::Requests, &id, &request).unwrap();
            }
        }
        let (mut copy, mut chunks, mut next) = (MemoryTables::default(), 0, Some(Position::start()));
        while let Some(position) = next {
            let chunk;
            (chunk, next) = chunk_at(&tables, &position).unwrap();
            assert!(chunk.len() < CHUNK_BYTES + 2000);
            for (table, (key, value)) in rows_of(chunk).unwrap() {
                copy.put(table, &key, &value).unwrap();
            }
            chunks += 1;
        }
        assert_eq!((copy == whole, chunks), (true, 7));
    }

    fn element_at(request: Place) -> Element {
        Element {
            phase: Phase::Waiting,
            request,
            order: 0,
            function: 0,
            enqueued_ms: 0,
            bytes: 0,
            body_file: None,
            policy: Policy { timeout_ms: 0, retry_delays_ms: Vec::new(), retry_statuses: Vec::new() },
            attempts: 0,
            tries: 0,
            losses: 0,
            timer_ms: None,
            history: Vec::new(),
        }
    }

    #[test]
    fn any_flipped_bit_is_detected() {
        let mut tables = MemoryTables::default();
        tables.put(Table::Meta, b"key", b"value").unwrap();
        let (chunk, _) = chunk_at(&tables, &Position::start()).unwrap();
        for bit in 0..chunk.len() * 8 {
            let mut flipped = chunk.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(rows_of(flipped.into()), Err(DecodeError("does not have its checksum")), "{bit}");
        }
        assert_eq!(rows_of(Bytes::new()), Err(DecodeError("ends too early")));
    }
}
