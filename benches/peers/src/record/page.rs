//! The page with the table.

use std::fmt::Write as _;

use super::{Peer, Record};
use crate::database::VALUE_BYTES;
use crate::figure::{Figure, Spread, number};
use crate::measure::{HEALING, MANY_READERS, READERS, WRITES};

const HEAD: &str = "# Beside its peers

`make peers` writes this page, [the table](peers.csv) and the plots. Each peer keeps the local caches of \
several instances right over the same Redis server, set up as its own pages recommend it for values that \
are read much and must be fresh everywhere; how, is said below. They run in turns, round after round. Each \
cell has the median of the rounds, and in brackets the least and the most. **Less is better in every row** but the last; \
the best is bold, and the last column says who is ahead, and by how much of whom comes next, or of ours.
";

/// All of it.
pub(super) fn text(record: &Record, measured: &str, machine: &str) -> String {
    let versions = record.versions();
    let mut text =
        format!("{HEAD}\nMeasured {measured} UTC on {machine}. Versions: {versions}.\n\n");
    text += &table(record);
    for (file, title, _) in super::plot::PLOTS {
        let _ = write!(text, "\n![{title}](./{file})\n");
    }
    text += &measuring();
    text += &wire(record);
    text += "\n## How each is set up\n\n";
    for Peer { about, .. } in &record.peers {
        let _ = writeln!(text, "- **{}**: {}.", about.name, about.setup);
    }
    text += "\n## What a reader says of a loss\n\nIn brackets, what one said after the last outage.\n\n";
    for Peer { about, told, .. } in &record.peers {
        let _ = writeln!(text, "- **{}**: {} ({told}).", about.name, about.loss);
    }
    text + FUSION_CACHE
}

/// The figures, one a line.
pub(super) fn table(record: &Record) -> String {
    let mut text = "| figure |".to_owned();
    for peer in &record.peers {
        let _ = write!(text, " {} |", peer.about.name);
    }
    text += " ahead |\n|---|";
    text += &"---|".repeat(record.peers.len() + 1);
    text.push('\n');
    for figure in Figure::ALL {
        let _ = write!(text, "| {} |", figure.title());
        for peer in &record.peers {
            let cell = peer.spread(figure).map(|spread| {
                let cell = cell(spread, figure.unit());
                if record.is_ahead(figure, spread) { bold(&cell) } else { cell }
            });
            let _ = write!(text, " {} |", cell.as_deref().unwrap_or("-"));
        }
        let _ = writeln!(text, " {} |", ahead(record, figure));
    }
    text
}

fn cell(Spread { median, least, most }: Spread, unit: &str) -> String {
    let range = format!(" ({}-{})", number(least), number(most));
    let range = if number(least) == number(most) { String::new() } else { range };
    format!("{} {unit}{range}", number(median))
}

/// Those cells begin with the number.
fn bold(cell: &str) -> String {
    let (number, rest) = cell.split_once(' ').unwrap_or((cell, ""));
    format!("**{number}** {rest}")
}

/// Who is, and by how much.
fn ahead(record: &Record, figure: Figure) -> String {
    let of = |peer: &Peer| Some((peer.about.name, peer.spread(figure)?.median));
    let mut medians: Vec<(&str, f64)> = record.peers.iter().filter_map(of).collect();
    let Some(&ours) = medians.first().filter(|_| figure.is_ranked()) else {
        return "-".to_owned();
    };
    medians.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (best, least) = medians[0];
    let ties: Vec<&str> =
        medians.iter().filter(|(_, median)| *median <= least).map(|(name, _)| *name).collect();
    if ties.len() > 1 {
        return format!("equal: {}", ties.join(", "));
    }
    let (next, more) =
        if best == ours.0 { medians.get(1).map_or(ours, |next| *next) } else { ours };
    if least > 0.0 {
        format!("{best}; {next} has {:.2} times as much", more / least)
    } else {
        best.to_owned()
    }
}

