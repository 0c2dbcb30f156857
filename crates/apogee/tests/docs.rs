//! docs/configuration.md is what the tables say. `UPDATE_DOCS=1` writes it anew.

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
