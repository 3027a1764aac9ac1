//! Messages of the channel protocols over WebSocket.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| husk_streaming::fuzz::websocket_message(bytes));
