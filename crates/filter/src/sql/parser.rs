//! The grammar of `SelectorParser.jj`, with the checks that the original makes while it parses.

use super::lexer::{Lexer, Token};
use super::{Compare, Expr, Find, Value};

/// Parentheses, signs and chained comparisons inside each other. Deeper ones are refused, since
/// evaluation goes as deep.
const MAX_DEPTH: usize = 200;

/// Reads one expression; what follows a complete one is not looked at, as in the original.
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    let mut parser = Parser { lexer: Lexer::new(text), peeked: Vec::new(), depth: 0 };
    let parsed = parser.or().and_then(boolean);
    parsed.map_err(|error| format!("{error} (before character {})", parser.lexer.position() + 1))
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// Tokens that were looked at and not taken, at most two.
    peeked: Vec<Token>,
    depth: usize,
}

type Parsed = Result<Expr, String>;

impl Parser<'_> {
    fn peek(&mut self, ahead: usize) -> Result<&Token, String> {
        while self.peeked.len() <= ahead {
            let token = self.lexer.next()?;
            self.peeked.push(token);
        }
        Ok(&self.peeked[ahead])
    }

    fn take(&mut self) -> Result<Token, String> {
        self.peek(0)?;
        Ok(self.peeked.remove(0))
    }

    fn next_is(&mut self, wanted: &Token) -> Result<bool, String> {
        Ok(self.peek(0)? == wanted)
    }

    /// Takes the token if it is the wanted one.
    fn accept(&mut self, wanted: &Token) -> Result<bool, String> {
        let found = self.next_is(wanted)?;
        if found {
            self.take()?;
        }
        Ok(found)
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), String> {
        let found = self.take()?;
        if found == *wanted { Ok(()) } else { Err(format!("expected {wanted}, found {found}")) }
    }

    fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.descend()?;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// One level deeper. A chain of comparisons is as deep as it is long, since its tree leans to
    /// the left.
    fn descend(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} expressions inside each other"));
        }
        Ok(())
    }

    fn or(&mut self) -> Parsed {
        let mut parts = vec![self.and()?];
        while self.accept(&Token::Word("OR"))? {
            parts.push(self.and()?);
        }
        joined(parts, Expr::Or)
    }

    fn and(&mut self) -> Parsed {
        let mut parts = vec![self.equality()?];
        while self.accept(&Token::Word("AND"))? {
            parts.push(self.equality()?);
        }
        joined(parts, Expr::And)
    }

    fn equality(&mut self) -> Parsed {
        let mut left = self.comparison()?;
        let outer = self.depth;
        loop {
            left = match self.peek(0)? {
                Token::Sign("=") => {
                    self.take()?;
                    equal(left, self.comparison()?)?
                }
                Token::Sign("<>") => {
                    self.take()?;
                    Expr::Not(Box::new(equal(left, self.comparison()?)?))
                }
                Token::Word("IS") => {
                    self.take()?;
                    let not = self.accept(&Token::Word("NOT"))?;
                    self.expect(&Token::Word("NULL"))?;
                    let null = Expr::IsNull(Box::new(left));
                    if not { Expr::Not(Box::new(null)) } else { null }
                }
                _ => {
                    self.depth = outer;
                    return Ok(left);
                }
            };
            self.descend()?;
        }
    }

    fn comparison(&mut self) -> Parsed {
        let mut left = self.unary()?;
        let outer = self.depth;
        loop {
            let compare = match self.peek(0)? {
                Token::Sign(">") => Some(Compare::Greater),
                Token::Sign(">=") => Some(Compare::GreaterOrEqual),
                Token::Sign("<") => Some(Compare::Less),
                Token::Sign("<=") => Some(Compare::LessOrEqual),
                Token::Word("NOT" | "CONTAINS" | "STARTSWITH" | "ENDSWITH" | "BETWEEN" | "IN") => {
                    None
                }
                _ => {
                    self.depth = outer;
                    return Ok(left);
                }
            };
            left = match compare {
                Some(compare) => {
                    self.take()?;
                    ordered(compare, left, self.unary()?)?
                }
                None => self.worded(left)?,
            };
            self.descend()?;
        }
    }

    /// The comparisons that are words, with or without NOT.
    fn worded(&mut self, left: Expr) -> Parsed {
        let not = self.accept(&Token::Word("NOT"))?;
        let find = match self.take()? {
            Token::Word("CONTAINS") => Find::Contains,
            Token::Word("STARTSWITH") => Find::StartsWith,
            Token::Word("ENDSWITH") => Find::EndsWith,
            Token::Word("BETWEEN") => {
                let low = self.unary()?;
                self.expect(&Token::Word("AND"))?;
                let high = self.unary()?;
                return between(left, low, high, not);
            }
            Token::Word("IN") => return self.list(left, not),
            other => return Err(format!("expected a comparison, found {other}")),
        };
        let search = self.text()?;
        Ok(Expr::Find { value: Box::new(left), find, search, not })
    }

    fn list(&mut self, left: Expr, not: bool) -> Parsed {
        self.expect(&Token::Sign("("))?;
        let mut items = vec![self.text()?];
        while self.accept(&Token::Sign(","))? {
            items.push(self.text()?);
        }
        self.expect(&Token::Sign(")"))?;
        match left {
            Expr::Property(name) => Ok(Expr::In { name, items, not }),
            other => Err(format!("IN needs a property on its left side, not {}", other.kind())),
        }
    }

    fn text(&mut self) -> Result<String, String> {
        match self.take()? {
            Token::Text(text) => Ok(text),
            other => Err(format!("expected a text in single quotes, found {other}")),
        }
    }

    fn unary(&mut self) -> Parsed {
        if self.accept(&Token::Sign("+"))? {
            return self.deeper(Self::unary);
        }
        if self.accept(&Token::Sign("-"))? {
            return Ok(Expr::Negate(Box::new(self.deeper(Self::unary)?)));
        }
        if self.accept(&Token::Word("NOT"))? {
            return Ok(Expr::Not(Box::new(boolean(self.deeper(Self::unary)?)?)));
        }
        match self.take()? {
            Token::Text(text) => Ok(Expr::Constant(Value::Text(text.into()))),
            Token::Integer(digits) => integer(&digits),
            Token::Float(digits) => float(&digits),
            Token::Word("TRUE") => Ok(Expr::Constant(Value::Bool(true))),
            Token::Word("FALSE") => Ok(Expr::Constant(Value::Bool(false))),
            Token::Word("NULL") => Ok(Expr::Null),
            Token::Name(name) => Ok(Expr::Property(name)),
            Token::Sign("(") => {
                let inner = self.deeper(Self::or)?;
                self.expect(&Token::Sign(")"))?;
                Ok(inner)
            }
            other => Err(format!("expected a value, found {other}")),
        }
    }
}

