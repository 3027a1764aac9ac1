//! Doors for the fuzzer to what is private. Compiled only for it, by `--cfg fuzzing`.

use super::config::Version;
use super::result::NetworkResult;

/// Reads a plugin's answer, and writes it as every version has it.
pub fn result(bytes: &[u8]) {
    let Ok(result) = NetworkResult::parse(bytes) else {
        return;
    };
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let version: Version = version.parse().unwrap_or_else(|_| unreachable!());
        if let Ok(value) = result.to_value(version) {
            let again = NetworkResult::from_value(value.clone());
            assert!(again.is_ok(), "{value} cannot be read back");
            let _ = result.attachment("eth0", value);
        }
    }
}

/// Reads a file of the cache.
pub fn cache_file(bytes: &[u8]) {
    let _ = super::cache::decode(bytes);
}
