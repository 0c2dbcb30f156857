//! docs/configuration.md is what the tables say. `UPDATE_DOCS=1` writes it anew. docs/errors.md has
//! every code that the sources refuse with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use base::config::Table;
use broker::config::BrokerConfig;
use namesrv::NamesrvConfig;

#[test]
fn every_configuration_key_is_documented() -> Result<()> {
    let text = format!(
        "# Configuration\n\nJava properties files. Made from the tables in the code; a test keeps \
         it so.\n\n{}\n{}",
        BrokerConfig::markdown("Broker"),
        NamesrvConfig::markdown("Name server")
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &text)?;
    }
    ensure!(std::fs::read_to_string(path)? == text, "run the tests with UPDATE_DOCS=1");
    Ok(())
}

/// The Rust files under a directory.
fn sources(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_code_of_a_refusal_is_documented() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for name in ["broker", "namesrv", "net"] {
        sources(&root.join("crates").join(name).join("src"), &mut files)?;
    }
    let mut used = BTreeMap::new();
    for path in files {
        let text = std::fs::read_to_string(&path)?;
        for after in text.split("response::").skip(1) {
            let name = after.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next();
            let name = name.filter(|name| !name.is_empty() && *name != "SUCCESS");
            used.extend(name.map(|name| (name.to_owned(), path.clone())));
        }
    }
    ensure!(used.len() > 15, "too few codes found: {used:?}");
    let codes: BTreeMap<&str, i32> =
        (0..3000).filter_map(|code| Some((wire::codes::response::name(code)?, code))).collect();
    let errors = std::fs::read_to_string(root.join("docs/errors.md"))?;
    for (name, path) in used {
        let code = codes.get(name.as_str()).copied().unwrap_or(-1);
        let row = format!("| {code} | `{name}` |");
        ensure!(errors.contains(&row), "docs/errors.md lacks a row {row}: {}", path.display());
    }
    Ok(())
}
