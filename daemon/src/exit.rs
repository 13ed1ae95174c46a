//! The codes a process ends with, after BSD's sysexits, so that a script can tell what to do.
//! A code that was given out never changes its meaning.

use std::process::ExitCode;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The check that was asked for found something (`doctor`), or some files failed (`preload`).
    Findings,
    /// The command line or a file is wrong: mend it (EX_USAGE).
    Usage,
    /// The bucket or folder isn't there (EX_NOINPUT).
    NoInput,
    /// The source or the daemon can't be reached (EX_UNAVAILABLE).
    Unavailable,
    /// A bug, or a machine that behaves as none should (EX_SOFTWARE).
    Internal,
    /// This machine lacks what is needed: no /dev/fuse, no memory (EX_OSERR).
    Machine,
    /// A folder or file can't be used: not writable, missing, not empty (EX_CANTCREAT).
    CannotCreate,
    /// Reading or writing a disk failed (EX_IOERR).
    Io,
    /// Somebody else uses it now, or it takes longer than allowed: try again (EX_TEMPFAIL).
    Temporary,
    /// Credentials refused, or a permission is missing (EX_NOPERM).
    Permission,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Findings => 1,
            Self::Usage => 64,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Machine => 71,
            Self::CannotCreate => 73,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Permission => 77,
        }
    }

    /// The exit of that code, for what a child process ended with; `None` for a code that isn't in the table.
    pub fn from_code(code: i32) -> Option<Self> {
        const ALL: [Exit; 11] = [
            Exit::Ok,
            Exit::Findings,
            Exit::Usage,
            Exit::NoInput,
            Exit::Unavailable,
            Exit::Internal,
            Exit::Machine,
            Exit::CannotCreate,
            Exit::Io,
            Exit::Temporary,
            Exit::Permission,
        ];
        ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }

    /// Whether starting the same again, unchanged, can't help.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::Usage | Self::NoInput | Self::Machine | Self::CannotCreate | Self::Permission => true,
            Self::Ok | Self::Findings | Self::Unavailable | Self::Internal | Self::Io | Self::Temporary => false,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for code in 0..=255 {
            if let Some(exit) = Exit::from_code(code) {
                assert_eq!(i32::from(exit.code()), code);
            }
        }
        assert_eq!(Exit::from_code(77), Some(Exit::Permission));
        assert_eq!(Exit::from_code(2), None);
    }
}
