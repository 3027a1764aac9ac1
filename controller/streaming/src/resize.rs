//! Terminal sizes: a run of JSON objects, cut anywhere.

use serde::Deserialize;

/// Bytes of one object; a real one has about 30.
const MAX_OBJECT: usize = 1024;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Size {
    /// Characters in a line.
    #[serde(rename = "Width", alias = "width")]
    pub columns: u16,
    /// Lines.
    #[serde(rename = "Height", alias = "height")]
    pub rows: u16,
}

/// Gathers the pieces of the resize channel.
#[derive(Debug, Default)]
pub(crate) struct SizeReader {
    pending: Vec<u8>,
}

/// The channel carries something else than sizes; it is of no more use.
#[derive(Debug, thiserror::Error)]
#[error("resize channel carries something else than terminal sizes")]
pub(crate) struct NotASize;

impl SizeReader {
    /// The sizes that are complete with this piece.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Size>, NotASize> {
        self.pending.extend_from_slice(piece);
        let mut sizes = Vec::new();
        let mut objects = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let taken = loop {
            match objects.next() {
                Some(Ok(size)) => sizes.push(size),
                Some(Err(error)) if error.is_eof() => break objects.byte_offset(),
                Some(Err(_)) => return Err(NotASize),
                None => break objects.byte_offset(),
            }
        };
        self.pending.drain(..taken.min(self.pending.len()));
        if self.pending.len() > MAX_OBJECT {
            return Err(NotASize);
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        columns: 80,
        rows: 24,
    };

    #[test]
    fn sizes_are_found_in_any_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"width\":80,\"height\":24}{\"Width\":80,\"Height\":24}";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            let mut reader = SizeReader::default();
            let mut sizes = reader.feed(head).expect("head");
            sizes.extend(reader.feed(tail).expect("tail"));
            assert_eq!(sizes, [SIZE; 3], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_never_gathered() {
        for text in [
            "[]",
            "{\"Width\":-1,\"Height\":2}",
            "{\"Width\":70000,\"Height\":2}",
            "x",
        ] {
            assert!(
                SizeReader::default().feed(text.as_bytes()).is_err(),
                "{text}"
            );
        }
        let mut reader = SizeReader::default();
        let refused = (0..100).any(|_| reader.feed(&[b' '; 100]).is_err());
        assert!(
            !refused && reader.pending.len() <= MAX_OBJECT,
            "space is skipped"
        );
        let open = format!("{{\"{}", "a".repeat(2 * MAX_OBJECT));
        assert!(SizeReader::default().feed(open.as_bytes()).is_err());
    }
}
