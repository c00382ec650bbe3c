//! The bound that hydrations prove, as a metric: it grows by itself, so somebody has to look at it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::freshness::Gauge;
use crate::count::{Labels, gauge};
use crate::metrics::PROVEN_WITHIN_SECONDS;

/// Often beside the interval at which anyone reads metrics.
const INTERVAL: Duration = Duration::from_secs(1);

/// The hydrations of this process: one metric speaks for all of a topic.
static EXPOSED: Mutex<Vec<(Labels, Arc<Gauge>)>> = Mutex::new(Vec::new());

/// Shows the bound of this hydration, and of the others of its topic, until it is dropped.
pub(super) async fn show_bound(labels: Labels, gauge: Arc<Gauge>) {
    let exposed = Exposed::new(labels, gauge);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        exposed.show();
    }
}

/// One of those that the metric speaks for, as long as this lives.
struct Exposed {
    labels: Labels,
    gauge: Arc<Gauge>,
    metric: ::metrics::Gauge,
}

impl Exposed {
    fn new(labels: Labels, shown: Arc<Gauge>) -> Self {
        exposed().push((labels.clone(), shown.clone()));
        let metric = gauge(PROVEN_WITHIN_SECONDS, &labels);
        Self { labels, gauge: shown, metric }
    }

    fn show(&self) {
        self.metric.set(worst(&self.labels));
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        exposed().retain(|(_, gauge)| !Arc::ptr_eq(gauge, &self.gauge));
        self.show();
    }
}

/// The worst bound of the hydrations with these labels, in seconds: infinite if one proves nothing, and
/// no number without a hydration.
fn worst(labels: &Labels) -> f64 {
    let exposed = exposed();
    let those = exposed.iter().filter(|(of, _)| of == labels);
    let bound = |gauge: &Gauge| gauge.sample().freshness().proven_within();
    let seconds = |(_, gauge): &(Labels, Arc<Gauge>)| {
        bound(gauge).map_or(f64::INFINITY, |bound| bound.as_secs_f64())
    };
    those.map(seconds).fold(f64::NAN, f64::max)
}

fn exposed() -> MutexGuard<'static, Vec<(Labels, Arc<Gauge>)>> {
    EXPOSED.lock().unwrap_or_else(PoisonError::into_inner)
}
