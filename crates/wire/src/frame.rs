//! The frame around every command: total length, header word, header, body.

/// Largest value of the total length field that is accepted. Java:
/// `com.rocketmq.remoting.frameMaxLength`.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Bytes in front of the header: total length and header word.
pub const PREFIX: usize = 8;

/// How a header is serialized; the type byte of the header word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serialize {
    /// JSON text.
    Json,
    /// ROCKETMQ binary.
    Binary,
}

/// A frame that ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is over the limit.
    #[error("frame of {length} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Announced length.
        length: usize,
        /// Limit in force.
        limit: usize,
    },
    /// Shorter than its own header word.
    #[error("frame of {0} bytes cannot hold a header")]
    TooShort(usize),
    /// The header would reach beyond the frame.
    #[error("header of {header} bytes does not fit the frame of {frame}")]
    HeaderLength {
        /// Announced header length.
        header: usize,
        /// Bytes behind the header word.
        frame: usize,
    },
    /// Neither JSON nor ROCKETMQ.
    #[error("unknown serialization type {0}")]
    Serialization(u8),
}

/// One frame, borrowed from the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type of the header.
    pub serialize: Serialize,
    /// Header bytes.
    pub header: &'a [u8],
    /// Body bytes, possibly none.
    pub body: &'a [u8],
}

/// Takes the first frame of `bytes`: `None` when it is not complete yet, else the frame and its
/// whole length. Lengths are checked before anything waits for or allocates that many bytes.
pub fn split(bytes: &[u8], max_frame: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(total) = be_u32(bytes, 0) else { return Ok(None) };
    let total = total as usize;
    if total > max_frame {
        return Err(FrameError::TooLarge { length: total, limit: max_frame });
    }
    if total < 4 {
        return Err(FrameError::TooShort(total));
    }
    let Some(word) = be_u32(bytes, 4) else { return Ok(None) };
    let serialize = match (word >> 24) as u8 {
        0 => Serialize::Json,
        1 => Serialize::Binary,
        other => return Err(FrameError::Serialization(other)),
    };
    let header = (word & 0x00FF_FFFF) as usize;
    if header > total - 4 {
        return Err(FrameError::HeaderLength { header, frame: total - 4 });
    }
    let Some(inside) = bytes.get(PREFIX..4 + total) else { return Ok(None) };
    let (header, body) = inside.split_at(header);
    Ok(Some((Frame { serialize, header, body }, 4 + total)))
}

/// How many bytes the frame at the front of `bytes` needs in all, once its length is readable.
pub fn needed(bytes: &[u8]) -> Option<usize> {
    be_u32(bytes, 0).map(|total| 4 + total as usize)
}

/// Reserves the prefix of a frame at the end of `out`; returns where it starts.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    start
}

/// Fills in the prefix of a frame that started at `start`, whose header ends at `header_end` and
/// whose body ends where `out` ends.
pub fn end(out: &mut [u8], start: usize, header_end: usize, serialize: Serialize) {
    let total = (out.len() - start - 4) as u32;
    let kind = if serialize == Serialize::Json { 0 } else { 1 << 24 };
    let word = (header_end - start - PREFIX) as u32 | kind;
    out[start..start + 4].copy_from_slice(&total.to_be_bytes());
    out[start + 4..start + PREFIX].copy_from_slice(&word.to_be_bytes());
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let part = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([part[0], part[1], part[2], part[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(total: u32, word: u32, rest: &[u8]) -> Vec<u8> {
        [&total.to_be_bytes(), &word.to_be_bytes(), rest].concat()
    }

    #[test]
    fn frames_are_split_or_refused() {
        let bytes = frame(9, 3, b"{} body");
        let (got, len) = split(&bytes, MAX_FRAME).expect("ok").expect("complete");
        assert_eq!((got.header, got.body, len), (&b"{} "[..], &b"bo"[..], 13));
        for cut in 0..13 {
            assert_eq!(split(&bytes[..cut], MAX_FRAME), Ok(None));
        }
        assert!(matches!(split(&frame(0, 0, b""), 100), Err(FrameError::TooShort(0))));
        assert!(matches!(split(&frame(101, 0, b""), 100), Err(FrameError::TooLarge { .. })));
        assert!(matches!(split(&frame(9, 6, b"12345"), 100), Err(FrameError::HeaderLength { .. })));
        assert!(matches!(
            split(&frame(9, 2 << 24, b"12345"), 100),
            Err(FrameError::Serialization(2))
        ));
    }
}
