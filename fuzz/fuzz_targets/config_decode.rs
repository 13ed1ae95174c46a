//! See `checks/config_decode.rs`.
#![no_main]

#[path = "../checks/config_decode.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
