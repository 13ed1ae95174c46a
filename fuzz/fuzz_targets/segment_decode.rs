//! See `checks/segment_decode.rs`.
#![no_main]

#[path = "../checks/segment_decode.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
