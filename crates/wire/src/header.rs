//! Command headers: read in one pass without a tree or a map, written from a template.
//!
//! Reading takes what any client ever sent: numbers for texts, null, unknown members, a newline
//! behind the object, unknown languages. Writing gives Java's members in Java's order, and every
//! extension field as text, since the C++ client ignores numbers there.

use crate::codes::{LANGUAGE_OTHER, LANGUAGES, VERSION};
use crate::frame::{self, Serialize};
use crate::json;

/// Flag bit: the frame is a response.
pub const FLAG_RESPONSE: i32 = 1;
/// Flag bit: no response is expected.
pub const FLAG_ONEWAY: i32 = 2;
/// Most extension fields that a header may have.
pub const MAX_FIELDS: usize = 256;

/// A header that cannot be read; the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a JSON object.
    #[error("header is not a JSON object, byte {0}")]
    Json(usize),
    /// Lengths of a binary header do not add up.
    #[error("binary header is cut at byte {0}")]
    Cut(usize),
    /// Text that is not UTF-8.
    #[error("header is not UTF-8")]
    Utf8,
    /// No `code` member.
    #[error("header has no code")]
    NoCode,
    /// More extension fields than [`MAX_FIELDS`].
    #[error("header has more than {MAX_FIELDS} fields")]
    TooManyFields,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
    in_scratch: bool,
}

/// Memory that decoding reuses from frame to frame: field positions and unescaped text.
#[derive(Debug, Default)]
pub struct Scratch {
    fields: Vec<(Span, Span)>,
    text: String,
}

/// The extension fields of a header, in order.
#[derive(Debug, Clone, Copy)]
pub struct Ext<'a> {
    frame: &'a str,
    scratch: &'a Scratch,
    /// False when the header had no `extFields` member, or null.
    pub present: bool,
}

impl<'a> Ext<'a> {
    fn text(&self, span: Span) -> &'a str {
        let source: &'a str = if span.in_scratch { &self.scratch.text } else { self.frame };
        source.get(span.start as usize..(span.start + span.len) as usize).unwrap_or_default()
    }

    /// Names and values in the order of the frame. Null values are left out.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let ext = *self;
        ext.scratch.fields.iter().map(move |(name, value)| (ext.text(*name), ext.text(*value)))
    }

    /// The value of `name`; the last one when it is repeated.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().filter(|(n, _)| *n == name).last().map(|(_, value)| value)
    }
}

/// A decoded header, borrowing from the frame and the scratch.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// Request or response code.
    pub code: i32,
    /// Index into [`LANGUAGES`]; unknown ones are `OTHER`.
    pub language: u8,
    /// Version ordinal of the sender.
    pub version: i32,
    /// Correlation id.
    pub opaque: i32,
    /// Flag bits.
    pub flag: i32,
    /// Free text; error text in responses.
    pub remark: Option<&'a str>,
    /// Custom fields.
    pub ext: Ext<'a>,
}

impl<'a> Header<'a> {
    /// Decodes the header of a frame.
    pub fn decode(
        serialize: Serialize,
        bytes: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Result<Header<'a>, HeaderError> {
        scratch.fields.clear();
        scratch.text.clear();
        let mut raw = Raw::default();
        let text = match serialize {
            Serialize::Json => {
                let text = std::str::from_utf8(bytes).map_err(|_| HeaderError::Utf8)?;
                Scanner { text, at: 0 }.header(&mut raw, scratch)?;
                text
            }
            Serialize::Binary => {
                binary(bytes, &mut raw, scratch)?;
                ""
            }
        };
        let ext = Ext { frame: text, scratch, present: raw.ext };
        Ok(Header {
            code: raw.code.ok_or(HeaderError::NoCode)?,
            language: raw.language,
            version: raw.version,
            opaque: raw.opaque,
            flag: raw.flag,
            remark: raw.remark.map(|span| ext.text(span)),
            ext,
        })
    }

    /// Whether this is a response.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether the sender expects no response.
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }
}

#[derive(Default)]
struct Raw {
    code: Option<i32>,
    language: u8,
    version: i32,
    opaque: i32,
    flag: i32,
    remark: Option<Span>,
    ext: bool,
}

