//! The figures on record: a table, a page and plots.

#[path = "../../machine.rs"]
mod machine;
mod page;
mod plot;
mod setup;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use time::OffsetDateTime;

use crate::figure::{Figure, Spread};
use crate::measure::Values;
use crate::peer::About;

/// All that was measured of all peers.
#[derive(Debug)]
pub(crate) struct Record {
    peers: Vec<Peer>,
    server: String,
}

/// All that was measured of one.
#[derive(Debug)]
struct Peer {
    about: About,
    values: Values,
    told: String,
}

/// A line of the CSV.
#[derive(Debug, Serialize)]
struct Row<'a> {
    figure: &'a str,
    unit: &'a str,
    peer: &'a str,
    median: f64,
    least: f64,
    most: f64,
    rounds: usize,
    is_ahead: bool,
    measured: &'a str,
    machine: &'a str,
    versions: &'a str,
}

impl Record {
    /// Of peers, ours first, on that server.
    pub(crate) fn new(peers: impl IntoIterator<Item = About>, server: String) -> Self {
        let peer = |about| Peer { about, values: Vec::new(), told: String::new() };
        Self { peers: peers.into_iter().map(peer).collect(), server }
    }

    /// Adds what a round gave.
    pub(crate) fn add(&mut self, name: &str, values: &[(Figure, f64)]) {
        for peer in self.peers.iter_mut().filter(|peer| peer.about.name == name) {
            peer.values.extend(values.iter().copied());
        }
    }

    /// Adds what a reader said after an outage.
    pub(crate) fn tell(&mut self, name: &str, told: &str) {
        for peer in self.peers.iter_mut().filter(|peer| peer.about.name == name) {
            told.clone_into(&mut peer.told);
        }
    }

    /// Of all that runs.
    pub(crate) fn versions(&self) -> String {
        setup::versions(self.peers.iter().flat_map(|peer| peer.about.crates), &self.server)
    }

    /// In Markdown.
    pub(crate) fn table(&self) -> String {
        page::table(self)
    }

    /// Writes all of it into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let now = OffsetDateTime::now_utc();
        let measured = format!("{} {:02}:{:02}", now.date(), now.hour(), now.minute());
        let (machine, versions) = (machine::machine()?, self.versions());
        let mut table = csv::Writer::from_path(folder.join("peers.csv"))?;
        for (figure, peer, spread) in self.spreads() {
            table.serialize(Row {
                figure: figure.name(),
                unit: figure.unit(),
                peer: peer.about.name,
                median: spread.median,
                least: spread.least,
                most: spread.most,
                rounds: peer.values.iter().filter(|(of, _)| *of == figure).count(),
                is_ahead: self.is_ahead(figure, spread),
                measured: &measured,
                machine: &machine,
                versions: &versions,
            })?;
        }
        table.flush()?;
        let page = page::text(self, &measured, &machine);
        fs::write(folder.join("peers.md"), page).context("writing peers.md")?;
        plot::write(self, folder)
    }

    /// Every figure of every peer that has it, in the order of the table.
    fn spreads(&self) -> impl Iterator<Item = (Figure, &Peer, Spread)> {
        Figure::ALL.into_iter().flat_map(move |figure| {
            self.peers.iter().filter_map(move |peer| Some((figure, peer, peer.spread(figure)?)))
        })
    }

    /// Whether nobody has less, where less is better.
    fn is_ahead(&self, figure: Figure, spread: Spread) -> bool {
        let mut others = self.peers.iter().filter_map(|peer| peer.spread(figure));
        figure.is_ranked() && others.all(|other| spread.median <= other.median)
    }
}

impl Peer {
    fn spread(&self, figure: Figure) -> Option<Spread> {
        let of = self.values.iter().filter(|(of, _)| *of == figure);
        Spread::of(of.map(|(_, value)| *value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record() -> Record {
        let about = |name| About {
            name,
            crates: &["redis"],
            setup: "as it comes",
            loss: "nothing",
            stores_rows: false,
        };
        let mut record = Record::new([about("ours"), about("theirs")], "Redis 7".to_owned());
        record.add("ours", &[(Figure::Hit, 50.0), (Figure::WireAtRest, 9.0)]);
        record.add("ours", &[(Figure::Hit, 70.0), (Figure::Stale, 0.0)]);
        record.add("theirs", &[(Figure::Hit, 120.0), (Figure::WireAtRest, 3.0)]);
        record.add("theirs", &[(Figure::Stale, 0.0)]);
        record
    }

    #[test]
    fn whoever_has_the_least_is_ahead() {
        let record = record();
        let ahead = |figure: Figure| {
            let spreads = record.spreads().filter(|(of, ..)| *of == figure);
            let ahead = spreads.filter(|(_, _, spread)| record.is_ahead(figure, *spread));
            ahead.map(|(_, peer, _)| peer.about.name).collect::<Vec<_>>()
        };
        assert_eq!(ahead(Figure::Hit), ["ours"]);
        assert_eq!(ahead(Figure::WireAtRest), ["theirs"]);
        assert_eq!(ahead(Figure::Stale), ["ours", "theirs"]);
    }
}
