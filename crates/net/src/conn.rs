//! One connection of a loop: its socket, what is read but not whole, what is not yet written.

use std::io::{self, Read, Write};
use std::sync::Arc;

use wire::frame;

use crate::peer::Peer;

/// Capacity that an idle connection may keep for its input, and for its output.
const KEEP: usize = 64 * 1024;

pub(crate) struct Conn {
    pub(crate) socket: mio::net::TcpStream,
    pub(crate) peer: Arc<Peer>,
    input: Input,
    pub(crate) out: Vec<u8>,
    written: usize,
    pub(crate) active_ms: i64,
    /// Close once everything is written.
    pub(crate) closing: bool,
    /// Listed for writing at the end of the turn.
    pub(crate) dirty: bool,
    /// Listed for reading in the next turn.
    pub(crate) ready: bool,
    /// The client will send nothing more: read on until its end is seen.
    pub(crate) ending: bool,
}

/// What a read brought.
pub(crate) enum Got {
    /// Nothing more for now.
    Drained,
    /// The socket may have more.
    More,
    /// The client is gone.
    End,
}

/// What became of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// It is all written.
    All,
    /// As much as was allowed; the socket may take more.
    Piece,
    /// The rest has to wait until the socket is writable.
    Blocked,
}

impl Conn {
    pub(crate) fn new(socket: mio::net::TcpStream, peer: Arc<Peer>, now_ms: i64) -> Conn {
        Conn {
            socket,
            peer,
            input: Input::default(),
            out: Vec::new(),
            written: 0,
            active_ms: now_ms,
            closing: false,
            dirty: false,
            ready: false,
            ending: false,
        }
    }

    /// Bytes that wait for the client to read.
    pub(crate) fn unsent(&self) -> usize {
        self.out.len() - self.written
    }

