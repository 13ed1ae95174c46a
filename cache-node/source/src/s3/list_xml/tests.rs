use super::*;

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>p/</Prefix><EncodingType>url</EncodingType>"#;

fn body(rows: &str) -> String {
    format!("{HEAD}<IsTruncated>true</IsTruncated>{rows}</ListBucketResult>")
}

fn row(key: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2009-10-12T17:50:30.500Z</LastModified><ETag>&quot;abc&quot;</ETag>\
         <Owner><ID>x</ID><DisplayName/></Owner><Size>12</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
}

#[track_caller]
fn check_key(text: &str, expected: &[u8]) {
    let answer = parse(body(&row(text)).as_bytes(), b"p/").expect("parses");
    assert_eq!(answer.objects[0].key.0, expected);
}

#[test]
fn a_row_has_key_size_time_and_version() {
    let answer = parse(body(&(row("p/a%20b") + &row("p/c"))).as_bytes(), b"p/").expect("parses");
    assert!(answer.is_truncated);
    assert_eq!(answer.objects.len(), 2);
    let object = &answer.objects[0];
    assert_eq!((&object.key.0[..], object.size, &object.version.0[..]), (&b"a b"[..], 12, &b"abc"[..]));
    assert_eq!(object.modified, SystemTime::UNIX_EPOCH + Duration::from_millis(1_255_369_830_500));
}

#[test]
fn escapes_and_entities_are_resolved() {
    check_key("p/a+b%2Bc", b"a b+c");
    check_key("p/%FF%0A%00", b"\xff\n\0");
    check_key("p/a&amp;b&lt;&#x41;&#66;", b"a&b<AB");
    check_key("p/", b"");
}

#[test]
fn without_encoding_type_a_plus_is_a_plus() {
    let text = body(&row("p/a+b%2B")).replace("<EncodingType>url</EncodingType>", "");
    assert_eq!(parse(text.as_bytes(), b"p/").expect("parses").objects[0].key.0, &b"a+b%2B"[..]);
}

#[test]
fn folders_are_common_prefixes() {
    let answer = parse(body("<CommonPrefixes><Prefix>p/x/</Prefix></CommonPrefixes>").as_bytes(), b"p/").expect("parses");
    assert_eq!(answer.folders, [Bytes::from_static(b"x/")]);
}

#[test]
fn an_error_document_is_an_error() {
    let text = b"<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>less</Message></Error>";
    assert_eq!(parse(text, b""), Err(BadAnswer::Refused { code: "SlowDown".into(), message: "less".into() }));
}

#[test]
fn every_cut_body_is_refused() {
    let text = body(&(row("p/a") + &row("p/b")));
    for cut in 0..text.len() {
        assert!(parse(&text.as_bytes()[..cut], b"p/").is_err(), "cut at {cut}");
    }
}

#[test]
fn wrong_rows_are_refused() {
    for (from, to) in [
        ("<Key>p/a</Key>", "<Key>q/a</Key>"),
        ("<Key>p/a</Key>", ""),
        ("<Size>12</Size>", ""),
        ("<Size>12</Size>", "<Size>-1</Size>"),
        ("2009-10-12T", "2009-13-12T"),
        ("p/a", "p/%4"),
        ("p/a", "p/%zz"),
        ("p/a", "p/&nope;"),
        ("</Contents>", "</Content>"),
        ("<IsTruncated>true</IsTruncated>", ""),
    ] {
        let text = body(&row("p/a")).replace(from, to);
        assert!(parse(text.as_bytes(), b"p/").is_err(), "{from} -> {to}");
    }
}

#[test]
fn random_damage_never_panics() {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    println!("FOREBAY_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let whole = body(&(row("p/a%20b") + &row("p/c&amp;"))).into_bytes();
    for _ in 0..5000 {
        let mut text = whole.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..text.len());
            text[at] = random.random();
        }
        let _ = parse(&text, b"p/");
    }
}
