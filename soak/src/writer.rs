//! A publisher that notes what was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, stream};
use hydratecache::{Channel, Origin, Transport};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Publishes under way at once.
const FLIGHTS: usize = 32;

/// A publish every so often from each flight, so that an hour's soak fits into memory.
const PAUSE: Duration = Duration::from_millis(5);

/// What one publisher had acknowledged.
pub(crate) struct Written {
    pub(crate) sequences: Vec<(Origin, u64)>,
    pub(crate) failed: u64,
}

/// Publishes until `over`, and then one message that must be acknowledged.
pub(crate) async fn write(
    transport: Arc<dyn Transport>,
    topic: String,
    number: usize,
    over: CancellationToken,
) -> Result<Written> {
    let channel = Channel::<u64>::new(transport, topic)?;
    let publish = |count: u64| {
        let (channel, key) = (channel.clone(), format!("{number}:{}", count % 1000));
        async move {
            sleep(PAUSE).await;
            channel.publish(key, &count).await
        }
    };
    let counts = stream::iter(0..).take_until(over.cancelled_owned());
    let answers: Vec<_> = counts.map(publish).buffer_unordered(FLIGHTS).collect().await;
    let mut written = Written { sequences: Vec::with_capacity(answers.len()), failed: 0 };
    for answer in answers {
        match answer {
            Ok(receipt) => {
                let position = receipt.position;
                written.sequences.push((position.origin, position.sequence.get()));
            }
            Err(error) if error.is_retryable() => written.failed += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

/// The sequences of all publishers.
pub(crate) fn acknowledged(written: &[Written]) -> hydratecache_sim::silence::Acknowledged {
    let mut acknowledged = hydratecache_sim::silence::Acknowledged::new();
    for (origin, sequence) in written.iter().flat_map(|written| written.sequences.iter().copied()) {
        acknowledged.entry(origin).or_default().insert(sequence);
    }
    acknowledged
}
