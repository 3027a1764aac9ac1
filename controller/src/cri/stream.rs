//! The Stream* calls: a list in pieces, each item exactly once, at least one item a piece.

use std::pin::Pin;

use futures::Stream;
use tonic::Status;

/// Items per message: far below gRPC's limit even with large annotations.
const PIECE: usize = 128;

/// A stream of messages.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Splits items into messages. No item, no message.
pub(super) fn pieces<T, M>(items: Vec<T>, message: fn(Vec<T>) -> M) -> Messages<M>
where
    T: Send + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter();
    let pieces = std::iter::from_fn(move || {
        let piece: Vec<T> = items.by_ref().take(PIECE).collect();
        (!piece.is_empty()).then(|| Ok(message(piece)))
    });
    Box::pin(futures::stream::iter(pieces))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn every_item_once_and_no_empty_message() {
        for count in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
            let messages: Vec<Vec<usize>> = pieces((0..count).collect(), |piece| piece)
                .map(Result::unwrap)
                .collect()
                .await;
            assert!(messages.iter().all(|piece| !piece.is_empty()));
            assert_eq!(messages.concat(), (0..count).collect::<Vec<_>>());
        }
    }
}
