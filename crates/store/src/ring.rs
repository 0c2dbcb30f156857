//! The newest bytes of the log in memory, so that consumers who keep up never read a file.
//!
//! Owns one buffer, locks it for reading while copying out and for writing while copying in. Holds
//! only bytes that are already written to the file; where the log jumps to a new file, the skipped
//! bytes read as zeros.

use parking_lot::RwLock;

/// A window `[low, high)` of the log; the byte at offset `o` is at `o % len`.
#[derive(Debug)]
pub(crate) struct Ring(RwLock<Window>);

#[derive(Debug)]
struct Window {
    bytes: Box<[u8]>,
    low: i64,
    high: i64,
}

impl Ring {
    /// An empty ring of `len` bytes (0: holds nothing). The memory is touched only as it fills.
    pub(crate) fn new(len: usize) -> Ring {
        let bytes = vec![0; len].into_boxed_slice();
        Ring(RwLock::new(Window { bytes, low: 0, high: 0 }))
    }

    /// Forgets everything; the next bytes come at `at` or later.
    pub(crate) fn reset(&self, at: i64) {
        let mut window = self.0.write();
        (window.low, window.high) = (at, at);
    }

    /// Adds written bytes that start at `at`, which is never below what was added before.
    pub(crate) fn put(&self, at: i64, bytes: &[u8]) {
        let window = &mut *self.0.write();
        let len = window.bytes.len() as i64;
        if len == 0 {
            return;
        }
        if at - window.high >= len {
            window.low = at;
        } else {
            let (from, to) = (window.high, at);
            window.each(from, to, |part, _| part.fill(0));
        }
        let end = at + bytes.len() as i64;
        let start = at.max(end - len);
        window.each(start, end, |part, done| {
            let skip = (start - at) as usize + done;
            part.copy_from_slice(&bytes[skip..skip + part.len()]);
        });
        window.high = end;
        window.low = window.low.max(end - len);
    }

    /// Appends each range `(start, len)` to `out` for as long as they are in the ring, and returns
    /// how many were.
    pub(crate) fn copy(&self, ranges: &[(i64, usize)], out: &mut Vec<u8>) -> usize {
        let window = self.0.read();
        let ring_len = window.bytes.len() as i64;
        for (done, &(start, len)) in ranges.iter().enumerate() {
            let end = start + len as i64;
            if start < window.low || end > window.high {
                return done;
            }
            let first = (start % ring_len) as usize;
            let until = (first + len).min(window.bytes.len());
            out.extend_from_slice(&window.bytes[first..until]);
            out.extend_from_slice(&window.bytes[..len - (until - first)]);
        }
        ranges.len()
    }
}

impl Window {
    /// Calls `f` with the one or two slices of `[from, to)` and the bytes passed before.
    fn each(&mut self, from: i64, to: i64, mut f: impl FnMut(&mut [u8], usize)) {
        let len = self.bytes.len();
        let mut done = 0;
        while from + (done as i64) < to {
            let first = ((from + done as i64) % len as i64) as usize;
            let part = (len - first).min((to - from) as usize - done);
            f(&mut self.bytes[first..first + part], done);
            done += part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_answers_as_the_whole_log_would() {
        let ring = Ring::new(64);
        ring.reset(1000);
        let mut log = vec![0; 1000];
        for step in 0..200_usize {
            if step % 17 == 0 {
                log.resize(log.len() + step % 90, 0);
            }
            let bytes: Vec<u8> = (0..step % 80).map(|n| (step + n) as u8).collect();
            let at = log.len() as i64;
            ring.put(at, &bytes);
            log.extend_from_slice(&bytes);
            for (start, len) in [(at, bytes.len()), (at - 20, 20), (at - 30, 40)] {
                let mut out = Vec::new();
                let end = start as usize + len;
                if ring.copy(&[(start, len)], &mut out) == 1 {
                    assert_eq!(out, &log[start as usize..end]);
                }
            }
            let tail = log.len() - (at as usize).max(log.len().saturating_sub(64));
            let mut out = Vec::new();
            let start = (log.len() - tail) as i64;
            assert_eq!(ring.copy(&[(start, tail)], &mut out), 1);
            assert_eq!(out, &log[start as usize..]);
        }
        let empty = Ring::new(0);
        empty.put(0, b"abc");
        assert_eq!(empty.copy(&[(0, 3)], &mut Vec::new()), 0);
    }
}
