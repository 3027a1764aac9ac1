//! Manifests, indexes and configurations of images.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = husk_image::fuzz::document(bytes);
    let _ = husk_image::fuzz::configuration(bytes);
});
