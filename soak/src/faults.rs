//! What goes wrong, when: decided by a seed, carried out on the arena.

use std::time::Duration;

use anyhow::{Context, Result};
use hydratecache_testkit::proxy::Direction;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::arena::{Arena, Breaker};

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The broker is killed with SIGKILL, and started again after a while.
    Kill,
    /// The broker is stopped for a while that no sign of life takes.
    Pause,
    /// A link is cut for a while.
    Cut,
    /// A link is reset, and may be made anew at once.
    Reset,
    /// A link is reset in the middle of a frame.
    ResetMidFrame,
    /// A link swallows everything for a while, in both directions or in one.
    BlackHole,
    /// A link is cut and healed several times in a row.
    Flap,
}

/// The faults of a seed.
#[derive(Debug)]
pub struct Faults {
    random: StdRng,
    kills: u64,
}

impl Faults {
    /// Those of `seed`: the same ones in the same order, whatever the machine does.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), kills: 0 }
    }

    /// How often the broker was killed.
    #[must_use]
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// Lets faults happen for as long as `time`, and heals what is left of them.
    ///
    /// # Errors
    /// If the broker or a link cannot be brought back.
    pub async fn happen(
        &mut self,
        arena: &Arena,
        links: &[&Breaker],
        time: Duration,
    ) -> Result<()> {
        let end = Instant::now() + time;
        // Every soak has a kill, however short it is.
        let mut fault = Fault::Kill;
        while Instant::now() < end {
            sleep(self.millis(50..600)).await;
            self.one(fault, arena, links).await?;
            fault = self.choose();
        }
        links.iter().try_for_each(|link| link.heal())
    }

    async fn one(&mut self, fault: Fault, arena: &Arena, links: &[&Breaker]) -> Result<()> {
        let while_broken = self.millis(20..1500);
        let link = links[self.random.random_range(0..links.len())];
        match (fault, arena.broker(), link) {
            (Fault::Kill, Some(broker), _) => {
                self.kills += 1;
                broker.kill9().await.context("killing the broker")?;
                sleep(while_broken).await;
                broker.start_again().await.context("starting the broker again")?;
            }
            // In this process that is the loss of every link.
            (Fault::Kill, None, _) => {
                self.kills += 1;
                for link in links {
                    link.cut();
                }
                sleep(while_broken).await;
                links.iter().try_for_each(|link| link.heal())?;
            }
            (Fault::Pause, Some(broker), _) => {
                broker.pause().await.context("pausing the broker")?;
                sleep(while_broken).await;
                broker.resume().await.context("resuming the broker")?;
            }
            (Fault::Reset, _, Breaker::Proxy(proxy)) => proxy.reset(),
            (Fault::ResetMidFrame, _, Breaker::Proxy(proxy)) => {
                let direction = self.direction();
                proxy.reset_mid_frame(self.random.random_range(1..4096), direction);
                sleep(while_broken).await;
                link.heal()?;
            }
            (Fault::BlackHole, _, Breaker::Proxy(proxy)) => {
                proxy.black_hole(self.direction());
                sleep(while_broken).await;
                link.heal()?;
            }
            (Fault::Flap, ..) => {
                for _ in 0..self.random.random_range(2..10) {
                    link.cut();
                    sleep(self.millis(1..100)).await;
                    link.heal()?;
                    sleep(self.millis(1..100)).await;
                }
            }
            // What a link or a broker in this process cannot suffer is a cut there.
            _ => {
                link.cut();
                sleep(while_broken).await;
                link.heal()?;
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> Fault {
        match self.random.random_range(0..10) {
            0 => Fault::Kill,
            1 => Fault::Pause,
            2 | 3 => Fault::Reset,
            4 => Fault::ResetMidFrame,
            5 => Fault::BlackHole,
            6 => Fault::Flap,
            _ => Fault::Cut,
        }
    }

    fn direction(&mut self) -> Direction {
        match self.random.random_range(0..3) {
            0 => Direction::Both,
            1 => Direction::ToClient,
            _ => Direction::ToServer,
        }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }
}
