//! Answers those who ask which replicas have a write.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::witness::Witness;
use crate::{Origin, Position, Request, Token};

/// So many questions are answered at a time; for another one, the oldest is forgotten.
const MOST_QUESTIONS: usize = 64;

/// No question is waited on for longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(300);

/// An answer comes at a random time within this, so that a large fleet hears that enough have answered
/// before most of it does: with 2,000 replicas and answers that take a millisecond, some 100 do.
const JITTER: Duration = Duration::from_millis(20);

pub(super) struct Rollcall {
    witness: Witness,
    name: Option<Arc<str>>,
    questions: VecDeque<Question>,
    answering: JoinSet<(QuestionId, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct QuestionId {
    asker: Origin,
    number: NonZeroU64,
}

struct Question {
    id: QuestionId,
    wanted: usize,
    /// Those who have the write, as they said, up to as many as are wanted.
    heard: HashSet<(Option<Origin>, Option<Arc<str>>)>,
    is_awaited: bool,
}

impl Rollcall {
    pub(super) fn new(witness: Witness, name: Option<Arc<str>>) -> Self {
        Self { witness, name, questions: VecDeque::new(), answering: JoinSet::new() }
    }

    /// `asker` asks whether the write at `position` is here. One who asks again has heard too few.
    pub(super) fn asked(
        &mut self,
        asker: Origin,
        number: NonZeroU64,
        position: Position,
        wanted: NonZeroU64,
        limit: Duration,
    ) {
        let id = QuestionId { asker, number };
        if let Some(place) = self.questions.iter().position(|question| question.id == id) {
            if self.questions[place].is_awaited {
                return;
            }
            self.questions.remove(place);
        }
        if self.answering.len() >= 2 * MOST_QUESTIONS {
            // Those of forgotten questions would add up.
            return;
        }
        if self.questions.len() == MOST_QUESTIONS {
            self.questions.pop_front();
        }
        self.questions.push_back(Question {
            id,
            wanted: usize::try_from(wanted.get()).unwrap_or(usize::MAX),
            heard: HashSet::new(),
            is_awaited: true,
        });
        let witness = self.witness.clone();
        let jitter = JITTER.mul_f64(fastrand::f64());
        self.answering.spawn(async move {
            let applied = timeout(limit.min(LONGEST), witness.applied(Token::from(position))).await;
            sleep(jitter).await;
            (id, matches!(applied, Ok(Ok(()))))
        });
    }

    /// Another replica, known by its origin and name, has answered.
    pub(super) fn heard(
        &mut self,
        asker: Origin,
        number: NonZeroU64,
        replica: (Option<Origin>, Option<Arc<str>>),
    ) {
        let id = QuestionId { asker, number };
        let question = self.questions.iter_mut().find(|question| question.id == id);
        if let Some(question) = question.filter(|question| question.heard.len() < question.wanted) {
            question.heard.insert(replica);
        }
    }

    /// Waits for the next question that is due, and returns the answer to it, if it takes one still. For
    /// ever, if nobody asks.
    pub(super) async fn next(&mut self) -> Option<Request> {
        let Some(answered) = self.answering.join_next().await else {
            return std::future::pending().await;
        };
        let (id, is_applied) = answered.ok()?;
        let question = self.questions.iter_mut().find(|question| question.id == id)?;
        question.is_awaited = false;
        let has_enough = question.heard.len() >= question.wanted;
        (!is_applied || !has_enough).then(|| Request::Has {
            asker: id.asker,
            question: id.number,
            is_applied,
            name: self.name.clone(),
        })
    }
}
