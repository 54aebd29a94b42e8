#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chaley_fuzz::run("keyboard", bytes));
