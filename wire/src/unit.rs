//! Amounts as Kubernetes writes them: bytes (`120Ti`, `20G`), percents (`90%`), durations (`10m`, `1h30m`).
//! Knows the spelling and the range. Does not know what is measured.
//! Changes: accepting another spelling is safe; giving an accepted one another meaning is breaking.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};

/// Why a text is no amount; the text itself is named by whoever reads the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("`{0}` is no quantity: write a number with a unit of Ki, Mi, Gi, Ti, Pi, k, M, G, T or P, as in 120Gi")]
    Quantity(String),
    #[error("`{0}` is more than 8 EiB: write a smaller quantity")]
    QuantityTooLarge(String),
    #[error("`{0}` is no percentage: write a whole number from 0 to 100 with a % behind it, as in 90%")]
    Percent(String),
    #[error("`{0}` is no duration: write numbers with a unit of ms, s, m, h or d, as in 10m or 1h30m")]
    Duration(String),
}

/// A number of bytes, at most `i64::MAX`, as Kubernetes' quantities are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// `None` above `i64::MAX`.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= i64::MAX as u64 { Some(Self(bytes)) } else { None }
    }
    /// For constants. Panics above `i64::MAX`.
    pub const fn mebibytes(count: u64) -> Self {
        assert!(count <= (i64::MAX as u64) >> 20);
        Self(count << 20)
    }
    /// For constants. Panics above `i64::MAX`.
    pub const fn kibibytes(count: u64) -> Self {
        assert!(count <= (i64::MAX as u64) >> 10);
        Self(count << 10)
    }
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// The suffixes of a Kubernetes quantity that make sense for bytes, longest first.
const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl FromStr for ByteSize {
    type Err = UnitError;

    /// `digits[.digits]suffix`; a fraction of a byte is rounded up, as Kubernetes does.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Quantity(text.to_owned());
        let (number, scale) =
            SUFFIXES.iter().find_map(|(suffix, scale)| text.strip_suffix(suffix).map(|number| (number, *scale))).unwrap_or((text, 1));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 18 {
            return Err(wrong());
        }
        let too_large = || UnitError::QuantityTooLarge(text.to_owned());
        let whole: u128 = whole.parse().map_err(|_| too_large())?;
        let parts = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let fraction: u128 = fraction.parse().map_err(|_| wrong())?;
        let bytes = whole
            .checked_mul(u128::from(scale))
            .and_then(|bytes| bytes.checked_add((fraction * u128::from(scale)).div_ceil(parts)))
            .ok_or_else(too_large)?;
        u64::try_from(bytes).ok().and_then(Self::new).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides it exactly, so that it reads back as the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, scale): &&(&str, u64)| self.0 >= *scale && self.0.is_multiple_of(*scale);
        match SUFFIXES[..6].iter().rev().find(exact) {
            Some((suffix, scale)) => write!(f, "{}{suffix}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A whole number from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }
    pub const fn get(self) -> u8 {
        self.0
    }
    /// That part of `bytes`, rounded down.
    pub fn of(self, bytes: u64) -> u64 {
        u64::try_from(u128::from(bytes) * u128::from(self.0) / 100).unwrap_or(bytes)
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        text.strip_suffix('%')
            .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|number| number.parse().ok())
            .and_then(Self::new)
            .ok_or_else(|| UnitError::Percent(text.to_owned()))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// How much of a filesystem a tier may take: bytes, or a part of the filesystem's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capacity {
    Bytes(ByteSize),
    Percent(Percent),
}

impl Capacity {
    /// In bytes, on a filesystem of `total_bytes`.
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(size) => size.bytes(),
            Self::Percent(percent) => percent.of(total_bytes),
        }
    }
}

impl FromStr for Capacity {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.ends_with('%') { text.parse().map(Self::Percent) } else { text.parse().map(Self::Bytes) }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(percent) => percent.fmt(f),
        }
    }
}

/// Reads `10m`, `1h30m`, `250ms`, `7d`; a bare `0` too. At most 100 years, so that adding it to a clock can't overflow.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    const YEARS_100: Duration = Duration::from_secs(100 * 366 * 86_400);
    let wrong = || UnitError::Duration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).filter(|total| *total <= YEARS_100).ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// A quantity as its text. It may be written as a number, which YAML's readers take as text and JSON's don't.
///
/// For `#[serde(default, deserialize_with)]`; whether the text is a quantity is not looked at.
pub fn quantity_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Text(String);

    impl<'de> Deserialize<'de> for Text {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(TextVisitor)
        }
    }

    struct TextVisitor;

    impl Visitor<'_> for TextVisitor {
        type Value = Text;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a quantity")
        }
        fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
            Ok(Text(number.to_string()))
        }
        fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
            Ok(Text(number.to_string()))
        }
        fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
            Ok(Text(number.to_string()))
        }
        fn visit_str<E>(self, text: &str) -> Result<Text, E> {
            Ok(Text(text.to_owned()))
        }
    }

    Ok(Option::<Text>::deserialize(deserializer)?.map(|Text(text)| text))
}

#[cfg(test)]
mod tests;
