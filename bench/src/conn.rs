//! One connection of the tool.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;

use anyhow::{Context, Result, bail};
use mio::net::TcpStream;
use mio::{Interest, Poll, Token};
use wire::frame::{self, Frame};

/// A non-blocking connection with its buffers.
pub(crate) struct Conn {
    socket: TcpStream,
    pub(crate) out: Vec<u8>,
    written: usize,
    received: Vec<u8>,
    filled: usize,
}

impl Conn {
    /// Connects and registers with the poll.
    pub(crate) fn open(addr: &str, poll: &Poll, token: usize) -> Result<Conn> {
        let address = addr.to_socket_addrs()?.next().context("no address")?;
        let socket = std::net::TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut socket, Token(token), interest)?;
        let received = vec![0; 256 * 1024];
        Ok(Conn { socket, out: Vec::new(), written: 0, received, filled: 0 })
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads until nothing is left and hands over every whole frame.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&Frame<'_>) -> Result<()>) -> Result<()> {
        loop {
            if self.filled == self.received.len() {
                self.received.resize(self.filled * 2, 0);
            }
            let room = self.received.len() - self.filled;
            let len = match self.socket.read(&mut self.received[self.filled..]) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.filled += len;
            let mut used = 0;
            while let Some((frame, len)) =
                frame::split(&self.received[used..self.filled], frame::MAX_FRAME)?
            {
                each(&frame)?;
                used += len;
            }
            self.received.copy_within(used..self.filled, 0);
            self.filled -= used;
            if len < room {
                return Ok(());
            }
        }
    }
}
