//! The text format that Prometheus reads, version 0.0.4.

use std::fmt::Write;

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family of values is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, until the process starts again.
    Counter,
}

/// A text in the making.
pub(super) struct Text {
    out: String,
    /// Labels that every value has, written.
    common: String,
}

impl Text {
    /// An empty text; every value gets the labels of `common`.
    pub(super) fn new<'a>(common: impl IntoIterator<Item = (&'a str, &'a str)>) -> Text {
        let mut text = Text { out: String::new(), common: String::new() };
        let mut written = String::new();
        for (name, value) in common {
            label(&mut written, name, value);
        }
        text.common = written;
        text
    }

    /// Begins a family; its values follow.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = if kind == Kind::Gauge { "gauge" } else { "counter" };
        // Writing to a string cannot fail.
        let _ = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A value of the family that was begun last.
    pub(super) fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(name);
        self.out.push('{');
        self.out.push_str(&self.common);
        for (name, value) in labels {
            label(&mut self.out, name, value);
        }
        let _ = writeln!(self.out, "}} {value:?}");
    }

    /// A family with one value.
    pub(super) fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.value(name, &[], value);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.out
    }
}

/// Appends a label; a comma after the last one is allowed.
fn label(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    for char in value.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push_str("\",");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_all_labels_and_odd_ones_are_escaped() {
        let mut text = Text::new([("cluster", "C")]);
        text.family("x_total", Kind::Counter, "How many.");
        text.value("x_total", &[("topic", "a\"b\\c\nd")], 3.0);
        text.single("y", Kind::Gauge, "Now.", 0.5);
        let wanted = "# HELP x_total How many.\n# TYPE x_total counter\n\
                      x_total{cluster=\"C\",topic=\"a\\\"b\\\\c\\nd\",} 3.0\n\
                      # HELP y Now.\n# TYPE y gauge\ny{cluster=\"C\",} 0.5\n";
        assert_eq!(text.finish(), wanted);
    }
}
