//! `sim`: many seeds, one line.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use clap::Parser;
use hydratecache_sim::run::simulate;

/// The production code under virtual time and a seeded network, judged by an oracle
///
/// Exit code 0: every promise was kept. 1: one was not; run it again with the seed that was printed.
/// 2: a seed did not repeat.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only this seed, and show all that happens
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// End with the first seed that breaks a promise
    #[arg(long)]
    stop: bool,
}

/// How many seeds are simulated twice, to see whether they repeat.
const REPEATED: u64 = 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let report = simulate(seed, true);
        eprintln!("trace {:016x}", report.trace);
        let (asked, answered) = report.questions;
        let violations = report.violations.len() as u64;
        return conclude(1, [report.events, report.digests, asked, answered, violations]);
    }
    let Arguments { seeds, first, stop, .. } = arguments;
    if let Some(seed) =
        (first..first.saturating_add(seeds.min(REPEATED))).find(|seed| !repeats(*seed))
    {
        eprintln!("seed {seed} does not repeat; build with --cfg tokio_unstable, as make sim does");
        return ExitCode::from(2);
    }
    let [next, events, digests, unanswered, answered, violations] =
        [(); 6].map(|()| AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                return;
            }
            let seed = first.wrapping_add(number);
            let report = simulate(seed, false);
            events.fetch_add(report.events, Ordering::Relaxed);
            digests.fetch_add(report.digests, Ordering::Relaxed);
            unanswered.fetch_add(report.questions.0, Ordering::Relaxed);
            answered.fetch_add(report.questions.1, Ordering::Relaxed);
            violations.fetch_add(report.violations.len() as u64, Ordering::Relaxed);
            if let Some(violation) = report.violations.first() {
                eprintln!("seed {seed}: {violation}");
                is_over.fetch_or(stop, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let counts = [events, digests, unanswered, answered, violations].map(AtomicU64::into_inner);
    conclude(next.into_inner().min(seeds), counts)
}

fn repeats(seed: u64) -> bool {
    simulate(seed, false).trace == simulate(seed, false).trace
}

fn conclude(seeds: u64, counts: [u64; 5]) -> ExitCode {
    let [events, digests, unanswered, answered, violations] = counts;
    println!("sim: digests={digests} losses_answered={answered} losses_unanswered={unanswered}");
    println!("sim: seeds={seeds} events={events} violations={violations}");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
