//! What users of every transport with a link can set.

/// The setters of a link's limits, for the `impl` of a transport's configuration that holds
/// [`Settings`](crate::link::Settings) in a field `settings`: `with_connect_limit`,
/// `with_publish_limit`, `with_subscribe_limit`, `with_liveness` and `with_queue_bytes`.
///
/// ```
/// use hydratecache::link::Settings;
///
/// pub struct Config {
///     settings: Settings,
/// }
///
/// impl Config {
///     hydratecache::link_setters!();
/// }
///
/// let config = Config { settings: Settings::default() }.with_queue_bytes(1 << 20);
/// assert_eq!(config.settings.queue_bytes, 1 << 20);
/// ```
#[macro_export]
macro_rules! link_setters {
    () => {
        /// How long the first connection may take (default 4 s, so that a wrong address is known
        /// within 5 s).
        pub fn with_connect_limit(mut self, connect_limit: ::std::time::Duration) -> Self {
            self.settings.connect_limit = connect_limit;
            self
        }

        /// How long a publish may take, waiting for a lost link included (default 5 s: longer than
        /// a server's restart, shorter than a caller's patience).
        pub fn with_publish_limit(mut self, publish_limit: ::std::time::Duration) -> Self {
            self.settings.publish_limit = publish_limit;
            self
        }

        /// How long the proof of a subscription may take, waiting for a lost link included (default
        /// 5 s).
        pub fn with_subscribe_limit(mut self, subscribe_limit: ::std::time::Duration) -> Self {
            self.settings.subscribe_limit = subscribe_limit;
            self
        }

        /// How often each connection is asked for a sign of life, which is a fence too (default
        /// 3 s), and how long the answer may take (default 5 s): together the longest that a dead
        /// peer goes unnoticed.
        pub fn with_liveness(
            mut self,
            ping_interval: ::std::time::Duration,
            ping_limit: ::std::time::Duration,
        ) -> Self {
            self.settings.ping_interval = ping_interval;
            self.settings.ping_limit = ping_limit;
            self
        }

        /// How much may wait for one reader of a subscription, in bytes (default
        /// [`Fanout::DEFAULT_QUEUE_BYTES`]($crate::fanout::Fanout::DEFAULT_QUEUE_BYTES)).
        pub fn with_queue_bytes(mut self, queue_bytes: usize) -> Self {
            self.settings.queue_bytes = queue_bytes;
            self
        }
    };
}