fn measuring() -> String {
    format!(
        "
## What is measured

- All instances live in one process with two worker threads, and the server on the same machine. Values \
have {VALUE_BYTES} bytes, keys 12, and there are {READERS} readers and a writer. Every reader has read \
every key before.
- *Propagation*: 500 writes a second, from a thread of its own. From the call of the write, before which \
the row is in the database, until a read on another instance returns the new value: all readers are asked \
again and again. For those that only invalidate, that includes the fetch. A write that is not seen within \
a second counts as a second.
- *Call of a write* and *CPU*: the same rate, without rows and without reads; the thread does nothing else \
than to write and to wait for the time to do so. hydracache's call only leaves a message for the background, \
so that its CPU time says more.
- *Read of what is there*: CPU time, on one thread.
- *Wire*: bytes that the server received and sent (`INFO stats`), each write followed by a read on every \
reader. *Rows in another database*: what the cache itself sends, which is all that goes over Redis where \
rows are kept elsewhere; loads from the database are counted, as if it were Redis. *Rows in Redis*: the \
database is Redis, so that a peer whose entry in Redis can be the row needs no other one; hydratecache and \
hydracache also write the row. *At rest*: nobody reads or writes, for 10 s.
- *After a kill*: {WRITES} keys are written once each, 500 a second. The server is killed with SIGKILL \
amid that, and started again a second later with all that it had acknowledged (`appendonly yes`). The rows \
are in a database that works on. A write that the library refuses is not tried again; hydracache refuses none, because it has \
sent none yet when its call returns. {} s after the new \
start every reader is asked for every key, and compared with the database: that many are wrong or missing. \
*Acknowledged* are those whose write the library had called done, so that not even the writer knows.
",
        HEALING.as_secs()
    )
}

/// What a fleet of another size would see.
fn wire(record: &Record) -> String {
    let mut text = format!("\n## What takes the bytes\n\n{WIRE}");
    for peer in &record.peers {
        let few = peer.spread(Figure::WireRowsElsewhere);
        let many = peer.spread(Figure::WireRowsElsewhere16);
        let Some((few, many)) = few.zip(many) else { continue };
        let each = (many.median - few.median) / MORE_READERS;
        let _ = write!(text, " {}: {each:.0} bytes;", peer.about.name);
    }
    text.trim_end_matches(';').to_owned() + ".\n"
}

/// Of the larger fleet.
#[allow(clippy::cast_precision_loss, reason = "a handful")]
const MORE_READERS: f64 = (MANY_READERS - READERS) as f64;

const WIRE: &str = "\
A message of ours has 147 bytes here: the value with 100, the key with 12, the publisher and the version with 10 \
each, and 15 for the rest; Pub/Sub puts 39 around it. It goes to the server once, and \
to every reader once. With client-side caching the `SET` is the only message to the server, and every reader has \
an invalidation and asks for TTL and value, which makes 222 bytes. So where the rows are in Redis anyway ours has \
one more copy of the value on the wire, which it earns back with the sixth reader. Each further reader adds:";

const FUSION_CACHE: &str = "
## FusionCache, quoted

FusionCache is for .NET and not run here. We found no figures of its own for the propagation of a write. Its \
[backplane](https://github.com/ZiggyCreatures/FusionCache/blob/main/docs/Backplane.md) sends a notification, at \
which other nodes \"evict the entry\" and take the new one from the second level at the next read: a read after a \
write pays for a fetch, as with the invalidating peers above. After an outage its \
[auto-recovery](https://github.com/ZiggyCreatures/FusionCache/blob/main/docs/AutoRecovery.md) sends again what a \
node could not send. What a hit in memory costs was measured by \
[CacheTower](https://github.com/TurnerSoftware/CacheTower/blob/main/docs/Comparison.md), a competitor: 295.7 ns \
(`FusionCache_MemoryProvider`, BenchmarkDotNet 0.13.1, .NET 6, Core i7-6700HQ). Another machine and another \
runtime: it is no row of the table.
";

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[test]
    fn the_table_says_who_is_ahead() {
        let table = table(&record());
        for line in [
            "| figure | ours | theirs | ahead |\n|---|---|---|---|\n",
            "| read of what is there | **60** ns (50-70) | 120 ns | ours; theirs has 2.00 times as much |",
            "| **3** bytes/s | theirs; ours has 3.00 times as much |",
            "| **0** entries | **0** entries | equal: ours, theirs |",
        ] {
            assert!(table.contains(line), "{line} is missing in\n{table}");
        }
    }
}
