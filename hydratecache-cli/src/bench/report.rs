//! What was measured, for people and for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::measure::{Latencies, Pair, Plan, ROUNDS};

/// Rows that a histogram has at most, and columns of a full bar.
const BUCKETS: u16 = 14;
const BAR: f64 = 24.0;

/// What was asked for.
pub(super) struct Settings {
    pub(super) broker: &'static str,
    pub(super) client: &'static str,
    pub(super) size_bytes: u32,
    pub(super) plan: Plan,
}

/// What was found.
pub(super) struct Measured {
    pub(super) rates: Pair<Vec<f64>>,
    pub(super) latencies: Pair<Latencies>,
}

/// Several values in three numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        // The rounds are odd in number.
        Self {
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }

    fn json(self) -> Value {
        let Self { median, least, most } = self;
        json!({ "median": median, "least": least, "most": most })
    }
}

impl Measured {
    fn rate_ratios(&self) -> Spread {
        ratios(&self.rates.ours, &self.rates.raw)
    }

    fn latency_ratios(&self) -> Spread {
        let medians = |side: &Latencies| -> Vec<f64> {
            side.iter().map(|round| micros(round, 0.5)).collect()
        };
        ratios(&medians(&self.latencies.ours), &medians(&self.latencies.raw))
    }
}

/// Of paired rounds.
fn ratios(ours: &[f64], raw: &[f64]) -> Spread {
    Spread::of(&ours.iter().zip(raw).map(|(ours, raw)| ours / raw).collect::<Vec<_>>())
}

/// All rounds in one.
fn merged(rounds: &Latencies) -> Histogram<u64> {
    let mut all = Histogram::new(3).expect("3 digits are legal");
    for round in rounds {
        all.add(round).expect("it grows as it must");
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "a latency is far below 2^53 ns")]
fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

pub(super) fn text(settings: &Settings, measured: &Measured) -> String {
    let Settings { broker, client, size_bytes, plan } = settings;
    let mut text = format!(
        "{broker}, values of {size_bytes} bytes, {ROUNDS} rounds of {:?} each in turns, not encoded\n\
         raw is {client}\n\n\
         rate: {} publishes under way; ours waits for an answer to each\n",
        plan.round, plan.in_flight,
    );
    let Pair { ours, raw } = &measured.rates;
    for (name, side) in [("ours", ours), ("raw", raw)] {
        let Spread { median, least, most } = Spread::of(side);
        let _ = writeln!(text, "  {name:<6} {median:>10.0} publishes/s ({least:.0} to {most:.0})");
    }
    let _ = writeln!(text, "  ratio  {}", ratio(measured.rate_ratios()));
    text.push_str(
        "\nlatency: from the call of publish until it is received, one at a time, in us\n",
    );
    let _ = writeln!(text, "  {:<6}{:>10}{:>10}{:>10}{:>10}", "", "p50", "p90", "p99", "max");
    let (ours, raw) = (merged(&measured.latencies.ours), merged(&measured.latencies.raw));
    for (name, side) in [("ours", &ours), ("raw", &raw)] {
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|quantile| micros(side, quantile));
        let _ = writeln!(text, "  {name:<6}{p50:>10.1}{p90:>10.1}{p99:>10.1}{max:>10.1}");
    }
    let _ = writeln!(text, "  ratio  {} of p50\n", ratio(measured.latency_ratios()));
    draw(&mut text, &buckets(&ours, &raw));
    text
}

fn ratio(Spread { median, least, most }: Spread) -> String {
    format!("{median:>10.3} ours / raw ({least:.3} to {most:.3})")
}

/// How many of both took so long.
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    from_nanos: u64,
    /// Not included.
    to_nanos: u64,
    ours: u64,
    raw: u64,
}

