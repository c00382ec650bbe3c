//! Probes: where a broker does not tell whether it has a subscription, a message must arrive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::link::{Peer, Probe, Proof};
use crate::{Error, ErrorKind, Origin, Result, Topic};

/// How long a probe may take to arrive: a denied one never does.
const LIMIT: Duration = Duration::from_millis(1500);

/// Probes under way, by their origin.
#[derive(Default)]
pub(super) struct Probes(Mutex<HashMap<Origin, oneshot::Sender<()>>>);

impl Probes {
    /// Turns what the broker says of each topic into a proof or a refusal.
    pub(super) async fn decide(
        self: Arc<Self>,
        subscribing: BoxFuture<'static, Result<Vec<(Topic, Proof)>>>,
        peer: Peer,
    ) -> Result<Vec<(Topic, Result<()>)>> {
        let proofs = subscribing.await?.into_iter().map(async |(topic, proof)| {
            let outcome = match proof {
                Proof::Proven => Ok(()),
                Proof::Denied(why) => Err(why),
                Proof::Probe(probe) => self.probe(probe, &peer).await,
            };
            (topic, outcome)
        });
        Ok(join_all(proofs).await)
    }

    async fn probe(&self, probe: Probe, peer: &Peer) -> Result<()> {
        let Probe { origin, sending, denied } = probe;
        let deadline = Instant::now() + LIMIT;
        let mut expected = self.expect(origin);
        match timeout_at(deadline, sending).await {
            Ok(Ok(())) => match timeout_at(deadline, &mut expected.arrival).await {
                Ok(Ok(())) => Ok(()),
                _ => Err(denied),
            },
            Ok(Err(error)) => Err(error),
            // That says nothing about permissions.
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("subscribing on {peer}: the probe could not be sent"),
            )),
        }
    }

    fn expect(&self, origin: Origin) -> Expected<'_> {
        let (arrived, arrival) = oneshot::channel();
        self.lock().insert(origin, arrived);
        Expected { probes: self, origin, arrival }
    }

    pub(super) fn arrived(&self, origin: Origin) {
        if let Some(arrived) = self.lock().remove(&origin) {
            // Whoever waited may have given up.
            let _ = arrived.send(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Origin, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One probe under way; forgotten with the proof that it is for.
struct Expected<'a> {
    probes: &'a Probes,
    origin: Origin,
    arrival: oneshot::Receiver<()>,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.probes.lock().remove(&self.origin);
    }
}
