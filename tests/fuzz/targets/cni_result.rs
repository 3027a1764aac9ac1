//! Answers of CNI plugins, and the files that keep them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    husk::network::fuzz::result(bytes);
    husk::network::fuzz::cache_file(bytes);
});
