//! One connection of a loop: its socket, what is read but not whole, what is not yet written.

use std::io::{self, Read, Write};
use std::sync::Arc;

use wire::frame;

use crate::peer::Peer;

/// Capacity that an idle connection may keep for its output.
const KEEP_OUTPUT: usize = 64 * 1024;

pub(crate) struct Conn {
    pub(crate) socket: mio::net::TcpStream,
    pub(crate) peer: Arc<Peer>,
    /// Start of a frame that is not whole yet.
    partial: Vec<u8>,
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

impl Conn {
    pub(crate) fn new(socket: mio::net::TcpStream, peer: Arc<Peer>, now_ms: i64) -> Conn {
        Conn {
            socket,
            peer,
            partial: Vec::new(),
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
        let wanted = frame::needed(&self.partial).unwrap_or(0).saturating_sub(self.partial.len());
        let got = if wanted > buffer.len() {
            // A large frame: read the rest of it in place instead of in many small copies.
            self.read_large(wanted)?
        } else {
            match self.socket.read(buffer) {
                Ok(0) => return Ok(Got::End),
                Ok(len) => {
                    self.take(&buffer[..len], max_frame, each)?;
                    return Ok(if len == buffer.len() { Got::More } else { Got::Drained });
                }
                Err(error) => return would_block(error),
            }
        };
        if frame::needed(&self.partial).is_some_and(|needed| needed <= self.partial.len()) {
            self.take(&[], max_frame, each)?;
        }
        Ok(got)
    }

    fn read_large(&mut self, wanted: usize) -> Result<Got, ReadError> {
        let start = self.partial.len();
        self.partial.resize(start + wanted, 0);
        let read = self.socket.read(&mut self.partial[start..]);
        self.partial.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Ok(Got::End),
            Ok(_) => Ok(Got::More),
            Err(error) => would_block(error),
        }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        max_frame: usize,
        each: &mut dyn FnMut(frame::Frame<'_>, &mut Vec<u8>) -> bool,
    ) -> Result<(), ReadError> {
        if self.partial.is_empty() {
            let used = frames(bytes, max_frame, &mut self.out, each)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            self.partial.extend_from_slice(bytes);
            let used = frames(&self.partial, max_frame, &mut self.out, each)?;
            self.partial.drain(..used);
            if self.partial.is_empty() && self.partial.capacity() > KEEP_OUTPUT {
                self.partial = Vec::new();
            }
        }
        // The length is known to be legal here, so that the rest may be waited for.
        Ok(())
    }

    /// Writes what the socket takes. `Ok(false)`: some is left until the socket is writable.
    pub(crate) fn write(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > KEEP_OUTPUT {
            self.out.shrink_to(KEEP_OUTPUT);
        }
        Ok(true)
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
