//! The figures, in groups that share their preparation.

mod allocations;
mod by_hand;
mod digest;
mod envelope;
mod fence;
mod fresh_read;
mod hydrated;
mod memory;
mod publish;
mod reads;
mod replay;
mod round_trip;
mod rows;
mod stale;
mod subscribe;
mod tail;
mod warm_start;

use anyhow::Result;

use crate::options::Bench;
use crate::report::Figure;

/// Figures that belong together for a reader.
#[derive(Debug)]
pub struct Chapter {
    /// In the name of its plot.
    pub name: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What is measured, in a paragraph.
    pub about: &'static str,
    /// What it has.
    pub groups: &'static [Group],
}

/// Figures that are measured together.
#[derive(Debug)]
pub struct Group {
    /// What they are called.
    pub names: &'static [&'static str],
    /// Measures them.
    pub measure: fn(&Bench) -> Result<Vec<Figure>>,
}

/// Every figure.
pub const CHAPTERS: &[Chapter] = &[
    Chapter {
        name: "publish",
        title: "Publishing",
        about: "Messages a second that get to the broker, with nobody subscribed. Values have 256 bytes, and \
                neither side encodes. Ours gives each message an envelope, a sequence, a version and an \
                answer that the broker has it. `512`: so many messages are under way at a time; \
                `sequential`: one. Where the raw client can batch by hand, raw is the fastest of the ways \
                that were tried in the same run.",
        groups: &[
            Group { names: publish::redis::IN_FLIGHT, measure: publish::redis::in_flight },
            Group { names: publish::redis::SEQUENTIAL, measure: publish::redis::sequential },
            Group { names: publish::nats::NAMES, measure: publish::nats::measure },
            Group { names: publish::postgres::NAMES, measure: publish::postgres::measure },
            Group { names: publish::kafka::NAMES, measure: publish::kafka::measure },
        ],
    },
    Chapter {
        name: "round_trip",
        title: "From the publisher to a subscriber",
        about: "The median time from the call of publish until the message is in the subscriber's task, one \
                message at a time. Publisher and subscriber are in one process, with a connection each, \
                on both sides. `moka_fresh_read` goes on until a task that polls a moka cache reads the new \
                value; raw is a subscriber that inserts into moka, as one would write it by hand.",
        groups: &[
            Group { names: round_trip::redis::NAMES, measure: round_trip::redis::measure },
            Group { names: round_trip::nats::NAMES, measure: round_trip::nats::measure },
            Group { names: round_trip::postgres::NAMES, measure: round_trip::postgres::measure },
            Group { names: round_trip::kafka::NAMES, measure: round_trip::kafka::measure },
            Group { names: fresh_read::NAMES, measure: fresh_read::measure },
        ],
    },
    Chapter {
        name: "apply",
        title: "Filling a cache",
        about: "Messages a second that are decoded and in a cache: from Kafka's log, and in one process on one \
                core from `publish_all` to a hydrated replica. Raw is the least that every way must do: a \
                loop that decodes and inserts, and in the process encodes as well.",
        groups: &[
            Group { names: subscribe::NAMES, measure: subscribe::measure },
            Group { names: memory::PRODUCTS, measure: memory::products },
            Group { names: memory::SESSIONS, measure: memory::sessions },
        ],
    },
    Chapter {
        name: "tail",
        title: "Following with the command",
        about: "Messages a second from Kafka that `hydratecache tail` shows, as lines and as JSON objects, \
                as a process of its own: of a log, and of what comes meanwhile. Raw is a loop that fetches \
                the same messages and counts them.",
        groups: &[
            Group { names: tail::LOG, measure: tail::log },
            Group { names: tail::LIVE, measure: tail::live },
        ],
    },
    Chapter {
        name: "read",
        title: "Reading",
        about: "Nanoseconds of CPU time for a read that hits, of 10,000 keys in random order, on one thread. \
                Raw is the map underneath (papaya or moka), or the cache without what `Hydrated` adds: whether \
                the value is suspect, and how fresh it is.",
        groups: &[
            Group { names: reads::SHARED, measure: reads::shared },
            Group { names: reads::PINNED, measure: reads::pinned },
            Group { names: reads::WITH_TTL, measure: reads::with_ttl },
            Group { names: reads::MOKA, measure: reads::moka },
            Group { names: hydrated::REPLICA, measure: hydrated::replica },
            Group { names: hydrated::MOKA, measure: hydrated::moka },
        ],
    },
    Chapter {
        name: "fence",
        title: "Proving freshness",
        about: "What a fence, which proves that all before it is in the cache, costs beside a `PING` of the raw \
                client; and what the fences of 2,000 processes would take of a Redis server's one thread.",
        groups: &[
            Group { names: fence::NAMES, measure: fence::measure },
            Group { names: fence::FLEET, measure: fence::fleet },
        ],
    },
    Chapter {
        name: "cost",
        title: "Envelope and memory",
        about: "The time to read an envelope, beside serde and ciborium, and what is asked of the allocator: \
                for a message on its way in one process, for an envelope, for an entry of a replica beyond \
                its key and value, and for one of 10,000 topics of a process.",
        groups: &[
            Group { names: envelope::NAMES, measure: envelope::measure },
            Group { names: allocations::NAMES, measure: allocations::measure },
        ],
    },
    Chapter {
        name: "repair",
        title: "After losses",
        about: "How many keys are served stale ten seconds after a cut or a burst, by ours and by a \
                subscriber that inserts into moka, over the same Redis and proxy; how soon lost messages are \
                noticed and replayed; what a repair by comparing hashes moves; and how soon a replica is ready that copies a million entries from \
                another one.",
        groups: &[
            Group { names: stale::NAMES, measure: stale::measure },
            Group { names: replay::NAMES, measure: replay::measure },
            Group { names: digest::NAMES, measure: digest::measure },
            Group { names: warm_start::NAMES, measure: warm_start::measure },
        ],
    },
];

/// All groups, in the order of the chapters.
pub fn groups() -> impl Iterator<Item = &'static Group> {
    CHAPTERS.iter().flat_map(|chapter| chapter.groups)
}

/// The names of all figures.
pub fn names() -> impl Iterator<Item = &'static str> {
    groups().flat_map(|group| group.names).copied()
}
