//! Events: what a person would ask about, told at the moment when it changes.
//! Knows conditions. Does not know why they changed.
//! Invariant: an event that can't be written stops nothing: it is logged, and the status holds the same words.

use forebay_api::condition::{ConditionType, NewCondition, find};
use forebay_daemon::logging::chain;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};

/// The API server's limit for a note.
const NOTE_BYTES_MAX: usize = 1024;

/// What changed from `old` to `new` and is worth an event. The first look at a new object tells only what is wrong.
pub fn transitions(old: &[Condition], new: &[NewCondition]) -> Vec<(EventType, &'static str, String)> {
    let mut events: Vec<(EventType, &'static str, String)> = Vec::new();
    // What only takes its time is nothing to warn of, unless it was there before.
    let on_its_way = new.iter().any(|one| one.condition_type == ConditionType::Reconciling);
    for condition in new {
        let before = find(old, condition.condition_type);
        let same = before.is_some_and(|before| before.status == condition.status.as_str() && before.reason == condition.reason);
        if same {
            continue;
        }
        let is_true = condition.status == forebay_api::condition::ConditionStatus::True;
        let kind = match condition.condition_type {
            ConditionType::Ready | ConditionType::Warm | ConditionType::SourceReachable | ConditionType::Synced => is_true,
            ConditionType::Degraded | ConditionType::Stalled => !is_true,
            // On its way: the other conditions tell how.
            ConditionType::Reconciling => continue,
        };
        let unknown = condition.status == forebay_api::condition::ConditionStatus::Unknown;
        // `Warm` is false as a matter of course while it loads; nothing to warn of, unless it was true before.
        let expected = condition.condition_type == ConditionType::Warm && !is_true && before.is_none_or(|before| before.status != "True");
        if unknown || expected || (before.is_none() && kind && condition.condition_type == ConditionType::Degraded) {
            continue;
        }
        // Several conditions may say the same thing: it is told once.
        if !events.iter().any(|(_, reason, message)| *reason == condition.reason || *message == condition.message) {
            let was_true = before.is_some_and(|before| before.status == "True");
            let waits = on_its_way && !was_true && matches!(condition.condition_type, ConditionType::Ready | ConditionType::Synced);
            events.push((if kind || waits { EventType::Normal } else { EventType::Warning }, condition.reason, condition.message.clone()));
        }
    }
    events
}

/// Writes one event about `object`.
pub async fn publish(recorder: &Recorder, object: &ObjectReference, kind: EventType, reason: &str, note: &str) {
    let end = (0..=note.len().min(NOTE_BYTES_MAX)).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note[..end].to_owned()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, object).await {
        tracing::warn!(object = object.name, reason, error = %chain(&error), "an event can't be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_api::condition::{ConditionStatus, set};
    use k8s_openapi::jiff::Timestamp;

    fn check(
        old: &[(ConditionType, ConditionStatus, &'static str)],
        new: &[(ConditionType, ConditionStatus, &'static str)],
        expected: &[&str],
    ) {
        let condition =
            |(kind, status, reason): &(ConditionType, ConditionStatus, &'static str)| NewCondition::new(*kind, *status, reason, *reason);
        let mut before = Vec::new();
        for one in old {
            set(&mut before, &condition(one), None, Timestamp::UNIX_EPOCH);
        }
        let new: Vec<NewCondition> = new.iter().map(condition).collect();
        let told: Vec<String> = transitions(&before, &new).iter().map(|(kind, reason, _)| format!("{kind:?} {reason}")).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_transition_is_told_once() {
        use ConditionStatus::{False, True};
        use ConditionType::{Degraded, Ready, Reconciling, Stalled, Warm};
        check(&[], &[(Ready, True, "Readable"), (Warm, False, "Filling"), (Degraded, False, "AsExpected")], &["Normal Readable"]);
        check(&[(Ready, True, "Readable")], &[(Ready, True, "Readable")], &[]);
        check(
            &[(Ready, True, "Readable")],
            &[(Ready, False, "SecretMissing"), (Stalled, True, "SecretMissing")],
            &["Warning SecretMissing"],
        );
        check(&[], &[(Ready, False, "Listing"), (Reconciling, True, "Listing")], &["Normal Listing"]);
        check(&[(Ready, True, "Readable")], &[(Ready, False, "Listing"), (Reconciling, True, "Listing")], &["Warning Listing"]);
        check(&[(Warm, True, "Held")], &[(Warm, False, "Filling")], &["Warning Filling"]);
        check(&[(Warm, False, "Filling")], &[(Warm, True, "Held")], &["Normal Held"]);
        check(&[(Degraded, True, "NodeProblem")], &[(Degraded, False, "AsExpected")], &["Normal AsExpected"]);
    }
}
