//! The operator's tests from outside.

mod golden;
