//! The Stream* calls: a list in pieces, each item exactly once, at least one item a piece.

use std::pin::Pin;

use futures::Stream;
use prost::Message;
use tonic::Status;

/// Bytes of a message, far below what clients take; an item that alone is larger has a message of its own.
const PIECE: usize = 256 << 10;

/// A stream of messages.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Splits items into messages. No item, no message.
pub(super) fn pieces<T, M>(items: Vec<T>, message: fn(Vec<T>) -> M) -> Messages<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter().peekable();
    let pieces = std::iter::from_fn(move || {
        let (mut piece, mut room) = (Vec::new(), PIECE);
        while let Some(item) = items.next_if(|item| piece.is_empty() || item.encoded_len() <= room)
        {
            room = room.saturating_sub(item.encoded_len());
            piece.push(item);
        }
        (!piece.is_empty()).then(|| Ok(message(piece)))
    });
    Box::pin(futures::stream::iter(pieces))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn every_item_once_no_empty_message_and_none_too_large() {
        for (count, size) in [
            (0_usize, 0),
            (1, 0),
            (3, 0),
            (1, 2 * PIECE),
            (3, 2 * PIECE),
            (99, PIECE / 9),
        ] {
            let items: Vec<String> = (0..count)
                .map(|i| format!("{i}{}", "x".repeat(size)))
                .collect();
            let messages: Vec<Vec<String>> = pieces(items.clone(), |piece| piece)
                .map(Result::unwrap)
                .collect()
                .await;
            for piece in &messages {
                let bytes: usize = piece.iter().map(Message::encoded_len).sum();
                assert!(!piece.is_empty() && (bytes <= PIECE || piece.len() == 1));
            }
            assert!(messages.len() <= count.div_ceil(8) || size > PIECE);
            assert_eq!(messages.concat(), items);
        }
    }
}
