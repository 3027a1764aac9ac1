//! Records of the state database: whatever is understood is understood the same after writing it.
#![no_main]

use husk::store::v1::{ContainerRecord, PodRecord};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fn read<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let value = M::decode(bytes).ok()?;
    let written = value.encode_to_vec();
    let again = M::decode(&written[..]).expect("what was just written");
    // Numbers that equal nothing, not even themselves, make the values differ, but not the bytes.
    assert_eq!(again.encode_to_vec().len(), written.len());
    Some(value)
}

fuzz_target!(|bytes: &[u8]| {
    let _ = read::<PodRecord>(bytes);
    if let Some(container) = read::<ContainerRecord>(bytes) {
        assert!(!(container.is_running() && container.is_exited()));
        let _ = (container.state(), container.pid(), container.key());
    }
});