fn language_index(name: &str) -> u8 {
    let known = LANGUAGES.iter().position(|l| *l == name);
    known.map_or(LANGUAGE_OTHER, |index| index as u8)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn error(&self) -> HeaderError {
        HeaderError::Json(self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), HeaderError> {
        self.space();
        if self.peek() != Some(byte) {
            return Err(self.error());
        }
        self.at += 1;
        Ok(())
    }

    /// Calls `member` for each member of the object at the cursor.
    fn object(
        &mut self,
        scratch: &mut Scratch,
        mut member: impl FnMut(&mut Self, Span, &mut Scratch) -> Result<(), HeaderError>,
    ) -> Result<(), HeaderError> {
        self.expect(b'{')?;
        loop {
            self.space();
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b',') => self.at += 1,
                Some(b'"') => {
                    let name = self.string(scratch)?;
                    self.expect(b':')?;
                    self.space();
                    member(self, name, scratch)?;
                }
                _ => return Err(self.error()),
            }
        }
    }

    fn header(&mut self, raw: &mut Raw, scratch: &mut Scratch) -> Result<(), HeaderError> {
        self.object(scratch, |this, name, scratch| {
            let name = if name.in_scratch { "" } else { this.span(name) };
            match name {
                "code" => raw.code = this.integer(scratch)?.or(raw.code),
                "version" => raw.version = this.integer(scratch)?.unwrap_or(0),
                "opaque" => raw.opaque = this.integer(scratch)?.unwrap_or(0),
                "flag" => raw.flag = this.integer(scratch)?.unwrap_or(0),
                "language" => {
                    let span = this.scalar(scratch)?;
                    raw.language = match span {
                        Some(span) if !span.in_scratch => {
                            let text = this.span(span);
                            text.parse().unwrap_or_else(|_| language_index(text))
                        }
                        Some(_) => LANGUAGE_OTHER,
                        None => 0,
                    };
                }
                "remark" => raw.remark = this.scalar(scratch)?,
                "extFields" if this.peek() == Some(b'{') => {
                    raw.ext = true;
                    scratch.fields.clear();
                    this.ext_fields(scratch)?;
                }
                _ => drop(this.scalar(scratch)?),
            }
            Ok(())
        })?;
        self.space();
        if self.at < self.text.len() { Err(self.error()) } else { Ok(()) }
    }

    fn ext_fields(&mut self, scratch: &mut Scratch) -> Result<(), HeaderError> {
        self.object(scratch, |this, name, scratch| {
            if let Some(value) = this.scalar(scratch)? {
                if scratch.fields.len() == MAX_FIELDS {
                    return Err(HeaderError::TooManyFields);
                }
                scratch.fields.push((name, value));
            }
            Ok(())
        })
    }

    fn span(&self, span: Span) -> &str {
        &self.text[span.start as usize..(span.start + span.len) as usize]
    }

    /// A string, or the raw text of any other value; `None` for null.
    fn scalar(&mut self, scratch: &mut Scratch) -> Result<Option<Span>, HeaderError> {
        if self.peek() == Some(b'"') {
            return self.string(scratch).map(Some);
        }
        let start = self.at;
        self.skip()?;
        let span = Span { start: start as u32, len: (self.at - start) as u32, in_scratch: false };
        Ok((self.span(span) != "null").then_some(span))
    }

    fn integer(&mut self, scratch: &mut Scratch) -> Result<Option<i32>, HeaderError> {
        let at = self.at;
        let Some(span) = self.scalar(scratch)? else { return Ok(None) };
        let text = if span.in_scratch { "" } else { self.span(span) };
        text.trim().parse::<i64>().map(|n| Some(n as i32)).map_err(|_| HeaderError::Json(at))
    }

    /// Skips one value that is not a string: brackets are counted, strings inside respected.
    fn skip(&mut self) -> Result<(), HeaderError> {
        let mut depth = 0_u32;
        let mut quoted = false;
        let start = self.at;
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' if quoted => self.at += 1,
                b'"' => quoted = !quoted,
                _ if quoted => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' if depth == 0 => break,
                b'}' | b']' => depth -= 1,
                b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        if self.at == start || depth > 0 || quoted || !self.text.is_char_boundary(self.at) {
            return Err(self.error());
        }
        Ok(())
    }

    fn string(&mut self, scratch: &mut Scratch) -> Result<Span, HeaderError> {
        self.at += 1;
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let len = rest.iter().position(|b| *b == b'"' || *b == b'\\').ok_or(self.error())?;
        if rest[len] == b'"' {
            self.at += len + 1;
            return Ok(Span { start: start as u32, len: len as u32, in_scratch: false });
        }
        self.escaped_string(scratch)
    }

    /// Properties always come here, for their `\u0001` and `\u0002`.
    fn escaped_string(&mut self, scratch: &mut Scratch) -> Result<Span, HeaderError> {
        let start = scratch.text.len();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let len = rest.iter().position(|b| *b == b'"' || *b == b'\\').ok_or(self.error())?;
            scratch.text.push_str(&self.text[self.at..self.at + len]);
            self.at += len + 1;
            if rest[len] == b'"' {
                let len = (scratch.text.len() - start) as u32;
                return Ok(Span { start: start as u32, len, in_scratch: true });
            }
            let after = &self.text[self.at..];
            self.at += json::unescape(after, &mut scratch.text).ok_or(self.error())?;
        }
    }
}

