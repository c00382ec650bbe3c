//! The one owner of what the page shows and does: the replicas, their links, the broker.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::broker::Broker;
use super::journal::Journal;
use super::link::{Harm, Link};
use super::seat::{Seat, Seen, Standing, Topics};
use super::snapshot::{Fleet, Quantiles, Snapshot, Tile, Totals, Writing};
use super::table::Table;
use super::tally::histogram;
use super::writer::Output;

/// How often the page is told what there is: what changes more often is shown with the next.
const TELL_INTERVAL: Duration = Duration::from_millis(50);

/// Propagation and rates are for people to read: they are taken at every fifth snapshot.
const FIGURES_EVERY: u64 = 5;

/// Rows a second at the beginning: slow enough to read along.
const FIRST_RATE: u32 = 10;

/// The highest rate of the writer, in rows a second.
const MAX_RATE: u32 = 5000;

/// What a user of the page can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "target", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Action {
    /// Rows a second; 0 pauses.
    Writer { rate: u32 },
    /// One link: 0 is the writer's, the others are those of the replicas.
    Link { number: usize, cut: bool, slow: bool },
    /// All links.
    Links { cut: bool, slow: bool },
    /// A replica.
    Replica { number: usize, lives: bool },
    /// The broker.
    Broker { lives: bool },
}

/// An action, and where to say whether it could be done.
pub(super) type Asked = (Action, oneshot::Sender<Result<(), String>>);

/// Everything that the page shows.
pub(super) struct Model {
    pub(super) table: Table,
    pub(super) topics: Topics,
    pub(super) broker: Broker,
    pub(super) writer_link: Link,
    pub(super) output: Output,
    pub(super) rate: watch::Sender<u32>,
    /// The writer was told to write, by us or by a user.
    pub(super) is_begun: bool,
    pub(super) seats: Vec<Seat>,
    pub(super) journal: Journal,
    /// Of replicas that were killed.
    pub(super) retired: Totals,
    pub(super) figures: Figures,
}

/// What is taken less often than all else.
#[derive(Default)]
pub(super) struct Figures {
    fleet: Quantiles,
    replicas: Vec<Quantiles>,
    per_second: u64,
    /// How many rows had been written, and when, up to a second ago.
    written: std::collections::VecDeque<(Instant, u64)>,
}

