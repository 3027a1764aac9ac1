//! The kinds of Cap'n Proto messages in a stream of bytes. Pure: bytes in, kinds out.

/// What an RPC message means for the count of questions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Question,
    Finish,
    /// A return that no finish follows, as nothing of the answer is kept (`noFinishNeeded` in rpc.capnp).
    LastReturn,
    Other,
}

/// Follows a stream of Cap'n Proto messages far enough to tell their kinds.
///
/// A message is a table of segment sizes (capnproto.org/encoding.html, "Serialization Over a
/// Stream") and the segments; the first begins with a pointer to the root struct, whose first two
/// bytes are the kind (`Message` in rpc.capnp).
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: Vec<u8>,
    /// Bytes of the message that need not be looked at.
    skip: u64,
}

impl Frames {
    /// Takes the bytes of one read and tells the kind of each message that begins in them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Kind)) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len() as u64);
                self.skip -= skipped;
                let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some((kind, left)) = judge(&self.head) {
                tell(kind);
                self.skip = left;
                self.head.clear();
            }
        }
    }
}

/// The kind of a message and how much of it is to come, once enough of it is there.
fn judge(head: &[u8]) -> Option<(Kind, u64)> {
    let segments = u64::from(word(head, 0)?) + 1;
    // The library refuses more; whatever follows is not understood any better than this.
    let table = (4 * (segments + 1)).next_multiple_of(8).min(4096);
    let start = usize::try_from(table).ok()?;
    if head.len() < start {
        return None;
    }
    let words: u64 = (1..=segments.min(512))
        .map_while(|index| word(head, usize::try_from(index * 4).ok()?))
        .map(u64::from)
        .sum();
    let body = words * 8;
    let seen = (head.len() - start) as u64;
    if body < 16 {
        return (seen == body).then_some((Kind::Other, 0));
    }
    if seen < 16 {
        return None;
    }
    // A pointer to a struct right behind it, which is what every writer makes.
    let kind = match (word(head, start)?, word(head, start + 8)? & 0xffff) {
        (0, 4) => Kind::Finish,
        (0, 3) if body < 32 => Kind::Other,
        (0, 3) if seen < 32 => return None,
        (0, 3) => judge_return(head, start + 16)?,
        // Unimplemented, abort, resolve, release, disembargo and the like.
        (0, 0 | 1 | 5 | 6 | 13) => Kind::Other,
        // Call and bootstrap, and what is unknown: counted, to be safe.
        _ => Kind::Question,
    };
    Some((kind, body - seen))
}

/// The flag is bit 33 of the return's data, which every writer puts right behind the pointer to it.
fn judge_return(head: &[u8], pointer: usize) -> Option<Kind> {
    // The offset of a struct and the two bits of its kind (capnproto.org/encoding.html, "Structs").
    let is_next = word(head, pointer)? == 0;
    let flags = word(head, pointer + 12)?;
    Some(match is_next && flags & 2 != 0 {
        true => Kind::LastReturn,
        false => Kind::Other,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp_rpc::rpc_capnp::message;
    use proptest::prelude::*;

    fn frame(kind: Kind) -> Vec<u8> {
        let mut builder = capnp::message::Builder::new_default();
        let mut root = builder.init_root::<message::Builder<'_>>();
        match kind {
            Kind::Question => root.init_call().set_question_id(1),
            Kind::Finish => root.init_finish().set_question_id(1),
            Kind::LastReturn => root.init_return().set_no_finish_needed(true),
            Kind::Other => root.reborrow().init_return().set_answer_id(1),
        }
        capnp::serialize::write_message_to_words(&builder)
    }

    proptest! {
        #[test]
        fn kinds_are_told_whatever_the_reads(
            kinds in prop::collection::vec(
                prop_oneof![
                    Just(Kind::Question), Just(Kind::Finish), Just(Kind::LastReturn), Just(Kind::Other)
                ], 0..20),
            read in 1usize..50,
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|kind| frame(*kind)).collect();
            let mut frames = Frames::default();
            let mut told = Vec::new();
            for chunk in bytes.chunks(read) {
                frames.feed(chunk, |kind| told.push(kind));
            }
            prop_assert_eq!(told, kinds);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            Frames::default().feed(&bytes, |_| ());
        }
    }
}
