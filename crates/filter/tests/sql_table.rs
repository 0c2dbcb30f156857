//! Every expression of a table recorded from the original gives the same results here, and
//! expressions that are too much are refused at once.

use filter::SqlFilter;

/// The property sets of `SqlTable.java`.
const SETS: [&[(&str, &str)]; 5] = [
    &[],
    &[("a", "1"), ("b", "2"), ("s", "hangzhou"), ("t", "true")],
    &[("a", "2.5"), ("b", "abc"), ("s", ""), ("t", "TRUE"), ("n", "-3")],
    &[("a", "10"), ("b", "10"), ("big", "3000000000"), ("s", "it's"), ("d", "1e3")],
    &[
        ("a", " 5"),
        ("b", "0x10"),
        ("d", "NaN"),
        ("n", "-0.0"),
        ("p", "+7"),
        ("f", "1.5f"),
        ("i", "Infinity"),
        ("s", "Aou"),
    ],
];

fn results(text: &str) -> String {
    let Ok(compiled) = SqlFilter::parse(text) else { return "R".to_owned() };
    let matches = |set: &&[(&str, &'static str)]| {
        let property = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        if compiled.matches(&property) { '1' } else { '0' }
    };
    SETS.iter().map(matches).collect()
}

#[test]
fn the_table_of_the_original() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/sql/table.tsv");
    let table = std::fs::read_to_string(path).expect("the table");
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in table.lines() {
        let (text, expected) = line.split_once('\t').expect("two columns");
        let text = text.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t");
        let got = results(&text);
        rows += 1;
        if got != expected {
            wrong.push(format!("{text:?}: {got} instead of {expected}"));
        }
    }
    assert!(rows >= 300, "only {rows} rows");
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn too_much_is_refused_whatever_its_form() {
    for (open, close) in [("(", ")"), ("NOT (", ")"), ("-", ""), ("+", ""), ("NOT ", "")] {
        let text = format!("{}a = 1{}", open.repeat(10_000), close.repeat(10_000));
        assert!(SqlFilter::parse(&text).is_err(), "{open}");
    }
    assert!(SqlFilter::parse(&"a = ".repeat(10_000)).is_err());
    assert!(SqlFilter::parse(&format!("a = 1{}", " IS NULL".repeat(300))).is_err());
    assert!(SqlFilter::parse(&" ".repeat(1 << 20)).is_err());
    // Long and flat is fine.
    let flat = format!("a = 0{}", " OR a = 1".repeat(3_000));
    let compiled = SqlFilter::parse(&flat).expect("long and flat");
    assert!(compiled.matches(&|_| Some("1")));
}
