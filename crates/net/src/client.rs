//! A blocking client for the server's own few calls (registration) and for tests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use wire::frame;
use wire::header::{ExtFields, Head, Header, HeaderError, Scratch, write_frame};

/// A decoded command that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Request or response code.
    pub code: i32,
    /// Flag bits.
    pub flag: i32,
    /// Correlation id.
    pub opaque: i32,
    /// Free text.
    pub remark: Option<String>,
    /// Extension fields; `None` when the header has no such member.
    pub ext: Option<Vec<(String, String)>>,
    /// Body.
    pub body: Vec<u8>,
}

impl Command {
    /// The value of an extension field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.ext.as_ref()?.iter().rev();
        fields.find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, a timeout, or the other side closed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer is not a frame.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    /// The answer's header cannot be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// One connection. Frames that the server starts meanwhile are kept in [`Client::pushed`].
pub struct Client {
    socket: TcpStream,
    received: Vec<u8>,
    next_opaque: i32,
    /// Frames of the server that were no answers, oldest first.
    pub pushed: Vec<Command>,
}

impl Client {
    /// Connects to the first address that answers; `timeout` counts for each and for every read.
    pub fn connect(address: &str, timeout: Duration) -> io::Result<Client> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address for {address}"));
        for candidate in address.to_socket_addrs()? {
            match Client::connect_to(candidate, timeout) {
                Ok(client) => return Ok(client),
                Err(error) => last = error,
            }
        }
        Err(io::Error::new(last.kind(), format!("cannot connect to {address}: {last}")))
    }

    fn connect_to(address: SocketAddr, timeout: Duration) -> io::Result<Client> {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(Client { socket, received: Vec::new(), next_opaque: 1, pushed: Vec::new() })
    }

    /// Sends a request and waits for its answer.
    pub fn call<E: ExtFields>(
        &mut self,
        code: i32,
        fields: &E,
        body: &[u8],
    ) -> Result<Command, CallError> {
        let opaque = self.send(code, fields, body, false)?;
        self.answer(opaque)
    }

    /// Sends a request without waiting; returns its opaque.
    pub fn send<E: ExtFields>(
        &mut self,
        code: i32,
        fields: &E,
        body: &[u8],
        oneway: bool,
    ) -> io::Result<i32> {
        let opaque = self.next_opaque;
        self.next_opaque = self.next_opaque.wrapping_add(1);
        let mut out = Vec::new();
        let head = Head::request(code, opaque, oneway);
        write_frame(&mut out, &head, fields, false, |out| out.extend_from_slice(body));
        self.socket.write_all(&out)?;
        Ok(opaque)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Waits for the answer with this opaque.
    pub fn answer(&mut self, opaque: i32) -> Result<Command, CallError> {
        loop {
            let command = self.receive()?;
            if command.flag & 1 == 1 && command.opaque == opaque {
                return Ok(command);
            }
            self.pushed.push(command);
        }
    }

    /// Waits for the next frame, whatever it is.
    pub fn receive(&mut self) -> Result<Command, CallError> {
        loop {
            if let Some((got, len)) = frame::split(&self.received, frame::MAX_FRAME)? {
                let mut scratch = Scratch::default();
                let header = Header::decode(got.serialize, got.header, &mut scratch)?;
                let ext = header.ext.iter().map(|(n, v)| (n.to_owned(), v.to_owned()));
                let command = Command {
                    code: header.code,
                    flag: header.flag,
                    opaque: header.opaque,
                    remark: header.remark.map(str::to_owned),
                    ext: header.ext.present.then(|| ext.collect()),
                    body: got.body.to_vec(),
                };
                self.received.drain(..len);
                return Ok(command);
            }
            let mut buffer = [0; 16 * 1024];
            let len = self.socket.read(&mut buffer)?;
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.received.extend_from_slice(&buffer[..len]);
        }
    }
}