impl Model {
    /// Does what is asked for, and tells what there is, until this future is dropped.
    pub(super) async fn run(
        mut self,
        mut asked: mpsc::Receiver<Asked>,
        tell: watch::Sender<Bytes>,
    ) -> anyhow::Result<ExitCode> {
        let mut pace = interval(TELL_INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut snapshots: u64 = 0;
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    if snapshots.is_multiple_of(FIGURES_EVERY) {
                        self.take_figures();
                    }
                    snapshots += 1;
                    self.begin_when_filled();
                    tell.send_replace(serde_json::to_vec(&self.snapshot())?.into());
                }
                Some((action, answer)) = asked.recv() => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.act(action));
                }
                change = self.broker.changed() => self.broker_changed(&change),
            }
        }
    }

    /// The writer begins when all replicas are filled, so that each hears every write.
    fn begin_when_filled(&mut self) {
        let is_filled = |seat: &Seat| seat.look().standing == Standing::Fresh;
        if !self.is_begun && self.seats.iter().all(is_filled) {
            self.is_begun = true;
            self.rate.send_replace(FIRST_RATE);
        }
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Writer { rate } => self.set_rate(rate),
            Action::Link { number, cut, slow } => self.harm(number, Harm { cut, slow }),
            Action::Links { cut, slow } => self.harm_all(Harm { cut, slow }),
            Action::Replica { number, lives } => self.set_replica(number, lives),
            Action::Broker { lives } => self.set_broker(lives),
        }
    }

    fn set_rate(&mut self, rate: u32) -> Result<(), String> {
        if rate > MAX_RATE {
            return Err(format!("{rate} rows a second; the most is {MAX_RATE}"));
        }
        self.is_begun = true;
        if self.rate.send_replace(rate) != rate {
            self.journal.note(match rate {
                0 => "the writer pauses".to_owned(),
                _ => format!("the writer writes {rate} rows a second"),
            });
        }
        Ok(())
    }

    fn harm(&mut self, number: usize, harm: Harm) -> Result<(), String> {
        let replicas = self.seats.len();
        let link = match number {
            0 => &mut self.writer_link,
            _ => &mut self.seats.get_mut(number - 1).ok_or_else(|| unknown(number, replicas))?.link,
        };
        check(link)?;
        let before = link.harm();
        link.set(harm);
        let whose = if number == 0 { "the writer".to_owned() } else { format!("replica {number}") };
        for what in changes(before, harm) {
            self.journal.note(format!("the link of {whose} {what}"));
        }
        Ok(())
    }

    fn harm_all(&mut self, harm: Harm) -> Result<(), String> {
        check(&self.writer_link)?;
        let seats = self.seats.iter_mut().map(|seat| &mut seat.link);
        let mut told = Vec::new();
        for link in seats.chain([&mut self.writer_link]) {
            for what in changes(link.harm(), harm) {
                if !told.contains(&what) {
                    told.push(what);
                }
            }
            link.set(harm);
        }
        for what in told {
            self.journal.note(format!("every link {what}"));
        }
        Ok(())
    }

    fn set_replica(&mut self, number: usize, lives: bool) -> Result<(), String> {
        let replicas = self.seats.len();
        let seat = number.checked_sub(1).and_then(|index| self.seats.get_mut(index));
        let seat = seat.ok_or_else(|| unknown(number, replicas))?;
        if lives && seat.look().standing == Standing::Dead {
            self.journal.note(format!("replica {number} is started"));
            seat.start(number, &self.table, &self.topics);
        } else if !lives && let Some((tally, stats)) = seat.kill() {
            self.retired.add(tally.counts(), &stats);
            self.journal.note(format!("replica {number} is killed"));
        }
        Ok(())
    }

    fn set_broker(&mut self, lives: bool) -> Result<(), String> {
        let name = self.broker.name();
        if self.broker.set(lives)? {
            let what = if lives { "is being started" } else { "is being killed" };
            self.journal.note(format!("{name} {what}"));
        }
        Ok(())
    }

    fn broker_changed(&mut self, change: &anyhow::Result<()>) {
        let (name, is_up) = (self.broker.name(), self.broker.is_up());
        match change {
            Ok(()) if is_up => self.journal.note(format!("{name} is up")),
            Ok(()) => self.journal.note(format!("{name} is dead")),
            Err(error) => self.journal.note(format!("{name}: {error:#}")),
        }
        if self.broker.is_in_process() {
            let seats = self.seats.iter_mut().map(|seat| &mut seat.link);
            let links = seats.chain([&mut self.writer_link]);
            links.for_each(|link| link.set_broker_down(!is_up));
        }
    }

    fn take_figures(&mut self) {
        let (mut all, mut own) = (histogram(), histogram());
        self.figures.replicas.clear();
        for seat in &self.seats {
            own.reset();
            if let Some(tally) = seat.look().tally {
                tally.add_propagation_to(&mut own);
            }
            all.add(&own).expect("all have the same bounds");
            self.figures.replicas.push(Quantiles::of(&own));
        }
        self.figures.fleet = Quantiles::of(&all);
        self.figures.count(self.output.doing().written);
    }

    fn snapshot(&mut self) -> Snapshot {
        let looks: Vec<Seen<'_>> = self.seats.iter().map(Seat::look).collect();
        let standings: Vec<Standing> = looks.iter().map(|seen| seen.standing).collect();
        self.journal.compare(&standings);
        let quantiles = self.figures.replicas.iter().copied();
        let tiles = (1..).zip(&looks).zip(&self.seats).zip(quantiles);
        let replicas = tiles.map(|(((number, seen), seat), propagation)| {
            Tile::of(number, seen, seat.link.harm(), propagation)
        });
        let doing = self.output.doing().clone();
        let per_second = self.figures.per_second;
        Snapshot {
            seconds: self.journal.age().as_secs(),
            rows: self.table.keys().len(),
            writer: Writing::of(&doing, *self.rate.borrow(), per_second, self.writer_link.harm()),
            broker: self.broker.state(self.writer_link.road().can_fail()),
            fleet: Fleet {
                propagation: self.figures.fleet,
                totals: self.totals(&looks),
                database: self.table.asked(),
            },
            replicas: replicas.collect(),
            messages: doing.latest.into(),
            events: self.journal.entries(),
        }
    }

    fn totals(&self, looks: &[Seen<'_>]) -> Totals {
        let mut totals = self.retired;
        for seen in looks {
            let counts = seen.tally.map(super::tally::Tally::counts).unwrap_or_default();
            totals.add(counts, &seen.stats);
        }
        totals
    }
}

impl Figures {
    const WINDOW: Duration = Duration::from_secs(1);

    /// The rate is that of the last second, or of as much of it as there was.
    fn count(&mut self, written: u64) {
        let now = Instant::now();
        self.written.push_back((now, written));
        while self.written.get(1).is_some_and(|(at, _)| now - *at >= Self::WINDOW) {
            self.written.pop_front();
        }
        let Some(&(since, before)) = self.written.front() else {
            return;
        };
        let millis = (now - since).as_millis().max(1);
        let per_second = u128::from(written - before) * 1000 / millis;
        self.per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
    }
}

fn unknown(number: usize, replicas: usize) -> String {
    format!("there is no replica {number}; they are 1 to {replicas}")
}

fn check(link: &Link) -> Result<(), String> {
    if link.road().can_fail() {
        return Ok(());
    }
    Err("links to this broker cannot be harmed: they lead straight to it".to_owned())
}

fn changes(before: Harm, after: Harm) -> Vec<&'static str> {
    let ways = [
        (before.cut, after.cut, "is cut", "is healed"),
        (before.slow, after.slow, "is slow", "is as quick as before"),
    ];
    let changed = ways.into_iter().filter(|(before, after, ..)| before != after);
    changed.map(|(_, after, worse, better)| if after { worse } else { better }).collect()
}
