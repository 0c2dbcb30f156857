//! Configuration as a table: each key once, with type, default, range, and whether it can change
//! at run time. From the table come the struct, the reader, the printer and the documentation.

use crate::properties_file::{self, PropertiesError};

/// A value of a setting.
pub trait Setting: Sized {
    /// Reads the text; the error says what is wanted.
    fn parse(text: &str) -> Result<Self, String>;
    /// The text as Java prints it.
    fn show(&self) -> String;
}

impl Setting for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("true or false is wanted".into()),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show(&self) -> String {
        self.clone()
    }
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Setting for $ty {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| {
                    format!("a whole number from {} to {} is wanted", <$ty>::MIN, <$ty>::MAX)
                })
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
integers!(i32, i64, u16);

/// One row of a table, for printing and documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Java's key, or ours.
    pub key: &'static str,
    /// Value of this moment.
    pub value: String,
    /// What it does.
    pub doc: &'static str,
    /// Whether a change works without a restart.
    pub hot: bool,
}

/// Something that was read but is not what the writer may think.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line, from 1; 0 for none.
    pub line: usize,
    /// Text for a person.
    pub text: String,
}

/// A configuration that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: line {line}, key {key}: {problem}")]
pub struct ConfigError {
    /// File, or where the text came from.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Key.
    pub key: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl ConfigError {
    fn of(file: &str, error: PropertiesError) -> ConfigError {
        let PropertiesError { line, key, problem } = error;
        ConfigError { file: file.to_owned(), line, key, problem }
    }
}

/// A configuration table.
pub trait Table: Default + Clone {
    /// Names of old releases with the key that means the same today.
    const ALIASES: &'static [(&'static str, &'static str)];
    /// Keys of the original that mean nothing here, with its defaults.
    const ACCEPTED: &'static [(&'static str, &'static str)];
    /// Sets a key; `None` when the table has no such key.
    fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>>;
    /// All rows.
    fn rows(&self) -> Vec<Row>;
    /// A value for an accepted key that must not be ignored, with the reason.
    fn refuse(_key: &str, _text: &str) -> Option<String> {
        None
    }
    /// Settles what depends on more than one key; warnings name the key.
    fn settle(&mut self) -> Result<Vec<String>, (&'static str, String)> {
        Ok(Vec::new())
    }

    /// Reads a file's text over the defaults.
    fn load(file: &str, text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut table = Self::default();
        let entries = properties_file::parse(text).map_err(|e| ConfigError::of(file, e))?;
        let mut warnings = Vec::new();
        let mut ignored = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let line = entry.line;
            let warn = |text: String| Warning { line, text };
            let fail = |problem: String| ConfigError {
                file: file.to_owned(),
                line,
                key: entry.key.clone(),
                problem: format!("{problem}; found {:?}", entry.value),
            };
            if let Some(later) = entries[at + 1..].iter().find(|later| later.key == entry.key)
                && later.value != entry.value
            {
                let text =
                    format!("{} is set again on line {}, which counts", entry.key, later.line);
                warnings.push(warn(text));
            }
            let alias = Self::ALIASES.iter().find(|(old, _)| *old == entry.key);
            let key = alias.map_or(entry.key.as_str(), |(_, new)| new);
            if let Some((old, new)) = alias {
                warnings.push(warn(format!("{old} is an old name of {new} and is taken as that")));
            }
            if let Some(reason) = Self::refuse(key, &entry.value) {
                return Err(fail(reason));
            }
            match table.set(key, &entry.value) {
                Some(Ok(())) => {}
                // Java takes an empty value of anything but text as not set.
                Some(Err(_)) if entry.value.is_empty() => {}
                Some(Err(problem)) => return Err(fail(problem)),
                None if Self::ACCEPTED.iter().any(|(known, _)| *known == key) => ignored.push(key),
                None => {
                    let nearest = nearest(key, &table);
                    warnings.push(warn(format!(
                        "unknown key {key}; the nearest known one is {nearest}"
                    )));
                }
            }
        }
        if !ignored.is_empty() {
            let text = format!("accepted without effect here: {}", ignored.join(", "));
            warnings.push(Warning { line: 0, text });
        }
        match table.settle() {
            Ok(settled) => {
                warnings.extend(settled.into_iter().map(|text| Warning { line: 0, text }))
            }
            Err((key, problem)) => {
                let line = entries.iter().rev().find(|e| e.key == key).map_or(0, |e| e.line);
                return Err(ConfigError {
                    file: file.to_owned(),
                    line,
                    key: key.to_owned(),
                    problem,
                });
            }
        }
        Ok((table, warnings))
    }

    /// All settings as properties text, also those that mean nothing here, in order of their keys.
    fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.rows().iter().map(|row| format!("{}={}\n", row.key, row.value)).collect();
        let accepted = Self::ACCEPTED.iter();
        lines.extend(accepted.map(|(key, value)| format!("{key}={value}\n")));
        lines.sort_unstable();
        lines.concat()
    }

    /// The rows as a table for people.
    fn markdown(title: &str) -> String {
        let mut text =
            format!("## {title}\n\n| Key | Default | Change | Meaning |\n|---|---|---|---|\n");
        for row in Self::default().rows() {
            let change = if row.hot { "at once" } else { "restart" };
            let value = row.value.replace('|', "\\|");
            text.push_str(&format!("| `{}` | `{value}` | {change} | {} |\n", row.key, row.doc));
        }
        text.push_str("\nKnown to the original, accepted here without effect:\n\n");
        let mut line = String::new();
        for (key, _) in Self::ACCEPTED {
            if line.len() + key.len() > 140 {
                text.push_str(line.trim_end());
                text.push('\n');
                line.clear();
            }
            line.push_str(&format!("`{key}` "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
        text
    }
}

/// The known key that looks most like `key`: another case first, then the fewest edits.
fn nearest<T: Table>(key: &str, table: &T) -> String {
    let own: Vec<&str> = table.rows().iter().map(|row| row.key).collect();
    let all = own.into_iter().chain(T::ACCEPTED.iter().map(|(known, _)| *known));
    let distance = |known: &&str| {
        if known.eq_ignore_ascii_case(key) {
            0
        } else {
            1 + edits(key.as_bytes(), known.as_bytes())
        }
    };
    all.min_by_key(distance).unwrap_or_default().to_owned()
}

/// Levenshtein distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (corner + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            corner = above;
        }
    }
    row[b.len()]
}

/// Declares a configuration: `"key" field: Type = default, Hot|Cold, "meaning";`, with an optional
/// `[min..=max]` behind the type for numbers.
#[macro_export]
macro_rules! config {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($key:literal $field:ident: $ty:ty $([$min:literal ..= $max:literal])? = $default:expr,
                $when:ident, $text:literal;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(#[doc = concat!("`", $key, "`: ", $text)] pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }

        impl $name {
            fn set_row(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
                match key {
                    $($key => Some(<$ty as $crate::config::Setting>::parse(text).and_then(|value| {
                        $(
                            if !($min..=$max).contains(&value) {
                                return Err(format!("a number from {} to {} is wanted", $min, $max));
                            }
                        )?
                        self.$field = value;
                        Ok(())
                    })),)*
                    _ => None,
                }
            }

            fn all_rows(&self) -> Vec<$crate::config::Row> {
                vec![$($crate::config::Row {
                    key: $key,
                    value: $crate::config::Setting::show(&self.$field),
                    doc: $text,
                    hot: stringify!($when) == "Hot",
                },)*]
            }
        }
    };
}