fn binary(bytes: &[u8], raw: &mut Raw, scratch: &mut Scratch) -> Result<(), HeaderError> {
    let mut cursor = Cursor { bytes, at: 0 };
    raw.code = Some(i32::from(cursor.u16()? as i16));
    raw.language = cursor.take(1)?[0];
    raw.version = i32::from(cursor.u16()?);
    raw.opaque = cursor.u32()? as i32;
    raw.flag = cursor.u32()? as i32;
    let remark_len = cursor.u32()? as usize;
    if remark_len > 0 {
        raw.remark = Some(cursor.text(remark_len, scratch)?);
    }
    let ext_len = cursor.u32()? as usize;
    let end = cursor.at.checked_add(ext_len).filter(|end| *end <= bytes.len());
    let end = end.ok_or(HeaderError::Cut(cursor.at))?;
    raw.ext = ext_len > 0;
    while cursor.at < end {
        let name_len = usize::from(cursor.u16()?);
        let name = cursor.text(name_len, scratch)?;
        let value_len = cursor.u32()? as usize;
        let value = cursor.text(value_len, scratch)?;
        if scratch.fields.len() == MAX_FIELDS {
            return Err(HeaderError::TooManyFields);
        }
        // A key or value of length 0 decodes as null in Java.
        if name_len > 0 && value_len > 0 {
            scratch.fields.push((name, value));
        }
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], HeaderError> {
        let part = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        let part = part.ok_or(HeaderError::Cut(self.at))?;
        self.at += len;
        Ok(part)
    }

    fn u16(&mut self) -> Result<u16, HeaderError> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn text(&mut self, len: usize, scratch: &mut Scratch) -> Result<Span, HeaderError> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| HeaderError::Utf8)?;
        let start = scratch.text.len() as u32;
        scratch.text.push_str(text);
        Ok(Span { start, len: len as u32, in_scratch: true })
    }
}

/// A field that is missing or not what its type needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field {field} is {problem}")]
pub struct FieldError {
    /// Java's name of the field.
    pub field: &'static str,
    /// `missing`, or what is wrong with the value.
    pub problem: &'static str,
}

/// A value that travels as text in an extension field.
pub trait FieldValue<'a>: Sized {
    /// Whether absence is an error.
    const REQUIRED: bool;
    /// Reads the text; `Err` says what is wrong.
    fn parse(text: &'a str) -> Result<Self, &'static str>;
    /// The value that stands for an absent field.
    fn absent() -> Self;
    /// Writes the value unless it is absent.
    fn write(&self, write: impl FnMut(&str));
}

impl<'a> FieldValue<'a> for &'a str {
    const REQUIRED: bool = true;
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        Ok(text)
    }
    fn absent() -> Self {
        ""
    }
    fn write(&self, mut write: impl FnMut(&str)) {
        write(self);
    }
}

impl FieldValue<'_> for bool {
    const REQUIRED: bool = false;
    fn parse(text: &str) -> Result<Self, &'static str> {
        // Java: Boolean.parseBoolean. The Python client's `1` is false, too.
        Ok(text.eq_ignore_ascii_case("true"))
    }
    fn absent() -> Self {
        false
    }
    fn write(&self, mut write: impl FnMut(&str)) {
        write(if *self { "true" } else { "false" });
    }
}

macro_rules! integer_field {
    ($($ty:ty: $what:literal),*) => {$(
        impl FieldValue<'_> for $ty {
            const REQUIRED: bool = true;
            fn parse(text: &str) -> Result<Self, &'static str> {
                text.parse().map_err(|_| $what)
            }
            fn absent() -> Self {
                0
            }
            fn write(&self, mut write: impl FnMut(&str)) {
                let mut digits = [0; 20];
                write(decimal(i64::from(*self), &mut digits));
            }
        }
    )*};
}
integer_field!(i32: "not a 32-bit number", i64: "not a 64-bit number");

impl<'a, T: FieldValue<'a>> FieldValue<'a> for Option<T> {
    const REQUIRED: bool = false;
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        T::parse(text).map(Some)
    }
    fn absent() -> Self {
        None
    }
    fn write(&self, write: impl FnMut(&str)) {
        if let Some(value) = self {
            value.write(write);
        }
    }
}

