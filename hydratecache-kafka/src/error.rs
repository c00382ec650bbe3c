//! librdkafka's errors, mapped once.

use std::fmt::Display;

use hydratecache::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::publisher::GaveUp;

/// What was under way when an error came: it decides whether something may have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Connect,
    Subscribe,
    Read,
    Fence,
    /// Finding out, or making, what a publish needs to know: nothing was sent yet.
    Prepare,
    /// Handing records to the client: nothing was sent yet.
    Enqueue,
    /// The broker's answer to records.
    Publish,
}

/// Our error for one of librdkafka's. `place` names the broker's address, and the topic where there
/// is one; neither it nor librdkafka's texts for its codes hold a credential.
pub(crate) fn from_kafka(attempt: Attempt, place: impl Display, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(code) => from_code(attempt, place, code),
        // What has no code quotes a setting, which may be a password.
        None => Error::new(
            ErrorKind::Broker,
            format!("{} Kafka at {place}: the client library refuses it", tried(attempt)),
        ),
    }
}

pub(crate) fn from_code(attempt: Attempt, place: impl Display, code: Code) -> Error {
    let kind = kind(attempt, code);
    let advice = match (kind, code) {
        (ErrorKind::Denied, Code::Authentication | Code::SaslAuthenticationFailed) => {
            "check user, password and mechanism"
        }
        (ErrorKind::Denied, _) => "grant the user Describe and Read or Write on the topic",
        (_, Code::QueueFull) => "publish slower, or raise the room with with_publish_bytes",
        (ErrorKind::Unavailable, _) => "is the broker up and the address right?",
        (ErrorKind::Timeout, _) => "is the broker overloaded or paused?",
        (ErrorKind::UnknownOutcome, _) => "it may have been sent; sending it again is harmless",
        (ErrorKind::PayloadTooLarge, _) => {
            "raise the topic's max.message.bytes, or publish a removal and let readers load it"
        }
        (_, Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
            "the topic does not exist; create it, or allow that with with_missing_topics"
        }
        (_, Code::InvalidRecord) => "does the topic have rules of its own, such as a schema?",
        _ => "see the broker's log",
    };
    Error::new(kind, format!("{} Kafka at {place}: {code}; {advice}", tried(attempt)))
}

/// Our error for what the publishing client did not do because it gave up for this reason. Another takes its
/// place.
pub(crate) fn of_a_client_that_gave_up(
    attempt: Attempt,
    place: impl Display,
    GaveUp { cause, has_written }: GaveUp,
) -> Error {
    let (kind, advice) = match (kind(attempt, cause), attempt) {
        (ErrorKind::Denied, Attempt::Publish) if !has_written => {
            (ErrorKind::Denied, "nothing was sent; grant the user Write on the topic")
        }
        (ErrorKind::Denied, Attempt::Enqueue) => {
            (ErrorKind::Denied, "grant the user Write on the topic; tried again in a second")
        }
        (_, Attempt::Publish) => {
            (ErrorKind::UnknownOutcome, "it may have been sent; sending it again is harmless")
        }
        _ => (ErrorKind::Unavailable, "nothing was sent; another client is made in a second"),
    };
    let tried = tried(attempt);
    Error::new(kind, format!("{tried} Kafka at {place}: the client gave up: {cause}; {advice}"))
}

fn tried(attempt: Attempt) -> &'static str {
    match attempt {
        Attempt::Connect => "connecting to",
        Attempt::Subscribe => "subscribing on",
        Attempt::Read => "reading from",
        Attempt::Fence => "asking for a fence on",
        Attempt::Prepare => "looking for the topic on",
        Attempt::Enqueue | Attempt::Publish => "publishing to",
    }
}

fn kind(attempt: Attempt, code: Code) -> ErrorKind {
    match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism => ErrorKind::Denied,
        Code::InvalidTopic => ErrorKind::InvalidTopic,
        Code::MessageSizeTooLarge => ErrorKind::PayloadTooLarge,
        // The broker refused the records, before it wrote any.
        Code::PolicyViolation
        | Code::InvalidRecord
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition => ErrorKind::Broker,
        _ if attempt == Attempt::Publish => ErrorKind::UnknownOutcome,
        Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue => ErrorKind::Timeout,
        Code::MessageTimedOut
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::SSL
        | Code::QueueFull
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NotEnoughReplicas
        | Code::NetworkException
        | Code::CoordinatorNotAvailable => ErrorKind::Unavailable,
        _ => ErrorKind::Broker,
    }
}

/// Whether the same question may have another answer soon.
pub(crate) fn is_passing(code: Code) -> bool {
    matches!(kind(Attempt::Prepare, code), ErrorKind::Unavailable | ErrorKind::Timeout)
}

/// Whether the error says that the way to a broker is gone.
pub(crate) fn is_of_the_link(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::SSL
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::OperationTimedOut
    )
}

/// Whether the topic is not there, rather than out of reach.
pub(crate) fn is_missing(code: Code) -> bool {
    matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownTopicId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_sent_is_of_unknown_outcome_and_what_was_refused_is_not() {
        let of = |attempt, code| from_code(attempt, "host:9092", code).kind();
        assert_eq!(of(Attempt::Publish, Code::MessageTimedOut), ErrorKind::UnknownOutcome);
        assert_eq!(of(Attempt::Publish, Code::PurgeInflight), ErrorKind::UnknownOutcome);
        assert_eq!(of(Attempt::Publish, Code::MessageSizeTooLarge), ErrorKind::PayloadTooLarge);
        assert_eq!(of(Attempt::Enqueue, Code::QueueFull), ErrorKind::Unavailable);
        assert_eq!(of(Attempt::Prepare, Code::BrokerTransportFailure), ErrorKind::Unavailable);
        assert_eq!(of(Attempt::Fence, Code::OperationTimedOut), ErrorKind::Timeout);
        assert_eq!(of(Attempt::Subscribe, Code::TopicAuthorizationFailed), ErrorKind::Denied);
    }

    #[test]
    fn what_a_client_that_gave_up_had_may_have_been_sent_unless_it_was_never_allowed_to() {
        let of = |attempt, cause, has_written| {
            of_a_client_that_gave_up(attempt, "host:9092", GaveUp { cause, has_written }).kind()
        };
        let (lost, denied) = (Code::OutOfOrderSequenceNumber, Code::ClusterAuthorizationFailed);
        assert_eq!(of(Attempt::Publish, lost, true), ErrorKind::UnknownOutcome);
        assert_eq!(of(Attempt::Enqueue, lost, true), ErrorKind::Unavailable);
        assert_eq!(of(Attempt::Publish, denied, false), ErrorKind::Denied);
        assert_eq!(
            of(Attempt::Publish, denied, true),
            ErrorKind::UnknownOutcome,
            "Write was revoked"
        );
        assert_eq!(of(Attempt::Enqueue, denied, true), ErrorKind::Denied);
    }

    #[test]
    fn a_refused_setting_does_not_show_its_value() {
        let error = rdkafka::ClientConfig::new()
            .set("sasl.passwort", "hunter2")
            .create_native_config()
            .map(drop)
            .expect_err("there is no such setting");
        let shown = format!("{:?}", from_kafka(Attempt::Connect, "host:9092", &error));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
