//! Messages of the monitor's protocol: whatever is understood is understood the same after writing it.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use pod_monitor_schema as schema;
use schema::{MESSAGE_BYTES_MAX, Message, from_bytes, to_bytes};

fn read<M: Message + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = from_bytes::<M>(bytes) else {
        return;
    };
    let written = to_bytes(&value);
    // A list of empty structs costs nothing in a message, so what was read can be larger than its message. How
    // much larger, the limit on what is visited bounds.
    if written.len() <= MESSAGE_BYTES_MAX as usize / 2 {
        let again = from_bytes::<M>(&written).expect("what was just written");
        assert_eq!(again, value);
    }
}

fuzz_target!(|bytes: &[u8]| {
    read::<schema::StartConfig>(bytes);
    read::<schema::Hello>(bytes);
    read::<schema::Welcome>(bytes);
    read::<schema::TraceContext>(bytes);
    read::<schema::ContainerConfig>(bytes);
    read::<schema::ExecConfig>(bytes);
    read::<schema::AttachConfig>(bytes);
    read::<schema::TerminalSize>(bytes);
    read::<schema::PodState>(bytes);
    read::<schema::Event>(bytes);
    read::<schema::Error>(bytes);
});
