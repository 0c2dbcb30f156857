//! Message body compression: ZLIB, LZ4 frame, ZSTD. Brokers pass compressed bodies on untouched;
//! this is for tools, clients and tests.

use std::io::{Read, Write};

/// sysFlag bit: the body is compressed.
pub const COMPRESSED: i32 = 0x1;
const TYPE_MASK: i32 = 0x700;

/// A body that cannot be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The bytes do not belong to the announced type, or the stream is cut.
    #[error("body is not valid {kind:?} data: {source}")]
    Corrupt {
        /// Announced type.
        kind: Kind,
        /// What the decoder said.
        source: std::io::Error,
    },
    /// The result would be larger than the caller allows.
    #[error("decompressed body exceeds {limit} bytes")]
    TooLarge {
        /// The caller's limit in bytes.
        limit: usize,
    },
}

/// Compression types with their sysFlag bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// LZ4 frame format.
    Lz4,
    /// ZSTD frame.
    Zstd,
    /// zlib wrapper; also what flag bits 0 with bit 0x1 set mean.
    Zlib,
}

impl Kind {
    /// The type that a sysFlag announces, `None` for an uncompressed body or an unknown type.
    pub fn of(sys_flag: i32) -> Option<Kind> {
        if sys_flag & COMPRESSED == 0 {
            return None;
        }
        match sys_flag & TYPE_MASK {
            0x100 => Some(Kind::Lz4),
            0x200 => Some(Kind::Zstd),
            0 | 0x300 => Some(Kind::Zlib),
            _ => None,
        }
    }

    /// sysFlag bits that Java 5.x sets for this type, bit 0x1 included.
    pub fn flag(self) -> i32 {
        COMPRESSED
            | match self {
                Kind::Lz4 => 0x100,
                Kind::Zstd => 0x200,
                Kind::Zlib => 0x300,
            }
    }
}

/// Compresses a body with Java's default level 5.
pub fn compress(kind: Kind, body: &[u8]) -> Result<Vec<u8>, CompressError> {
    let done = match kind {
        Kind::Zlib => {
            let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(5));
            out.write_all(body).and_then(|()| out.finish())
        }
        Kind::Lz4 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(body).and_then(|()| out.finish().map_err(std::io::Error::other))
        }
        Kind::Zstd => zstd::bulk::compress(body, 5),
    };
    done.map_err(|source| CompressError::Corrupt { kind, source })
}

/// Decompresses a body, refusing results over `limit` bytes.
pub fn decompress(kind: Kind, body: &[u8], limit: usize) -> Result<Vec<u8>, CompressError> {
    let mut out = Vec::new();
    let cap = limit as u64 + 1;
    let read = match kind {
        Kind::Zlib => flate2::read::ZlibDecoder::new(body).take(cap).read_to_end(&mut out),
        Kind::Lz4 => lz4_flex::frame::FrameDecoder::new(body).take(cap).read_to_end(&mut out),
        Kind::Zstd => zstd::stream::read::Decoder::new(body)
            .and_then(|decoder| decoder.take(cap).read_to_end(&mut out)),
    };
    read.map_err(|source| CompressError::Corrupt { kind, source })?;
    if out.len() > limit {
        return Err(CompressError::TooLarge { limit });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_round_trip_and_respect_the_limit() {
        let body = b"apogee ".repeat(2000);
        for kind in [Kind::Lz4, Kind::Zstd, Kind::Zlib] {
            let small = compress(kind, &body).expect("compress");
            assert!(small.len() < body.len() / 4);
            assert_eq!(Kind::of(kind.flag()), Some(kind));
            assert_eq!(decompress(kind, &small, body.len()).expect("decompress"), body);
            assert!(matches!(
                decompress(kind, &small, body.len() - 1),
                Err(CompressError::TooLarge { .. })
            ));
            assert!(decompress(kind, b"plain text, no frame", 100).is_err());
        }
        assert_eq!((Kind::of(1), Kind::of(0), Kind::of(0x401)), (Some(Kind::Zlib), None, None));
    }
}
