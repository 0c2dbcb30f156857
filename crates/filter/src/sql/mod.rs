//! SQL92 expressions over the properties of a message, with the types, the NULL logic and the
//! refusals of the original (`rocketmq-filter`). A table recorded from it is in `tests/`.

mod lexer;
mod parser;

use std::borrow::Cow;
use std::cmp::Ordering;

/// Longest expression that is looked at, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct SqlFilter(Expr);

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid MessageSelector. {0}")]
pub struct SqlError(String);

impl SqlFilter {
    /// Compiles an expression.
    pub fn parse(text: &str) -> Result<SqlFilter, SqlError> {
        if text.len() > MAX_TEXT {
            return Err(SqlError(format!("it is longer than {MAX_TEXT} bytes")));
        }
        parser::parse(text).map(SqlFilter).map_err(SqlError)
    }

    /// Whether a message with these properties is wanted. `property` gives the value of a name.
    /// NULL and values that cannot be compared mean no.
    pub fn matches<'a>(&'a self, property: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        matches!(self.0.evaluate(property), Ok(Some(Value::Bool(true))))
    }
}

/// A value; absent ones are `None` where it is used.
#[derive(Debug, Clone, PartialEq)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Int(i32),
    Long(i64),
    Double(f64),
    Bool(bool),
}

/// Two values cannot be compared: the message is not delivered.
#[derive(Debug)]
struct NoValue;

#[derive(Debug, Clone, Copy)]
enum Compare {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Compare {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Greater => order.is_gt(),
            Compare::GreaterOrEqual => order.is_ge(),
            Compare::Less => order.is_lt(),
            Compare::LessOrEqual => order.is_le(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Find {
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Debug, Clone)]
enum Expr {
    Constant(Value<'static>),
    Null,
    Property(String),
    Negate(Box<Expr>),
    /// A property where a boolean is needed.
    Cast(Box<Expr>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    IsNull(Box<Expr>),
    Equal(Box<(Expr, Expr)>),
    Ordered(Compare, Box<(Expr, Expr)>),
    Find {
        value: Box<Expr>,
        find: Find,
        search: String,
        not: bool,
    },
    In {
        name: String,
        items: Vec<String>,
        not: bool,
    },
}

type Evaluated<'a> = Result<Option<Value<'a>>, NoValue>;

fn is_true(value: bool) -> Evaluated<'static> {
    Ok(Some(Value::Bool(value)))
}

impl Expr {
    fn is_boolean(&self) -> bool {
        match self {
            Expr::Property(_) | Expr::Negate(_) => false,
            Expr::Constant(value) => matches!(value, Value::Bool(_)),
            _ => true,
        }
    }

    /// What it is, for texts of errors.
    fn kind(&self) -> &'static str {
        match self {
            Expr::Constant(Value::Text(_)) => "a text",
            Expr::Constant(Value::Bool(_)) => "TRUE or FALSE",
            Expr::Constant(_) | Expr::Negate(_) => "a number",
            Expr::Null => "NULL",
            Expr::Property(_) => "a property",
            _ => "a condition",
        }
    }

    fn evaluate<'a>(&'a self, property: &dyn Fn(&str) -> Option<&'a str>) -> Evaluated<'a> {
        match self {
            Expr::Constant(value) => Ok(Some(value.clone())),
            Expr::Null => Ok(None),
            Expr::Property(name) => Ok(property(name).map(|text| Value::Text(text.into()))),
            Expr::Negate(inner) => Ok(match inner.evaluate(property)? {
                Some(Value::Int(number)) => Some(Value::Int(number.wrapping_neg())),
                Some(Value::Long(number)) => Some(Value::Long(number.wrapping_neg())),
                Some(Value::Double(number)) => Some(Value::Double(-number)),
                _ => None,
            }),
            Expr::Cast(inner) => match inner.evaluate(property)? {
                Some(value) => is_true(value == Value::Bool(true)),
                None => Ok(None),
            },
            Expr::Not(inner) => Ok(match inner.evaluate(property)? {
                Some(Value::Bool(value)) => Some(Value::Bool(!value)),
                _ => None,
            }),
            Expr::And(parts) => joined(parts, property, false),
            Expr::Or(parts) => joined(parts, property, true),
            Expr::IsNull(inner) => is_true(inner.evaluate(property)?.is_none()),
            Expr::Equal(sides) => equal(&sides.0, &sides.1, property),
            Expr::Ordered(compare, sides) => ordered(*compare, &sides.0, &sides.1, property),
            Expr::Find { value, find, search, not } => {
                let Some(Value::Text(text)) = value.evaluate(property)? else {
                    return is_true(false);
                };
                let found = match find {
                    Find::Contains => text.contains(search),
                    Find::StartsWith => text.starts_with(search),
                    Find::EndsWith => text.ends_with(search),
                };
                is_true(!search.is_empty() && found != *not)
            }
            Expr::In { name, items, not } => Ok(property(name)
                .map(|text| Value::Bool(items.iter().any(|item| item == text) != *not))),
        }
    }
}

/// AND and OR of any number of operands, from the left; `decides` ends it at once.
fn joined<'a>(
    parts: &'a [Expr],
    property: &dyn Fn(&str) -> Option<&'a str>,
    decides: bool,
) -> Evaluated<'a> {
    let mut unknown = false;
    for part in parts {
        match part.evaluate(property)? {
            Some(value) if value == Value::Bool(decides) => return is_true(decides),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { Ok(None) } else { is_true(!decides) }
}

fn equal<'a>(
    left: &'a Expr,
    right: &'a Expr,
    property: &dyn Fn(&str) -> Option<&'a str>,
) -> Evaluated<'a> {
    match (left.evaluate(property)?, right.evaluate(property)?) {
        (None, None) => is_true(true),
        (None, Some(_)) => Ok(None),
        (Some(_), None) => is_true(false),
        (Some(left), Some(right)) => is_true(left == right || left.compare(&right)?.is_eq()),
    }
}

