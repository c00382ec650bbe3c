//! How a replica that is to be filled comes to its copy, or to the decision to read the source. A state
//! machine without I/O.
//!
//! All who look for a copy hear one another: one question, one offer and one sign of life serve them
//! all, as in `cache/repair.rs`.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

use super::comparing::Comparing;
use super::damage::Losses;
use super::digest::Level;
use super::taking::Taking;
use super::{chunk, digest, random_origin};
use crate::{Origin, Positions, Request};

/// Nobody asks later than this after the start, so that of many that start together some ask.
const FIRST_QUESTION: Duration = Duration::from_millis(100);

/// How long somebody has to offer a copy, at least; as long again and more at random, so that of many
/// that begin together one is first to read the source.
const LOOKING: Duration = Duration::from_millis(400);

/// The random part.
const JITTER: Duration = Duration::from_millis(700);

/// How long somebody has to offer a copy after all to who claims the source.
const CLAIMING: Duration = Duration::from_millis(250);

/// How long a replica that is reading, or is busy with others, counts as alive without a sign.
const SILENCE: Duration = Duration::from_secs(5);

/// How often a copy is asked for, by anyone.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The longest wait for one reader of the source. After that, and half as long again at random, a second
/// one may read it beside the first; never more.
const LONGEST: Duration = Duration::from_secs(300);

/// How often a copy may end before it is complete.
const MOST_HALTS: usize = 8;

/// How many questions are remembered.
const QUESTIONS: usize = 64;

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Purpose {
    /// All of it is taken.
    Fill,
    /// A digest of it is compared with what is there, and what differs is taken.
    Repair,
}

impl Purpose {
    /// The form of what is sent for that.
    pub(super) fn form(self) -> NonZeroU64 {
        match self {
            Self::Fill => chunk::FORM,
            Self::Repair => digest::FORM,
        }
    }

    pub(super) fn of_form(form: NonZeroU64) -> Option<Self> {
        [Self::Fill, Self::Repair].into_iter().find(|purpose| purpose.form() == form)
    }

    fn question(self, question: Origin, lost: Vec<Positions>) -> Request {
        match self {
            Self::Fill => Request::Wanted { question, lost },
            Self::Repair => Request::Compare { question, lost },
        }
    }
}

/// Where the search for a copy stands.
pub(super) struct Asking {
    me: Origin,
    purpose: Purpose,
    losses: Losses,
    state: State,
    /// Questions that were heard since this began and that ask for what this replica wants, its own among
    /// them: whoever answers one of them asks for its proof later than this replica began to listen.
    questions: VecDeque<Origin>,
    /// When the next question is due, unless somebody else asks.
    asks_at: Instant,
    /// Who is about to have a copy, and until when that is believed.
    others: Vec<(Origin, Instant)>,
    patient_until: Instant,
    /// Whoever has no source claims none.
    has_source: bool,
    halts: usize,
}

enum State {
    /// Somebody may offer a copy.
    Looking { until: Instant },
    /// The source is about to be read, unless somebody came first. All hear claims in the same order, so who
    /// hears its own before others' is the first.
    Claimed { since: Instant, is_first: bool },
    /// Somebody sends.
    Taking(Taking),
    /// Somebody sends what is to be compared.
    Comparing(Comparing),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Say(Request),
    /// Chunks of this copy are to be listened to.
    Listen(Origin),
    ReadTheSource,
}

impl Asking {
    /// Begins to look, as `me`.
    pub(super) fn begin(me: Origin, purpose: Purpose, now: Instant) -> Self {
        Self {
            me,
            purpose,
            losses: Losses::default(),
            state: looking(now),
            questions: VecDeque::new(),
            asks_at: now + random(FIRST_QUESTION),
            others: Vec::new(),
            patient_until: now + LONGEST + random(LONGEST / 2),
            has_source: true,
            halts: 0,
        }
    }

    /// The same for somebody to whom [`Step::ReadTheSource`] means that there is no copy.
    pub(super) fn without_source(self) -> Self {
        Self { has_source: false, ..self }
    }

    /// The same for somebody who was told of losses, which some others may not have been.
    pub(super) fn with_losses(self, losses: Losses) -> Self {
        Self { losses, ..self }
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The copy that is being taken.
    pub(super) fn taking(&mut self) -> Option<&mut Taking> {
        if let State::Taking(taking) = &mut self.state { Some(taking) } else { None }
    }

    /// The digest that is being compared.
    pub(super) fn comparing(&mut self) -> Option<&mut Comparing> {
        if let State::Comparing(comparing) = &mut self.state { Some(comparing) } else { None }
    }

    /// Whether somebody sends.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.state, State::Taking(_) | State::Comparing(_))
    }

