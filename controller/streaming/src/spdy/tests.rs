//! The codec against bytes that Go's `spdystream` wrote, against itself in any cut,
//! and against bytes that nobody sane would write.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::decode::{MAX_CONTROL, MAX_PIECE};
use super::headers::{Deflater, Inflater, MAX_BLOCK};
use super::*;

/// Bytes in hexadecimal, and the frame that they are.
type Golden = (&'static str, fn() -> Frame);

/// Frames written by one framer of github.com/moby/spdystream v0.5.1, in this order:
/// later header blocks depend on the earlier ones.
const GO: [Golden; 11] = [
    (
        "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a68\
         00000000ffff",
        || syn(1, "streamtype", "error"),
    ),
    (
        "800300010000001900000003000000000000c22ac5565c92925f5a02000000ffff",
        || syn(3, "streamtype", "stdout"),
    ),
    (
        "800300010000001c0000000500000000000082cab114e41781738885818501000000ffff",
        || syn(5, "port", "8080"),
    ),
    ("800300020000000e000000026260606000000000ffff", || {
        Frame::SynReply {
            stream: 2,
            fin: false,
            headers: Headers::default(),
        }
    }),
    ("800300080100001100000001828a3382f2096312000000ffff", || {
        Frame::Headers {
            stream: 1,
            fin: true,
            headers: Headers::default().with("a", "b"),
        }
    }),
    ("000000030100000568656c6c6f", || data(3, b"hello", true)),
    ("800300060000000400000007", || Frame::Ping(7)),
    ("80030003000000080000000300000005", || Frame::Reset {
        stream: 3,
        status: reset::CANCEL,
    }),
    ("80030007000000080000000400000000", || Frame::GoAway {
        last: 4,
        status: goaway::OK,
    }),
    ("800300090000000800000003000003e8", || Frame::WindowUpdate {
        stream: 3,
        delta: 1000,
    }),
    ("800300040000000c000000010000000700100000", || {
        Frame::Settings(vec![(SETTING_INITIAL_WINDOW, 1 << 20)])
    }),
];

fn syn(stream: u32, name: &str, value: &str) -> Frame {
    Frame::SynStream {
        stream,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        headers: Headers::default().with(name, value),
    }
}

fn data(stream: u32, bytes: &[u8], fin: bool) -> Frame {
    Frame::Data {
        stream,
        bytes: Bytes::copy_from_slice(bytes),
        fin,
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(pair).collect()
}

/// All frames of these bytes, put in by `cut` bytes at a time.
fn decode(bytes: &[u8], cut: usize) -> Result<Vec<Frame>, DecodeError> {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        decoder.buffer().extend_from_slice(piece);
        while let Some(frame) = decoder.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

/// Puts the pieces of data frames together again.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut whole: Vec<Frame> = Vec::new();
    for frame in frames {
        match (whole.last_mut(), frame) {
            (
                Some(Frame::Data {
                    stream,
                    bytes,
                    fin: fin @ false,
                }),
                Frame::Data {
                    stream: next,
                    bytes: more,
                    fin: last,
                },
            ) if *stream == next => {
                *bytes = [bytes.as_ref(), more.as_ref()].concat().into();
                *fin = last;
            }
            (_, frame) => whole.push(frame),
        }
    }
    whole
}

#[test]
fn what_go_writes_is_read_in_any_cut() {
    let bytes: Vec<u8> = GO.iter().flat_map(|(hex, _)| unhex(hex)).collect();
    let expected: Vec<Frame> = GO.iter().map(|(_, frame)| frame()).collect();
    for cut in [1, 2, 3, 7, 13, 64, bytes.len()] {
        assert_eq!(
            joined(decode(&bytes, cut).expect("frames")),
            expected,
            "cut by {cut}"
        );
    }
}

#[test]
fn frames_without_headers_are_written_as_go_writes_them() {
    let mut encoder = Encoder::new().expect("encoder");
    for (hex, frame) in GO.iter().skip(5) {
        let mut out = BytesMut::new();
        encoder.encode(&frame(), &mut out).expect("encoded");
        assert_eq!(out, unhex(hex), "{:?}", frame());
    }
}

#[test]
fn a_large_data_frame_comes_in_pieces_and_ends_once() {
    let payload = vec![7; 3 * MAX_PIECE + 5];
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new().expect("encoder");
    encoder
        .encode(&data(1, &payload, true), &mut out)
        .expect("encoded");
    let frames = decode(&out, out.len()).expect("frames");
    let sizes: Vec<_> = frames
        .iter()
        .map(|frame| {
            let Frame::Data { bytes, fin, .. } = frame else {
                panic!("{frame:?}");
            };
            (bytes.len(), *fin)
        })
        .collect();
    assert_eq!(
        sizes,
        [
            (MAX_PIECE, false),
            (MAX_PIECE, false),
            (MAX_PIECE, false),
            (5, true)
        ]
    );
}

#[test]
fn breaks_of_the_protocol_are_named() {
    let long = u32::try_from(MAX_CONTROL + 1).expect("small").to_be_bytes();
    let rows: [(&str, Vec<u8>, DecodeError); 6] = [
        (
            "version",
            unhex("8002000600000004"),
            DecodeError::Version(2),
        ),
        (
            "HTTP/2",
            b"\xd0RI * HTTP/2.0".to_vec(),
            DecodeError::Version(0x5052),
        ),
        (
            "control frame too large",
            [unhex("80030001"), long.to_vec()].concat(),
            DecodeError::ControlTooLarge(MAX_CONTROL + 1),
        ),
        (
            "data on stream 0",
            unhex("0000000000000001"),
            DecodeError::StreamZero,
        ),
        (
            "short ping",
            unhex("80030006000000020000"),
            DecodeError::Length {
                kind: kind::PING,
                length: 2,
            },
        ),
        (
            "settings that claim more than they have",
            unhex("800300040000000480000000"),
            DecodeError::Length {
                kind: kind::SETTINGS,
                length: 4,
            },
        ),
    ];
    for (what, bytes, expected) in rows {
        assert_eq!(decode(&bytes, bytes.len()), Err(expected), "{what}");
    }
}

#[test]
fn unknown_control_frames_are_skipped() {
    let bytes = unhex("8003000b00000002aaaa800300060000000400000007");
    assert_eq!(decode(&bytes, 3).expect("frames"), [Frame::Ping(7)]);
}

#[test]
fn a_claim_of_length_allocates_nothing() {
    let mut decoder = Decoder::new();
    decoder
        .buffer()
        .extend_from_slice(&unhex("0000000100ffffff"));
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.buffer().capacity() < 1024);
}

#[test]
fn a_header_block_that_explodes_is_refused() {
    let mut compressor = flate2::Compress::new(flate2::Compression::best(), true);
    compressor
        .set_dictionary(dictionary::dictionary())
        .expect("dictionary");
    let mut bomb = Vec::with_capacity(1 << 20);
    let zeros = vec![0; 1 << 24];
    compressor
        .compress_vec(&zeros, &mut bomb, flate2::FlushCompress::Sync)
        .expect("compressed");
    assert!(bomb.len() < MAX_CONTROL, "{}", bomb.len());
    assert_eq!(Inflater::new().headers(&bomb), Err(HeaderError::TooLarge));
}

#[test]
fn header_blocks_at_the_bound_pass_and_beyond_it_do_not() {
    let (mut deflater, mut inflater) = (Deflater::new().expect("zlib"), Inflater::new());
    let noise: String = (0..MAX_BLOCK - 13)
        .map(|n| char::from(b"!#%&(){}[]abcxyz"[n * n % 16]))
        .collect();
    let headers = Headers::default().with("a", &noise);
    let block = deflater.block(&headers).expect("fits");
    assert_eq!(inflater.headers(&block).expect("read"), headers);
    let large = Headers::default().with("ab", &noise);
    assert_eq!(deflater.block(&large), Err(HeaderError::TooLarge));
}

fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let stream = 1u32..0x7fff_ffff;
    let headers = proptest::collection::vec(("[a-z-]{1,20}", ".{0,40}"), 0..5).prop_map(|pairs| {
        let add = |headers: Headers, (name, value): &(String, String)| headers.with(name, value);
        pairs.iter().fold(Headers::default(), add)
    });
    let payload = proptest::collection::vec(any::<u8>(), 0..2000);
    let frame = prop_oneof![
        (stream.clone(), any::<bool>(), headers.clone()).prop_map(|(stream, fin, headers)| {
            Frame::SynStream {
                stream,
                associated: 3,
                priority: 5,
                fin,
                unidirectional: !fin,
                headers,
            }
        }),
        (stream.clone(), headers).prop_map(|(stream, headers)| Frame::SynReply {
            stream,
            fin: false,
            headers
        }),
        (stream.clone(), payload).prop_map(|(stream, bytes)| data(stream, &bytes, true)),
        any::<u32>().prop_map(Frame::Ping),
        (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
        (stream, 0u32..0x7fff_ffff)
            .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
    ];
    proptest::collection::vec(frame, 1..12)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_in_any_cut(frames in frames(), cut in 1usize..3000) {
        let (mut encoder, mut out) = (Encoder::new().expect("encoder"), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut out).expect("encoded");
        }
        prop_assert_eq!(joined(decode(&out, cut).expect("frames")), frames);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 1..400), cut in 1usize..50) {
        let _ = decode(&bytes, cut);
    }

    #[test]
    fn no_damaged_frame_panics(
        which in 0usize..11,
        at in 0usize..48,
        with in any::<u8>(),
        cut in 1usize..50,
    ) {
        let mut bytes: Vec<u8> = GO.iter().take(which + 1).flat_map(|(hex, _)| unhex(hex)).collect();
        let at = bytes.len().saturating_sub(at + 1);
        bytes[at] = with;
        let _ = decode(&bytes, cut);
    }
}
