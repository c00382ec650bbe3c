//! What users see when Kafka, the link to it or they themselves misbehave: the suite of the testkit,
//! and what only Kafka does.
//!
//! The suite's tests of what arrives broken need an envelope; those of a server that hangs up by
//! command need such a command. A server that was frozen for long may disrupt its readers twice, so Kafka has a
//! test of its own for that.

#[path = "faults/holes.rs"]
mod holes;
#[path = "support/nameless.rs"]
mod nameless;
#[path = "faults/outage.rs"]
mod outage;
#[path = "faults/stranded.rs"]
mod stranded;
#[path = "faults/subject.rs"]
mod subject;
mod support;
#[path = "faults/topics.rs"]
mod topics;

hydratecache_testkit::fault_tests! {
    @each subject::Kafka::start().await;
    a_close_amid_calls_is_quick_and_leaves_no_task_and_no_connection
    a_close_of_a_frozen_server_ends_the_calls_under_way
    a_close_amid_an_outage_ends_the_calls_that_wait_for_its_end
    what_was_published_before_a_close_is_answered_by_the_server
    a_topic_gets_the_same_answer_from_publish_and_subscribe
    a_message_published_as_soon_as_subscribe_returns_is_delivered
    whatever_a_hundred_flaps_lose_is_behind_a_gap
    a_payload_at_the_limit_is_delivered_and_one_over_is_not_even_sent
    a_senders_clock_that_is_ahead_lengthens_no_life_and_is_counted
    a_senders_clock_that_is_behind_shortens_lives_and_never_inserts_the_dead
    wall_clocks_an_hour_apart_change_no_life
    a_life_that_ends_on_the_way_invalidates_and_is_never_inserted
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
    a_second_of_silence_is_no_outage
    an_address_that_swallows_everything_is_an_error_within_five_seconds
    an_outage_shorter_than_the_limit_delays_a_publish_and_no_more
    a_reader_that_panics_takes_nobody_along
    readers_that_come_and_go_at_once_leave_no_subscription_and_miss_nothing
    a_subscription_cut_before_its_proof_is_an_error_or_hears_everything
    a_subscription_whose_proof_is_always_cut_is_an_error_in_time
}

hydratecache_testkit::fault_tests! {
    @alone subject::Kafka::start().await;
    a_long_outage_costs_no_memory_and_every_publish_fails_in_time
    a_reader_that_does_not_read_is_told_how_much_it_lost_and_holds_up_nobody
}
