//! Logs: readable on a terminal, or files with the names that Java operators know.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use tracing::Metadata;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts logging for the process. `APOGEE_LOG` takes the usual filters, for example `debug` or
/// `broker=debug`.
pub(crate) fn start(dir: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_env("APOGEE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(true);
    match dir {
        None => builder.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).init(),
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            builder.with_ansi(false).with_writer(Files::open(dir)?).init();
        }
    }
    Ok(())
}

/// One file for each of Java's areas, rolled once a day.
struct Files {
    broker: RollingFileAppender,
    store: RollingFileAppender,
    namesrv: RollingFileAppender,
    remoting: RollingFileAppender,
}

impl Files {
    fn open(dir: &Path) -> io::Result<Files> {
        let file = |name: &str| {
            RollingFileAppender::builder()
                .rotation(Rotation::DAILY)
                .max_log_files(14)
                .filename_prefix(name)
                .build(dir)
                .map_err(io::Error::other)
        };
        Ok(Files {
            broker: file("broker.log")?,
            store: file("store.log")?,
            namesrv: file("namesrv.log")?,
            remoting: file("remoting.log")?,
        })
    }

    fn of(&self, target: &str) -> &RollingFileAppender {
        match target.split("::").next() {
            Some("store") => &self.store,
            Some("namesrv") => &self.namesrv,
            Some("net") => &self.remoting,
            _ => &self.broker,
        }
    }
}

impl<'a> MakeWriter<'a> for Files {
    type Writer = Box<dyn Write + 'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Box::new(self.broker.make_writer())
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Box::new(self.of(meta.target()).make_writer())
    }
}
