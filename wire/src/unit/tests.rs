#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

#[test]
fn quantities_read_as_kubernetes_reads_them() {
    let check = |text: &str, bytes: Option<u64>| assert_eq!(text.parse::<ByteSize>().ok().map(ByteSize::bytes), bytes, "{text}");
    check("0", Some(0));
    check("1", Some(1));
    check("120Ti", Some(120 << 40));
    check("20G", Some(20_000_000_000));
    check("1.5Ki", Some(1536));
    check("0.1k", Some(100));
    check("0.0001k", Some(1)); // rounded up
    check("64k", Some(64_000));
    check("7Ei", Some(7 << 60));
    check("8Ei", None);
    check("99999999999999999999999999999999999999999999", None);
    for text in ["", "Ti", "-1", "+1", "1 Gi", "1KiB", "1e3", "0x10", "1.", ".5", "1K", "90%", "1..2", "ten"] {
        check(text, None);
    }
}

#[test]
fn quantities_print_as_they_read() {
    let check = |bytes: u64, text: &str| {
        let size = ByteSize::new(bytes).unwrap();
        assert_eq!(size.to_string(), text);
        assert_eq!(text.parse(), Ok(size));
    };
    check(0, "0");
    check(1000, "1000");
    check(1536, "1536");
    check(1 << 20, "1Mi");
    check(3 << 39, "1536Gi");
    assert_eq!(ByteSize::new(u64::MAX), None);
}

#[test]
fn percents_stay_in_range() {
    let check = |text: &str, percent: Option<u8>| assert_eq!(text.parse::<Percent>().ok().map(Percent::get), percent, "{text}");
    check("0%", Some(0));
    check("100%", Some(100));
    check("101%", None);
    check("90", None);
    check("-1%", None);
    check("+5%", None);
    check("%", None);
    assert_eq!(Percent::new(90).unwrap().of(u64::MAX), (u128::from(u64::MAX) * 90 / 100) as u64);
    assert_eq!("90%".parse::<Capacity>().unwrap().of(1000), 900);
    assert_eq!("9Ki".parse::<Capacity>().unwrap().of(1000), 9216);
}

#[test]
fn durations_need_a_unit() {
    let check = |text: &str, millis: Option<u128>| assert_eq!(parse_duration(text).ok().map(|d| d.as_millis()), millis, "{text}");
    check("0", Some(0));
    check("10m", Some(600_000));
    check("1h30m", Some(5_400_000));
    check("250ms", Some(250));
    check("7d", Some(604_800_000));
    for text in ["", "10", "m", "10 m", "-1s", "1.5h", "10min", "1s2", "9999999999999999999d", "40000d", "١s"] {
        check(text, None);
    }
}
