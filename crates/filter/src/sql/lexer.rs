//! Tokens of an expression, as `SelectorParser.jj` has them: the longest match wins, and text is
//! read only as far as the parser looks.

/// One token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A property name.
    Name(String),
    /// A text without its quotes.
    Text(String),
    /// Digits with an optional `L` that is cut off.
    Integer(String),
    /// Digits with a point or an exponent.
    Float(String),
    /// A reserved word, in upper case.
    Word(&'static str),
    /// An operator or a sign.
    Sign(&'static str),
    /// Nothing more.
    End,
}

const WORDS: [&str; 12] = [
    "NOT",
    "AND",
    "OR",
    "BETWEEN",
    "IN",
    "TRUE",
    "FALSE",
    "NULL",
    "IS",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
];

/// Longer ones first.
const SIGNS: [&str; 11] = ["<>", ">=", "<=", "=", ">", "<", "(", ")", ",", "+", "-"];

/// Reads tokens on demand.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer { text, at: 0 }
    }

    /// Where the next token is looked for, in bytes.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next token; the error names what cannot begin one.
    pub(super) fn next(&mut self) -> Result<Token, String> {
        self.skip();
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        let (token, len) = match first {
            'a'..='z' | 'A'..='Z' | '_' | '$' => name(rest),
            '0'..='9' | '.' => number(rest)?,
            '\'' => text(rest)?,
            _ => match SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                Some(sign) => (Token::Sign(sign), sign.len()),
                None => return Err(format!("{first:?} is not part of any expression")),
            },
        };
        self.at += len;
        Ok(token)
    }

    /// Skips blanks and comments. A `--` comment needs its end of line, else it is two signs.
    fn skip(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let blanks =
                rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0C']).len();
            let comment = match &rest[blanks..] {
                line if line.starts_with("--") => line.find(['\n', '\r']).map(|end| end + 1),
                block if block.starts_with("/*") => block[2..].find("*/").map(|end| end + 4),
                _ => None,
            };
            self.at += blanks + comment.unwrap_or(0);
            if blanks == 0 && comment.is_none() {
                return;
            }
        }
    }
}

fn name(rest: &str) -> (Token, usize) {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    let len = rest.find(|c| !part(c)).unwrap_or(rest.len());
    let word = WORDS.into_iter().find(|word| word.eq_ignore_ascii_case(&rest[..len]));
    (word.map_or_else(|| Token::Name(rest[..len].to_owned()), Token::Word), len)
}

fn text(rest: &str) -> Result<(Token, usize), String> {
    let mut value = String::new();
    let mut at = 1;
    while let Some(len) = rest[at..].find('\'') {
        value.push_str(&rest[at..at + len]);
        at += len + 1;
        if !rest[at..].starts_with('\'') {
            return Ok((Token::Text(value), at));
        }
        value.push('\'');
        at += 1;
    }
    Err("a text has no closing quote".to_owned())
}

fn digits(rest: &str) -> usize {
    rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())
}

/// Length of an exponent at the front, 0 without one.
fn exponent(rest: &str) -> usize {
    let Some(after) = rest.strip_prefix(['e', 'E']) else { return 0 };
    let sign = usize::from(after.starts_with(['+', '-']));
    match digits(&after[sign..]) {
        0 => 0,
        len => 1 + sign + len,
    }
}

fn number(rest: &str) -> Result<(Token, usize), String> {
    let whole = digits(rest);
    let point = rest[whole..].starts_with('.');
    let fraction = if point { digits(&rest[whole + 1..]) } else { 0 };
    if whole == 0 && fraction == 0 {
        return Err("'.' is not part of any expression".to_owned());
    }
    let mantissa = whole + usize::from(point) + fraction;
    let exponent = exponent(&rest[mantissa..]);
    if point || exponent > 0 {
        let len = mantissa + exponent;
        return Ok((Token::Float(rest[..len].to_owned()), len));
    }
    // A number that begins with 0 is this 0 alone; what follows is the next token.
    let len = if rest.starts_with('0') { 1 } else { whole };
    let long = !rest.starts_with('0') && rest[len..].starts_with(['l', 'L']);
    Ok((Token::Integer(rest[..len].to_owned()), len + usize::from(long)))
}