    /// When [`due`](Self::due) has something to say.
    pub(super) fn next_due(&self) -> Instant {
        match &self.state {
            State::Looking { until } => (*until).min(self.asks_at),
            State::Claimed { since, is_first } => reads_at(*since, *is_first).min(self.asks_at),
            State::Taking(taking) => taking.next_due(),
            State::Comparing(comparing) => comparing.next_due(),
        }
    }

    /// Another replica, or this one, said something. `is_usable`: what is offered can be read here.
    pub(super) fn heard(&mut self, request: &Request, is_usable: bool, now: Instant) -> Step {
        match (request, &mut self.state) {
            (Request::Wanted { question, lost }, _)
                if self.purpose == Purpose::Fill && self.losses.are_named_in(lost) =>
            {
                self.asked(*question, now);
            }
            (Request::Compare { question, lost }, _)
                if self.purpose == Purpose::Repair && self.losses.open_are_named_in(lost) =>
            {
                self.asked(*question, now);
            }
            (Request::Wait(by), _) if *by != self.me => self.waits(*by, now),
            (Request::Wait(_), State::Claimed { is_first, .. }) => *is_first = true,
            (Request::Take { copy, first, last }, State::Taking(taking))
                if *copy == taking.copy() =>
            {
                taking.heard(first.get(), last.get(), now);
            }
            (Request::Parts { digest, level, numbers }, State::Comparing(comparing))
                if *digest == comparing.digest() =>
            {
                if let Some(level) = Level::of(level.get()) {
                    comparing.heard(level, numbers, now);
                }
            }
            (Request::Withdrawn(copy), State::Taking(taking)) if *copy == taking.copy() => {
                return self.halted(now);
            }
            (Request::Withdrawn(copy), State::Comparing(comparing))
                if *copy == comparing.digest() =>
            {
                return self.halted(now);
            }
            (Request::Offered { .. }, State::Taking(_) | State::Comparing(_)) => {}
            (Request::Offered { to, copy, .. }, _) if is_usable && self.questions.contains(to) => {
                self.state = match self.purpose {
                    Purpose::Fill => State::Taking(Taking::begin(*copy, now)),
                    Purpose::Repair => State::Comparing(Comparing::begin(*copy, now)),
                };
                return Step::Listen(*copy);
            }
            _ => {}
        }
        Step::Nothing
    }

    /// What is due at `now`.
    pub(super) fn due(&mut self, now: Instant) -> Step {
        match &mut self.state {
            State::Looking { .. } | State::Claimed { .. } if now >= self.asks_at => {
                let question = random_origin();
                self.asked(question, now);
                Step::Say(self.purpose.question(question, self.losses.named.clone()))
            }
            State::Looking { until } if now >= *until => self.decide(now),
            State::Claimed { since, is_first } if now >= reads_at(*since, *is_first) => {
                Step::ReadTheSource
            }
            State::Taking(taking) if taking.is_over(now) => self.halted(now),
            State::Taking(taking) => match taking.due(now) {
                Some((first, last)) => Step::Say(taken(taking.copy(), first, last)),
                None => Step::Nothing,
            },
            State::Comparing(comparing) if comparing.is_over(now) => self.halted(now),
            State::Comparing(comparing) => match comparing.due(now) {
                Some((level, numbers)) => Step::Say(parts(comparing.digest(), level, numbers)),
                None => Step::Nothing,
            },
            _ => Step::Nothing,
        }
    }

    /// Somebody asks: one answer is for all who heard that.
    fn asked(&mut self, question: Origin, now: Instant) {
        self.questions.push_back(question);
        if self.questions.len() > QUESTIONS {
            self.questions.pop_front();
        }
        self.asks_at = now + ASK_AGAIN + random(ASK_AGAIN);
    }

    fn waits(&mut self, by: Origin, now: Instant) {
        self.others.retain(|(other, until)| *other != by && now < *until);
        self.others.push((by, now + SILENCE));
        if matches!(self.state, State::Claimed { is_first: false, .. }) && !self.has_turn(now) {
            self.state = looking(now);
        }
    }

    /// Whether the source may be read by one more.
    fn has_turn(&self, now: Instant) -> bool {
        let others = self.others.iter().filter(|(_, until)| now < *until).count();
        others < if now < self.patient_until { 1 } else { 2 }
    }

