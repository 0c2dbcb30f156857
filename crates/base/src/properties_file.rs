//! Java properties files, the configuration format: read as Java reads them, with line numbers, and
//! changed one key at a time so that comments and order stay.

/// One setting of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Value, trimmed on both sides: blanks behind a value come from copying, never on purpose.
    pub value: String,
    /// Line on which it starts, from 1.
    pub line: usize,
}

/// A line that Java would silently read as something else than it shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, key {key}: {problem}")]
pub struct PropertiesError {
    /// Line, from 1.
    pub line: usize,
    /// Key, as far as it was read.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

/// A line with its continuations joined.
struct Logical<'a> {
    number: usize,
    first: usize,
    last: usize,
    text: std::borrow::Cow<'a, str>,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{C}')
}

fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Splits into logical lines; comments and empty lines are left out.
fn logical_lines(text: &str) -> Vec<Logical<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let first = at;
        let start = lines[at].trim_start_matches(is_blank).trim_end_matches('\r');
        at += 1;
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut joined = std::borrow::Cow::Borrowed(start);
        while continues(&joined) && at < lines.len() {
            let next = lines[at].trim_start_matches(is_blank).trim_end_matches('\r');
            let mut longer = joined.into_owned();
            longer.pop();
            longer.push_str(next);
            joined = longer.into();
            at += 1;
        }
        found.push(Logical { number: first + 1, first, last: at - 1, text: joined });
    }
    found
}

/// Reads a file's text.
///
/// Differs from Java on purpose in two points. Values are trimmed at the end too. And a backslash
/// that is no escape, or that makes a control character, is refused: `D:\rmq\store` is read by Java
/// as something that no one has written.
pub fn parse(text: &str) -> Result<Vec<Entry>, PropertiesError> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    logical_lines(text).iter().map(entry).collect()
}

fn entry(line: &Logical<'_>) -> Result<Entry, PropertiesError> {
    let mut key = String::new();
    let mut chars = line.text.chars().peekable();
    while let Some(c) = chars.peek().copied() {
        if c == '=' || c == ':' || is_blank(c) {
            break;
        }
        chars.next();
        if c == '\\' {
            let raw = key.clone();
            unescape(&mut chars, &mut key, line.number, &raw)?;
        } else {
            key.push(c);
        }
    }
    while chars.next_if(|c| is_blank(*c)).is_some() {}
    if chars.next_if(|c| *c == '=' || *c == ':').is_some() {
        while chars.next_if(|c| is_blank(*c)).is_some() {}
    }
    let mut value = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' {
            unescape(&mut chars, &mut value, line.number, &key)?;
        } else {
            value.push(c);
        }
    }
    Ok(Entry { key, value: value.trim().to_owned(), line: line.number })
}

fn unescape(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    out: &mut String,
    line: usize,
    key: &str,
) -> Result<(), PropertiesError> {
    let error = |problem: String| PropertiesError { line, key: key.to_owned(), problem };
    match chars.next() {
        Some('u') => {
            let digits: String = chars.by_ref().take(4).collect();
            let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
            let c = code.and_then(char::from_u32);
            out.push(c.ok_or_else(|| error(format!("\\u{digits} is not a character")))?);
        }
        Some(c) if c.is_ascii_alphanumeric() => {
            return Err(error(format!(
                "a single backslash before {c:?} is not kept by Java; write / or \\\\ instead"
            )));
        }
        Some(c) => out.push(c),
        None => {}
    }
    Ok(())
}

/// The text with `key` set to `value`: the line that counts (the last one with the key) is
/// replaced, or one is appended; everything else stays byte for byte.
pub fn rewrite(text: &str, key: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\");
    let wanted = format!("{key}={escaped}");
    let lines: Vec<&str> = text.lines().collect();
    let logical = logical_lines(text);
    let found = logical.iter().rev().find(|line| entry(line).is_ok_and(|entry| entry.key == key));
    let mut out: Vec<&str> = Vec::with_capacity(lines.len() + 1);
    match found {
        Some(line) => {
            out.extend(&lines[..line.first]);
            out.push(&wanted);
            out.extend(&lines[line.last + 1..]);
        }
        None => {
            out.extend(&lines);
            out.push(&wanted);
        }
    }
    let mut joined = out.join("\n");
    joined.push('\n');
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).expect("legal").into_iter().map(|e| (e.key, e.value)).collect()
    }

    #[test]
    fn javas_syntax_is_read() {
        let text =
            "\u{FEFF}# c\n ! c\na=1\nb : 2 \nc 3\r\nd=x;\\\n   y\ne\\=f=\\u0041\\:b\ng=\nh\n\n";
        let expected = [
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("d", "x;y"),
            ("e=f", "A:b"),
            ("g", ""),
            ("h", ""),
        ];
        let expected: Vec<_> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(pairs(text), expected);
        assert_eq!(pairs("p=a\\\\b"), [("p".to_owned(), "a\\b".to_owned())]);
    }

    #[test]
    fn a_windows_path_is_refused_and_says_what_to_write() {
        let error = parse("a=1\nstorePathRootDir=D:\\rmq\\store").expect_err("backslashes");
        assert_eq!((error.line, error.key.as_str()), (2, "storePathRootDir"));
        assert!(error.problem.contains("\\\\"));
    }

    #[test]
    fn one_key_changes_and_the_rest_stays() {
        let text = "# why\na=1\nb=2;\\\n  3\n\n# end\n";
        assert_eq!(rewrite(text, "b", "x"), "# why\na=1\nb=x\n\n# end\n");
        assert_eq!(rewrite(text, "c", "y"), "# why\na=1\nb=2;\\\n  3\n\n# end\nc=y\n");
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["\\", "=", "\\u12", "a\\", "a=\\u00zz", "\u{FEFF}", "\n\\\n\\\n"] {
            let _ = parse(text);
            let _ = rewrite(text, "k", "v");
        }
    }
}