fn ordered<'a>(
    compare: Compare,
    left: &'a Expr,
    right: &'a Expr,
    property: &dyn Fn(&str) -> Option<&'a str>,
) -> Evaluated<'a> {
    let Some(left) = left.evaluate(property)? else { return Ok(None) };
    let Some(right) = right.evaluate(property)? else { return Ok(None) };
    let order = match (&left, &right) {
        // Two properties: as decimal numbers.
        (Value::Text(left), Value::Text(right)) => order(java_double(left)?, java_double(right)?),
        _ => left.compare(&right)?,
    };
    is_true(compare.holds(order))
}

impl Value<'_> {
    /// Compares as `__compare` of the original: a text becomes what the other side is; values that
    /// have nothing in common count as less.
    fn compare(&self, other: &Value<'_>) -> Result<Ordering, NoValue> {
        use Value::{Bool, Double, Int, Long, Text};
        Ok(match (self, other) {
            (Text(left), Text(right)) => left.cmp(right),
            (Text(left), Int(right)) => java_integer::<i32>(left)?.cmp(right),
            (Text(left), Long(right)) => java_integer::<i64>(left)?.cmp(right),
            (Text(left), Double(right)) => order(java_double(left)?, *right),
            (Text(left), Bool(right)) => left.eq_ignore_ascii_case("true").cmp(right),
            (Int(left), Text(right)) => left.cmp(&java_integer(right)?),
            (Long(left), Text(right)) => left.cmp(&java_integer(right)?),
            (Double(left), Text(right)) => order(*left, java_double(right)?),
            // The original fails here, by its own mistake.
            (Bool(_), Text(_)) => return Err(NoValue),
            (Bool(left), Bool(right)) => left.cmp(right),
            (Bool(_), _) | (_, Bool(_)) => Ordering::Less,
            (Double(left), right) => order(*left, right.as_double()),
            (left, Double(right)) => order(left.as_double(), *right),
            (left, right) => left.as_long().cmp(&right.as_long()),
        })
    }

    fn as_double(&self) -> f64 {
        match self {
            Value::Int(number) => f64::from(*number),
            Value::Long(number) => *number as f64,
            Value::Double(number) => *number,
            Value::Text(_) | Value::Bool(_) => f64::NAN,
        }
    }

    fn as_long(&self) -> i64 {
        match self {
            Value::Int(number) => i64::from(*number),
            Value::Long(number) => *number,
            _ => 0,
        }
    }
}

/// Order of Java's `Double.compareTo`: -0 below 0, NaN above everything and equal to itself.
fn order(left: f64, right: f64) -> Ordering {
    let one_nan = |number: f64| if number.is_nan() { f64::NAN.copysign(1.0) } else { number };
    one_nan(left).total_cmp(&one_nan(right))
}

/// A whole number as `Integer.valueOf` and `Long.valueOf` read it.
fn java_integer<T: std::str::FromStr>(text: &str) -> Result<T, NoValue> {
    text.parse().map_err(|_| NoValue)
}

/// A decimal number as `Double.valueOf` reads it, but for hexadecimal ones.
fn java_double(text: &str) -> Result<f64, NoValue> {
    let text = text.trim_matches(|c: char| c <= ' ');
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    match unsigned {
        "NaN" => return Ok(f64::NAN),
        "Infinity" => return Ok(sign * f64::INFINITY),
        _ => {}
    }
    let number = unsigned.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(unsigned);
    // Rust also reads words and a second sign.
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(NoValue);
    }
    number.parse::<f64>().map(|number| sign * number).map_err(|_| NoValue)
}
