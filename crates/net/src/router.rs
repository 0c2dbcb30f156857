//! From a request code to its handler: a table made at start, no search and no map per request.

use std::borrow::Cow;
use std::sync::Arc;

use wire::codes::{request, response};
use wire::header::{ExtFields, FieldError, Fields, Head, Header, NoFields, Pairs, write_frame};

use crate::peer::Peer;

/// What a request competes with for admission, and how it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Sends of every kind.
    Send,
    /// Pulls.
    Pull,
    /// Queries that may read the disk.
    Query,
    /// Heartbeats and client registration.
    Heartbeat,
    /// Consumer offsets, lists, locks.
    Consumer,
    /// Everything for operators.
    Admin,
}

impl Class {
    /// All classes, in order.
    pub const ALL: [Class; 6] =
        [Class::Send, Class::Pull, Class::Query, Class::Heartbeat, Class::Consumer, Class::Admin];
}

/// An answer that is not a success. The router writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Response code.
    pub code: i32,
    /// Text for a person.
    pub remark: Option<Cow<'static, str>>,
}

impl Refusal {
    /// A refusal with a text.
    pub fn new(code: i32, remark: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code, remark: Some(remark.into()) }
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Refusal {
        // Java answers its exception with code 1, too; the text here names the field.
        Refusal::new(response::SYSTEM_ERROR, error.to_string())
    }
}

/// What a handler did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It wrote the answer through [`Call`].
    Sent,
    /// Plain success; the router writes it.
    Ok,
    /// The answer follows through [`Peer::send`].
    Later,
    /// This command is never answered.
    Never,
}

/// The result of every handler.
pub type Handled = Result<Reply, Refusal>;

/// One request in the hands of its handler.
pub struct Call<'a> {
    /// Decoded header.
    pub header: Header<'a>,
    /// Body bytes.
    pub body: &'a [u8],
    /// Where it came from.
    pub peer: &'a Arc<Peer>,
    /// Output of the connection; handlers use the methods.
    out: &'a mut Vec<u8>,
    empty_ext: bool,
}

impl<'a> Call<'a> {
    /// A call that will write into `out`.
    pub fn new(
        header: Header<'a>,
        body: &'a [u8],
        peer: &'a Arc<Peer>,
        out: &'a mut Vec<u8>,
    ) -> Call<'a> {
        Call { header, body, peer, out, empty_ext: false }
    }

    /// The custom fields as the given kind.
    pub fn fields<F: Fields<'a>>(&self) -> Result<F, FieldError> {
        F::decode(&self.header.ext)
    }

    /// Answers success with fields.
    pub fn ok<E: ExtFields>(&mut self, fields: &E) -> Handled {
        self.answer(response::SUCCESS, None, fields, |_| {})
    }

    /// Answers success with a body, and `{}` or no fields as the code's table row says.
    pub fn ok_body(&mut self, body: &[u8]) -> Handled {
        let put = |out: &mut Vec<u8>| out.extend_from_slice(body);
        if self.empty_ext {
            self.answer(response::SUCCESS, None, &Pairs(&[]), put)
        } else {
            self.answer(response::SUCCESS, None, &NoFields, put)
        }
    }

    /// Answers with everything given. `body` appends the body to the output.
    pub fn answer<E: ExtFields>(
        &mut self,
        code: i32,
        remark: Option<&str>,
        fields: &E,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Handled {
        if !self.header.is_oneway() {
            let head = Head::response(code, self.header.opaque, remark);
            write_frame(self.out, &head, fields, false, body);
        }
        Ok(Reply::Sent)
    }

    /// Writes a whole frame of the server's own in front of the answer.
    pub fn push(&mut self, frame: &[u8]) {
        self.out.extend_from_slice(frame);
    }

    /// Success or refusal without fields of its own.
    pub fn plain(&mut self, code: i32, remark: Option<&str>) -> Handled {
        if self.empty_ext {
            self.answer(code, remark, &Pairs(&[]), |_| {})
        } else {
            self.answer(code, remark, &NoFields, |_| {})
        }
    }
}

/// A handler: a plain function over the state of a loop.
pub type Handler<S> = fn(&mut S, &mut Call<'_>) -> Handled;

/// One row of the table.
pub struct Route<S> {
    /// Request code.
    pub code: i32,
    /// Admission class.
    pub class: Class,
    /// Whether an answer without fields carries `extFields:{}`; Java does so where a handler has a
    /// response header class.
    pub empty_ext: bool,
    handler: Handler<S>,
}

/// The table of all requests that a role serves.
pub struct Router<S> {
    dense: Vec<Option<Route<S>>>,
    sparse: Vec<Route<S>>,
}

const DENSE: i32 = 1024;

impl<S> Default for Router<S> {
    fn default() -> Self {
        Router { dense: (0..DENSE).map(|_| None).collect(), sparse: Vec::new() }
    }
}

impl<S> Router<S> {
    /// Adds a row for a code whose bare answers have no `extFields`.
    ///
    /// # Panics
    /// When the code has a row already: a programming error that shows at start.
    #[must_use]
    pub fn on(self, code: i32, class: Class, handler: Handler<S>) -> Self {
        self.add(Route { code, class, empty_ext: false, handler })
    }

    /// Adds a row for a code whose bare answers carry `extFields:{}`.
    ///
    /// # Panics
    /// As [`Router::on`].
    #[must_use]
    pub fn on_with_ext(self, code: i32, class: Class, handler: Handler<S>) -> Self {
        self.add(Route { code, class, empty_ext: true, handler })
    }

    fn add(mut self, route: Route<S>) -> Self {
        assert!(self.route(route.code).is_none(), "two handlers for code {}", route.code);
        if let Some(slot) = usize::try_from(route.code).ok().and_then(|i| self.dense.get_mut(i)) {
            *slot = Some(route);
        } else {
            let at = self.sparse.partition_point(|r| r.code < route.code);
            self.sparse.insert(at, route);
        }
        self
    }

    fn route(&self, code: i32) -> Option<&Route<S>> {
        match usize::try_from(code).ok().and_then(|i| self.dense.get(i)) {
            Some(slot) => slot.as_ref(),
            None => {
                let at = self.sparse.binary_search_by_key(&code, |r| r.code).ok()?;
                self.sparse.get(at)
            }
        }
    }

    /// All rows in order of their codes.
    pub fn rows(&self) -> impl Iterator<Item = &Route<S>> {
        self.dense.iter().flatten().chain(&self.sparse)
    }

    /// Runs the handler of a request and writes what it leaves to write. `admit` may refuse a
    /// class before its handler runs.
    pub fn dispatch(
        &self,
        state: &mut S,
        call: &mut Call<'_>,
        admit: impl FnOnce(&mut S, Class) -> Result<(), Refusal>,
    ) {
        let code = call.header.code;
        let handled = match self.route(code) {
            Some(route) => {
                call.empty_ext = route.empty_ext;
                admit(state, route.class).and_then(|()| (route.handler)(state, call))
            }
            None => Err(Refusal::new(
                response::REQUEST_CODE_NOT_SUPPORTED,
                format!(" request type {code} not supported"),
            )),
        };
        let written = match handled {
            Ok(Reply::Ok) => call.plain(response::SUCCESS, None),
            Ok(other) => Ok(other),
            Err(refusal) => {
                tracing::debug!(
                    code,
                    name = request::name(code),
                    peer = ?call.peer,
                    answer = refusal.code,
                    remark = refusal.remark.as_deref(),
                    "refused"
                );
                call.plain(refusal.code, refusal.remark.as_deref())
            }
        };
        debug_assert!(written.is_ok(), "answers are always written");
    }
}
