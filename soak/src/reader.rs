//! A subscriber that notes every signal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use hydratecache::{Fence, Signal, Subscription, Transport};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use hydratecache_sim::silence::Heard;

/// How long a healed link may take to prove that nothing is missing.
const FENCE_LIMIT: Duration = Duration::from_secs(60);

/// Listens until `over`, and then up to a fence: from there on nothing can still be on its way.
pub(crate) async fn listen(
    transport: Arc<dyn Transport>,
    mut subscription: Subscription,
    over: CancellationToken,
) -> Result<Heard> {
    let mut heard = Heard::default();
    let (mut passed, mut last) = (None::<Fence>, None::<Fence>);
    let mut asking = Box::pin(async move {
        over.cancelled().await;
        fence(&*transport).await
    });
    let ends = |passed: Option<Fence>, last: Option<Fence>| last.is_some() && passed >= last;
    while !ends(passed, last) {
        tokio::select! {
            fence = &mut asking, if last.is_none() => last = Some(fence?),
            signal = next(&mut subscription, last.is_some()) => match signal? {
                Signal::Fenced(fence) => passed = passed.max(Some(fence)),
                signal => heard.signal(&signal),
            },
        }
    }
    Ok(heard)
}

async fn next(subscription: &mut Subscription, is_last: bool) -> Result<Signal> {
    let limit = if is_last { FENCE_LIMIT } else { Duration::from_secs(86_400) };
    let signal = timeout(limit, subscription.next()).await;
    signal.context("the fence did not arrive in the subscription")?.context("the stream ended")
}

/// A fence, as soon as the link is back.
async fn fence(transport: &dyn Transport) -> Result<Fence> {
    let end = Instant::now() + FENCE_LIMIT;
    loop {
        match transport.fence().await {
            Ok(fence) => return Ok(fence),
            Err(error) if Instant::now() > end => {
                bail!("no fence after everything healed: {error}")
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}
