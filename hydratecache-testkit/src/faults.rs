//! What users see when a broker, the link to it or they themselves misbehave: the faults that are
//! the same for every broker.
//!
//! Every fault is real: a broker of its own that is killed, paused or told to hang up, or a proxy
//! on the way to it. Beside this suite a transport's crate tries what only its broker can do
//! (permissions, a client of the caller's, a cut for being slow), in tests of its own that may use
//! the same [`support`].
//!
//! # How to use it
//! Write a [`Subject`]: a broker of its own, how to connect to it or to a proxy before it, and what
//! its administrator can see and do. Then, in a test file of the transport's crate,
//! [`fault_tests!`](crate::fault_tests) with the subject that each test is to have:
//! `hydratecache-redis/tests/faults.rs` is the shortest example.
//! With `HYDRATECACHE_EFFORT=full` outages last for minutes and races are run for long.
//!
//! A broker that keeps messages for those who are away says so with [`Subject::missed`]: behind an
//! outage the suite then awaits what was missed, and no gap. Where a test does not fit a broker, its
//! crate names those that do: `fault_tests! { @each subject; test... }`, and `@alone` in place of
//! `@each` for those that measure memory; `hydratecache-kafka/tests/faults.rs` is an example.

mod close;
mod endurance;
mod fleet;
mod input;
mod link;
mod order;
mod outage;
mod readers;
mod repair;
mod subject;
pub mod support;
mod unconfirmed;

pub use close::*;
pub use endurance::*;
pub use fleet::*;
pub use input::*;
pub use link::*;
pub use order::*;
pub use outage::*;
pub use readers::*;
pub use repair::*;
pub use subject::{Connection, Cut, Missed, Patience, Setup, Subject};
pub use unconfirmed::*;

/// A test for each fault of the [module](crate::faults), of the
/// [`Subject`](crate::faults::Subject) that the expression makes. It is evaluated in each test, and
/// may await.
///
/// The crate that uses it needs `tokio` with the features `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! fault_tests {
    ($subject:expr) => {
        $crate::fault_tests! {
            @each $subject;
            a_close_amid_calls_is_quick_and_leaves_no_task_and_no_connection
            a_close_of_a_frozen_server_ends_the_calls_under_way
            a_close_amid_an_outage_ends_the_calls_that_wait_for_its_end
            what_was_published_before_a_close_is_answered_by_the_server
            a_message_published_as_soon_as_subscribe_returns_is_delivered
            whatever_a_hundred_flaps_lose_is_behind_a_gap
            a_payload_at_the_limit_is_delivered_and_one_over_is_not_even_sent
            whatever_arrives_broken_is_rejected_and_the_stream_goes_on
            a_topic_gets_the_same_answer_from_publish_and_subscribe
            a_senders_clock_that_is_ahead_lengthens_no_life_and_is_counted
            a_senders_clock_that_is_behind_shortens_lives_and_never_inserts_the_dead
            wall_clocks_an_hour_apart_change_no_life
            a_life_that_ends_on_the_way_invalidates_and_is_never_inserted
            a_flood_of_garbage_hides_no_message
            a_reset_in_the_middle_of_a_frame_is_an_outage_and_no_rejection
            a_black_hole_whichever_way_is_noticed_within_ten_seconds
            half_a_second_of_jitter_is_no_outage
            a_link_that_carries_one_byte_at_a_time_delivers_all_in_order
            everything_acknowledged_before_a_fence_arrives_before_it_under_load
            a_fence_right_after_a_reconnect_passes_every_subscription_behind_its_gap
            a_publish_that_waits_for_the_link_keeps_its_place_without_budget
            a_large_batch_that_waits_for_the_link_is_not_overtaken
            publishes_that_wait_for_the_link_arrive_in_the_order_in_which_they_began
            nothing_overtakes_while_the_publishing_link_flaps
            a_killed_server_is_noticed_at_once_and_its_restart_too
            a_frozen_server_is_noticed_within_ten_seconds_though_nothing_was_sent
            a_second_of_silence_is_no_outage
            an_address_that_swallows_everything_is_an_error_within_five_seconds
            a_subscriber_that_the_server_kills_goes_on_after_a_gap
            a_publisher_that_the_server_kills_goes_on_at_once
            an_outage_shorter_than_the_limit_delays_a_publish_and_no_more
            a_reader_that_panics_takes_nobody_along
            a_thousand_topics_over_a_constant_number_of_connections_survive_a_restart
            readers_that_come_and_go_at_once_leave_no_subscription_and_miss_nothing
            a_subscription_cut_before_its_proof_is_an_error_or_hears_everything
            a_subscription_whose_proof_is_always_cut_is_an_error_in_time
            a_publish_cut_before_its_answer_is_of_unknown_outcome_and_applied_at_most_once
            batches_torn_apart_by_a_reset_are_applied_at_most_once_and_in_order
            lost_messages_are_replayed_once_for_all_who_miss_them
            a_lost_last_message_is_noticed_with_the_first_heartbeat
            a_replica_that_starts_beside_a_live_one_takes_its_copy
            a_writer_hears_which_replicas_have_its_write
            of_ten_that_start_together_two_at_most_read_the_source
            a_replica_whose_link_was_cut_fetches_what_it_missed_and_no_more
            a_replica_whose_link_is_cut_amid_its_copy_has_all_of_it_in_the_end
            of_ten_that_lose_their_broker_two_at_most_read_the_source
        }
        $crate::fault_tests! {
            @alone $subject;
            a_long_outage_costs_no_memory_and_every_publish_fails_in_time
            a_reader_that_does_not_read_is_told_how_much_it_lost_and_holds_up_nobody
        }
    };
    (@each $subject:expr; $($test:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let subject = $subject;
                $crate::faults::$test(&subject).await;
            }
        )*
    };
    // In a process of its own, where memory is the test's alone.
    (@alone $subject:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                if $crate::faults::support::is_alone(module_path!(), stringify!($test)) {
                    let runtime =
                        tokio::runtime::Builder::new_multi_thread().enable_all().build();
                    runtime.expect("a runtime").block_on(async {
                        let subject = $subject;
                        $crate::faults::$test(&subject).await;
                    });
                }
            }
        )*
    };
}
