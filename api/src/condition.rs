//! Conditions: what is true of an object, since when, why, and one sentence for people.
//! Knows Kubernetes' rules for them. Does not know when which is true.
//! Invariant: `lastTransitionTime` moves only when a status changes, and a list has each type once. Pure: the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Enough for a sentence; seven of them leave room for the rest of a status that stays below 16 KiB.
pub const MESSAGE_BYTES_MAX: usize = 480;

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// A Dataset can be mounted and read; a CachePolicy's nodes serve.
    Ready,
    /// Every block of the current version that rules and preload ask for is held.
    Warm,
    /// The source answers and lets us read.
    SourceReachable,
    /// The list of files is complete and no older than the interval allows.
    Synced,
    /// It works, but worse than it should: somebody should look.
    Degraded,
    /// kstatus: the object is on its way to what the spec says.
    Reconciling,
    /// kstatus: it won't get there without somebody's help.
    Stalled,
}

/// In the order in which a Dataset's status lists them.
pub const DATASET_CONDITIONS: [ConditionType; 7] = [
    ConditionType::Ready,
    ConditionType::Warm,
    ConditionType::SourceReachable,
    ConditionType::Synced,
    ConditionType::Degraded,
    ConditionType::Reconciling,
    ConditionType::Stalled,
];
/// In the order in which a CachePolicy's status lists them.
pub const CACHE_POLICY_CONDITIONS: [ConditionType; 4] =
    [ConditionType::Ready, ConditionType::Degraded, ConditionType::Reconciling, ConditionType::Stalled];

impl ConditionType {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Warm => "Warm",
            Self::SourceReachable => "SourceReachable",
            Self::Synced => "Synced",
            Self::Degraded => "Degraded",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }

    /// For the reference.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Ready => "A Dataset can be mounted and read; a CachePolicy's nodes serve.",
            Self::Warm => {
                "Every block of the current version that rules and preload ask for is held; false again, with the count, when a sync adds files."
            }
            Self::SourceReachable => "The sources answer and let us read.",
            Self::Synced => "The list of files is complete and no older than the interval allows.",
            Self::Degraded => "It works, but worse than it should: somebody should look.",
            Self::Reconciling => "It is on its way to what the spec says. Absent when it has arrived.",
            Self::Stalled => "It won't get there without somebody's help; the message says whose. Absent otherwise.",
        }
    }
}

/// Whether it is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl ConditionStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// A condition as it should be, before anybody knows since when it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCondition {
    pub condition_type: ConditionType,
    pub status: ConditionStatus,
    /// One word in CamelCase, for programs: it must not change from release to release.
    pub reason: &'static str,
    /// One sentence for people; cut at [`MESSAGE_BYTES_MAX`].
    pub message: String,
}

impl NewCondition {
    pub fn new(
        condition_type: ConditionType,
        status: impl Into<ConditionStatus>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { condition_type, status: status.into(), reason, message: message.into() }
    }
}

/// Puts `new` into `conditions`, as seen at `generation`; gives whether anything changed but the generation.
///
/// The time is kept while the status is the same, whatever reason and message say. Panics when the reason is no CamelCase word:
/// the API server would refuse the whole status.
pub fn set(conditions: &mut Vec<Condition>, new: &NewCondition, generation: Option<i64>, now: Timestamp) -> bool {
    let NewCondition { condition_type, status, reason, message } = new;
    let camel = reason.starts_with(|first: char| first.is_ascii_uppercase()) && reason.bytes().all(|byte| byte.is_ascii_alphanumeric());
    assert!(camel, "a reason is one word in CamelCase, `{reason}` isn't");
    let mut condition = Condition {
        last_transition_time: Time(seconds(now)),
        message: cut(message, MESSAGE_BYTES_MAX),
        observed_generation: generation,
        reason: (*reason).to_owned(),
        status: status.as_str().to_owned(),
        type_: condition_type.as_str().to_owned(),
    };
    match conditions.iter_mut().find(|old| old.type_ == condition.type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time.clone();
            }
            let changed = old.status != condition.status || old.reason != condition.reason || old.message != condition.message;
            *old = condition;
            changed
        }
        None => {
            conditions.push(condition);
            true
        }
    }
}

/// Takes a condition out; gives whether it was there. For kstatus' two, which are absent rather than false.
pub fn remove(conditions: &mut Vec<Condition>, condition_type: ConditionType) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != condition_type.as_str());
    conditions.len() != before
}

/// The condition of that type.
pub fn find(conditions: &[Condition], condition_type: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == condition_type.as_str())
}

/// Whether the condition is there and true.
pub fn is_true(conditions: &[Condition], condition_type: ConditionType) -> bool {
    find(conditions, condition_type).is_some_and(|condition| condition.status == ConditionStatus::True.as_str())
}

/// Kubernetes keeps whole seconds: what we write must read back as the same, or every look would see a change.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `text`, cut at a character so that it is at most `bytes_max` bytes with the `…` that then ends it.
pub(crate) fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mark = "…";
    let end = (0..=bytes_max - mark.len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{mark}", &text[..end])
}

#[cfg(test)]
mod tests;
