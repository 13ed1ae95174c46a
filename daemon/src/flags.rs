//! What the command lines of all programs have in common: how a wrong one ends, and how to log.
//! Knows these flags only. Does not know what a program is for.

use clap::{Args, Parser};

use crate::exit::Exit;
use crate::logging::{self, Format, LogHandle};

/// This process' command line; else, after help, version or a complaint was printed, how to end.
pub fn parse<C: Parser>() -> Result<C, Exit> {
    C::try_parse().map_err(|error| {
        // A message that can't be printed has nowhere else to go.
        drop(error.print());
        if error.use_stderr() { Exit::Usage } else { Exit::Ok }
    })
}

/// For programs that have no file with settings.
#[derive(Clone, Debug, Args)]
pub struct LogFlags {
    /// error, warn, info, debug, trace, or directives as `info,hyper=debug`
    #[arg(long, global = true, default_value = "info")]
    log: String,
    #[arg(long, global = true, default_value = "text")]
    log_format: Format,
}

impl LogFlags {
    /// Starts logging for the whole process, once; else, after a complaint was printed, how to end.
    pub fn init(&self) -> Result<LogHandle, Exit> {
        logging::init(self.log_format, &self.log).map_err(|error| {
            eprintln!("error: --log: {error}");
            Exit::Usage
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        log: LogFlags,
    }

    #[test]
    fn flags_of_the_log_are_read_and_checked() {
        let program = Program::try_parse_from(["program", "--log", "debug", "--log-format", "json"]).expect("valid");
        assert_eq!((program.log.log.as_str(), program.log.log_format), ("debug", Format::Json));
        assert!(Program::try_parse_from(["program", "--log-format", "xml"]).is_err());
        let wrong = Program::try_parse_from(["program", "--log", "info,hyper=loud"]).expect("read as it is");
        assert_eq!(wrong.log.init().expect_err("no level"), Exit::Usage);
    }
}
