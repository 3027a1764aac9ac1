//! Image references: whatever is one is the same one after printing it.
#![no_main]

use husk_image::{DEFAULT_REGISTRY, Name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<Name>() {
        let reference = name.qualify(DEFAULT_REGISTRY);
        let again: Name = reference.to_string().parse().expect("a printed reference");
        assert_eq!(again.qualify(DEFAULT_REGISTRY), reference);
    }
});
