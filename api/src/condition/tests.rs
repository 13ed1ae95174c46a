#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ready(status: ConditionStatus, reason: &'static str, message: &str) -> NewCondition {
    NewCondition::new(ConditionType::Ready, status, reason, message)
}

#[test]
fn the_time_moves_only_with_the_status() {
    let mut conditions = Vec::new();
    let mut check = |new: &NewCondition, generation, now, changed, since: i64| {
        assert_eq!(set(&mut conditions, new, Some(generation), at(now)), changed, "{new:?}");
        assert_eq!(conditions.len(), 1);
        let condition = find(&conditions, ConditionType::Ready).unwrap();
        assert_eq!(condition.last_transition_time.0, at(since), "{new:?}");
        assert_eq!(condition.observed_generation, Some(generation));
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), (new.reason, new.message.as_str()));
    };
    use ConditionStatus::{False, True, Unknown};
    check(&ready(False, "Listing", "the source is being listed"), 1, 10, true, 10);
    check(&ready(False, "Listing", "the source is being listed"), 1, 20, false, 10);
    check(&ready(False, "Listing", "1000 files so far"), 1, 30, true, 10);
    check(&ready(False, "NoNode", "1000 files so far"), 2, 40, true, 10);
    check(&ready(True, "Readable", "it can be read"), 2, 50, true, 50);
    check(&ready(True, "Readable", "it can be read"), 3, 60, false, 50);
    check(&ready(Unknown, "Readable", "it can be read"), 3, 70, true, 70);
}

#[test]
fn a_fraction_of_a_second_is_dropped_since_kubernetes_drops_it() {
    let mut conditions = Vec::new();
    set(&mut conditions, &ready(ConditionStatus::True, "Readable", ""), None, Timestamp::new(5, 999_000_000).unwrap());
    let text = serde_json::to_string(&conditions).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Condition>>(&text).unwrap(), conditions);
    assert_eq!(conditions[0].last_transition_time.0, at(5));
}

#[test]
fn other_conditions_are_left_alone() {
    let mut conditions = Vec::new();
    for kind in DATASET_CONDITIONS {
        assert!(set(&mut conditions, &NewCondition::new(kind, true, "Good", "good"), Some(1), at(1)));
    }
    assert!(set(&mut conditions, &NewCondition::new(ConditionType::Warm, false, "Behind", "3 files"), Some(1), at(2)));
    let types: Vec<_> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(types, DATASET_CONDITIONS.map(ConditionType::as_str));
    assert!(is_true(&conditions, ConditionType::Ready) && !is_true(&conditions, ConditionType::Warm));
    assert!(remove(&mut conditions, ConditionType::Stalled) && !remove(&mut conditions, ConditionType::Stalled));
    assert!(find(&conditions, ConditionType::Stalled).is_none() && conditions.len() == 6);
}

#[test]
fn a_long_message_is_cut_to_what_kubernetes_takes() {
    let mut conditions = Vec::new();
    set(&mut conditions, &ready(ConditionStatus::False, "Long", &"é".repeat(2000)), None, at(1));
    let message = &conditions[0].message;
    assert!(message.len() <= MESSAGE_BYTES_MAX && message.ends_with("é…"), "{}", message.len());
}

#[test]
#[should_panic(expected = "CamelCase")]
fn a_reason_is_one_word() {
    set(&mut Vec::new(), &ready(ConditionStatus::False, "not ready", ""), None, at(1));
}
