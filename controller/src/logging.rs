//! The daemon's own log: which events are written, and how.
//!
//! The levels are compiled into each call site when it is first met, so a span or event that is off
//! costs one relaxed load. Deliberately absent: files and rotation, which are the journal's or the
//! service manager's business.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use crate::config::{Log, LogFormat};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The levels are not in tracing's notation.
    #[error("reading the log levels \"{levels}\"")]
    Levels {
        /// As they were given.
        levels: String,
        /// What is wrong with them.
        #[source]
        source: ParseError,
    },
    /// There is no journal to write to.
    #[error("connecting to the systemd journal")]
    Journal(#[source] io::Error),
    /// Somebody else set up a log first.
    #[error("installing the log")]
    Installed(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends the whole process's events where `log` says. To be called once, before anything is logged.
///
/// # Errors
/// [`LogError`]; nothing is changed then.
pub fn install(log: &Log) -> Result<(), LogError> {
    let levels = levels(&log.level)?;
    let subscriber = Registry::default().with(layer(log.format)?.with_filter(levels));
    tracing::subscriber::set_global_default(subscriber).map_err(LogError::Installed)
}

fn levels(text: &str) -> Result<Targets, LogError> {
    text.parse().map_err(|source| LogError::Levels {
        levels: text.to_owned(),
        source,
    })
}

fn layer(format: LogFormat) -> Result<Box<dyn Layer<Registry> + Send + Sync>, LogError> {
    Ok(match format {
        LogFormat::Human => text(io::stderr, io::stderr().is_terminal()),
        LogFormat::Json => json(io::stderr),
        LogFormat::Journald => {
            let journal = tracing_journald::layer().map_err(LogError::Journal)?;
            journal.with_syslog_identifier("husk".to_owned()).boxed()
        }
    })
}

fn text<W>(writer: W, colours: bool) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    layer.with_ansi(colours).with_target(false).boxed()
}

fn json<W>(writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().json().with_writer(writer);
    layer.flatten_event(true).with_current_span(false).boxed()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .expect("not poisoned")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What one logged request looks like with `levels` through `layer`.
    fn logged(
        levels_text: &str,
        layer: impl FnOnce(Written) -> Box<dyn Layer<Registry> + Send + Sync>,
    ) -> String {
        let written = Written::default();
        let filter = levels(levels_text).expect("valid");
        let subscriber = Registry::default().with(layer(written.clone()).with_filter(filter));
        tracing::subscriber::with_default(subscriber, || {
            let _entered = tracing::info_span!("request", request = "r-1").entered();
            tracing::warn!(pod = "p-1", "slow");
            tracing::debug!("details");
        });
        let bytes = written.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn the_human_log_is_a_line_an_event_with_its_request() {
        let lines = logged("info", |w| text(move || w.clone(), false));
        assert_eq!(lines.lines().count(), 1, "{lines}");
        for part in ["WARN", "request{request=\"r-1\"}", "slow", "pod=\"p-1\""] {
            assert!(lines.contains(part), "{part} in {lines}");
        }
    }

    #[test]
    fn the_json_log_is_an_object_a_line_with_its_request() {
        let lines = logged("debug", |w| json(move || w.clone()));
        let objects: Vec<serde_json::Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(objects.len(), 2, "{lines}");
        assert_eq!(objects[0]["level"], "WARN");
        assert_eq!(objects[0]["pod"], "p-1");
        assert_eq!(objects[0]["spans"][0]["request"], "r-1");
    }

    #[test]
    fn levels_are_per_module_and_off_is_silence() {
        assert_eq!(logged("off", |w| json(move || w.clone())), "");
        let other = logged("warn,some::module=trace", |w| json(move || w.clone()));
        assert_eq!(other.lines().count(), 1, "{other}");
    }
}
