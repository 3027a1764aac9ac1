//! registries.conf, and what it makes of a reference.
#![no_main]

use std::path::Path;

use husk_image::Registries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(registries) = Registries::parse(text, Path::new("registries.conf")) else {
        return;
    };
    for name in ["busybox", "quay.io/a/b:1", "localhost:5000/c"] {
        for reference in registries.candidates(name).expect("these are references") {
            if let Ok(endpoints) = registries.endpoints(&reference) {
                assert!(!endpoints.is_empty(), "{reference} has no endpoint");
            }
        }
    }
});
