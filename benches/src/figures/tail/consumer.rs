//! The raw client, which counts the same messages.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rdkafka::consumer::BaseConsumer;

use crate::raw::kafka::{self as raw, Start};
use crate::rounds::rate;

const LIMIT: Duration = Duration::from_secs(30);

/// Counts all that the topic holds. Messages a second.
pub(super) fn count(url: &str, topic: &str, messages: u64) -> Result<f64> {
    let began = Instant::now();
    let (consumer, _) = raw::consumer(url, topic, Start::Beginning)?;
    poll(&consumer, messages)?;
    Ok(rate(messages, began.elapsed()))
}

/// A consumer that counts what comes, in a thread of its own.
pub(super) struct Counting(JoinHandle<Result<()>>);

impl Counting {
    /// Counts from now on.
    pub(super) fn from_now(url: &str, topic: &str, messages: u64) -> Result<Self> {
        let (consumer, _) = raw::consumer(url, topic, Start::End)?;
        Ok(Self(std::thread::spawn(move || poll(&consumer, messages))))
    }

    /// Waits until all have come.
    pub(super) fn ended(self) -> Result<()> {
        self.0.join().unwrap_or_else(|_| bail!("the raw consumer panicked"))
    }
}

fn poll(consumer: &BaseConsumer, messages: u64) -> Result<()> {
    let mut count = 0;
    while count < messages {
        match consumer.poll(LIMIT) {
            Some(record) => drop(record?),
            None => bail!("nothing came for {LIMIT:?} after {count} of {messages} messages"),
        }
        count += 1;
    }
    Ok(())
}