    /// Nobody offered a copy.
    fn decide(&mut self, now: Instant) -> Step {
        if self.has_turn(now) {
            if !self.has_source {
                return Step::ReadTheSource;
            }
            self.state = State::Claimed { since: now, is_first: false };
            // Once more: whoever had a gap when it was asked may be whole again.
            self.asks_at = now;
            return Step::Say(Request::Wait(self.me));
        }
        self.state = looking(now);
        Step::Nothing
    }

    /// The copy ended before it was complete.
    fn halted(&mut self, now: Instant) -> Step {
        self.halts += 1;
        if self.halts >= MOST_HALTS {
            return Step::ReadTheSource;
        }
        self.state = looking(now);
        self.asks_at = now + random(FIRST_QUESTION);
        Step::Nothing
    }
}

/// When the source is read, if nobody objects. A claim that does not come back was lost, or the link is.
fn reads_at(claimed_at: Instant, is_first: bool) -> Instant {
    claimed_at + if is_first { CLAIMING } else { SILENCE }
}

fn looking(now: Instant) -> State {
    State::Looking { until: now + LOOKING + random(JITTER) }
}

fn taken(copy: Origin, first: u64, last: u64) -> Request {
    let number = |number: u64| NonZeroU64::new(number).expect("chunks are counted from 1");
    Request::Take { copy, first: number(first), last: number(last) }
}

fn parts(digest: Origin, level: Level, numbers: Vec<u64>) -> Request {
    let level = NonZeroU64::new(level as u64).expect("levels are counted from 1");
    Request::Parts { digest, level, numbers }
}

