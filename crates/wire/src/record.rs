//! The commit-log record: what is stored, pulled and queried is this one layout.
//!
//! Version 1 has a one-byte topic length, version 2 (topics over 127 characters) two bytes. All
//! integers are big endian. Java: `MessageExtEncoder`, `MessageDecoder`, `CommitLog`.

use std::net::{IpAddr, SocketAddr};

use crate::text::crc31;

/// Magic of a version 1 record.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a version 2 record.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the blank that ends a commit log file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Size of the blank marker: remaining bytes and magic.
pub const BLANK_LEN: usize = 8;
/// sysFlag bit: the born host has 16 bytes.
pub const BORN_HOST_V6: i32 = 0x10;
/// sysFlag bit: the store host has 16 bytes.
pub const STORE_HOST_V6: i32 = 0x20;
/// sysFlag bits of the transaction state.
pub const TRANSACTION_MASK: i32 = 0xC;
/// Transaction state: half message.
pub const TRANSACTION_PREPARED: i32 = 0x4;
/// Transaction state: committed copy.
pub const TRANSACTION_COMMIT: i32 = 0x8;
/// Transaction state: rolled back.
pub const TRANSACTION_ROLLBACK: i32 = 0xC;
/// sysFlag bit: the body is a client batch that consumers have to take apart.
pub const NEED_UNWRAP: i32 = 0x40;
/// sysFlag bit: the record is an inner batch.
pub const INNER_BATCH: i32 = 0x80;

/// Everything that a new record is made of, before the log gives it its offsets.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// Topic that the record is stored under.
    pub topic: &'a str,
    /// Queue that it is stored under.
    pub queue_id: i32,
    /// The user's flag, untouched.
    pub flag: i32,
    /// sysFlag; the host bits are set by the encoder.
    pub sys_flag: i32,
    /// Client's time, epoch milliseconds.
    pub born_timestamp: i64,
    /// Client's address.
    pub born_host: SocketAddr,
    /// Address of the broker, the one that offset message ids carry.
    pub store_host: SocketAddr,
    /// How often the message was retried.
    pub reconsume_times: i32,
    /// Commit log offset of the half message of a committed transaction, else 0.
    pub prepared_offset: i64,
    /// Body as sent, possibly compressed.
    pub body: &'a [u8],
    /// CRC of the body, see [`crc31`]; computed by the caller outside of any lock.
    pub body_crc: i32,
    /// Properties text.
    pub properties: &'a str,
}

/// Offsets and time that the log gives to a record when it is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index in the consume queue.
    pub queue_offset: i64,
    /// Byte offset in the commit log.
    pub physical_offset: i64,
    /// Broker time, epoch milliseconds.
    pub store_timestamp: i64,
}

fn host_len(host: SocketAddr) -> usize {
    if host.is_ipv4() { 8 } else { 20 }
}

fn is_long_topic(topic: &str) -> bool {
    // Java counts UTF-16 units; legal topics are ASCII, where that is the same.
    topic.len() > 127
}