/// One expression as it is, several as operands that must be boolean.
fn joined(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Parsed {
    if parts.len() == 1 {
        return Ok(parts.swap_remove(0));
    }
    Ok(join(parts.into_iter().map(boolean).collect::<Result<_, _>>()?))
}

/// An expression where a boolean is needed. A property is allowed; being a text it is never true.
fn boolean(expr: Expr) -> Parsed {
    match expr {
        Expr::Property(_) => Ok(Expr::Cast(Box::new(expr))),
        _ if expr.is_boolean() => Ok(expr),
        other => Err(format!("{} is not true or false", other.kind())),
    }
}

fn integer(digits: &str) -> Parsed {
    let value: i64 = digits.parse().map_err(|_| format!("{digits} does not fit 64 bits"))?;
    Ok(Expr::Constant(i32::try_from(value).map_or(Value::Long(value), Value::Int)))
}

fn float(digits: &str) -> Parsed {
    let value: f64 = digits.parse().map_err(|_| format!("{digits} is not a number"))?;
    // The original takes the smallest positive number for the lower end: zero is refused, too.
    if value == 0.0 || value.is_infinite() {
        return Err(format!("{digits} is out of the range of decimal numbers"));
    }
    Ok(Expr::Constant(Value::Double(value)))
}

fn equal(left: Expr, right: Expr) -> Parsed {
    if matches!(left, Expr::Null) || matches!(right, Expr::Null) {
        return Err("NULL cannot be compared; use IS NULL or IS NOT NULL".to_owned());
    }
    if let (Expr::Constant(Value::Bool(_)), Expr::Constant(other)) = (&left, &right)
        && !matches!(other, Value::Bool(_))
    {
        return Err("TRUE and FALSE cannot be compared with a text or a number".to_owned());
    }
    Ok(Expr::Equal(Box::new((left, right))))
}

/// Operands of an order must be numbers, as far as one can tell.
fn check_ordered(expr: &Expr) -> Result<(), String> {
    let number = matches!(expr, Expr::Constant(Value::Int(_) | Value::Long(_) | Value::Double(_)));
    if !number && (matches!(expr, Expr::Constant(_)) || expr.is_boolean()) {
        return Err(format!("{} has no order; >, >=, < and <= compare numbers", expr.kind()));
    }
    Ok(())
}

fn ordered(compare: Compare, left: Expr, right: Expr) -> Parsed {
    check_ordered(&left)?;
    check_ordered(&right)?;
    Ok(Expr::Ordered(compare, Box::new((left, right))))
}

fn between(value: Expr, low: Expr, high: Expr, not: bool) -> Parsed {
    if !not && let (Expr::Constant(low), Expr::Constant(high)) = (&low, &high) {
        let order = low.compare(high).map_err(|_| "the bounds of BETWEEN are no numbers")?;
        if order.is_gt() {
            return Err("the lower bound of BETWEEN is above the upper one".to_owned());
        }
    }
    let (below, above) = if not {
        (Compare::Less, Compare::Greater)
    } else {
        (Compare::GreaterOrEqual, Compare::LessOrEqual)
    };
    let parts = vec![ordered(below, value.clone(), low)?, ordered(above, value, high)?];
    Ok(if not { Expr::Or(parts) } else { Expr::And(parts) })
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Token::Name(text) | Token::Integer(text) | Token::Float(text) => f.write_str(text),
            Token::Text(text) => write!(f, "'{text}'"),
            Token::Word(text) | Token::Sign(text) => f.write_str(text),
            Token::End => f.write_str("the end"),
        }
    }
}
