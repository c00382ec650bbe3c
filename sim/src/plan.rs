//! What a seed decides: who takes part, how, and what goes wrong when.

use std::time::Duration;

use fastrand::Rng;
use hydratecache::VersionDomain;
use hydratecache::cache::Mode;

/// Everything that a seed decides before the simulation begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many instances there are; each writes, and hydrates a replica.
    pub(crate) nodes: usize,
    /// How many keys there are.
    pub(crate) keys: usize,
    /// What makes one write newer than another.
    pub(crate) truth: Truth,
    /// What an arriving value does.
    pub(crate) mode: Mode,
    /// The longest that anything takes on a road.
    pub(crate) longest_delay: Duration,
    /// The pause between two writes of one writer, on average.
    pub(crate) pause: Duration,
    /// Whether some writes remove all keys.
    pub(crate) has_clears: bool,
    /// How long a value lives, where some values have a life.
    pub(crate) life: Option<Duration>,
    /// When the first heartbeat is due, and the longest time between two.
    pub(crate) heartbeats: (Duration, Duration),
    /// How often a link asks for a sign of life, and for how long it waits.
    pub(crate) liveness: (Duration, Duration),
    /// The room of a reader's queue, in bytes.
    pub(crate) queue_bytes: usize,
    /// How many messages a client keeps until they are taken. Of more it drops the oldest, as fred does; async-nats drops
    /// the latest.
    pub(crate) inbox_room: usize,
    /// How much a publisher keeps for those who miss it.
    pub(crate) replay_bytes: usize,
    /// How many deliveries are lost, and how many doubled, while a fault lasts.
    pub(crate) loss: f64,
    /// How long things go wrong.
    pub(crate) active: Duration,
    /// What goes wrong, in order.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// How the replicas are compared with the source, if there is one.
    pub(crate) verifying: Verifying,
    /// Whether replicas are filled from one another.
    pub(crate) copies: Option<Copies>,
    /// Whether a process begins that is told nothing of rows that others are told of.
    pub(crate) has_newcomer: bool,
}

/// How replicas are filled from one another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copies {
    /// How large a chunk is: mostly one entry.
    pub(crate) chunk_bytes: usize,
    /// How fast it is sent.
    pub(crate) bytes_per_second: u64,
    /// How many deliveries of chunks and requests are lost, and how many are doubled.
    pub(crate) loss: f64,
}

/// How the replicas are compared with the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verifying {
    /// The pause between two questions, on average.
    pub(crate) interval: Duration,
    /// How long a difference may last.
    pub(crate) patience: Duration,
    /// Whether what differs is repaired.
    pub(crate) repairs: bool,
}

/// What makes one write of a key newer than another, and where that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    /// The clocks of many writers; there is no source.
    Clocks,
    /// The clock of the one writer that a key has; the source has no versions.
    Owners,
    /// The source's versions.
    Versions,
}

impl Truth {
    pub(crate) fn domain(self) -> VersionDomain {
        match self {
            Self::Versions => VersionDomain::Caller,
            Self::Clocks | Self::Owners => VersionDomain::Clock,
        }
    }

    pub(crate) fn has_source(self) -> bool {
        self != Self::Clocks
    }
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A node's connections are reset.
    Cut { node: usize },
    /// Nothing comes through between a node and the broker.
    Block { node: usize, time: Duration },
    /// The broker is killed and started again.
    Kill { time: Duration },
    /// A node is killed and started again.
    Crash { node: usize, time: Duration },
    /// A node's wall clock jumps.
    Jump { node: usize, forward: bool, by: Duration },
    /// Deliveries are lost or doubled on their way.
    Lose { time: Duration },
    /// The source fails.
    Fail { time: Duration },
    /// A node's raw reader takes nothing.
    Doze { node: usize, time: Duration },
}

