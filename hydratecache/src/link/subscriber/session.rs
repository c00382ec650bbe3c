//! What belongs to one connection and ends with it.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fanout::Fanout;
use crate::link::Peer;
use crate::{Error, ErrorKind, Fence, Gap, Result, Subscription, Topic};

/// How often a topic that was denied after a reconnect is tried again.
pub(super) const DENIED_PAUSE: Duration = Duration::from_secs(5);

/// How many limits of a ping an echo may take while other things arrive.
pub(super) const PATIENCE: u32 = 2;

/// Who waits for a subscription.
pub(super) type Asking = (Topic, oneshot::Sender<Result<Subscription>>);

/// Which topics of a change are proven, and which refused.
pub(super) type Outcome = Vec<(Topic, Result<()>)>;

pub(super) struct Session<C> {
    pub(super) connection: C,
    /// Topics that are to be proven again, after a reconnect or a denial.
    pub(super) unproven: HashSet<Topic>,
    pub(super) retry_at: Option<Instant>,
    /// Topics that nobody reads any more.
    pub(super) surplus: Vec<Topic>,
    pub(super) changing: Option<BoxFuture<'static, Result<Outcome>>>,
    /// When the latest change of subscriptions began: what it brings was accepted later.
    pub(super) changing_since: Instant,
    pub(super) echo: Option<Echo>,
    pub(super) waiting_for_fence: Vec<oneshot::Sender<Result<Fence>>>,
    /// Who asks for a topic that was proven before: an echo shows that the link is still there.
    pub(super) confirming: Vec<Asking>,
    /// The latest that was echoed: topics that were not proven then get it once they are.
    pub(super) passed: Option<Fence>,
    pub(super) ping_at: Instant,
    /// When something came that is not an echo.
    pub(super) arrived_at: Instant,
    /// Where to go, if the server asks its clients to.
    pub(super) handover: Handover<C>,
}

/// A connection in the place of one that the server asks to give up.
pub(super) enum Handover<C> {
    None,
    /// It is to be made once no change of subscriptions is under way.
    Wanted,
    /// It is being made and proven.
    Making(BoxFuture<'static, (C, Outcome)>),
    /// It is proven. What comes waits in it, and comes on the old one too, which is left with the
    /// echo that is begun at this time.
    Made(C, Outcome, Instant),
    /// The echo on the old connection is under way.
    Leaving(C, Outcome),
}

/// A fence under way.
pub(super) struct Echo {
    pub(super) fence: Fence,
    pub(super) waiting: Vec<oneshot::Sender<Result<Fence>>>,
    pub(super) confirming: Vec<Asking>,
    pub(super) reply: BoxFuture<'static, Result<()>>,
}

impl<C> Handover<C> {
    /// What is to be waited for: the connection, until it is made.
    pub(super) fn making(&mut self) -> Option<&mut BoxFuture<'static, (C, Outcome)>> {
        match self {
            Self::Making(making) => Some(making),
            _ => None,
        }
    }

    /// When the old connection is to be left.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        match self {
            Self::Made(_, _, leave_at) => Some(*leave_at),
            _ => None,
        }
    }

    /// The last echo on the old connection is begun.
    pub(super) fn leave(&mut self) {
        *self = match std::mem::replace(self, Self::None) {
            Self::Made(connection, outcome, _) => Self::Leaving(connection, outcome),
            other => other,
        };
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self, Self::None)
    }
}

impl<C> Session<C> {
    pub(super) fn on(connection: C, unproven: HashSet<Topic>, ping_interval: Duration) -> Self {
        Self {
            connection,
            unproven,
            retry_at: None,
            surplus: Vec::new(),
            changing: None,
            changing_since: Instant::now(),
            echo: None,
            waiting_for_fence: Vec::new(),
            confirming: Vec::new(),
            passed: None,
            ping_at: Instant::now() + ping_interval,
            arrived_at: Instant::now(),
            handover: Handover::None,
        }
    }

    /// A topic that was disrupted is proven again.
    pub(super) fn revive(&mut self, topic: &Topic, fanout: &Fanout) {
        if !self.unproven.is_empty() && self.unproven.remove(topic) {
            fanout.accepted_since(self.changing_since);
            fanout.live(Some(Gap::Unknown));
            if let Some(fence) = self.passed {
                fanout.fenced(fence);
            }
        }
    }

    /// A topic that was proven is refused.
    pub(super) fn revoke(&mut self, topic: &Topic, fanout: &Fanout, why: &Error) {
        fanout.disrupted(why);
        self.unproven.insert(topic.clone());
        self.retry_at.get_or_insert(Instant::now() + DENIED_PAUSE);
    }

    /// When there is something to do, if nothing happens before.
    pub(super) fn due_at(&self, ping_limit: Duration) -> Instant {
        let echo_at = self.overdue_at(ping_limit).unwrap_or_else(|| {
            self.handover.leave_at().map_or(self.ping_at, |leave_at| leave_at.min(self.ping_at))
        });
        self.retry_at.map_or(echo_at, |retry_at| retry_at.min(echo_at))
    }

    /// When the echo under way is overdue. It comes behind all that the broker has for us, which may
    /// be much: while that arrives, the broker is alive. It still has to come, or what arrives is
    /// older and older.
    pub(super) fn overdue_at(&self, limit: Duration) -> Option<Instant> {
        let asked_at = self.echo.as_ref()?.fence.asked_at();
        Some((asked_at.max(self.arrived_at) + limit).min(asked_at + limit * PATIENCE))
    }

    /// Why the connection is given up whose echo is overdue.
    pub(super) fn overdue(&self, peer: &Peer, limit: Duration) -> Error {
        if self.arrived_at.elapsed() >= limit {
            return peer.no_sign_of_life(limit);
        }
        let limit = limit * PATIENCE;
        let what = format!(
            "{peer} has more than can be received: no echo came for {limit:?}; the link is given \
             up, to go on from the newest"
        );
        Error::new(ErrorKind::Timeout, what)
    }

    pub(super) fn fail_fences(&mut self, why: &Error) {
        let under_way = self.echo.take().map(|echo| {
            self.confirming.extend(echo.confirming);
            echo.waiting
        });
        let under_way = under_way.unwrap_or_default();
        for reply in self.waiting_for_fence.drain(..).chain(under_way) {
            let _ = reply.send(Err(why.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// How long after it was asked for an echo is overdue, if the latest message came then.
    fn overdue_after(message: Duration) -> Duration {
        let asked_at = Instant::now();
        let mut session = Session::on((), HashSet::new(), LIMIT);
        assert_eq!(session.overdue_at(LIMIT), None, "no echo is under way");
        assert_eq!(session.due_at(LIMIT), session.ping_at);
        session.arrived_at = asked_at + message;
        session.echo = Some(Echo {
            fence: Fence::new(1, asked_at),
            waiting: Vec::new(),
            confirming: Vec::new(),
            reply: pending().boxed(),
        });
        assert_eq!(Some(session.due_at(LIMIT)), session.overdue_at(LIMIT));
        session.overdue_at(LIMIT).expect("an echo is under way") - asked_at
    }

    #[test]
    fn an_echo_behind_messages_is_overdue_later_but_not_for_ever() {
        let secs = Duration::from_secs;
        assert_eq!(overdue_after(secs(0)), secs(5));
        assert_eq!(overdue_after(secs(3)), secs(8));
        assert_eq!(overdue_after(secs(9)), secs(10));
    }
}
