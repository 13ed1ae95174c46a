//! See `checks/listing_xml.rs`.
#![no_main]

#[path = "../checks/listing_xml.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