    /// Reads once and hands every whole frame to `each` together with the output buffer. `each`
    /// answers false to stop. Whole frames are taken straight from the loop's buffer; only the
    /// beginning of an unfinished one is copied.
    pub(crate) fn read(
        &mut self,
        buffer: &mut [u8],
        max_frame: usize,
        each: &mut dyn FnMut(frame::Frame<'_>, &mut Vec<u8>) -> bool,
    ) -> Result<Got, ReadError> {
        let wanted = self.input.wanted();
        if wanted > buffer.len() {
            // A large frame: read the rest of it in place instead of in many small copies.
            return self.read_large(wanted, max_frame, each);
        }
        match self.socket.read(buffer) {
            Ok(0) => Ok(Got::End),
            Ok(len) => {
                self.input.take(&buffer[..len], max_frame, &mut self.out, each)?;
                Ok(if len == buffer.len() { Got::More } else { Got::Drained })
            }
            Err(error) => would_block(error),
        }
    }

    fn read_large(
        &mut self,
        wanted: usize,
        max_frame: usize,
        each: &mut dyn FnMut(frame::Frame<'_>, &mut Vec<u8>) -> bool,
    ) -> Result<Got, ReadError> {
        let partial = &mut self.input.partial;
        let start = partial.len();
        partial.resize(start + wanted, 0);
        let read = self.socket.read(&mut partial[start..]);
        partial.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Ok(Got::End),
            Ok(_) => {
                self.input.take(&[], max_frame, &mut self.out, each)?;
                Ok(Got::More)
            }
            Err(error) => would_block(error),
        }
    }

    /// Adds frames to the output.
    pub(crate) fn push(&mut self, frames: Vec<u8>) {
        if self.out.is_empty() && frames.len() > self.out.capacity() {
            self.out = frames;
        } else {
            self.out.extend_from_slice(&frames);
        }
    }

    /// Writes what the socket takes, and not more than `most` bytes.
    pub(crate) fn write(&mut self, most: usize) -> io::Result<Wrote> {
        let until = self.out.len().min(self.written.saturating_add(most));
        while self.written < until {
            match self.socket.write(&self.out[self.written..until]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Wrote::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if until < self.out.len() {
            return Ok(Wrote::Piece);
        }
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > KEEP {
            self.out.shrink_to(KEEP);
        }
        Ok(Wrote::All)
    }
}

/// What was read and is not a whole frame yet.
#[derive(Default)]
struct Input {
    partial: Vec<u8>,
}

impl Input {
    /// Bytes that the unfinished frame lacks; 0 while there is none or its length is not known.
    fn wanted(&self) -> usize {
        frame::needed(&self.partial).unwrap_or(0).saturating_sub(self.partial.len())
    }

    /// Hands every whole frame to `each`, straight from `bytes` where it lies there in one piece.
    fn take(
        &mut self,
        bytes: &[u8],
        max_frame: usize,
        out: &mut Vec<u8>,
        each: &mut dyn FnMut(frame::Frame<'_>, &mut Vec<u8>) -> bool,
    ) -> Result<(), ReadError> {
        let mut rest = bytes;
        while !self.partial.is_empty() {
            // The prefix first: it tells how long the frame is, and whether that is legal.
            let goal = frame::needed(&self.partial).unwrap_or(0).max(frame::PREFIX);
            let (lacking, later) =
                rest.split_at(goal.saturating_sub(self.partial.len()).min(rest.len()));
            self.partial.extend_from_slice(lacking);
            rest = later;
            if frames(&self.partial, max_frame, out, each)? > 0 {
                self.partial.clear();
                self.partial.shrink_to(KEEP);
            } else if rest.is_empty() {
                return Ok(());
            }
        }
        let used = frames(rest, max_frame, out, each)?;
        self.partial.extend_from_slice(&rest[used..]);
        Ok(())
    }
}

fn would_block(error: io::Error) -> Result<Got, ReadError> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Got::Drained),
        io::ErrorKind::Interrupted => Ok(Got::More),
        _ => Err(ReadError::Io(error)),
    }
}

fn frames(
    bytes: &[u8],
    max_frame: usize,
    out: &mut Vec<u8>,
    each: &mut dyn FnMut(frame::Frame<'_>, &mut Vec<u8>) -> bool,
) -> Result<usize, ReadError> {
    let mut used = 0;
    while let Some((frame, len)) = frame::split(&bytes[used..], max_frame)? {
        used += len;
        if !each(frame, out) {
            return Err(ReadError::Refused);
        }
    }
    Ok(used)
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    /// The reason is already logged.
    #[error("refused")]
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of many lengths, the empty one included, as one stream.
    fn stream() -> (Vec<u8>, Vec<usize>) {
        let lengths = [0, 1, 7, 300, 0, 5000, 2, 70_000, 3];
        let mut bytes = Vec::new();
        for len in lengths {
            let start = frame::begin(&mut bytes);
            let header_end = bytes.len();
            bytes.resize(header_end + len, 7);
            frame::end(&mut bytes, start, header_end, frame::Serialize::Json);
        }
        (bytes, lengths.to_vec())
    }

    #[test]
    fn frames_come_whole_however_the_stream_is_cut() {
        let (bytes, lengths) = stream();
        for step in [1, 2, 3, 5, 8, 13, 100, 4096, 65_536, bytes.len()] {
            let (mut input, mut got) = (Input::default(), Vec::new());
            for piece in bytes.chunks(step) {
                let mut each = |frame: frame::Frame<'_>, _: &mut Vec<u8>| {
                    got.push(frame.body.len());
                    true
                };
                let taken = input.take(piece, frame::MAX_FRAME, &mut Vec::new(), &mut each);
                assert!(taken.is_ok(), "pieces of {step}");
            }
            assert_eq!(got, lengths, "pieces of {step}");
            assert!(input.partial.is_empty());
        }
    }

    #[test]
    fn an_illegal_length_ends_it_as_soon_as_it_is_seen() {
        for step in [1, 3, 4, 8] {
            let mut input = Input::default();
            let bytes = [0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
            let mut each = |_: frame::Frame<'_>, _: &mut Vec<u8>| true;
            let mut pieces = bytes
                .chunks(step)
                .map(|piece| input.take(piece, frame::MAX_FRAME, &mut Vec::new(), &mut each));
            assert!(pieces.any(|taken| matches!(taken, Err(ReadError::Frame(_)))), "{step}");
            assert!(input.partial.len() <= bytes.len());
        }
    }
}
