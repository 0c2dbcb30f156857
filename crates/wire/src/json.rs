//! JSON as RocketMQ speaks it: bare integer keys `{0:"a"}`, objects as keys `{{…}:1}`, loose
//! numbers. Reads what fastjson2 reads, writes what fastjson writes by default.

use std::fmt::Write as _;

/// Deepest nesting that a reader follows; deeper text is an error, not a stack overflow.
const MAX_DEPTH: u32 = 64;

/// A JSON value. Objects keep their order; keys are values, since Java has integer and object keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, which Java treats as absent.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; one beyond 63 bits wraps, so that 2^64-1 reads as -1.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    Array(Vec<Value>),
    /// Pairs in order.
    Object(Vec<(Value, Value)>),
}

/// Text that is not JSON, even for a lenient reader.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not JSON at byte {at}: {what}")]
pub struct JsonError {
    /// Byte position.
    pub at: usize,
    /// What was expected or found.
    pub what: &'static str,
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}
impl From<i32> for Value {
    fn from(number: i32) -> Value {
        Value::Int(i64::from(number))
    }
}
impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Int(number as i64)
    }
}
impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Float(number)
    }
}
impl From<bool> for Value {
    fn from(truth: bool) -> Value {
        Value::Bool(truth)
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::Array(items.into_iter().map(Into::into).collect())
    }
}

/// An object from pairs; keys in the given order, null values left out as Java does.
pub fn object<K: Into<Value>, V: Into<Value>>(pairs: impl IntoIterator<Item = (K, V)>) -> Value {
    let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into()));
    Value::Object(pairs.filter(|(_, value)| *value != Value::Null).collect())
}

impl Value {
    /// Parses one value; white space around it is allowed, other text behind it is not.
    pub fn parse(text: &str) -> Result<Value, JsonError> {
        let mut reader = Reader { bytes: text.as_bytes(), text, at: 0, depth: 0 };
        let value = reader.value()?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.error("text after the value"));
        }
        Ok(value)
    }

    /// Parses UTF-8 bytes.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Value, JsonError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|e| JsonError { at: e.valid_up_to(), what: "not UTF-8" })?;
        Value::parse(text)
    }

    /// The member `name` of an object; null counts as absent, the last of equal names wins.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let Value::Object(pairs) = self else { return None };
        let found = pairs.iter().rev().find(|(key, _)| matches!(key, Value::Text(k) if k == name));
        found.map(|(_, value)| value).filter(|value| **value != Value::Null)
    }

    /// Text, or a number or boolean as its text.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }

    /// Text without a copy; `None` for anything that is not text.
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// A whole number, also from text or a fraction.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Float(number) => Some(*number as i64),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// A boolean, also from text or a number.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            Value::Int(number) => Some(*number != 0),
            Value::Text(text) => Some(text.eq_ignore_ascii_case("true")),
            _ => None,
        }
    }

    /// The items of a list; nothing for anything else.
    pub fn items(&self) -> &[Value] {
        if let Value::Array(items) = self { items } else { &[] }
    }

    /// The pairs of an object; nothing for anything else.
    pub fn pairs(&self) -> &[(Value, Value)] {
        if let Value::Object(pairs) = self { pairs } else { &[] }
    }

    /// Compact text with Java's default keys: bare integers, objects as they are.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, Keys::Bare);
        out
    }

    /// Compact text that every JSON reader accepts: integer keys quoted, object keys as text.
    pub fn to_strict_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, Keys::Quoted);
        out
    }

    /// Text in the layout of Java's configuration files: tabs, one member a line. Integer keys are
    /// quoted, which every Java release reads and strict parsers too.
    pub fn to_file_text(&self) -> String {
        let mut out = String::new();
        self.write_indented(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, keys: Keys) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
            Value::Int(number) => drop(write!(out, "{number}")),
            Value::Float(number) => drop(write!(out, "{number:?}")),
            Value::Text(text) => quote(text, out),
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out, keys);
                }
                out.push(']');
            }
            Value::Object(pairs) => {
                out.push('{');
                for (i, (key, value)) in pairs.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_key(key, out, keys);
                    out.push(':');
                    value.write(out, keys);
                }
                out.push('}');
            }
        }
    }

    fn write_indented(&self, out: &mut String, depth: usize) {
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n('\t', depth));
        };
        match self {
            Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(out, depth + 1);
                    item.write_indented(out, depth + 1);
                }
                line(out, depth);
                out.push(']');
            }
            Value::Object(pairs) if !pairs.is_empty() => {
                out.push('{');
                for (i, (key, value)) in pairs.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(out, depth + 1);
                    write_key(key, out, Keys::Quoted);
                    out.push(':');
                    value.write_indented(out, depth + 1);
                }
                line(out, depth);
                out.push('}');
            }
            _ => self.write(out, Keys::Quoted),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Keys {
    Bare,
    Quoted,
}

fn write_key(key: &Value, out: &mut String, keys: Keys) {
    match (key, keys) {
        (Value::Text(_), _) | (_, Keys::Bare) => key.write(out, keys),
        (_, Keys::Quoted) => quote(&key.to_text(), out),
    }
}

/// Appends `text` as a JSON string.
pub fn quote(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0C => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[plain..at]);
        plain = at + 1;
        if short.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        } else {
            out.push_str(short);
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    depth: u32,
}

