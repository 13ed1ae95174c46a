//! Logs to stderr as text or JSON, at a level that can be changed while running; records of the `log` crate come along.
//! Knows format and level. Does not know what is logged.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "`{directives}` are no log directives ({detail}): write a level as error, warn, info, debug, trace, or `info,forebay_node=debug`"
    )]
    Directives { directives: String, detail: String },
    #[error("logging was set up before in this process")]
    Twice,
    #[error("logging is shut down")]
    Gone,
}

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogHandle")
    }
}

impl LogHandle {
    /// What doesn't parse leaves the old level.
    pub fn set(&self, directives: &str) -> Result<(), LogError> {
        let filter = parse(directives)?;
        self.0.reload(filter).map_err(|_| LogError::Gone)
    }
}

/// Whether `directives` can be used, without using them.
pub fn check(directives: &str) -> Result<(), LogError> {
    parse(directives).map(drop)
}

/// Starts logging for the whole process, once.
pub fn init(format: Format, directives: &str) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let layer = match format {
        Format::Text => base.boxed(),
        Format::Json => base.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init().map_err(|_| LogError::Twice)?;
    Ok(LogHandle(handle))
}

fn parse(directives: &str) -> Result<EnvFilter, LogError> {
    let wrong = |detail: String| LogError::Directives { directives: directives.to_owned(), detail };
    if directives.trim().is_empty() {
        return Err(wrong("they are empty".to_owned()));
    }
    EnvFilter::builder().parse(directives).map_err(|error| wrong(error.to_string()))
}

/// An error with its causes on one line: `fill a/b: read: connection reset`.
pub fn chain(error: &dyn Error) -> impl fmt::Display + '_ {
    Chain(error)
}

struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_checked() {
        assert!(check("info,forebay_node=debug").is_ok() && check("warn").is_ok());
        for wrong in ["", " ", "info,forebay_node=loud"] {
            assert!(matches!(check(wrong), Err(LogError::Directives { .. })), "{wrong}");
        }
    }

    #[test]
    fn causes_follow_on_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("fill a")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("reset"))).to_string(), "fill a: reset");
    }
}
