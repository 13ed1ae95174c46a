//! Bytes and parts as a status shows them: `1.2Ti`, `73%`.
//! Knows spelling and rounding. Does not know what is measured.
//! Invariant: what `bytes` gives is a Kubernetes quantity, at most 3 significant digits more exact than its unit.

/// From small to large; each is 1024 times the one before.
const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// `bytes` in the largest binary unit of which it is at least one, with one digit after the point below 100, rounded to nearest:
/// `0`, `512`, `1.2Ti`, `100Gi`. A `.0` is left out.
pub fn bytes(bytes: u64) -> String {
    let mut unit = (u64::BITS - bytes.leading_zeros()).saturating_sub(1) as usize / 10;
    loop {
        let scale = 1_u128 << (10 * unit);
        let tenths = (u128::from(bytes) * 10 + scale / 2) / scale;
        // Rounding may reach the next unit: 1023.97Gi is 1Ti, not 1024Gi.
        if tenths >= 10_235 && unit + 1 < UNITS.len() && unit > 0 && round(bytes, scale) >= 1024 {
            unit += 1;
            continue;
        }
        return match (tenths / 10, tenths % 10) {
            (whole, _) if unit == 0 => format!("{whole}"),
            (whole, 0) => format!("{whole}{}", UNITS[unit]),
            (whole, digit) if whole < 100 => format!("{whole}.{digit}{}", UNITS[unit]),
            _ => format!("{}{}", round(bytes, scale), UNITS[unit]),
        };
    }
}

fn round(bytes: u64, scale: u128) -> u128 {
    (u128::from(bytes) + scale / 2) / scale
}

/// `part` of `whole` in whole percent, rounded down, so that only all is `100%`; `-` when there is nothing to have a part of.
pub fn percent(part: u64, whole: u64) -> String {
    match u128::from(part.min(whole)).checked_mul(100).and_then(|hundredfold| hundredfold.checked_div(u128::from(whole))) {
        Some(percent) => format!("{percent}%"),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_digit_after_the_point() {
        let check = |number: u64, text: &str| assert_eq!(bytes(number), text, "{number}");
        check(0, "0");
        check(1, "1");
        check(1023, "1023");
        check(1024, "1Ki");
        check(1536, "1.5Ki");
        check(1 << 30, "1Gi");
        check((12 << 40) / 10, "1.2Ti");
        check((99 << 30) + (96 << 20), "99.1Gi");
        check((100 << 30) + (512 << 20), "101Gi");
        check(100 << 30, "100Gi");
        check((1023 << 30) + (256 << 20), "1023Gi");
        check((1023 << 30) + (800 << 20), "1Ti");
        check((1 << 40) - 1, "1Ti");
        check(u64::MAX, "16Ei");
    }

    #[test]
    fn every_text_is_a_quantity_near_the_number() {
        let mut number = 1_u64;
        while number < u64::MAX / 8 {
            for near in [number - 1, number, number + 1, number + number / 3] {
                let text = bytes(near);
                let read: forebay_wire::unit::ByteSize = text.parse().unwrap_or_else(|error| panic!("{near} -> {text}: {error}"));
                let off = read.bytes().abs_diff(near);
                // A tenth of a unit at 1.0 is 5 % either way; from 100 on half a unit is less than that.
                assert!(off * 20 <= near, "{near} -> {text}");
            }
            number = number.saturating_mul(2);
        }
    }

    #[test]
    fn only_all_is_a_hundred_percent() {
        let check = |part, whole, text: &str| assert_eq!(percent(part, whole), text, "{part} of {whole}");
        check(0, 0, "-");
        check(0, 5, "0%");
        check(999, 1000, "99%");
        check(1000, 1000, "100%");
        check(1001, 1000, "100%");
        check(u64::MAX - 1, u64::MAX, "99%");
    }
}
