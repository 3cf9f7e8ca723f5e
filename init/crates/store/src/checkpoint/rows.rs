//! Rows with their checksum, and reading them back in order.

use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction};

use super::{
    Ahead, Applied, CheckpointError, KEY_APPLIED, META, Open, decode_applied, guarded, row_bytes, table_definition,
};
use crate::state::{LoadError, Row, Table};

const CHECKSUM_LEN: usize = 4;

pub(super) fn encode_value(row: &Row, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.extend_from_slice(&row.value);
    buffer.extend_from_slice(&checksum(row.table, &row.key, &row.value).to_le_bytes());
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table as u8]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// Whether a stored value is what was written.
pub(super) fn check(table: Table, key: &[u8], stored: &[u8]) -> Result<(), CheckpointError> {
    let (value, crc) = stored.split_last_chunk::<CHECKSUM_LEN>().ok_or(CheckpointError::Row { table })?;
    if checksum(table, key, value) == u32::from_le_bytes(*crc) { Ok(()) } else { Err(CheckpointError::Row { table }) }
}

fn decode(table: Table, key: &[u8], stored: &[u8]) -> Result<Row, CheckpointError> {
    check(table, key, stored)?;
    let value = stored.split_last_chunk::<CHECKSUM_LEN>().map_or(stored, |(value, _)| value);
    Ok(Row { table, key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) })
}

/// All rows of one commit, by table and key ascending: an iterator that holds the commit while others go on.
pub struct Rows {
    applied: Applied,
    transaction: ReadTransaction,
    tables: std::slice::Iter<'static, Table>,
    current: Option<(Table, TableRows)>,
    /// Bytes of all rows, and of those that were read: without them a damaged page could hide some.
    expected: u64,
    found: u64,
    /// There is no row behind an error either.
    ended: bool,
    /// Keeps the file open, should it be replaced.
    _reader: Arc<()>,
}

type TableRows = redb::Range<'static, &'static [u8], &'static [u8]>;

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl Rows {
    pub(super) fn new(open: &Open) -> Result<Self, CheckpointError> {
        // Before the transaction: whoever looks for readers in between finds this one.
        let reader = Arc::clone(&open.readers);
        let transaction = open.read()?;
        let meta = transaction.open_table(META).map_err(CheckpointError::database("read"))?;
        let encoded = meta.get(KEY_APPLIED).map_err(CheckpointError::database("read"))?;
        let (applied, used) = encoded.map(|value| decode_applied(value.value())).transpose()?.unwrap_or_default();
        let (tables, expected) = (Table::ALL.iter(), used);
        Ok(Self { applied, transaction, tables, current: None, expected, found: 0, ended: false, _reader: reader })
    }

    /// Has a thread read them from here on.
    pub fn ahead(self) -> Result<Ahead, CheckpointError> {
        Ahead::start(self).map_err(|source| CheckpointError::Io { operation: "start the thread that reads", source })
    }

    /// How far the rows are.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.expected
    }

    fn missing(&self) -> CheckpointError {
        CheckpointError::Missing { found: self.found, expected: self.expected }
    }

    fn advance(&mut self) -> Result<Option<Row>, CheckpointError> {
        loop {
            if let Some((table, range)) = &mut self.current
                && let Some(row) = range.next()
            {
                let (key, value) = row.map_err(CheckpointError::database("read"))?;
                self.found += row_bytes(key.value(), value.value());
                if self.found > self.expected {
                    return Err(self.missing());
                }
                return decode(*table, key.value(), value.value()).map(Some);
            }
            let Some(&table) = self.tables.next() else {
                return if self.found == self.expected { Ok(None) } else { Err(self.missing()) };
            };
            self.current = match self.transaction.open_table(table_definition(table)) {
                Ok(rows) => {
                    let rows: ReadOnlyTable<&'static [u8], &'static [u8]> = rows;
                    let range = rows.range::<&[u8]>(..).map_err(CheckpointError::database("read"))?;
                    Some((table, range))
                }
                Err(redb::TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(CheckpointError::database("read")(error)),
            };
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = guarded(|| self.advance()).map_err(LoadError::from).transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}