impl Reader<'_> {
    fn error(&self, what: &'static str) -> JsonError {
        JsonError { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips white space and comments.
    fn space(&mut self) {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'/') if self.bytes.get(self.at + 1) == Some(&b'/') => {
                    while self.peek().is_some_and(|b| b != b'\n') {
                        self.at += 1;
                    }
                }
                Some(b'/') if self.bytes.get(self.at + 1) == Some(&b'*') => {
                    let end = self.text[self.at..].find("*/");
                    self.at = end.map_or(self.bytes.len(), |end| self.at + end + 2);
                }
                _ => return,
            }
        }
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        self.space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(quote @ (b'"' | b'\'')) => Ok(Value::Text(self.string(quote)?)),
            Some(b'-' | b'+' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => Err(self.error("end of text")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, JsonError>,
    ) -> Result<Value, JsonError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("nested too deep"));
        }
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, JsonError> {
        let mut pairs = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(pairs));
                }
                Some(b',') => self.at += 1,
                _ => {
                    let key = self.value()?;
                    self.space();
                    if self.peek() != Some(b':') {
                        return Err(self.error("expected ':'"));
                    }
                    self.at += 1;
                    pairs.push((key, self.value()?));
                    self.end_of_item(b'}')?;
                }
            }
        }
    }

    fn array(&mut self) -> Result<Value, JsonError> {
        let mut items = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                Some(b',') => self.at += 1,
                _ => {
                    items.push(self.value()?);
                    self.end_of_item(b']')?;
                }
            }
        }
    }

    fn end_of_item(&mut self, close: u8) -> Result<(), JsonError> {
        self.space();
        match self.peek() {
            Some(b) if b == b',' || b == close => Ok(()),
            _ => Err(self.error("expected ',' or the end")),
        }
    }

    fn string(&mut self, quote: u8) -> Result<String, JsonError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.bytes[self.at..];
            let len = rest.iter().position(|b| *b == quote || *b == b'\\');
            let len = len.ok_or_else(|| self.error("string without end"))?;
            out.push_str(&self.text[self.at..self.at + len]);
            self.at += len + 1;
            if rest[len] == quote {
                return Ok(out);
            }
            self.at += unescape(&self.text[self.at..], &mut out)
                .ok_or_else(|| self.error("bad escape"))?;
        }
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let rest = &self.bytes[self.at..];
        let len = rest
            .iter()
            .position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let text = &self.text[self.at..self.at + len];
        let value = if let Ok(number) = text.parse::<i64>() {
            Value::Int(number)
        } else if let Ok(number) = text.parse::<u64>() {
            Value::Int(number as i64)
        } else {
            Value::Float(text.parse().map_err(|_| self.error("bad number"))?)
        };
        self.at += len;
        Ok(value)
    }

    fn word(&mut self) -> Result<Value, JsonError> {
        for (word, value) in
            [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))]
        {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("unexpected character"))
    }
}

/// Reads the escape after a backslash, appends its character, and returns how many bytes it took.
/// A lone surrogate becomes the replacement character, since Rust text cannot hold it.
pub fn unescape(rest: &str, out: &mut String) -> Option<usize> {
    let bytes = rest.as_bytes();
    let plain = match bytes.first()? {
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'b' => '\u{8}',
        b'f' => '\u{C}',
        b'u' => {
            let high = hex4(bytes.get(1..5)?)?;
            if (0xD800..0xDC00).contains(&high) && bytes.get(5..7) == Some(b"\\u") {
                let low = hex4(bytes.get(7..11)?)?;
                if (0xDC00..0xE000).contains(&low) {
                    let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                    out.push(char::from_u32(code)?);
                    return Some(11);
                }
            }
            out.push(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
            return Some(5);
        }
        other @ (b'"' | b'\'' | b'\\' | b'/') => char::from(*other),
        _ => return None,
    };
    out.push(plain);
    Some(1)
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javas_dialect_is_read_and_written_back() {
        for text in [
            r#"{0:"127.0.0.1:10911",1:"b"}"#,
            r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:{"maxOffset":1}}}"#,
            r#"{"a":[],"b":{},"c":[1,-2,0.5],"d":"x\"\\\n\u0001中文","e":true}"#,
        ] {
            assert_eq!(Value::parse(text).expect(text).to_text(), text);
        }
        let loose = "{// c\n'a':1,,\"b\":[1,2,],/* x */\"c\":18446744073709551615}\n";
        let value = Value::parse(loose).expect("loose");
        assert_eq!(value.get("c").and_then(Value::int), Some(-1));
        assert_eq!(value.get("b").map(|b| b.items().len()), Some(2));
        let strict = Value::parse(r#"{0:"a"}"#).expect("bare").to_strict_text();
        assert_eq!(strict, r#"{"0":"a"}"#);
    }

    #[test]
    fn bad_text_is_an_error_and_never_a_panic() {
        for text in ["", "{", "{a:1}", r#"{"mqTable":}"#, "[1 2]", "\"abc", "nul", "1x", "{}{}"] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
        assert!(Value::parse(&"[".repeat(100_000)).is_err());
        assert_eq!(
            Value::parse(r#""\ud83d\ude00\ud800""#).expect("s").text().as_deref(),
            Some("\u{1F600}\u{FFFD}")
        );
    }

    #[test]
    fn file_text_has_javas_layout() {
        let value = Value::parse(r#"{"a":{},"t":{1:3,"n":[1]}}"#).expect("json");
        assert_eq!(
            value.to_file_text(),
            "{\n\t\"a\":{},\n\t\"t\":{\n\t\t\"1\":3,\n\t\t\"n\":[\n\t\t\t1\n\t\t]\n\t}\n}"
        );
    }
}
