//! The production code under virtual time and a seeded network, judged by an oracle that knows every
//! write.
//!
//! A seed decides a [plan](plan::Plan): how many instances there are, what makes a write newer than
//! another, and which faults happen when. Instances run the library as it is (publisher lane, link,
//! tracker, fan-out, hydrator, leases, reloads, fences) on a simulated broker, network, database and
//! clock; only the connections under `hydratecache::link` are the simulation's own. While they run,
//! and in the end, the oracle compares what every replica shows and claims with what was written.
//!
//! Built with `--cfg tokio_unstable`, as `make sim` does, a seed repeats exactly.

mod broker;
mod database;
mod lateness;
mod network;
mod node;
mod oracle;
pub mod plan;
pub mod run;
pub mod silence;
mod transport;
mod world;
