//! See [`meshnode_fuzz::allowed_ips`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::allowed_ips::run(data));
