//! The decompressing and hashing stages.

use std::cell::RefCell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use flate2::read::MultiGzDecoder;

use super::{LayerError, Source, stopped};
use crate::digest::{Digest, Hasher};

const CHUNK: usize = 256 * 1024;
/// Chunks in flight between two stages: enough to smooth, few enough to keep memory flat.
const QUEUE: usize = 4;
/// zstd windows above this are refused, as every decoder does by default (RFC 8878, 3.1.1.1.2).
const ZSTD_WINDOW_LOG: u32 = 27;
/// Headers, long names and extended attributes of one entry. tar-rs reads them whole into memory.
const METADATA_LIMIT: usize = 2 << 20;

type Chunk = Arc<Vec<u8>>;

/// The running stages: bytes to parse, and at the end the digest of all of them.
pub(super) struct Stream<'scope> {
    pub(super) reader: ChunkReader,
    /// Set when the entries were given up: the rest need not be decompressed.
    pub(super) abandoned: Arc<AtomicBool>,
    pub(super) outcome: ScopedJoinHandle<'scope, Result<Digest, LayerError>>,
}

/// Starts decompressing and hashing on threads of the scope.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    source: Source,
) -> Result<Stream<'scope>, LayerError> {
    let (to_parser, chunks) = sync_channel::<Chunk>(QUEUE);
    let (to_hasher, hashed) = sync_channel::<Chunk>(QUEUE);
    let abandoned = Arc::new(AtomicBool::new(false));
    let hasher = std::thread::Builder::new()
        .name("layer-hash".to_owned())
        .spawn_scoped(scope, move || hash(&hashed))
        .map_err(LayerError::Archive)?;
    let outcome = std::thread::Builder::new()
        .name("layer-decode".to_owned())
        .spawn_scoped(scope, {
            let abandoned = Arc::clone(&abandoned);
            move || {
                let decoded = decode(source, &abandoned, &to_parser, &to_hasher);
                drop((to_parser, to_hasher));
                let digest = hasher.join().map_err(|_| stopped())?;
                decoded.map(|()| digest)
            }
        })
        .map_err(LayerError::Archive)?;
    Ok(Stream {
        reader: ChunkReader::new(chunks),
        abandoned,
        outcome,
    })
}

fn hash(chunks: &Receiver<Chunk>) -> Digest {
    let mut hasher = Hasher::default();
    while let Ok(chunk) = chunks.recv() {
        hasher.update(&chunk);
    }
    hasher.finish()
}

fn decode(
    source: Source,
    abandoned: &AtomicBool,
    to_parser: &SyncSender<Chunk>,
    to_hasher: &SyncSender<Chunk>,
) -> Result<(), LayerError> {
    let Source {
        reader,
        compressed,
        limits,
        budget,
        progress,
        ..
    } = source;
    let mut decoder = decompress(reader).map_err(LayerError::Archive)?;
    let mut total: u64 = 0;
    let mut parsing = true;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let limit = CHUNK as u64;
        decoder
            .by_ref()
            .take(limit)
            .read_to_end(&mut chunk)
            .map_err(LayerError::Archive)?;
        if chunk.is_empty() || abandoned.load(Ordering::Relaxed) {
            return Ok(());
        }
        let length = chunk.len() as u64;
        total += length;
        check_size(total, compressed, &limits)?;
        if !budget.take(length) {
            return Err(LayerError::TooLarge("the image's total size".to_owned()));
        }
        progress(total);
        let chunk = Arc::new(chunk);
        // The parser stops at the end mark of the archive, or at an error; what comes after still
        // counts for the digest. Without the hasher there is no point in going on.
        parsing = parsing && to_parser.send(Arc::clone(&chunk)).is_ok();
        to_hasher.send(chunk).map_err(|_| stopped())?;
    }
}

fn check_size(total: u64, compressed: u64, limits: &super::UnpackLimits) -> Result<(), LayerError> {
    if total > limits.layer {
        let text = format!("more than {} bytes unpacked", limits.layer);
        return Err(LayerError::TooLarge(text));
    }
    if total > limits.ratio_grace && total / compressed.max(1) > limits.ratio {
        let text = format!("compressed more than {} times", limits.ratio);
        return Err(LayerError::TooLarge(text));
    }
    Ok(())
}

/// Finds the compression by its magic number; media types are too often wrong.
pub(crate) fn decompress(reader: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let mut reader = reader;
    let mut magic = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut magic)?;
    let gzip = magic.starts_with(&[0x1f, 0x8b]);
    let zstd = magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    let whole = BufReader::with_capacity(CHUNK, io::Cursor::new(magic).chain(reader));
    if gzip {
        return Ok(Box::new(MultiGzDecoder::new(whole)));
    }
    if zstd {
        let mut decoder = zstd::Decoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}

/// Reads the chunks of the decoder as one stream, for the tar parser.
///
/// Between [`Metadata::expect`] and [`Metadata::take`] it gives only so many bytes, because the parser
/// collects names and attributes in memory without a limit of its own, and keeps a copy of them.
pub(super) struct ChunkReader {
    chunks: Receiver<Chunk>,
    current: Chunk,
    at: usize,
    metadata: Metadata,
}

/// The bytes between the content of two entries, shared with the reader that the parser owns.
#[derive(Clone, Default)]
pub(super) struct Metadata(Rc<RefCell<Collected>>);

#[derive(Default)]
struct Collected {
    collecting: bool,
    /// Position in the stream.
    offset: u64,
    /// Where the first whole block begins in `bytes`: entries end in padding.
    padding: usize,
    bytes: Vec<u8>,
}

impl Metadata {
    /// From here on only an entry's metadata is expected.
    pub(super) fn expect(&self) {
        let mut collected = self.0.borrow_mut();
        collected.collecting = true;
        // At most 511.
        collected.padding =
            usize::try_from(collected.offset.next_multiple_of(512) - collected.offset).unwrap_or(0);
        collected.bytes.clear();
    }

    /// From here on content of any length is expected. Returns the whole blocks before it.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut collected = self.0.borrow_mut();
        collected.collecting = false;
        let bytes = std::mem::take(&mut collected.bytes);
        bytes.get(collected.padding..).unwrap_or_default().to_vec()
    }

    fn pass(&self, bytes: &[u8]) -> io::Result<()> {
        let mut collected = self.0.borrow_mut();
        collected.offset += bytes.len() as u64;
        if !collected.collecting {
            return Ok(());
        }
        if collected.bytes.len() + bytes.len() > METADATA_LIMIT {
            let text = "the metadata of one entry is larger than 2 MiB";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        collected.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl ChunkReader {
    fn new(chunks: Receiver<Chunk>) -> Self {
        Self {
            chunks,
            current: Arc::default(),
            at: 0,
            metadata: Metadata::default(),
        }
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            // A closed queue is the end; the decoder reports its own errors.
            let Ok(chunk) = self.chunks.recv() else {
                return Ok(0);
            };
            self.current = chunk;
            self.at = 0;
        }
        let rest = &self.current[self.at..];
        let count = rest.len().min(buffer.len());
        self.metadata.pass(&rest[..count])?;
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}
