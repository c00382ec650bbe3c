//! How fast the command's `tail` shows what Kafka holds, and whether it keeps up with what comes.

mod consumer;
mod feed;
mod program;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::rate;
use program::Tail;

pub(super) const LOG: &[&str] = &["tail_kafka", "tail_kafka_json"];
pub(super) const LIVE: &[&str] = &["tail_kafka_live"];

const PARTITIONS: u16 = 4;
/// What it has to keep up with.
const MESSAGES_A_SECOND: u64 = 200_000;
/// The log has what comes in so many rounds: a program takes a while to start, which counts.
const ROUNDS_IN_THE_LOG: u32 = 10;
/// So many rounds long is what comes in one.
const ROUNDS_OF_A_FEED: u32 = 10;
const MOST_MEMORY_MIB: f64 = 100.0;

/// What a log holds.
pub(super) fn log(bench: &Bench) -> Result<Vec<Figure>> {
    let (url, topic) = (bench.kafka()?.url(), new_topic());
    let messages = messages_in(bench.plan.round * ROUNDS_IN_THE_LOG);
    bench.run(feed::fill(url.to_owned(), topic.clone(), messages))?;
    program::check_that_each_is_shown_once(url, &topic, messages)?;
    let lines = whole(bench, LOG[0], &topic, messages, &["--from-beginning"])?;
    let objects = whole(bench, LOG[1], &topic, messages, &["--from-beginning", "--json"])?;
    Ok(vec![lines, objects])
}

/// The whole log, from the start of the program to its end.
fn whole(
    bench: &Bench,
    name: &str,
    topic: &str,
    messages: u64,
    arguments: &[&str],
) -> Result<Figure> {
    let url = bench.kafka()?.url();
    let mut most_memory = 0.0;
    let ours = |_| {
        let shown = Tail::start(url, topic, messages, arguments)?.ended()?;
        shown.is_all_of(messages)?;
        most_memory = shown.memory_mib.max(most_memory);
        Ok(rate(messages, shown.took))
    };
    let raw = |_| consumer::count(url, topic, messages);
    let rounds = bench.plan.interleave(ours, raw)?;
    let figure = Figure::of_rounds(name, "msg/s", &rounds, Ratio::OursToRaw);
    let note = format!(
        "{messages} messages of 256 bytes in {PARTITIONS} partitions, from the start of the program to its end"
    );
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let goal = Goal::OursAtLeast(MESSAGES_A_SECOND as f64);
    Ok(with_memory(figure.with_goal(goal), most_memory, &note))
}

/// What comes at a steady rate, from its first message until the last one is shown.
pub(super) fn live(bench: &Bench) -> Result<Vec<Figure>> {
    let (url, topic) = (bench.kafka()?.url(), new_topic());
    bench.run(feed::fill(url.to_owned(), topic.clone(), 1))?;
    let mut most_memory = 0.0;
    let mut furthest_behind = Duration::ZERO;
    let mut lost = 0;
    let fed = |round: Duration| {
        let messages = messages_in(round * ROUNDS_OF_A_FEED);
        bench.run(feed::steady(url.to_owned(), topic.clone(), messages, MESSAGES_A_SECOND))?;
        Ok::<_, anyhow::Error>(())
    };
    let ours = |round: Duration| {
        let messages = messages_in(round * ROUNDS_OF_A_FEED);
        let tail = Tail::start(url, &topic, messages, &[])?;
        tail.is_following()?;
        let began = Instant::now();
        fed(round)?;
        let fed_in = began.elapsed();
        let shown = tail.ended()?;
        lost += messages.saturating_sub(shown.messages()?);
        let took = began.elapsed();
        furthest_behind = furthest_behind.max(took.saturating_sub(fed_in));
        most_memory = shown.memory_mib.max(most_memory);
        Ok(rate(messages, took))
    };
    let raw = |round: Duration| {
        let messages = messages_in(round * ROUNDS_OF_A_FEED);
        let counting = consumer::Counting::from_now(url, &topic, messages)?;
        let began = Instant::now();
        fed(round)?;
        counting.ended()?;
        Ok(rate(messages, began.elapsed()))
    };
    let rounds = bench.plan.interleave(ours, raw)?;
    let figure = Figure::of_rounds(LIVE[0], "msg/s", &rounds, Ratio::OursToRaw);
    let note = format!(
        "{MESSAGES_A_SECOND} messages of 256 bytes a second for {:?}, published by the library from this \
         process, the broker on the same machine; the program ended at most {} ms after the last answer to \
         the publisher",
        bench.plan.round * ROUNDS_OF_A_FEED,
        furthest_behind.as_millis()
    );
    let figure = figure.requiring(lost == 0, format!("no message lost, not {lost}"));
    Ok(vec![with_memory(figure.with_goal(Goal::RatioAtLeast(0.95)), most_memory, &note)])
}

fn with_memory(figure: Figure, most_mib: f64, note: &str) -> Figure {
    let note = format!(
        "{note}; shown to /dev/null; at most {most_mib:.1} MiB of memory were resident; raw is a \
         BaseConsumer that counts"
    );
    let what = format!("less than {MOST_MEMORY_MIB} MiB of memory");
    figure.requiring(most_mib < MOST_MEMORY_MIB, what).with_note(note)
}

/// Nobody wrote to it before, also where the broker is not of this run.
fn new_topic() -> String {
    format!("bench.tail.{:016x}", rand::random::<u64>())
}

/// How many come in `time`.
fn messages_in(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX) * MESSAGES_A_SECOND / 1000
}
