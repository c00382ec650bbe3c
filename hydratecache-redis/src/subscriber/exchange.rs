//! Questions to the server on the subscribing connection, and which answers are theirs.
//!
//! fred counts on no reply to SUBSCRIBE, because a success is told by a push. A refusal is a reply,
//! though: fred takes it for that of the next command, and every later reply for that of the
//! command behind its own, until one finds none under way and is dropped. An echo that is one reply
//! early proves nothing. So there is one exchange at a time, it ends with PINGs of its own number,
//! and there are enough of them that one is answered whatever strays in before.

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind as FredKind};
use fred::interfaces::{ClientInterface, ClientLike, PubsubInterface};
use fred::types::Value;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use tokio::sync::Mutex;

use crate::error::is_of_the_link;

/// Echoes without a number do not tell how many replies are astray: no more than this is believed.
const MOST_ASTRAY: usize = 16;

/// A connection on which one question is asked at a time.
pub(super) struct Exchange {
    client: Client,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the latest exchange.
    number: u64,
    /// How many replies of earlier exchanges may still come.
    astray: usize,
    /// How many subscriptions the server counted last.
    count: usize,
}

/// What the server said.
#[derive(Default)]
pub(super) struct Answers {
    /// How many subscriptions it counts on this connection.
    pub(super) count: Option<usize>,
    refusals: usize,
    echoes: usize,
    echoes_without_number: usize,
}

/// What changes the connection's subscriptions.
pub(super) enum Change {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
}

type Reply<'a> = BoxFuture<'a, Result<Value, FredError>>;

impl Exchange {
    pub(super) fn on(client: Client) -> Self {
        Self { client, state: Mutex::default() }
    }

    /// An echo, behind everything that the server had sent before.
    pub(super) async fn echo(&self) -> Result<(), FredError> {
        let mut state = self.state.lock().await;
        let pings = state.astray + 1;
        self.ask(&mut state, Vec::new(), pings).await.map(drop)
    }

    /// Changes subscriptions, and asks how many there are then. Returns how many there were too.
    pub(super) async fn change(&self, change: Change) -> Result<(usize, Answers), FredError> {
        let mut state = self.state.lock().await;
        match change {
            Change::Subscribe(channels) => self.client.subscribe(channels).await?,
            Change::Unsubscribe(channels) => self.client.unsubscribe(channels).await?,
        }
        // One more, because the change may be refused.
        let pings = state.astray + 2;
        let answers = self.ask(&mut state, vec![self.client.client_info().boxed()], pings).await?;
        let before = state.count;
        state.count = answers.count.unwrap_or(before);
        Ok((before, answers))
    }

    async fn ask(
        &self,
        state: &mut State,
        mut replies: Vec<Reply<'_>>,
        pings: usize,
    ) -> Result<Answers, FredError> {
        state.number += 1;
        let number = state.number.to_string();
        replies.extend((0..pings).map(|_| self.client.ping(Some(number.clone())).boxed()));
        let mut answers = Answers::default();
        // Handed to fred in this order, in the first poll.
        for reply in join_all(replies).await {
            answers.take(reply, &number)?;
        }
        state.astray = answers.astray(pings, state.astray)?;
        Ok(answers)
    }
}

impl Answers {
    fn take(&mut self, reply: Result<Value, FredError>, number: &str) -> Result<(), FredError> {
        match reply {
            Ok(reply) => {
                let text = reply.as_str();
                self.echoes += usize::from(text.as_deref() == Some(number));
                self.count = text.as_deref().and_then(subscriptions).or(self.count);
            }
            Err(error) if is_of_the_link(&error) => return Err(error),
            // A user who may not PING is told so, in order: as good an echo, without a number.
            Err(error) if error.details().contains("'ping'") => self.echoes_without_number += 1,
            Err(_) => self.refusals += 1,
        }
        Ok(())
    }

    /// Whether the change itself was refused: one refusal is that of CLIENT INFO, if it is missing.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals > usize::from(self.count.is_none())
    }

    /// How many of the replies to this exchange's PINGs are still to come, or were dropped.
    fn astray(&self, pings: usize, before: usize) -> Result<usize, FredError> {
        match (self.echoes, self.echoes_without_number) {
            (0, 0) => Err(FredError::new(
                FredKind::Protocol,
                "the server answers PING with something else",
            )),
            (0, _) => Ok((before + usize::from(self.is_refused())).min(MOST_ASTRAY)),
            (echoes, _) => Ok(pings - echoes),
        }
    }
}

/// The field `sub` of `CLIENT INFO`.
fn subscriptions(info: &str) -> Option<usize> {
    info.split_ascii_whitespace().find_map(|field| field.strip_prefix("sub="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_client_info() {
        let info = "id=3 addr=127.0.0.1:5 name= db=0 sub=12 psub=0 ssub=0 multi=-1 resp=3\n";
        assert_eq!(subscriptions(info), Some(12));
        assert_eq!(subscriptions("id=3 psub=1"), None);
    }

    fn taken(replies: Vec<Result<Value, FredError>>) -> Answers {
        let mut answers = Answers::default();
        for reply in replies {
            answers.take(reply, "7").expect("the server's answer");
        }
        answers
    }

    fn refusal(what: &str) -> FredError {
        FredError::new(FredKind::Unknown, format!("NOPERM this user has no permissions to {what}"))
    }

    #[test]
    fn replies_that_stray_in_push_others_out_and_are_counted() {
        let (stray, info) = (Ok(Value::from("6")), Ok(Value::from("id=3 sub=4 psub=0")));
        let refused = Err(refusal("access one of the channels used as arguments"));
        let answers = taken(vec![stray, refused, info, Ok(Value::from("7"))]);
        assert_eq!((answers.count, answers.is_refused()), (Some(4), true));
        assert_eq!(answers.astray(3, 1).expect("an echo"), 2);
    }

    #[test]
    fn a_denied_ping_is_an_echo() {
        let denied = || Err(refusal("run the 'ping' command"));
        assert_eq!(taken(vec![denied()]).astray(1, 0).expect("an echo"), 0);
        let untold = || Err(refusal("run the 'client|info' command"));
        let answers = taken(vec![untold(), denied(), denied()]);
        assert_eq!((answers.is_refused(), answers.astray(2, 0).expect("an echo")), (false, 0));
        let refused = Err(refusal("access one of the channels used as arguments"));
        let answers = taken(vec![refused, untold(), denied()]);
        assert_eq!((answers.is_refused(), answers.astray(2, 0).expect("an echo")), (true, 1));
    }

    #[test]
    fn a_lost_link_and_an_echo_of_another_number_are_none() {
        let lost = Err(FredError::new(FredKind::IO, "Connection reset by peer"));
        assert!(Answers::default().take(lost, "7").is_err());
        assert!(taken(vec![Ok(Value::from("6"))]).astray(1, 0).is_err());
    }
}