fn decimal(number: i64, digits: &mut [u8; 20]) -> &str {
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    std::str::from_utf8(&digits[at..]).unwrap_or_default()
}

/// The custom fields of one kind of command.
pub trait Fields<'a>: Sized {
    /// Reads the fields, long or short names alike.
    fn decode(ext: &Ext<'a>) -> Result<Self, FieldError>;
    /// Hands every present field to `write` as name and text; `short` picks the V2 names.
    fn each(&self, short: bool, write: &mut impl FnMut(&str, &str));
}

/// No custom fields at all: the answer has no `extFields` member.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFields;

/// Custom fields given as pairs, for the few answers that have no fixed class.
#[derive(Debug, Clone, Copy)]
pub struct Pairs<'a>(pub &'a [(&'a str, &'a str)]);

/// What can be written as the extension fields of a frame.
pub trait ExtFields {
    /// False leaves the `extFields` member out; true without fields writes `{}`.
    const PRESENT: bool;
    /// Hands every field to `write`.
    fn each_field(&self, short: bool, write: &mut impl FnMut(&str, &str));
}

impl ExtFields for NoFields {
    const PRESENT: bool = false;
    fn each_field(&self, _: bool, _: &mut impl FnMut(&str, &str)) {}
}

impl ExtFields for Pairs<'_> {
    const PRESENT: bool = true;
    fn each_field(&self, _: bool, write: &mut impl FnMut(&str, &str)) {
        for (name, value) in self.0 {
            write(name, value);
        }
    }
}

/// The fixed part of a frame that is written.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Request or response code.
    pub code: i32,
    /// Flag bits.
    pub flag: i32,
    /// Correlation id.
    pub opaque: i32,
    /// Index into [`LANGUAGES`].
    pub language: u8,
    /// Version ordinal to announce.
    pub version: i32,
    /// Free text.
    pub remark: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// A response as the server gives it: Java's language and version, whatever the request's were.
    pub fn response(code: i32, opaque: i32, remark: Option<&'a str>) -> Head<'a> {
        Head { code, flag: FLAG_RESPONSE, opaque, language: 0, version: VERSION, remark }
    }

    /// A request of ours.
    pub fn request(code: i32, opaque: i32, oneway: bool) -> Head<'static> {
        let flag = if oneway { FLAG_ONEWAY } else { 0 };
        Head { code, flag, opaque, language: 0, version: VERSION, remark: None }
    }
}

/// Appends a whole frame with a JSON header; `body` appends the body bytes.
pub fn write_frame<E: ExtFields>(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    fields: &E,
    short: bool,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = frame::begin(out);
    write_json_header(out, head, fields, short);
    let header_end = out.len();
    body(out);
    frame::end(out, start, header_end, Serialize::Json);
}

fn write_json_header<E: ExtFields>(out: &mut Vec<u8>, head: &Head<'_>, fields: &E, short: bool) {
    let mut digits = [0; 20];
    out.extend_from_slice(b"{\"code\":");
    out.extend_from_slice(decimal(i64::from(head.code), &mut digits).as_bytes());
    if E::PRESENT {
        out.extend_from_slice(b",\"extFields\":{");
        let mut first = true;
        fields.each_field(short, &mut |name, value| {
            out.extend_from_slice(if first { b"\"" } else { b",\"" });
            first = false;
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            quote(value, out);
        });
        out.push(b'}');
    }
    out.extend_from_slice(b",\"flag\":");
    out.extend_from_slice(decimal(i64::from(head.flag), &mut digits).as_bytes());
    out.extend_from_slice(b",\"language\":\"");
    let language = LANGUAGES.get(usize::from(head.language)).unwrap_or(&"OTHER");
    out.extend_from_slice(language.as_bytes());
    out.extend_from_slice(b"\",\"opaque\":");
    out.extend_from_slice(decimal(i64::from(head.opaque), &mut digits).as_bytes());
    if let Some(remark) = head.remark {
        out.extend_from_slice(b",\"remark\":");
        quote(remark, out);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    out.extend_from_slice(decimal(i64::from(head.version), &mut digits).as_bytes());
    out.push(b'}');
}

fn quote(text: &str, out: &mut Vec<u8>) {
    let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        let mut quoted = String::with_capacity(text.len() + 16);
        json::quote(text, &mut quoted);
        out.extend_from_slice(quoted.as_bytes());
    }
}

