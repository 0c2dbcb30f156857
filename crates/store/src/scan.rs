//! Walking through the log record by record, for recovery.
//!
//! Owns a read buffer; locks nothing and changes nothing. A record counts only if size, magic,
//! lengths and CRC are right and it says itself that it is where it is: bytes of an older
//! generation behind the end do not (Java does not compare the position).

use std::io;

use wire::record::{self, Record, Scanned};

use crate::api::Wait;
use crate::commit_log::CommitLog;
use crate::queue_files::has_data;

const BUFFER: i64 = 4 << 20;
/// The smallest record.
pub(crate) const MIN_RECORD: i64 = 91;

/// What stands at a position.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A good record.
    Record(Record<'a>),
    /// The end of the file; the log goes on at the given position, if there is a file.
    Blank(i64),
    /// Nothing good.
    Bad,
    /// The file does not exist.
    NoFile,
}

/// A step without the record's bytes.
#[derive(Debug, Clone, Copy)]
enum Look {
    Record { len: i64, zero_end: bool },
    Blank(i64),
    Bad,
    NoFile,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    log: &'a CommitLog,
    bytes: Vec<u8>,
    /// Position of `bytes[0]`.
    start: i64,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(log: &'a CommitLog) -> Scanner<'a> {
        Scanner { log, bytes: Vec::new(), start: 0 }
    }

    /// The bytes `[at, at + len)`, which must be within one file. `None`: no file.
    fn window(&mut self, at: i64, len: i64) -> io::Result<Option<&[u8]>> {
        let skip = at - self.start;
        if skip < 0 || skip + len > self.bytes.len() as i64 {
            let Some(segment) = self.log.segment_at(at) else { return Ok(None) };
            let left = self.log.file_size() - (at - segment.start);
            self.bytes.resize(len.max(BUFFER.min(left)) as usize, 0);
            self.start = at;
            let position = (at - segment.start) as u64;
            segment.file.read_at(&mut self.bytes, position, Wait::MayBlock)?;
        }
        let skip = (at - self.start) as usize;
        Ok(Some(&self.bytes[skip..skip + len as usize]))
    }

    /// Looks at one position.
    pub(crate) fn step(&mut self, at: i64) -> io::Result<Step<'_>> {
        let mut look = self.look(at)?;
        // The CRC covers only the body. When the tail of a record never reached the disk, its
        // properties end in zeros, and nothing follows.
        if let Look::Record { len, zero_end: true } = look
            && !matches!(self.look(at + len)?, Look::Record { .. } | Look::Blank(_))
        {
            look = Look::Bad;
        }
        Ok(match look {
            Look::Record { len, .. } => match self.window(at, len)?.map(record::scan) {
                Some(Ok(Scanned::Record(record))) => Step::Record(record),
                _ => Step::Bad,
            },
            Look::Blank(next) => Step::Blank(next),
            Look::Bad => Step::Bad,
            Look::NoFile => Step::NoFile,
        })
    }

    fn look(&mut self, at: i64) -> io::Result<Look> {
        let left = self.log.file_size() - at % self.log.file_size();
        let Some(head) = self.window(at, left.min(8))? else { return Ok(Look::NoFile) };
        let total = match record::scan(head) {
            Ok(Scanned::Blank(len)) if i64::from(len) <= left => return Ok(Look::Blank(at + left)),
            Ok(_) | Err(record::RecordError::Magic(_)) => return Ok(Look::Bad),
            Err(_) => head.first_chunk().map_or(0, |raw| i64::from(u32::from_be_bytes(*raw))),
        };
        if total < MIN_RECORD || total > left {
            return Ok(Look::Bad);
        }
        let Some(bytes) = self.window(at, total)? else { return Ok(Look::NoFile) };
        Ok(match record::scan(bytes) {
            Ok(Scanned::Record(record))
                if record.physical_offset() == at
                    && record.check_crc().is_ok()
                    && !record.topic().contains('\0') =>
            {
                Look::Record { len: total, zero_end: record.properties().ends_with('\0') }
            }
            _ => Look::Bad,
        })
    }

    /// The next position above `at` with a good record, in the same file or else at the start of
    /// a later one; only to be asked below an offset that is known to have records.
    pub(crate) fn resume(&mut self, at: i64) -> io::Result<Option<i64>> {
        let size = self.log.file_size();
        let file_end = at - at % size + size;
        let rest = self.log.segment_at(at).map(|segment| {
            // The zeros behind the end of a log may be a gigabyte.
            has_data(&segment.file, at + 1 - segment.start, size)
        });
        let last = if rest.transpose()?.unwrap_or(false) { file_end - MIN_RECORD } else { at };
        for candidate in at + 1..=last {
            let Some(head) = self.window(candidate, 36)? else { break };
            if head[28..36] == candidate.to_be_bytes()
                && matches!(self.step(candidate)?, Step::Record(_))
            {
                return Ok(Some(candidate));
            }
        }
        let mut start = file_end;
        loop {
            match self.step(start)? {
                Step::Record(_) => return Ok(Some(start)),
                Step::NoFile => return Ok(None),
                _ => start += size,
            }
        }
    }
}