impl Plan {
    /// The plan of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let truth = rng.choice([Truth::Clocks, Truth::Owners, Truth::Versions]);
        let truth = truth.unwrap_or(Truth::Versions);
        let is_quick = rng.bool();
        let nodes = rng.usize(2..=4);
        let loss = if rng.u8(0..4) == 0 { rng.f64() * 0.1 } else { 0.0 };
        let active = seconds(rng, 8, 20);
        let mode = match rng.u8(0..10) {
            0 if truth.has_source() => Mode::UpdateIfPresent,
            1 if truth.has_source() => Mode::Invalidate,
            _ => Mode::Hydrate,
        };
        let count = rng.usize(0..=16);
        let mut faults: Vec<(Duration, Fault)> = std::iter::repeat_with(|| {
            let at = active.mul_f64(rng.f64());
            (at, fault(rng, nodes, truth, loss))
        })
        .take(count)
        .collect();
        faults.sort_by_key(|(at, _)| *at);
        let plan = Self {
            nodes,
            keys: rng.usize(1..=8),
            truth,
            mode,
            longest_delay: Duration::from_millis(if rng.bool() {
                rng.u64(1..=50)
            } else {
                rng.u64(50..=500)
            }),
            pause: Duration::from_millis(rng.u64(20..=400)),
            // Where each key has one writer, nobody can.
            has_clears: truth != Truth::Owners,
            // A row of a source has no end.
            life: (!truth.has_source() && rng.u8(0..3) == 0).then(|| seconds(rng, 1, 6)),
            heartbeats: (Duration::from_millis(rng.u64(300..=2_000)), Duration::from_secs(5)),
            liveness: if is_quick {
                (Duration::from_millis(500), Duration::from_secs(1))
            } else {
                (Duration::from_secs(3), Duration::from_secs(5))
            },
            inbox_room: usize::MAX,
            queue_bytes: if rng.u8(0..3) == 0 { 4 << 10 } else { 8 << 20 },
            loss,
            active,
            faults,
            verifying: Verifying {
                interval: Duration::from_millis(rng.u64(20..=1_000)),
                patience: Duration::from_millis(rng.u64(500..=8_000)),
                repairs: rng.bool(),
            },
            // Nothing, a few messages, or all.
            replay_bytes: [0, 2 << 10, 4 << 20, 4 << 20][rng.usize(0..4)],
            copies: (truth.has_source() && mode == Mode::Hydrate && rng.u8(0..4) == 0).then(|| {
                Copies {
                    chunk_bytes: if rng.u8(0..4) == 0 { 48 << 10 } else { 1 },
                    bytes_per_second: rng.u64(100..=20_000),
                    loss: rng.f64() * 0.15,
                }
            }),
            has_newcomer: false,
        };
        plan.with_restarts(rng).with_lasting_losses(rng).with_newcomer(rng).with_slow_clients(rng)
    }

    /// Where replicas are filled from one another, more of them begin anew.
    fn with_restarts(mut self, rng: &mut Rng) -> Self {
        if self.copies.is_some() && self.loss == 0.0 {
            for _ in 0..rng.usize(0..=6) {
                let time = Duration::from_millis(rng.u64(10..=3_000));
                let crash = Fault::Crash { node: rng.usize(0..self.nodes), time };
                self.faults.push((self.active.mul_f64(rng.f64()), crash));
            }
            self.faults.sort_by_key(|(at, _)| *at);
        }
        self
    }

    /// In some, what single replicas lost stays lost until another one repairs it: nobody publishes it
    /// again, and of so many keys few are written anew soon.
    fn with_lasting_losses(mut self, rng: &mut Rng) -> Self {
        if !self.may_copy() || rng.u8(0..8) > 0 {
            return self;
        }
        self = self.with_many_keys(rng);
        self.active = seconds(rng, 20, 40);
        // That would take it from all.
        self.faults.retain(|(_, fault)| !matches!(fault, Fault::Kill { .. }));
        for _ in 0..rng.usize(6..=16) {
            let (at, node) = (self.active.mul_f64(rng.f64()), rng.usize(0..self.nodes));
            let time = Duration::from_millis(rng.u64(100..=3_000));
            self.faults.extend([(at, Fault::Block { node, time }), (at, Fault::Cut { node })]);
        }
        self.faults.sort_by_key(|(at, _)| *at);
        self
    }

    /// In some, a process begins while it hears nobody, so that it reads the source; what another one writes then
    /// is lost on its way to the broker. Those who know that writer are told of it, and the newcomer is not: it must
    /// not repair them.
    fn with_newcomer(mut self, rng: &mut Rng) -> Self {
        if !self.may_copy() || rng.u8(0..8) > 0 {
            return self;
        }
        self = self.with_many_keys(rng);
        (self.has_newcomer, self.nodes) = (true, rng.usize(3..=4));
        self.active = seconds(rng, 18, 30);
        self.longest_delay = Duration::from_millis(rng.u64(1..=50));
        // Nobody's link is lost by what holds up the roads.
        self.liveness = (Duration::from_secs(3), Duration::from_secs(5));
        let (newcomer, writer) = (rng.usize(0..self.nodes), rng.usize(1..self.nodes));
        let writer = (newcomer + writer) % self.nodes;
        let (at, time) = (seconds(rng, 4, 10), Duration::from_secs(4));
        let others = (0..self.nodes).filter(|node| *node != newcomer);
        self.faults = others.map(|node| (at, Fault::Block { node, time })).collect();
        let crash = Fault::Crash { node: newcomer, time: Duration::from_millis(10) };
        let cut = Fault::Cut { node: writer };
        // Before the roads are free.
        self.faults.extend([(at, crash), (at + Duration::from_millis(3_500), cut)]);
        self
    }

    /// In some, processes are often slower than what comes.
    fn with_slow_clients(mut self, rng: &mut Rng) -> Self {
        if rng.u8(0..4) == 0 {
            self.inbox_room = rng.usize(2..=16);
        }
        self
    }

    /// Whether replicas may be filled from one another.
    fn may_copy(&self) -> bool {
        self.truth.has_source() && self.mode == Mode::Hydrate && self.loss == 0.0
    }

    /// Nothing is published again, few keys are written anew soon, and replicas are filled from one another.
    fn with_many_keys(mut self, rng: &mut Rng) -> Self {
        self.keys = rng.usize(64..=200);
        // About ten writes a second in all: an owner draws keys of others in vain.
        self.pause = Duration::from_millis(match self.truth {
            Truth::Owners => rng.u64(50..=200),
            _ => rng.u64(500..=2_000),
        });
        self.has_clears = false;
        self.replay_bytes = 0;
        self.verifying.repairs = false;
        let bytes_per_second = rng.u64(1_000..=20_000);
        self.copies = Some(Copies { chunk_bytes: 1, bytes_per_second, loss: rng.f64() * 0.1 });
        self
    }
}

fn fault(rng: &mut Rng, nodes: usize, truth: Truth, loss: f64) -> Fault {
    let node = rng.usize(0..nodes);
    let time = Duration::from_millis(rng.u64(10..=8_000));
    match rng.u8(0..9) {
        0 | 1 => Fault::Cut { node },
        2 | 3 => Fault::Block { node, time },
        4 => Fault::Kill { time },
        // A publisher that dies takes the news of its last, lost message with it.
        5 if loss == 0.0 => Fault::Crash { node, time },
        // Where one writer's clock is the truth, it has to be right.
        6 if truth == Truth::Clocks => {
            Fault::Jump { node, forward: rng.bool(), by: Duration::from_secs(rng.u64(0..=3_600)) }
        }
        7 if loss > 0.0 => Fault::Lose { time },
        8 if truth.has_source() => Fault::Fail { time },
        _ => Fault::Doze { node, time },
    }
}

fn seconds(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.u64(least * 1_000..=most * 1_000))
}
