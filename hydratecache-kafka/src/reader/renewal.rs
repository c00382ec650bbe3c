//! What becomes of a client that knows no broker any more: another one reads on in its place.

use std::sync::Arc;

use hydratecache::Topic;
use rdkafka::consumer::Consumer;

use super::Reading;
use super::consuming::consumer;

impl Reading {
    /// Replaces the client, if it is [stranded](Context::is_stranded), and goes on where it was.
    pub(super) fn renew(&mut self) {
        self.listen();
        let context = self.consumer.context();
        if !context.is_stranded() {
            return;
        }
        let successor = consumer(&self.settings.client, context.successor(), &self.inbox);
        let consumer = match successor {
            Ok(consumer) => Arc::new(consumer),
            Err(error) => {
                return tracing::warn!(messaging.system = "kafka", %error, "not replaced");
            }
        };
        tracing::info!(messaging.system = "kafka", "the brokers named none; reading starts over");
        let topics: Vec<Topic> = self.routes.keys().cloned().collect();
        for topic in &topics {
            let Some(route) = self.routes.get_mut(topic) else { continue };
            // Queues before their consumer.
            for partition in 0..route.progress.partitions() {
                route.stop(partition);
            }
        }
        self.slots.clear();
        self.held.clear();
        self.shared.replace(&consumer);
        self.consumer = consumer;
        for topic in &topics {
            let Some(route) = self.routes.get(topic) else { continue };
            let (progress, probes) = (&route.progress, !route.is_proven);
            let next = |partition| (partition, progress.next(partition));
            let starts: Vec<_> = (0..progress.partitions()).map(next).collect();
            let ends: Vec<i64> = progress.known_ends().collect();
            self.assign(topic, &starts, probes);
            if let Some(route) = self.routes.get_mut(topic) {
                route.progress.know_ends(&ends);
                // Those ends were told before the trouble.
                route.progress.resume();
            }
        }
    }
}