impl NewRecord<'_> {
    /// Size of the encoded record in bytes.
    pub fn encoded_len(&self) -> usize {
        let topic_len = if is_long_topic(self.topic) { 2 } else { 1 };
        // 48 fixed bytes, born host, store time, store host, 16 fixed bytes, then the three texts.
        48 + host_len(self.born_host)
            + 8
            + host_len(self.store_host)
            + 16
            + self.body.len()
            + topic_len
            + self.topic.len()
            + 2
            + self.properties.len()
    }

    /// Appends the record to `out`. Topic and properties must be within their limits (255 bytes,
    /// 32,767 bytes), which the broker checks at its border.
    pub fn encode(&self, place: Place, out: &mut Vec<u8>) {
        let long = is_long_topic(self.topic);
        let mut sys_flag = self.sys_flag & !(BORN_HOST_V6 | STORE_HOST_V6);
        if self.born_host.is_ipv6() {
            sys_flag |= BORN_HOST_V6;
        }
        if self.store_host.is_ipv6() {
            sys_flag |= STORE_HOST_V6;
        }
        out.extend_from_slice(&(self.encoded_len() as u32).to_be_bytes());
        out.extend_from_slice(&if long { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
        out.extend_from_slice(&self.body_crc.to_be_bytes());
        out.extend_from_slice(&self.queue_id.to_be_bytes());
        out.extend_from_slice(&self.flag.to_be_bytes());
        out.extend_from_slice(&place.queue_offset.to_be_bytes());
        out.extend_from_slice(&place.physical_offset.to_be_bytes());
        out.extend_from_slice(&sys_flag.to_be_bytes());
        out.extend_from_slice(&self.born_timestamp.to_be_bytes());
        put_host(out, self.born_host);
        out.extend_from_slice(&place.store_timestamp.to_be_bytes());
        put_host(out, self.store_host);
        out.extend_from_slice(&self.reconsume_times.to_be_bytes());
        out.extend_from_slice(&self.prepared_offset.to_be_bytes());
        out.extend_from_slice(&(self.body.len() as u32).to_be_bytes());
        out.extend_from_slice(self.body);
        if long {
            out.extend_from_slice(&(self.topic.len() as u16).to_be_bytes());
        } else {
            out.push(self.topic.len() as u8);
        }
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(&(self.properties.len() as u16).to_be_bytes());
        out.extend_from_slice(self.properties.as_bytes());
    }
}

fn put_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&u32::from(host.port()).to_be_bytes());
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than a record or its announced size needs.
    #[error("record is cut")]
    Cut,
    /// Neither a record nor a blank.
    #[error("unknown magic {0:#010x}")]
    Magic(u32),
    /// The lengths inside do not add up to the announced size.
    #[error("lengths do not add up")]
    Lengths,
    /// The body does not have the recorded CRC.
    #[error("body crc does not match")]
    Crc,
    /// Topic or properties are not UTF-8.
    #[error("text is not UTF-8")]
    Text,
}

/// What stands at a position of a commit log file.
#[derive(Debug, Clone, Copy)]
pub enum Scanned<'a> {
    /// A record; its size is `record.total_len()`.
    Record(Record<'a>),
    /// The blank at the end of the file, with its announced size.
    Blank(u32),
}

/// A borrowed view of one encoded record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    bytes: &'a [u8],
    born_end: usize,
    store_end: usize,
    body: (usize, usize),
    topic: &'a str,
    properties: &'a str,
}

fn be_u32(bytes: &[u8], at: usize) -> Result<u32, RecordError> {
    let part = bytes.get(at..at + 4).ok_or(RecordError::Cut)?;
    Ok(u32::from_be_bytes(part.try_into().map_err(|_| RecordError::Cut)?))
}

fn be_i64(bytes: &[u8], at: usize) -> i64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    i64::from_be_bytes(raw)
}

/// Reads whatever starts at the front of `bytes`, which may hold more behind it. The CRC is not
/// checked, see [`Record::check_crc`].
pub fn scan(bytes: &[u8]) -> Result<Scanned<'_>, RecordError> {
    let total = be_u32(bytes, 0)? as usize;
    let magic = be_u32(bytes, 4)?;
    if magic == MAGIC_BLANK {
        return Ok(Scanned::Blank(total as u32));
    }
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return Err(RecordError::Magic(magic));
    }
    let bytes = bytes.get(..total).ok_or(RecordError::Cut)?;
    if total < 91 {
        return Err(RecordError::Lengths);
    }
    let sys_flag = be_u32(bytes, 36)? as i32;
    let born_end = 48 + if sys_flag & BORN_HOST_V6 == 0 { 8 } else { 20 };
    let store_end = born_end + 8 + if sys_flag & STORE_HOST_V6 == 0 { 8 } else { 20 };
    let body_start = store_end + 16;
    let body_len = be_u32(bytes, store_end + 12)? as usize;
    let body_end = body_start.checked_add(body_len).ok_or(RecordError::Lengths)?;
    let rest = bytes.get(body_end..).ok_or(RecordError::Lengths)?;
    let (topic_len, rest) = if magic == MAGIC_V2 {
        let (len, rest) = rest.split_at_checked(2).ok_or(RecordError::Lengths)?;
        (usize::from(u16::from_be_bytes([len[0], len[1]])), rest)
    } else {
        let (len, rest) = rest.split_at_checked(1).ok_or(RecordError::Lengths)?;
        (usize::from(len[0]), rest)
    };
    let (topic, rest) = rest.split_at_checked(topic_len).ok_or(RecordError::Lengths)?;
    let (len, properties) = rest.split_at_checked(2).ok_or(RecordError::Lengths)?;
    if usize::from(u16::from_be_bytes([len[0], len[1]])) != properties.len() {
        return Err(RecordError::Lengths);
    }
    Ok(Scanned::Record(Record {
        bytes,
        born_end,
        store_end,
        body: (body_start, body_end),
        topic: std::str::from_utf8(topic).map_err(|_| RecordError::Text)?,
        properties: std::str::from_utf8(properties).map_err(|_| RecordError::Text)?,
    }))
}

