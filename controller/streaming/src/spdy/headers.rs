//! Header blocks: names and values, compressed over the life of a connection.

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;

/// Uncompressed bytes that one block may have; a Kubernetes stream needs about 100.
pub(crate) const MAX_BLOCK: usize = 16 * 1024;

/// Headers that one block may have.
const MAX_HEADERS: u32 = 100;

/// Names and values in the order they were sent; names compare without case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a header.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let same = |(candidate, _): &&(String, String)| candidate.eq_ignore_ascii_case(name);
        self.0.iter().find(same).map(|(_, value)| value.as_str())
    }

    /// Adds a header; the name goes to the wire in lower case, as SPDY demands.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Headers {
        self.0.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    fn serialize(&self) -> Result<Vec<u8>, HeaderError> {
        let mut block = Vec::new();
        block.put_u32(length(self.0.len())?);
        for (name, value) in &self.0 {
            for text in [name, value] {
                block.put_u32(length(text.len())?);
                block.extend_from_slice(text.as_bytes());
            }
        }
        if block.len() > MAX_BLOCK {
            return Err(HeaderError::TooLarge);
        }
        Ok(block)
    }

    fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
        let count = block.try_get_u32().map_err(|_| HeaderError::Truncated)?;
        if count > MAX_HEADERS {
            return Err(HeaderError::TooMany(count));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            headers.push((text(&mut block)?, text(&mut block)?));
        }
        Ok(Headers(headers))
    }
}

fn length(bytes: usize) -> Result<u32, HeaderError> {
    u32::try_from(bytes).map_err(|_| HeaderError::TooLarge)
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = block.try_get_u32().map_err(|_| HeaderError::Truncated)?;
    let length = usize::try_from(length).map_err(|_| HeaderError::TooLarge)?;
    let bytes = block.get(..length).ok_or(HeaderError::Truncated)?;
    let text = String::from_utf8_lossy(bytes).into_owned();
    block.advance(length);
    Ok(text)
}

/// Why a header block was refused; the connection's compression state is lost with it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// The block ends inside a length or a value.
    #[error("header block is cut short")]
    Truncated,
    /// The block is larger than any stream needs.
    #[error("header block is larger than {MAX_BLOCK} bytes")]
    TooLarge,
    /// More headers than any stream needs.
    #[error("header block has {0} headers, more than {MAX_HEADERS}")]
    TooMany(u32),
    /// zlib does not understand the bytes.
    #[error("header block is not compressed as SPDY/3 demands")]
    Compression,
}

/// The receiving half of a connection's header compression.
#[derive(Debug)]
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Inflater {
        Inflater(Decompress::new(true))
    }

    pub(crate) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, HeaderError> {
        let mut input = compressed;
        // One byte more than allowed, so that a block too large is told from one that fits.
        let mut block = Vec::with_capacity(MAX_BLOCK + 1);
        loop {
            let (taken, made) = (self.0.total_in(), block.len());
            let step = self
                .0
                .decompress_vec(input, &mut block, FlushDecompress::Sync);
            input = self.rest(input, taken);
            match step {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    let known = self.0.set_dictionary(dictionary());
                    known.map_err(|_| HeaderError::Compression)?;
                    continue;
                }
                Err(_) => return Err(HeaderError::Compression),
            }
            if block.len() > MAX_BLOCK {
                return Err(HeaderError::TooLarge);
            }
            if self.0.total_in() == taken && block.len() == made {
                break;
            }
        }
        if !input.is_empty() {
            return Err(HeaderError::Compression);
        }
        Headers::parse(&block)
    }

    fn rest<'a>(&self, input: &'a [u8], taken_before: u64) -> &'a [u8] {
        let taken = self.0.total_in().saturating_sub(taken_before);
        let taken = usize::try_from(taken).unwrap_or(usize::MAX);
        input.get(taken..).unwrap_or_default()
    }
}

/// The sending half of a connection's header compression.
#[derive(Debug)]
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Result<Deflater, HeaderError> {
        let mut zlib = Compress::new(Compression::default(), true);
        let known = zlib.set_dictionary(dictionary());
        known.map_err(|_| HeaderError::Compression)?;
        Ok(Deflater(zlib))
    }

    pub(crate) fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, HeaderError> {
        let block = headers.serialize()?;
        // Incompressible bytes grow by a few per block, and the flush marker follows.
        let mut compressed = Vec::with_capacity(block.len() + block.len() / 100 + 64);
        let before = self.0.total_in();
        let step = self
            .0
            .compress_vec(&block, &mut compressed, FlushCompress::Sync);
        let taken = self.0.total_in() - before;
        let whole = usize::try_from(taken) == Ok(block.len());
        match step {
            Ok(Status::Ok) if whole && compressed.len() < compressed.capacity() => Ok(compressed),
            Ok(_) | Err(_) => Err(HeaderError::Compression),
        }
    }
}
