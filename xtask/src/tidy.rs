//! `cargo xtask tidy`: what the compiler does not check. Sizes are printed and never fail.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Which crate may use which of ours (house, section 3). Development dependencies are free.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("wire", &[]),
    ("base", &[]),
    ("filter", &["wire"]),
    ("net", &["wire", "base"]),
    ("store", &["wire", "base"]),
    ("namesrv", &["net", "wire", "base"]),
    ("broker", &["net", "store", "filter", "wire", "base"]),
    ("apogee", &["net", "broker", "namesrv", "store", "wire", "base"]),
    ("testkit", &["net", "wire", "base"]),
    ("xtask", &[]),
    ("bench", &["net", "wire", "base"]),
];

/// Request codes that servers send or that only the far side of a cluster uses: no row here.
const NOT_OURS: [&str; 19] = [
    "CHECK_TRANSACTION_STATE",
    "NOTIFY_CONSUMER_IDS_CHANGED",
    "RESET_CONSUMER_CLIENT_OFFSET",
    "GET_CONSUMER_STATUS_FROM_CLIENT",
    "PUSH_REPLY_MESSAGE_TO_CLIENT",
    "NOTIFY_MIN_BROKER_ID_CHANGE",
    "NOTIFY_UNSUBSCRIBE_LITE",
    "ADD_BROKER",
    "REMOVE_BROKER",
    "GET_BROKER_LITE_INFO",
    "GET_PARENT_TOPIC_INFO",
    "GET_LITE_TOPIC_INFO",
    "GET_LITE_CLIENT_INFO",
    "GET_LITE_GROUP_INFO",
    "TRIGGER_LITE_DISPATCH",
    "ACK_LITE_MESSAGE",
    "RESUME_CONSUMER",
    "SUSPEND_CONSUMER",
    "ADJUST_CONSUMER_THREAD_POOL",
];

/// Codes without a handler in any current release of the original: answered with 3.
const DEAD: [&str; 14] = [
    "QUERY_BROKER_OFFSET",
    "GET_TOPIC_CONFIG_LIST",
    "GET_TOPIC_NAME_LIST",
    "TRIGGER_DELETE_FILES",
    "GET_CLIENT_CONFIG",
    "UPDATE_AND_CREATE_ACL_CONFIG",
    "DELETE_ACL_CONFIG",
    "GET_BROKER_CLUSTER_ACL_INFO",
    "UPDATE_GLOBAL_WHITE_ADDRS_CONFIG",
    "RESET_CONSUMER_OFFSET_IN_CONSUMER",
    "RESET_CONSUMER_OFFSET_IN_BROKER",
    "WHO_CONSUME_THE_MESSAGE",
    "REGISTER_FILTER_SERVER",
    "REGISTER_MESSAGE_FILTER_CLASS",
];

/// Runs every check; returns how many passed.
pub(crate) fn run() -> Result<usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?;
    let mut problems = Vec::new();
    dependencies(root, &mut problems)?;
    let sources = sources(root)?;
    columns(&sources, &mut problems);
    codes(root, &mut problems)?;
    words(&sources, &mut problems);
    sizes(root, &sources);
    if !problems.is_empty() {
        problems.iter().for_each(|problem| println!("tidy: {problem}"));
        bail!("{} tidy problems", problems.len());
    }
    Ok(4)
}

/// The crates of ours that a manifest depends on, outside its development dependencies.
fn own_dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside
            && let Some(name) = line.split(['.', '=', ' ']).next()
            && MAY_USE.iter().any(|(known, _)| *known == name)
        {
            found.push(name.to_owned());
        }
    }
    found
}

fn dependencies(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    for (name, allowed) in MAY_USE {
        let in_crates = root.join("crates").join(name).join("Cargo.toml");
        let path = if in_crates.exists() { in_crates } else { root.join(name).join("Cargo.toml") };
        let manifest = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for used in own_dependencies(&manifest) {
            if !allowed.contains(&used.as_str()) {
                problems.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !MAY_USE.iter().any(|(known, _)| *known == name) {
            problems.push(format!("crate {name} is missing in the dependency table"));
        }
    }
    Ok(())
}

/// All Rust files of the project with their texts.
fn sources(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "xtask", "bench"].map(|f| root.join(f)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)?;
                files.push((path, text));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn columns(sources: &[(PathBuf, String)], problems: &mut Vec<String>) {
    for (path, text) in sources {
        for (number, line) in text.lines().enumerate() {
            // Recorded texts of the original stay on one line.
            if line.chars().count() > 100 && !line.contains("r#\"") {
                problems.push(format!("{}:{}: over 100 columns", path.display(), number + 1));
            }
        }
    }
}

/// Every request code is routed, or listed with the reason why not.
fn codes(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let codes = fs::read_to_string(root.join("crates/wire/src/codes.rs"))?;
    let requests = codes.split("pub mod request").nth(1).context("request codes")?;
    let requests = requests.split("pub mod response").next().unwrap_or_default();
    let mut handlers = fs::read_to_string(root.join("crates/broker/src/handlers/mod.rs"))?;
    handlers.push_str(&fs::read_to_string(root.join("crates/namesrv/src/handlers.rs"))?);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = requests.split(',').filter_map(|part| part.split('=').next());
    let names = names.filter_map(|part| part.rsplit(|c| !is_word(c)).find(|word| !word.is_empty()));
    for name in names.filter(|name| name.len() > 3 && name.to_uppercase() == **name) {
        let routed = handlers.split(|c| !is_word(c)).any(|word| word == name);
        if !routed && !NOT_OURS.contains(&name) && !DEAD.contains(&name) {
            problems.push(format!("request code {name} is neither routed nor listed as refused"));
        }
    }
    Ok(())
}

/// Words that must not be in the product's sources.
fn words(sources: &[(PathBuf, String)], problems: &mut Vec<String>) {
    let forbidden = ["TODO", "FIXME", "XXX:"];
    for (path, text) in sources.iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        for word in forbidden {
            if text.contains(word) {
                problems.push(format!("{}: contains {word}", path.display()));
            }
        }
        let in_tests = path.components().any(|part| part.as_os_str() == "tests");
        if !in_tests && text.contains("unsafe {") {
            problems.push(format!("{}: unsafe code", path.display()));
        }
    }
}

/// Code lines of each crate, and the longest files, so that growth is seen.
fn sizes(root: &Path, sources: &[(PathBuf, String)]) {
    let code = |text: &str| {
        let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
        let lines = text[..tests].lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    };
    let mut total = 0;
    for (name, _) in MAY_USE {
        let inside = |path: &Path| {
            path.starts_with(root.join("crates").join(name).join("src"))
                || path.starts_with(root.join(name).join("src"))
        };
        let lines: usize =
            sources.iter().filter(|(path, _)| inside(path)).map(|(_, text)| code(text)).sum();
        total += lines;
        println!("{name:<10} {lines:>6} code lines");
    }
    println!("{:<10} {total:>6}", "all");
    let mut longest: Vec<(usize, &PathBuf)> =
        sources.iter().map(|(path, text)| (text.lines().count(), path)).collect();
    longest.sort_by(|a, b| b.cmp(a));
    for (lines, path) in longest.iter().take(5) {
        let shown = path.strip_prefix(root).unwrap_or(path);
        println!("{lines:>6} lines {}", shown.display());
    }
}
