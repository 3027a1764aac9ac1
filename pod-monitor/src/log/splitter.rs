//! How the bytes of one stream become the lines of a log. Pure: bytes in, pieces out.

use crate::memory;

/// A piece of output that becomes one line of the log.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Piece<'a> {
    /// Whether it ends a line of the program's.
    pub(crate) end: bool,
    /// What earlier reads left over: only the first piece of a read can have any.
    pub(crate) head: Vec<u8>,
    /// What this read added, without the line's end.
    pub(crate) tail: &'a [u8],
}

impl Piece<'_> {
    /// The bytes of content.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

/// Holds back the unfinished line of one stream until it is whole, too long, or given up on.
#[derive(Debug)]
pub(crate) struct Splitter {
    limit: usize,
    pending: Vec<u8>,
}

impl Splitter {
    /// Lines longer than `limit` bytes, at least one, are cut in pieces of that size.
    pub(crate) fn new(limit: usize) -> Splitter {
        Splitter {
            limit: limit.max(1),
            pending: Vec::new(),
        }
    }

    /// One that holds back `pending`, as another did.
    pub(crate) fn resume(limit: usize, pending: Vec<u8>) -> Splitter {
        Splitter {
            pending,
            ..Splitter::new(limit)
        }
    }

    /// The unfinished line that is held back.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Whether an unfinished line is held back.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the bytes of one read and gives every piece that they complete.
    pub(crate) fn feed<'a>(&mut self, mut chunk: &'a [u8], mut give: impl FnMut(Piece<'a>)) {
        while !chunk.is_empty() {
            let line_end = memchr::memchr(b'\n', chunk);
            let length = line_end.unwrap_or(chunk.len());
            let room = self.limit.saturating_sub(self.pending.len());
            let (end, take) = match line_end {
                // The line's end is known to be near, so a line of exactly the limit is whole.
                _ if length > room => (false, room),
                Some(_) => (true, length),
                None => break,
            };
            let (tail, rest) = chunk.split_at(take);
            give(Piece {
                end,
                head: std::mem::take(&mut self.pending),
                tail,
            });
            chunk = rest.get(usize::from(end)..).unwrap_or_default();
        }
        if !chunk.is_empty() {
            memory::reserve(&mut self.pending, chunk.len());
            self.pending.extend_from_slice(chunk);
        }
    }

    /// Gives up on the end of an unfinished line, at the stream's end or when nothing followed.
    pub(crate) fn flush(&mut self) -> Option<Piece<'static>> {
        self.is_pending().then(|| Piece {
            end: false,
            head: std::mem::take(&mut self.pending),
            tail: &[],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Lines = Vec<(bool, Vec<u8>)>;
    /// Reads, and the lines they become.
    type Row = (&'static [&'static [u8]], &'static [(bool, &'static [u8])]);

    fn split(limit: usize, chunks: &[&[u8]]) -> Lines {
        let mut splitter = Splitter::new(limit);
        let mut lines = Lines::new();
        let mut keep =
            |piece: Piece<'_>| lines.push((piece.end, [&piece.head, piece.tail].concat()));
        for chunk in chunks {
            splitter.feed(chunk, &mut keep);
        }
        splitter.flush().into_iter().for_each(keep);
        lines
    }

    #[test]
    fn lines_are_whole_whatever_the_reads_were() {
        let rows: [Row; 9] = [
            (&[b"a\nb\n"], &[(true, b"a"), (true, b"b")]),
            (&[b"a", b"b", b"c\n"], &[(true, b"abc")]),
            (&[b"a", b"\n"], &[(true, b"a")]),
            (&[b"\n\n"], &[(true, b""), (true, b"")]),
            (&[b"$ "], &[(false, b"$ ")]),
            (&[b"12345678\n"], &[(true, b"12345678")]),
            (&[b"1234", b"5678", b"\n"], &[(true, b"12345678")]),
            (&[b"123456789\n"], &[(false, b"12345678"), (true, b"9")]),
            (
                &[b"1234567", b"890123456\0"],
                &[(false, b"12345678"), (false, b"90123456"), (false, b"\0")],
            ),
        ];
        for (chunks, expect) in rows {
            let expect: Lines = expect
                .iter()
                .map(|(end, line)| (*end, line.to_vec()))
                .collect();
            assert_eq!(split(8, chunks), expect, "{chunks:?}");
        }
    }

    #[test]
    fn a_flushed_line_goes_on_and_ends() {
        let mut splitter = Splitter::new(8);
        splitter.feed(b"$ ", |_| panic!("not whole"));
        let piece = splitter.flush().unwrap();
        assert_eq!((piece.end, piece.head), (false, b"$ ".to_vec()));
        let mut seen = 0;
        splitter.feed(b"\n", |piece| {
            assert_eq!((piece.end, piece.len()), (true, 0));
            seen += 1;
        });
        assert_eq!(splitter.flush(), None);
        assert_eq!(seen, 1);
    }

    fn joined(lines: &Lines) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (end, line) in lines {
            bytes.extend_from_slice(line);
            bytes.extend(end.then_some(b'\n'));
        }
        bytes
    }

    proptest! {
        #[test]
        fn no_chunking_changes_the_content(
            chunks in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(b'\n'), Just(0u8), any::<u8>()], 0..40),
                0..20,
            ),
            limit in 1usize..30,
        ) {
            let all = chunks.concat();
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let lines = split(limit, &chunks);
            prop_assert_eq!(joined(&lines), all.clone());
            // The reads leave no trace at all: one read gives the same lines.
            prop_assert_eq!(&lines, &split(limit, &[&all]));
            for (index, (end, line)) in lines.iter().enumerate() {
                prop_assert!(line.len() <= limit);
                prop_assert!(!line.contains(&b'\n'));
                let last = index + 1 == lines.len();
                prop_assert!(*end || line.len() == limit || last, "partial without a reason");
            }
        }
    }
}
