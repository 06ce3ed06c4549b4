//! The proxy's diagnostics: which of them are written, and a writer that never holds up whoever logs.

mod stderr;

use std::{fmt, str::FromStr};
use stderr::Stderr;
use tracing_subscriber::{
    Registry, filter::EnvFilter, fmt as output, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Which diagnostics are written: a level, and after commas the level of single modules (`info,h2=warn`). Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn filter(&self) -> EnvFilter {
        EnvFilter::builder().parse(&self.0).expect("from_str parsed the same text")
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        let error = |part: &str| LogFilterError(part.chars().take(64).collect());
        if text.len() > FILTER_BYTES_MAX {
            return Err(error(text));
        }
        // The filter's own parser takes a word that is no level for a module to be logged in full.
        for part in text.split(',') {
            let (module, level) = part.split_once('=').map_or((None, part), |(module, level)| (Some(module), level));
            let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
            let sound = module.is_none_or(|module| !module.is_empty() && module.bytes().all(named));
            if !sound || !LEVELS.contains(&level) {
                return Err(error(part));
            }
        }
        EnvFilter::builder().parse(text).map_err(|_| error(text))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no log filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no level; write off, error, warn, info, debug or trace, and after commas MODULE=LEVEL, such as info,h2=debug"
)]
pub struct LogFilterError(String);

/// A handle on the filter in force. When the last clone is dropped, everything that was logged is on stderr.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    _flush: std::sync::Arc<stderr::Flush>,
}

impl LogLevel {
    /// Puts another filter in force.
    ///
    /// # Errors
    /// When logging is not in use any more: the process is about to end.
    pub fn set(&self, filter: &LogFilter) -> Result<(), LogGone> {
        self.handle.reload(filter.filter()).map_err(|_| LogGone)
    }

    /// The filter in force, for humans.
    pub fn current(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }
}

/// Logging is not in use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("logging has been shut down")]
pub struct LogGone;

/// Sends the process's diagnostics to stderr, one line each, from now on. Call it once, before the first thread.
pub fn start(filter: &LogFilter) -> LogLevel {
    let (layer, handle) = reload::Layer::new(filter.filter());
    let (stderr, flush) = Stderr::start();
    let lines = output::layer().with_ansi(false).with_writer(move || stderr.clone());
    if tracing_subscriber::registry().with(layer).with(lines).try_init().is_err() {
        tracing::debug!("diagnostics go elsewhere already");
    }
    LogLevel { handle, _flush: std::sync::Arc::new(flush) }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Longest filter, in bytes.
const FILTER_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_and_levels_of_modules() {
        for text in ["info", "off", "debug", "info,heddle_dataplane::hbone=trace", "warn,h2=off,rustls=debug"] {
            assert_eq!(text.parse::<LogFilter>().expect("a filter").as_str(), text);
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_a_mistake() {
        for text in ["", "verbose", "info,", "info,h2", "info,=debug", "h2=loud", "info,[span]=debug", "INFO", "info\n"]
        {
            let error = text.parse::<LogFilter>().expect_err(text);
            assert!(error.to_string().contains("write off, error, warn"), "{error}");
        }
    }
}
