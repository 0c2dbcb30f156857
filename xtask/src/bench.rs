//! Placeholder until the benchmark module lands.
pub(crate) fn vs_java(_quick: bool) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}