/// The records of a concatenation, as pull answers carry them. Stops after the first error.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match scan(rest) {
            Ok(Scanned::Record(record)) => {
                rest = &rest[record.total_len()..];
                Some(Ok(record))
            }
            Ok(Scanned::Blank(_)) => {
                rest = &[];
                Some(Err(RecordError::Magic(MAGIC_BLANK)))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

impl<'a> Record<'a> {
    fn i32_at(&self, at: usize) -> i32 {
        let mut raw = [0; 4];
        raw.copy_from_slice(&self.bytes[at..at + 4]);
        i32::from_be_bytes(raw)
    }

    fn host(&self, start: usize, end: usize) -> SocketAddr {
        let ip: IpAddr = if end - start == 8 {
            <[u8; 4]>::try_from(&self.bytes[start..start + 4]).unwrap_or_default().into()
        } else {
            <[u8; 16]>::try_from(&self.bytes[start..start + 16]).unwrap_or_default().into()
        };
        SocketAddr::new(ip, self.i32_at(end - 4) as u16)
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
    /// Size of the record.
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }
    /// Queue id.
    pub fn queue_id(&self) -> i32 {
        self.i32_at(12)
    }
    /// The user's flag.
    pub fn flag(&self) -> i32 {
        self.i32_at(16)
    }
    /// Index in the consume queue.
    pub fn queue_offset(&self) -> i64 {
        be_i64(self.bytes, 20)
    }
    /// Byte offset in the commit log.
    pub fn physical_offset(&self) -> i64 {
        be_i64(self.bytes, 28)
    }
    /// sysFlag.
    pub fn sys_flag(&self) -> i32 {
        self.i32_at(36)
    }
    /// Client's time.
    pub fn born_timestamp(&self) -> i64 {
        be_i64(self.bytes, 40)
    }
    /// Client's address.
    pub fn born_host(&self) -> SocketAddr {
        self.host(48, self.born_end)
    }
    /// Broker time.
    pub fn store_timestamp(&self) -> i64 {
        be_i64(self.bytes, self.born_end)
    }
    /// Broker's address.
    pub fn store_host(&self) -> SocketAddr {
        self.host(self.born_end + 8, self.store_end)
    }
    /// How often the message was retried.
    pub fn reconsume_times(&self) -> i32 {
        self.i32_at(self.store_end)
    }
    /// Commit log offset of the half message.
    pub fn prepared_offset(&self) -> i64 {
        be_i64(self.bytes, self.store_end + 4)
    }
    /// Stored body.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.body.0..self.body.1]
    }
    /// Recorded CRC of the body.
    pub fn body_crc(&self) -> i32 {
        self.i32_at(8)
    }
    /// Topic.
    pub fn topic(&self) -> &'a str {
        self.topic
    }
    /// Properties text.
    pub fn properties(&self) -> &'a str {
        self.properties
    }

    /// Compares the body with its CRC. An empty body is never checked, as in Java.
    pub fn check_crc(&self) -> Result<(), RecordError> {
        let body = self.body();
        if body.is_empty() || crc31(body) == self.body_crc() {
            Ok(())
        } else {
            Err(RecordError::Crc)
        }
    }

    /// Whether the record belongs into its consume queue: not transactional, or committed.
    pub fn is_visible(&self) -> bool {
        matches!(self.sys_flag() & TRANSACTION_MASK, 0 | TRANSACTION_COMMIT)
    }
}

/// One message of a client batch body (remoting.md 4.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry<'a> {
    /// The user's flag.
    pub flag: i32,
    /// Body.
    pub body: &'a [u8],
    /// Properties text, byte for byte.
    pub properties: &'a str,
}

