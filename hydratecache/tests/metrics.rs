//! What a recorder of the program hears of a channel and its hydrations.
#![cfg(all(feature = "json", feature = "metrics"))]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use hydratecache::cache::{Freshness, Replica, State};
use hydratecache::codec::Json;
use hydratecache::memory::MemoryBroker;
use hydratecache::metrics::{self, ALL, Metric, MetricKind, RUNG, SECONDS_BUCKETS, STATE};
use hydratecache::{Channel, Hydrated, VersionDomain};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use support::{Table, within};

fn recorder() -> PrometheusRecorder {
    let builder = PrometheusBuilder::new().set_buckets(SECONDS_BUCKETS).expect("some");
    builder.build_recorder()
}

/// What the recorder shows, by series.
struct Shown {
    text: String,
    series: BTreeMap<String, f64>,
}

impl Shown {
    fn of(recorder: &PrometheusRecorder) -> Self {
        let text = recorder.handle().render();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            (series.to_owned(), value.parse().expect("a number"))
        });
        let series = series.collect();
        Self { text, series }
    }

    /// The value of a metric of the topic `users` in memory, with one more label perhaps.
    fn value(&self, metric: Metric, extra: Option<(&str, &str)>) -> Option<f64> {
        self.series_of(metric.name, extra)
    }

    fn count(&self, metric: Metric) -> Option<f64> {
        self.series_of(&format!("{}_count", metric.name), None)
    }

    fn series_of(&self, name: &str, extra: Option<(&str, &str)>) -> Option<f64> {
        let extra = extra.map(|(label, value)| format!(",{label}=\"{value}\"")).unwrap_or_default();
        let series = format!("{name}{{topic=\"users\",system=\"memory\"{extra}}}");
        self.series.get(&series).copied()
    }

    fn state(&self, state: &str) -> Option<f64> {
        self.value(metrics::HYDRATIONS, Some((STATE, state)))
    }
}

fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("few"))
}

#[tokio::test]
async fn metrics_say_what_stats_say() {
    let recorder = recorder();
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let (broker, table) = (MemoryBroker::new(), Table::default());
    table.write("user:7", "Grace", None);
    let writer = Channel::<String>::new(broker.connect(), "users").expect("legal");
    let link = broker.connect();
    let reader = Channel::<String>::new(link.clone(), "users").expect("legal");
    let users = Hydrated::builder(reader.clone(), Replica::new()).source(table);
    // None but those that are asked for here: one while the link is cut would fail.
    let users = users.with_hydration(|it| it.with_fence_interval(Duration::from_secs(3600)));
    let users = users.start().await.expect("starts");
    within(users.ready()).await.expect("filled");
    assert_eq!(Shown::of(&recorder).state("live"), Some(1.0));

    for number in 0..10 {
        writer.publish(format!("user:{number}"), &"Ada".to_owned()).await.expect("published");
    }
    within(users.caught_up()).await.expect("caught up");
    link.cut();
    within(users.hydration().wait_until(Freshness::is_suspect)).await.expect("runs");
    let shown = Shown::of(&recorder);
    assert_eq!((shown.state("suspect"), shown.state("live")), (Some(1.0), Some(0.0)));
    writer.publish("user:1", &"lost".to_owned()).await.expect("published");
    link.heal();
    let is_live = |freshness: Freshness| freshness.state() == State::Live;
    within(users.hydration().wait_until(is_live)).await.expect("runs");
    let foreign = Channel::<u64>::builder_with_codec(broker.connect(), "users", Json);
    foreign.build().expect("legal").publish("user:2", &7).await.expect("published");
    within(users.caught_up()).await.expect("caught up");
    assert!(within(users.get_or_load("user:8888")).await.expect("loaded").is_none());

    let (stats, sent, received) = (users.stats(), writer.stats(), reader.stats());
    let shown = Shown::of(&recorder);
    assert!(stats.gaps == 1 && stats.missed == 1 && stats.rejected == 1 && stats.loads == 1);
    assert!(stats.reloads == 2 && stats.fences >= 2 && stats.disruptions == 1, "{stats:?}");
    for (metric, count) in [
        (metrics::APPLIED, stats.applied),
        (metrics::STALE, stats.stale),
        (metrics::GAPS, stats.gaps),
        (metrics::MISSED, stats.missed),
        (metrics::DISRUPTIONS, stats.disruptions),
        (metrics::LOADS, stats.loads),
        (metrics::FENCES, stats.fences),
        (metrics::FENCE_FAILURES, 0),
        (metrics::RECEIVED, received.received),
        (metrics::REJECTED, received.rejected),
        // The foreign publisher's is one more.
        (metrics::PUBLISHED, sent.published + 1),
        (metrics::BATCHES, sent.batches + 1),
        (metrics::FAILED, 0),
    ] {
        assert_eq!(shown.value(metric, None), Some(number(count)), "{}", metric.name);
    }
    for (rung, count) in [("replay", 0), ("digest", 0), ("copy", 0), ("reload", 2), ("clear", 0)] {
        assert_eq!(
            shown.value(metrics::REPAIRS, Some((RUNG, rung))),
            Some(number(count)),
            "{rung}"
        );
    }
    assert_eq!(shown.count(metrics::FENCE_SECONDS), Some(number(stats.fences)));
    assert_eq!(shown.count(metrics::PROPAGATION_SECONDS), Some(number(received.received)));
    assert_eq!(shown.count(metrics::PUBLISH_SECONDS), Some(number(sent.batches + 1)));
}

