//! What arrives, and whom it goes to.

use tokio::time::Instant;

use super::session::{Handover, Session};
use super::{End, Task};
use crate::fanout::Arrival;
use crate::link::{Connector, Incoming, Subscribing};
use crate::wire::{self, Rejection, RejectionReason};
use crate::{Kind, Message};

/// How many messages are distributed before others get their turn.
pub(super) const ROUND: usize = 512;

impl<C> Task<C>
where
    C: Connector<Connection: Subscribing>,
{
    /// Distributes one message and those behind it.
    pub(super) fn came(
        &mut self,
        incoming: Incoming<Name<C>>,
        session: &mut Session<C::Connection>,
    ) -> Result<(), End> {
        if let Incoming::Ended(why) = incoming {
            return Err(End::Lost(why));
        }
        self.distribute(incoming, session);
        self.take(session, ROUND);
        session.arrived_at = Instant::now();
        Ok(())
    }

    /// Distributes all that waits now.
    pub(super) fn drain(&mut self, session: &mut Session<C::Connection>) {
        self.take(session, session.connection.backlog());
    }

    /// Distributes what waits now, but not more than `most`; returns how much it was.
    pub(super) fn take(&mut self, session: &mut Session<C::Connection>, most: usize) -> usize {
        for taken in 0..most {
            match session.connection.try_next() {
                Some(incoming) => self.distribute(incoming, session),
                None => return taken,
            }
        }
        most
    }

    fn distribute(&self, incoming: Incoming<Name<C>>, session: &mut Session<C::Connection>) {
        let (name, arrival) = match incoming {
            Incoming::Revoked { name, why } => {
                if let Some((topic, fanout)) = self.routes.named(&name) {
                    session.revoke(topic, fanout, &why);
                }
                return;
            }
            Incoming::Leaving => {
                tracing::info!(messaging.system = self.peer.system, "the server asks to go");
                session.handover = Handover::Wanted;
                return;
            }
            Incoming::Body { name, body } => match self.arrival(&body) {
                Some(arrival) => (name, arrival),
                None => return,
            },
            Incoming::Message { name, message } => match self.unless_probe(message) {
                Some(message) => (name, Ok(message)),
                None => return,
            },
            Incoming::Rejected { name, rejection } => (name, Err(rejection)),
            Incoming::Lagged(dropped) => {
                let system = self.peer.system;
                tracing::debug!(
                    messaging.system = system,
                    dropped,
                    "this process reads too slowly"
                );
                return self.routes.lagged();
            }
            // Comes where it is waited for, and nowhere else.
            Incoming::Ended(_) => return,
        };
        if let Some((topic, fanout)) = self.routes.named(&name) {
            // What arrives proves the subscription, and comes behind the gap before it.
            session.revive(topic, fanout);
            fanout.arrived([arrival]);
        }
    }

    /// What a body is; nothing, if it is a probe of ours.
    fn arrival(&self, body: &bytes::Bytes) -> Option<Arrival> {
        let limit = self.settings.max_body_bytes;
        if body.len() > limit {
            let reason = RejectionReason::TooLarge { bytes: body.len(), limit };
            return Some(Err(Rejection::new(reason)));
        }
        match wire::decode(body) {
            Ok(envelope) => self.unless_probe(envelope.message).map(Ok),
            Err(rejection) => Some(Err(rejection)),
        }
    }

    /// The message, if it is no probe of ours.
    fn unless_probe(&self, message: Message) -> Option<Message> {
        let is_probe = message.kind() == Kind::Heartbeat && message.sequence().is_none();
        if !is_probe {
            return Some(message);
        }
        self.probes.arrived(message.origin()?);
        None
    }
}

/// The broker's names on the connections of `C`.
type Name<C> = <<C as Connector>::Connection as Subscribing>::Name;