/// Appends a whole frame with a ROCKETMQ binary header. Codes beyond 16 bits are cut, as Java does.
pub fn write_binary_frame<E: ExtFields>(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    fields: &E,
    short: bool,
    body: &[u8],
) {
    let start = frame::begin(out);
    out.extend_from_slice(&(head.code as u16).to_be_bytes());
    out.push(head.language);
    out.extend_from_slice(&(head.version as u16).to_be_bytes());
    out.extend_from_slice(&head.opaque.to_be_bytes());
    out.extend_from_slice(&head.flag.to_be_bytes());
    let remark = head.remark.unwrap_or_default();
    out.extend_from_slice(&(remark.len() as u32).to_be_bytes());
    out.extend_from_slice(remark.as_bytes());
    let ext_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fields.each_field(short, &mut |name, value| {
        out.extend_from_slice(&(name.len() as u16).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(value.len() as u32).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    });
    let ext_len = (out.len() - ext_at - 4) as u32;
    out[ext_at..ext_at + 4].copy_from_slice(&ext_len.to_be_bytes());
    let header_end = out.len();
    out.extend_from_slice(body);
    frame::end(out, start, header_end, Serialize::Binary);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode<'a>(text: &'a str, scratch: &'a mut Scratch) -> Result<Header<'a>, HeaderError> {
        Header::decode(Serialize::Json, text.as_bytes(), scratch)
    }

    #[test]
    fn odd_clients_are_understood() {
        let mut scratch = Scratch::default();
        let text = "{\"code\":310,\"extFields\":{\"e\":3,\"k\":false,\"n\":null,\
                    \"i\":\"A\\u0001b\\u0002\",\
                    \"x\":{\"y\":[1,\"}\"]}},\"flag\":0,\"language\":\"KLINGON\",\"opaque\":\"7\",\
                    \"zzz\":[1,{}],\"remark\":null}\n";
        let header = decode(text, &mut scratch).expect("header");
        assert_eq!((header.code, header.language, header.opaque), (310, LANGUAGE_OTHER, 7));
        assert_eq!((header.ext.get("e"), header.ext.get("k")), (Some("3"), Some("false")));
        assert_eq!((header.ext.get("n"), header.ext.get("i")), (None, Some("A\u{1}b\u{2}")));
        assert_eq!(header.ext.get("x"), Some("{\"y\":[1,\"}\"]}"));
        assert_eq!((header.remark, header.version), (None, 0));
        let header = decode("{\"code\":34,\"extFields\":null}", &mut scratch).expect("header");
        assert!(!header.ext.present);
    }

    #[test]
    fn broken_headers_are_refused() {
        let mut scratch = Scratch::default();
        for text in [
            "",
            "[]",
            "{",
            "{\"code\":}",
            "{\"code\":1}x",
            "{\"code\":\"x\"}",
            "{\"flag\":1}",
            "{\"code\":1,\"extFields\":{\"a\":\"b}",
            "{code:1}",
        ] {
            assert!(decode(text, &mut scratch).is_err(), "{text}");
        }
        let many: String = (0..300).map(|i| format!("\"k{i}\":1,")).collect();
        let many = format!("{{\"code\":1,\"extFields\":{{{many}}}}}");
        assert!(matches!(decode(&many, &mut scratch), Err(HeaderError::TooManyFields)));
    }

    #[test]
    fn both_codecs_round_trip() {
        let fields = Pairs(&[("topic", "中文\"\u{1}"), ("queueId", "-5")]);
        let head = Head { remark: Some("why\n"), ..Head::request(17, 99, true) };
        let (mut json, mut binary) = (Vec::new(), Vec::new());
        write_frame(&mut json, &head, &fields, false, |out| out.extend_from_slice(b"body"));
        write_binary_frame(&mut binary, &head, &fields, false, b"body");
        for bytes in [json, binary] {
            let (frame, len) = frame::split(&bytes, 1000).expect("ok").expect("whole");
            assert_eq!((len, frame.body), (bytes.len(), &b"body"[..]));
            let mut scratch = Scratch::default();
            let got = Header::decode(frame.serialize, frame.header, &mut scratch).expect("header");
            assert_eq!((got.code, got.flag, got.opaque), (17, FLAG_ONEWAY, 99));
            assert_eq!((got.remark, got.version), (Some("why\n"), VERSION));
            assert_eq!(got.ext.iter().collect::<Vec<_>>(), fields.0);
        }
    }

    #[test]
    fn decimals_cover_the_range() {
        let mut digits = [0; 20];
        for number in [0, 7, -1, i64::MAX, i64::MIN] {
            assert_eq!(decimal(number, &mut digits), number.to_string());
        }
    }
}