/// A random part of `most`.
pub(super) fn random(most: Duration) -> Duration {
    most.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::warm::Damage;
    use crate::cache::warm::chunk::FORM;
    use crate::cache::warm::numbers::id;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun() -> (Asking, Instant) {
        let now = Instant::now();
        (Asking::begin(id(5), Purpose::Fill, now), now)
    }

    fn wanted(question: u64) -> Request {
        Request::Wanted { question: id(question), lost: Vec::new() }
    }

    fn offered(to: u64, copy: u64) -> Request {
        Request::Offered { to: id(to), copy: id(copy), form: FORM, content_type: None }
    }

    /// What it does until `until`, if it hears nothing.
    fn left_alone(asking: &mut Asking, until: Instant) -> Vec<(Instant, Step)> {
        let mut steps = Vec::new();
        while asking.next_due() <= until {
            let now = asking.next_due();
            let step = asking.due(now);
            if let Step::Say(said) = &step {
                // It hears itself as well.
                asking.heard(said, false, now);
            }
            let is_over = step == Step::ReadTheSource;
            steps.push((now, step));
            if is_over {
                break;
            }
        }
        steps
    }

    #[test]
    fn an_offer_is_taken_if_it_answers_a_question_that_was_heard() {
        let (mut asking, now) = begun();
        assert_eq!(asking.heard(&offered(7, 9), true, now), Step::Nothing, "asked before");
        asking.heard(&wanted(7), false, now);
        assert_eq!(asking.heard(&offered(7, 9), false, now), Step::Nothing, "not to be read here");
        assert_eq!(asking.heard(&offered(7, 9), true, now), Step::Listen(id(9)));
        assert_eq!(asking.heard(&offered(7, 8), true, now), Step::Nothing, "one is enough");
        let due = asking.next_due();
        assert!(
            matches!(asking.due(due), Step::Say(Request::Take { first, .. }) if first.get() == 1)
        );
    }

    #[test]
    fn an_answer_to_somebody_who_lost_less_is_no_answer() {
        let now = Instant::now();
        let lost = |first, last| vec![Positions::new(id(1), first, last).expect("in order")];
        let losses = || {
            let mut damage = Damage::default();
            damage.lost(lost(4, 6));
            damage.to_be_covered(&[])
        };
        let mut asking = Asking::begin(id(5), Purpose::Repair, now).with_losses(losses());
        for (number, lost) in [(7, vec![]), (8, lost(5, 6)), (9, lost(4, 9))] {
            let question = Request::Compare { question: id(number), lost };
            asking.heard(&question, false, now);
            let step = asking.heard(&offered(number, 1), true, now);
            assert_eq!(step == Step::Listen(id(1)), number == 9, "{number}");
        }
        let (mut asking, now) = begun();
        asking = asking.with_losses(losses());
        let due = asking.asks_at;
        let said = asking.due(due);
        assert!(matches!(said, Step::Say(Request::Wanted { lost: it, .. }) if it == lost(4, 6)));
        assert!(due >= now);
    }

    #[test]
    fn nobody_asks_again_who_heard_another_one_ask() {
        let (mut asking, mut now) = begun();
        for question in 100..120 {
            asking.heard(&wanted(question), false, now);
            asking.heard(&Request::Wait(id(4)), false, now);
            let steps = left_alone(&mut asking, now + SECOND);
            assert!(steps.iter().all(|(_, step)| *step == Step::Nothing), "{steps:?}");
            now += SECOND;
        }
    }

    #[test]
    fn with_nobody_there_the_source_is_read_after_a_claim() {
        let (mut asking, now) = begun();
        let steps = left_alone(&mut asking, now + 3 * SECOND);
        let [(_, first), (_, claim), (_, again), (_, Step::ReadTheSource)] = &steps[..] else {
            panic!("{steps:?}");
        };
        for question in [first, again] {
            assert!(matches!(question, Step::Say(Request::Wanted { .. })), "{steps:?}");
        }
        assert_eq!(*claim, Step::Say(Request::Wait(id(5))));
    }

    #[test]
    fn whoever_has_no_source_claims_none() {
        let (asking, now) = begun();
        let steps = left_alone(&mut asking.without_source(), now + 3 * SECOND);
        let [(_, Step::Say(Request::Wanted { .. })), rest @ .., (_, Step::ReadTheSource)] =
            &steps[..]
        else {
            panic!("{steps:?}");
        };
        let is_question = |step: &Step| matches!(step, Step::Say(Request::Wanted { .. }));
        assert!(rest.iter().all(|(_, step)| is_question(step)), "{rest:?}");
    }

    #[test]
    fn of_two_claims_the_one_that_is_heard_first_wins_however_late_that_is() {
        for (other, is_yielding) in [(4, true), (6, true), (4, false), (6, false)] {
            let (mut asking, _) = begun();
            let mut now = asking.next_due();
            while asking.due(now) != Step::Say(Request::Wait(id(5))) {
                now = asking.next_due();
            }
            now += 2 * SECOND;
            let mut claims = [other, 5];
            if !is_yielding {
                claims.reverse();
            }
            for claim in claims {
                asking.heard(&Request::Wait(id(claim)), false, now);
            }
            let steps = left_alone(&mut asking, now + SECOND);
            let reads = steps.iter().any(|(_, step)| *step == Step::ReadTheSource);
            assert_eq!(reads, !is_yielding);
        }
    }

    #[test]
    fn whoever_is_further_is_waited_for_as_long_as_it_lives_and_then_replaced() {
        let (mut asking, began) = begun();
        let mut now = began;
        while now < began + 100 * SECOND {
            asking.heard(&Request::Wait(id(4)), false, now);
            let steps = left_alone(&mut asking, now + SECOND);
            let is_question = |step: &Step| matches!(step, Step::Say(Request::Wanted { .. }));
            assert!(steps.iter().all(|(_, step)| is_question(step) || *step == Step::Nothing));
            now += SECOND;
        }
        let steps = left_alone(&mut asking, now + 10 * SECOND);
        assert_eq!(steps.last().map(|(_, step)| step), Some(&Step::ReadTheSource));
    }

    #[test]
    fn after_the_longest_wait_a_second_one_reads_and_no_third() {
        for (others, reads) in [(1, true), (2, false)] {
            let (mut asking, mut now) = begun();
            let end = now + 2 * LONGEST;
            let mut is_reading = false;
            while now < end && !is_reading {
                for other in 1..=others {
                    asking.heard(&Request::Wait(id(other)), false, now);
                }
                let steps = left_alone(&mut asking, now + SECOND);
                is_reading = steps.iter().any(|(_, step)| *step == Step::ReadTheSource);
                assert!(!is_reading || now >= end - 2 * LONGEST + LONGEST);
                now += SECOND;
            }
            assert_eq!(is_reading, reads, "beside {others}");
        }
    }

    #[test]
    fn a_copy_that_is_withdrawn_or_halts_is_begun_again_elsewhere_and_not_for_ever() {
        let (mut asking, mut now) = begun();
        let take = |asking: &mut Asking, now| {
            asking.heard(&wanted(7), false, now);
            assert_eq!(asking.heard(&offered(7, 9), true, now), Step::Listen(id(9)));
        };
        for round in 1..MOST_HALTS {
            take(&mut asking, now);
            if round % 2 == 0 {
                let step = asking.heard(&Request::Withdrawn(id(9)), false, now);
                assert_eq!(step, Step::Nothing);
            }
            while asking.taking().is_some() {
                now = asking.next_due();
                assert_ne!(asking.due(now), Step::ReadTheSource);
            }
        }
        take(&mut asking, now);
        let step = asking.heard(&Request::Withdrawn(id(9)), false, now);
        assert_eq!(step, Step::ReadTheSource);
    }
}