/// The messages of a client batch body. An error is the last item.
pub fn batch_entries(body: &[u8]) -> impl Iterator<Item = Result<BatchEntry<'_>, RecordError>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let item = batch_entry(rest);
        match item {
            Ok((entry, len)) => {
                rest = &rest[len..];
                Some(Ok(entry))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

fn batch_entry(bytes: &[u8]) -> Result<(BatchEntry<'_>, usize), RecordError> {
    let total = be_u32(bytes, 0)? as usize;
    let entry = bytes.get(..total).ok_or(RecordError::Cut)?;
    let flag = be_u32(entry, 12)? as i32;
    let body_len = be_u32(entry, 16)? as usize;
    let rest = entry.get(20..).ok_or(RecordError::Cut)?;
    let (body, rest) = rest.split_at_checked(body_len).ok_or(RecordError::Lengths)?;
    let (len, properties) = rest.split_at_checked(2).ok_or(RecordError::Lengths)?;
    if usize::from(u16::from_be_bytes([len[0], len[1]])) != properties.len() {
        return Err(RecordError::Lengths);
    }
    let properties = std::str::from_utf8(properties).map_err(|_| RecordError::Text)?;
    Ok((BatchEntry { flag, body, properties }, total))
}

/// Appends one message to a client batch body.
pub fn encode_batch_entry(flag: i32, body: &[u8], properties: &str, out: &mut Vec<u8>) {
    let total = 22 + body.len() + properties.len();
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&flag.to_be_bytes());
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&(properties.len() as u16).to_be_bytes());
    out.extend_from_slice(properties.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(topic: &'a str, host: &str, body: &'a [u8]) -> NewRecord<'a> {
        NewRecord {
            topic,
            queue_id: 3,
            flag: 7,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: host.parse().expect("host"),
            store_host: "127.0.0.1:10911".parse().expect("host"),
            reconsume_times: 2,
            prepared_offset: 9,
            body,
            body_crc: crc31(body),
            properties: "TAGS\u{1}a\u{2}",
        }
    }

    #[test]
    fn records_round_trip_in_every_form() {
        let long = format!("%RETRY%{}", "g".repeat(150));
        for (topic, host) in [("t", "10.0.0.1:5"), ("t", "[fd00::1]:5"), (&long, "10.0.0.1:5")] {
            let new = sample(topic, host, b"hello");
            let place = Place { queue_offset: 11, physical_offset: 12, store_timestamp: 13 };
            let mut out = Vec::new();
            new.encode(place, &mut out);
            assert_eq!(out.len(), new.encoded_len());
            out.extend_from_slice(b"trailing");
            let Ok(Scanned::Record(r)) = scan(&out) else { panic!("no record") };
            assert_eq!((r.topic(), r.queue_id(), r.flag()), (topic, 3, 7));
            assert_eq!((r.queue_offset(), r.physical_offset(), r.store_timestamp()), (11, 12, 13));
            assert_eq!((r.born_host(), r.store_host()), (new.born_host, new.store_host));
            assert_eq!((r.reconsume_times(), r.prepared_offset(), r.body()), (2, 9, &b"hello"[..]));
            assert_eq!(r.properties(), new.properties);
            assert!(r.check_crc().is_ok() && r.is_visible());
            for cut in 0..r.total_len() {
                assert!(scan(&out[..cut]).is_err());
            }
        }
        let new = sample("", "10.0.0.1:5", b"");
        assert_eq!(new.encoded_len() - new.properties.len(), 91);
    }

    #[test]
    fn batch_bodies_round_trip_and_garbage_is_refused() {
        let mut body = Vec::new();
        encode_batch_entry(1, b"one", "A\u{1}b", &mut body);
        encode_batch_entry(0, b"", "", &mut body);
        let entries: Vec<_> = batch_entries(&body).collect::<Result<_, _>>().expect("entries");
        assert_eq!(
            (entries.len(), entries[0].body, entries[0].properties),
            (2, &b"one"[..], "A\u{1}b")
        );
        assert!(batch_entries(b"\x78\x9cjunk").any(|e| e.is_err()));
        assert!(batch_entries(&[0; 40]).any(|e| e.is_err()));
    }
}
