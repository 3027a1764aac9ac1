//! Lists of which a server has encoded the items before.
//!
//! A kubelet asks for all pods and all containers every second, and hardly any has changed. What is kept encoded is
//! copied into the answer; nothing is cloned, counted or encoded again.

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

/// The number of the one field, in every message that this stands for.
const ITEMS: u32 = 1;

/// An answer that is nothing but a list. On the wire it is the message of the protocol.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct List<M> {
    /// What a client finds in it, and what a server may put in.
    pub items: Vec<M>,
    /// More items, which are encoded already. A client never finds any.
    pub encoded: Vec<Bytes>,
}

impl<M> From<Vec<M>> for List<M> {
    fn from(items: Vec<M>) -> Self {
        Self {
            items,
            encoded: Vec::new(),
        }
    }
}

impl<M> FromIterator<Bytes> for List<M> {
    fn from_iter<I: IntoIterator<Item = Bytes>>(encoded: I) -> Self {
        Self {
            items: Vec::new(),
            encoded: encoded.into_iter().collect(),
        }
    }
}

impl<M: Message + Default> Message for List<M> {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        encoding::message::encode_repeated(ITEMS, &self.items, buffer);
        for item in &self.encoded {
            // A message within another is written as bytes are.
            encoding::bytes::encode(ITEMS, item, buffer);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            ITEMS => encoding::message::merge_repeated(wire_type, &mut self.items, buffer, context),
            _ => encoding::skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let encoded = self.encoded.iter();
        encoding::message::encoded_len_repeated(ITEMS, &self.items)
            + encoded
                .map(|item| encoding::bytes::encoded_len(ITEMS, item))
                .sum::<usize>()
    }

    fn clear(&mut self) {
        self.items.clear();
        self.encoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ContainerMetadata, PodIp};

    /// The protocol's own message of one repeated field.
    #[derive(Clone, PartialEq, Message)]
    struct Plain {
        #[prost(message, repeated, tag = "1")]
        items: Vec<ContainerMetadata>,
    }

    #[test]
    fn encoded_items_are_items() {
        let item = |name: &str| ContainerMetadata {
            name: name.to_owned(),
            attempt: 300,
        };
        let items = vec![item("one"), item(""), item(&"x".repeat(300))];
        let wire = Plain {
            items: items.clone(),
        }
        .encode_to_vec();
        let whole = List::from(items.clone());
        let parts: List<ContainerMetadata> = items
            .iter()
            .map(|item| Bytes::from(item.encode_to_vec()))
            .collect();
        for list in [&whole, &parts] {
            assert_eq!(
                (list.encode_to_vec(), list.encoded_len()),
                (wire.clone(), wire.len())
            );
        }
        assert_eq!(List::decode(wire.as_slice()).unwrap(), whole);
        let mut list = parts;
        list.clear();
        assert_eq!(list, List::default());
    }

    #[test]
    fn what_a_newer_server_adds_is_passed_over() {
        let mut wire = Plain::default().encode_to_vec();
        encoding::string::encode(2, &"new".to_owned(), &mut wire);
        assert_eq!(
            List::<PodIp>::decode(wire.as_slice()).unwrap(),
            List::default()
        );
    }
}
