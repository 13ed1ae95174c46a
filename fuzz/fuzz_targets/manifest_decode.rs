//! See `checks/manifest_decode.rs`.
#![no_main]

#[path = "../checks/manifest_decode.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