/// From the fastest to the slowest, each bucket a part longer than the one before.
fn buckets(ours: &Histogram<u64>, raw: &Histogram<u64>) -> Vec<Bucket> {
    let least = ours.min().min(raw.min()).max(1);
    let most = ours.max().max(raw.max()).max(least) + 1;
    // What is above the last hundredth is one bucket: else one slow message would squeeze all others.
    let common = ours.value_at_quantile(0.99).max(raw.value_at_quantile(0.99)).max(least) + 1;
    #[expect(clippy::cast_precision_loss, reason = "a latency is far below 2^53 ns")]
    let factor = (common as f64 / least as f64).powf(1.0 / f64::from(BUCKETS - 1));
    let mut edges = vec![least];
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a latency is above 0 and far below 2^53 ns"
    )]
    let inner = (1..i32::from(BUCKETS) - 1).map(|step| (least as f64 * factor.powi(step)) as u64);
    edges.extend(inner);
    edges.extend([common, most]);
    edges.dedup();
    let count = |side: &Histogram<u64>, from, to| {
        let below = |limit: u64| match limit {
            0 => 0,
            _ => side
                .iter_recorded()
                .take_while(|it| it.value_iterated_to() < limit)
                .fold(0, |count, it| count + it.count_since_last_iteration()),
        };
        below(to) - below(from)
    };
    let pairs = edges.windows(2);
    let pairs = pairs.map(|edges| Bucket {
        from_nanos: edges[0],
        to_nanos: edges[1],
        ours: count(ours, edges[0], edges[1]),
        raw: count(raw, edges[0], edges[1]),
    });
    pairs.collect()
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 are counted")]
fn draw(text: &mut String, buckets: &[Bucket]) {
    let share = |count: u64, all: u64| 100.0 * count as f64 / all.max(1) as f64;
    let all = |side: fn(&Bucket) -> u64| buckets.iter().map(side).sum::<u64>();
    let (all_ours, all_raw) = (all(|it| it.ours), all(|it| it.raw));
    let shares = buckets.iter().map(|it| (it, share(it.ours, all_ours), share(it.raw, all_raw)));
    let longest = shares.clone().fold(1.0, |most: f64, (_, ours, raw)| most.max(ours).max(raw));
    let bar = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most BAR")]
        let columns = (share / longest * BAR).ceil() as usize;
        "#".repeat(columns)
    };
    let _ = writeln!(text, "  {:>10}  {:<33} raw", "from us", "ours");
    for (bucket, ours, raw) in shares {
        let from = bucket.from_nanos as f64 / 1000.0;
        let line =
            format!("  {from:>10.1}  {ours:>5.1} % {:<25} {raw:>5.1} % {}", bar(ours), bar(raw));
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

pub(super) fn json(settings: &Settings, measured: &Measured) -> String {
    let Settings { broker, client, size_bytes, plan } = settings;
    let (ours, raw) = (merged(&measured.latencies.ours), merged(&measured.latencies.raw));
    let side = |all: &Histogram<u64>| {
        json!({
            "messages": all.len(),
            "p50": micros(all, 0.5), "p90": micros(all, 0.9), "p99": micros(all, 0.99),
            "p999": micros(all, 0.999), "max": micros(all, 1.0),
        })
    };
    let buckets: Vec<Value> = buckets(&ours, &raw)
        .iter()
        .map(|Bucket { from_nanos, to_nanos, ours, raw }| {
            json!({ "from_nanos": from_nanos, "to_nanos": to_nanos, "ours": ours, "raw": raw })
        })
        .collect();
    let object = json!({
        "broker": broker,
        "raw_client": client,
        "size_bytes": size_bytes,
        "in_flight": plan.in_flight,
        "rounds": ROUNDS,
        "round_seconds": plan.round.as_secs_f64(),
        "publishes_per_second": {
            "ours": Spread::of(&measured.rates.ours).json(),
            "raw": Spread::of(&measured.rates.raw).json(),
            "ratio": measured.rate_ratios().json(),
        },
        "latency_micros": {
            "ours": side(&ours),
            "raw": side(&raw),
            "ratio_of_p50": measured.latency_ratios().json(),
            "buckets": buckets,
        },
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("3 digits are legal");
        for value in values {
            histogram.record(*value).expect("it grows");
        }
        histogram
    }

    fn measured() -> Measured {
        let slow: Vec<u64> = (1..=100).map(|step| 50_000 + step * 1000).collect();
        let fast: Vec<u64> = slow.iter().map(|nanos| nanos / 2).collect();
        let rounds = |values: &[u64]| vec![histogram(values); ROUNDS as usize];
        Measured {
            rates: Pair {
                ours: vec![100.0, 90.0, 110.0, 95.0, 105.0],
                raw: vec![200.0, 90.0, 110.0, 190.0, 210.0],
            },
            latencies: Pair { ours: rounds(&slow), raw: rounds(&fast) },
        }
    }

    fn settings() -> Settings {
        let plan = Plan { round: Duration::from_millis(500), in_flight: 512 };
        Settings { broker: "Redis", client: "fred", size_bytes: 256, plan }
    }

    #[test]
    fn a_ratio_is_the_median_of_paired_rounds() {
        let ratios = measured().rate_ratios();
        assert_eq!(ratios, Spread { median: 0.5, least: 0.5, most: 1.0 });
    }

    #[test]
    fn every_message_is_in_one_bucket() {
        for (ours, raw) in [
            (vec![1000, 2000, 3000, 900_000], vec![1500]),
            (vec![7], vec![7]),
            (vec![1], vec![1_000_000_000]),
            ((1..=1000).map(|step| step * step).collect(), vec![500_000]),
        ] {
            let buckets = buckets(&histogram(&ours), &histogram(&raw));
            let sum = |side: fn(&Bucket) -> u64| buckets.iter().map(side).sum::<u64>();
            let sums = (sum(|it| it.ours), sum(|it| it.raw));
            assert_eq!(sums, (ours.len() as u64, raw.len() as u64), "{buckets:?}");
            assert!(buckets.len() <= usize::from(BUCKETS), "{buckets:?}");
        }
    }

    #[test]
    fn the_text_has_both_sides_and_no_line_is_too_long() {
        let text = text(&settings(), &measured());
        for part in ["Redis, values of 256 bytes", "0.500 ours / raw", "2.0", "p99", "###"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn the_object_has_the_same_numbers() {
        let object: Value =
            serde_json::from_str(&json(&settings(), &measured())).expect("it is JSON");
        assert_eq!(object["publishes_per_second"]["ratio"]["median"], 0.5);
        assert_eq!(object["latency_micros"]["ours"]["messages"], 500);
    }
}
