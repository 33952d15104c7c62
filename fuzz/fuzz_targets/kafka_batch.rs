//! Feeds `kafka_batch` with whatever libFuzzer makes. Owns nothing: the decoder and its checks
//! stand in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| martlet_fuzz::kafka_batch(bytes));
