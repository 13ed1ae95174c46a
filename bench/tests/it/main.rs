//! Everything that is tested about the bench as a program, and the checks on the whole repository.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod tidy;
