//! Checks that fields of both kinds share: names, quantities, durations, paths.
//! Knows their spelling, which is `forebay-wire`'s. Does not know which field has it.

use super::field::Field;

/// A number of bytes that isn't zero.
pub(crate) fn quantity(field: Field) -> Field {
    field
        .limit("maxLength", 24)
        .rule(
            format!("type(self) == int || self.matches('{QUANTITY}')"),
            "this is no quantity: write a number with a unit of Ki, Mi, Gi, Ti, Pi, k, M, G, T or P, as in 120Gi",
        )
        .rule(
            "type(self) == int ? self > 0 : !self.matches('^0[0.]*[A-Za-z]*$')",
            "0 would stop everything: write a larger quantity, or leave it out for no limit",
        )
}

/// As `ByteSize` reads it.
pub(crate) const QUANTITY: &str = r"^[0-9]+(\\.[0-9]{1,18})?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?$";

/// A duration of at least a second.
pub(crate) fn duration(field: Field, too_short: &str) -> Field {
    field
        .limit("maxLength", 32)
        .rule(
            format!("self.matches('{DURATION}')"),
            "this is no duration: write numbers with a unit of ms, s, m, h or d, as in 10m or 1h30m",
        )
        .rule(format!("!self.matches('{DURATION}') || self.matches('[1-9][0-9]*([shd]|m($|[^s])|[0-9]{{3}}ms)')"), too_short)
}

const DURATION: &str = "^([0-9]+(ms|s|m|h|d))+$";

/// A path inside a data set.
pub(crate) fn dataset_path(field: Field) -> Field {
    field.limit("maxLength", 1024).rule(
        r"self == '/' || (self.matches('^(/[^/]{1,255})+$') && !self.matches('/\\.\\.?(/|$)'))",
        "this is no path of a data set: write it from `/`, without empty, `.` or `..` parts and without a `/` at the end, as in /images/train",
    )
}

/// What is checked at `field`, which holds the name of another object as `name`. Not at the name itself: there the server repeats
/// the value, and people write keys where the name of a secret belongs.
pub(crate) fn object_name(field: Field, name: &str) -> Field {
    field.rule_at(
        &format!(".{name}"),
        format!(r"!has(self.{name}) || self.{name}.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')"),
        "this is no name of an object: use a-z, 0-9, `-` and `.`, first and last a letter or digit",
    )
}

/// Kubernetes' limit for a name.
pub(crate) const NAME_BYTES_MAX: u32 = 253;

/// A folder of a node.
pub(crate) fn folder(field: Field) -> Field {
    field.limit("maxLength", 512).rule(
        r"self.matches('^(/[^/]+)+$') && !self.matches('/\\.\\.?(/|$)')",
        "this is no folder: write it from `/`, without `.` or `..` parts and without a `/` at the end, as in /mnt/nvme*/forebay",
    )
}

/// A name of a Kubernetes object that must also serve as a label: names of data sets and policies.
pub(crate) fn own_name(field: Field, because: &str) -> Field {
    field.rule(
        "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
        &format!("metadata.name is too long or has a dot: use at most 63 of a-z, 0-9 and `-`, since {because}"),
    )
}
