//! A layer as a stream: how it is compressed, that it is what was promised, and how much it may become.

use std::io::Write as _;

use tar::EntryType;

use super::place::{LIMITS, Layer, Place};
use crate::layer::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_compression_is_recognised() {
    let bytes = Layer::default().file("f", &[7; 1_000_000]).finish();
    let diff_id = Digest::of(&bytes);
    let halves = [gzip(&bytes[..700_000]), gzip(&bytes[700_000..])].concat();
    for sent in [
        bytes.clone(),
        gzip(&bytes),
        zstd::encode_all(&*bytes, 1).unwrap(),
        halves,
    ] {
        let place = Place::new();
        assert_eq!(
            place.unpack_with(sent, diff_id, LIMITS).unwrap().bytes,
            1_000_000
        );
    }
}

#[test]
fn damaged_streams_are_refused() {
    let bytes = Layer::default().file("f", &[7; 1_000_000]).finish();
    let diff_id = Digest::of(&bytes);
    let packed = gzip(&bytes);
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    for sent in [
        packed[..packed.len() / 2].to_vec(),
        flipped,
        zstd::encode_all(&*bytes, 1).unwrap()[..50].to_vec(),
    ] {
        let error = Place::new().unpack_with(sent, diff_id, LIMITS).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::Malformed | ErrorKind::DigestMismatch
            ),
            "{error:?}"
        );
    }
    let other = Place::new()
        .unpack_with(packed, Digest::of(b"other"), LIMITS)
        .unwrap_err();
    assert!(matches!(other, LayerError::DiffId { .. }));
    let text = b"this is no archive at all".repeat(100);
    let error = Place::new()
        .unpack_with(text.clone(), Digest::of(&text), LIMITS)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn what_follows_the_end_of_the_archive_counts_for_the_digest() {
    let mut bytes = Layer::default().file("f", b"x").finish();
    bytes.extend_from_slice(&[9; 2_000_000]);
    let diff_id = Digest::of(&bytes);
    Place::new()
        .unpack_with(gzip(&bytes), diff_id, LIMITS)
        .unwrap();
}

#[test]
fn bombs_stop_at_their_limits() {
    let kind = |bytes: Vec<u8>, sent: Vec<u8>, limits| {
        let result = Place::new().unpack_with(sent, Digest::of(&bytes), limits);
        result.unwrap_err().kind()
    };
    let zeros = Layer::default().file("f", &vec![0; 4 << 20]).finish();
    let packed = gzip(&zeros);
    let size = UnpackLimits {
        layer: 1 << 20,
        ..LIMITS
    };
    assert_eq!(
        kind(zeros.clone(), packed.clone(), size),
        ErrorKind::TooLarge
    );
    let ratio = UnpackLimits {
        ratio: 50,
        ratio_grace: 1 << 20,
        ..LIMITS
    };
    assert_eq!(kind(zeros, packed, ratio), ErrorKind::TooLarge);
    let many = (0..100)
        .fold(Layer::default(), |layer, at| {
            layer.file(&at.to_string(), b"")
        })
        .finish();
    let few = UnpackLimits {
        entries: 50,
        ..LIMITS
    };
    assert_eq!(kind(many.clone(), many, few), ErrorKind::TooLarge);
    let name = vec![b'a'; 5 << 20];
    let long = Layer::default()
        .add(EntryType::GNULongName, "x", |_| {}, &name)
        .file("f", b"")
        .finish();
    assert_eq!(kind(long.clone(), long, LIMITS), ErrorKind::Malformed);
}

#[test]
fn a_sparse_bomb_is_stopped_by_what_it_would_write() {
    let layer = Layer::default()
        .add(
            EntryType::GNUSparse,
            "sparse",
            |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.set_real_size(1 << 40);
                gnu.sparse[0].set_offset(1 << 40);
                gnu.sparse[0].set_length(0);
            },
            b"",
        )
        .finish();
    let limits = UnpackLimits {
        layer: 1 << 20,
        ..LIMITS
    };
    let error = Place::new()
        .unpack_with(layer.clone(), Digest::of(&layer), limits)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
}

#[test]
fn the_image_s_budget_is_shared_by_its_layers() {
    let bytes = Layer::default().file("f", &[1; 600_000]).finish();
    let budget = Budget::new(1_000_000);
    let run = || {
        let place = Place::new();
        let source = Source {
            compressed: bytes.len() as u64,
            reader: Box::new(io::Cursor::new(bytes.clone())),
            diff_id: Some(Digest::of(&bytes)),
            limits: LIMITS,
            budget: Arc::clone(&budget),
            progress: Box::new(|_| {}),
        };
        unpack(source, &place.root)
    };
    assert!(run().is_ok());
    assert_eq!(run().unwrap_err().kind(), ErrorKind::TooLarge);
}