#[tokio::test]
async fn every_metric_is_described_and_none_has_another_name_or_label() {
    let recorder = recorder();
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let users = Channel::<String>::new(MemoryBroker::new().connect(), "users").expect("legal");
    let hydration = users.hydrate(Replica::new()).await.expect("starts");
    users.publish("user:1", &"Ada".to_owned()).await.expect("published");
    let freshness = within(hydration.caught_up()).await.expect("caught up");
    assert!(freshness.proven_within().is_some());
    let shown = Shown::of(&recorder);
    for Metric { name, kind, help, .. } in ALL {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            _ => "histogram",
        };
        for line in [format!("# TYPE {name} {kind}\n"), format!("# HELP {name} {help}\n")] {
            assert!(shown.text.contains(&line), "{line} is not in\n{}", shown.text);
        }
    }
    for series in shown.series.keys() {
        let (name, labels) = series.split_once('{').expect("labels");
        let base = |suffix: &str| name.strip_suffix(suffix).unwrap_or(name).to_owned();
        let names = ["", "_bucket", "_sum", "_count"].map(base);
        assert!(ALL.iter().any(|metric| names.contains(&metric.name.to_owned())), "{series}");
        for label in labels.trim_end_matches('}').split(',') {
            let (label, _) = label.split_once('=').expect("a value");
            let known = [metrics::TOPIC, metrics::SYSTEM, RUNG, STATE, "le"];
            assert!(known.contains(&label), "{series}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_grows_and_is_that_of_the_worst_hydration_until_none_is_left() {
    let recorder = recorder();
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let broker = MemoryBroker::new();
    // The registry of bounds is the process's, so this topic is the test's own.
    let channel = |link| Channel::<String>::new(link, "bounds").expect("legal");
    let (link, cut) = (broker.connect(), broker.connect());
    let fresh = channel(link).hydrate(Replica::new()).await.expect("starts");
    let stale = channel(cut.clone()).hydrate(Replica::new()).await.expect("starts");
    let bound = || {
        let name = metrics::PROVEN_WITHIN_SECONDS.name;
        let series = format!("{name}{{topic=\"bounds\",system=\"memory\"}}");
        Shown::of(&recorder).series.get(&series).copied()
    };
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(bound(), Some(f64::INFINITY), "nothing is proven yet");
    fresh.caught_up().await.expect("caught up");
    stale.caught_up().await.expect("caught up");
    cut.cut();
    tokio::time::sleep(Duration::from_secs(30)).await;
    fresh.caught_up().await.expect("caught up");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let worst = bound().expect("shown");
    assert!((29.0..=33.0).contains(&worst), "{worst}");
    drop(stale);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let best = bound().expect("shown");
    assert!((0.0..=3.0).contains(&best), "{best}");
    drop(fresh);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(bound().expect("shown").is_nan(), "nobody claims anything");
}

#[tokio::test]
async fn an_ended_hydration_is_counted_as_stopped_and_a_dropped_one_not_at_all() {
    let recorder = recorder();
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let link = MemoryBroker::new().connect();
    let users = Channel::<String>::new(link.clone(), "users").expect("legal");
    let hydration = users.hydrate(Replica::new()).await.expect("starts");
    let mut updates = users.subscribe().await.expect("subscribes");
    hydratecache::Transport::close(&link).await.expect("closes");
    assert!(within(updates.next()).await.is_none());
    let has_stopped = || hydration.freshness().state() == State::Stopped;
    within(async {
        while !has_stopped() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(Shown::of(&recorder).state("stopped"), Some(1.0));
    drop(hydration);
    within(async {
        while Shown::of(&recorder).state("stopped") != Some(0.0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let shown = Shown::of(&recorder);
    let states = ["warming", "live", "suspect", "stopped"];
    assert!(states.iter().all(|state| shown.state(state) == Some(0.0)), "{}", shown.text);
}

#[tokio::test]
async fn neither_keys_nor_values_nor_names_of_replicas_are_in_metrics() {
    let recorder = recorder();
    let _guard = ::metrics::set_default_local_recorder(&recorder);
    let broker = MemoryBroker::new();
    let builder = Channel::<String>::builder(broker.connect(), "users");
    let users = builder.with_versions(VersionDomain::Caller).build().expect("legal");
    let table = Table::default();
    table.write("needle-row", "needle-row-value", Some(1));
    let cache = Hydrated::builder(users.clone(), Replica::new()).source(table).start();
    let cache = cache.await.expect("starts");
    within(cache.ready()).await.expect("filled");
    users.put("needle-key", &"needle-value".to_owned()).version(7).await.expect("published");
    users.remove("needle-gone").version(8).await.expect("published");
    within(cache.get_or_load("needle-missing")).await.expect("loaded");
    within(cache.caught_up()).await.expect("caught up");
    let text = Shown::of(&recorder).text;
    assert!(text.contains("users") && !text.contains("needle"), "{text}");
}
