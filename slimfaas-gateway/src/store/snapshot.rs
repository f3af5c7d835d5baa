//! The state as a stream: its rows in order, in chunks that are sent one after the other. Neither side ever has more
//! than one chunk in memory.

use bytes::Bytes;

use crate::queue::codec::{DecodeError, Reader, Writer};
use crate::queue::tables::{Reading, Result, Row, Table};

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
        while let Some((key, value)) = tables.first(*table, &from)? {
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
    use crate::queue::tables::{MemoryTables, Tables};

    #[test]
    fn a_state_arrives_as_it_was_in_chunks_of_bounded_size() {
        let mut tables = MemoryTables::default();
        for number in 0..3000_u64 {
            tables.put(Table::Requests, &number.to_be_bytes(), &[number as u8; 1000]).unwrap();
            tables.put(Table::Elements, &number.to_be_bytes(), b"element").unwrap();
        }
        tables.put(Table::Meta, b"queue", b"").unwrap();
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
        assert_eq!((copy == tables, chunks), (true, 6));
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
