//! One soak, from the start of the broker to the verdict.

use std::fmt;
use std::num::NonZeroU64;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use hydratecache::Topic;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::arena::{Arena, Breaker, Link};
use crate::faults::Faults;
use crate::options::{Kind, Options};
use crate::{reader, writer};
use hydratecache_sim::silence::{Verdict, excluded_rate};

/// What a soak saw.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    kind: Kind,
    seed: u64,
    kills: u64,
    acknowledged: u64,
    failed: u64,
    verdict: Verdict,
}

/// Soaks one transport.
///
/// # Errors
/// If the broker or a link cannot be made or brought back. A loss is no error: the report has it.
pub async fn soak(options: Options) -> Result<Report> {
    let Options { kind, time, seed, writers, readers } = options;
    let arena = Arena::start(kind, writers + readers).await?;
    let topic = format!("soak.{:016x}", rand::random::<u64>());
    let links = (0..writers + readers).map(|number| arena.link(seed ^ number as u64));
    let links: Vec<Link> = try_join_all(links).await?;
    let (writing, reading) = links.split_at(writers);
    let over = CancellationToken::new();
    let written = CancellationToken::new();

    // Every reader is ready before the first message is published.
    let mut listening = Vec::new();
    for link in reading {
        let (transport, topic) = (link.transport.clone(), Topic::new(&topic)?);
        let subscription = transport.subscribe(topic).await.context("subscribing")?;
        let listen = reader::listen(transport, subscription, written.clone());
        listening.push(AbortOnDropHandle::new(tokio::spawn(listen)));
    }
    let publishing: Vec<_> = (writing.iter().enumerate())
        .map(|(number, link)| {
            writer::write(link.transport.clone(), topic.clone(), number, over.clone())
        })
        .map(|write| AbortOnDropHandle::new(tokio::spawn(write)))
        .collect();

    let mut faults = Faults::of(seed);
    let breakers: Vec<&Breaker> = links.iter().map(|link| &link.breaker).collect();
    faults.happen(&arena, &breakers, time).await?;
    over.cancel();
    let publishers = try_join_all(publishing).await?.into_iter().collect::<Result<Vec<_>>>()?;
    written.cancel();
    let heard = try_join_all(listening).await?.into_iter().collect::<Result<Vec<_>>>()?;
    for link in &links {
        link.transport.close().await?;
    }

    let acknowledged = writer::acknowledged(&publishers);
    let verdicts = heard.iter().map(|heard| heard.judge(&acknowledged));
    Ok(Report {
        kind,
        seed,
        kills: faults.kills(),
        acknowledged: acknowledged.values().map(|sequences| sequences.len() as u64).sum(),
        failed: publishers.iter().map(|written| written.failed).sum(),
        verdict: verdicts.fold(Verdict::default(), Verdict::and),
    })
}

impl Report {
    /// What became of the messages, for all readers together.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How many publishes were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether the soak shows something, and shows nothing wrong: messages arrived through
    /// disruptions, and nothing was lost in silence.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.verdict.received > 0 && self.verdict.disruptions > 0
    }
}

impl fmt::Display for Report {
    /// One line. The bound is for disruptions: a loss is one in an outage, however many messages
    /// there were.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { received, missing, silent, disordered, rejected, gaps, disruptions } =
            self.verdict;
        write!(
            f,
            "soak: {} seed={} messages={received} kills={} disruptions={disruptions} gaps={gaps} \
             silent_losses={silent} bound=",
            self.kind, self.seed, self.kills
        )?;
        match NonZeroU64::new(disruptions) {
            Some(trials) if silent == 0 => write!(f, "{:.2e}", excluded_rate(trials))?,
            _ => f.write_str("none")?,
        }
        write!(
            f,
            " acknowledged={} failed={} missing={missing} disordered={disordered} \
             rejected={rejected}",
            self.acknowledged, self.failed
        )
    }
}
