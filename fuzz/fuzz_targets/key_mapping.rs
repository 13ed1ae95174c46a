//! See `checks/key_mapping.rs`.
#![no_main]

#[path = "../checks/key_mapping.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
