use super::*;
use forebay_wire::id::DatasetPath;
use forebay_wire::unit::ByteSize;

fn rule(path: &str, cache: Option<CacheMode>, ttl_seconds: Option<u64>, max_bytes: Option<u64>) -> RuleSpec {
    RuleSpec {
        path: DatasetPath::new(path).expect("a valid path"),
        cache,
        max_bytes: max_bytes.and_then(ByteSize::new),
        ttl: ttl_seconds.map(Duration::from_secs),
        copies: None,
        local_copy: None,
    }
}

fn check(specs: &[RuleSpec], path: &str, cache: CacheMode, ttl_seconds: Option<u64>) {
    let table = RuleTable::new(specs);
    let found = table.resolve(path.as_bytes());
    assert_eq!((found.cache, found.ttl), (cache, ttl_seconds.map(Duration::from_secs)), "{path}");
}

#[test]
fn the_longest_path_wins_and_what_it_leaves_out_comes_from_above() {
    use CacheMode::{Auto, Never, Pin};
    let specs = [
        rule("/", None, Some(60), None),
        rule("/a", Some(Pin), None, None),
        rule("/a/b", Some(Never), None, None),
        rule("/a/b/c", None, Some(5), None),
    ];
    check(&specs, "/x", Auto, Some(60));
    check(&specs, "/a", Pin, Some(60));
    check(&specs, "/ab", Auto, Some(60));
    check(&specs, "/a/x", Pin, Some(60));
    check(&specs, "a/b/x", Never, Some(60));
    check(&specs, "/a/b/c/d", Never, Some(5));
    check(&[], "/anything", Auto, None);
}

#[test]
fn a_limited_pin_holds_a_stable_subset_of_its_size() {
    let mut table = RuleTable::new(&[rule("/a", Some(CacheMode::Pin), None, Some(250_000))]);
    let objects: Vec<ObjectId> = (0..1000_u32).map(|number| ObjectId::new("s", &number.to_le_bytes(), b"v")).collect();
    table.set_bytes_below(b"/a", 1_000_000);
    let pinned = |table: &RuleTable| objects.iter().filter(|object| table.resolve(b"/a/x").is_pinned(**object)).count();
    let quarter = pinned(&table);
    assert!((200..300).contains(&quarter), "{quarter} of 1000 files of 1000 bytes");
    table.set_bytes_below(b"a", 500_000);
    assert!(pinned(&table) > quarter, "a smaller data set is pinned further");
    table.set_bytes_below(b"/a", 100_000);
    assert_eq!(pinned(&table), 1000);
}

#[test]
fn what_is_not_pinned_of_a_limited_pin_is_cached_as_it_comes() {
    let mut table = RuleTable::new(&[rule("/", Some(CacheMode::Pin), Some(10), Some(0))]);
    table.set_bytes_below(b"/", 100);
    let placement = table.resolve(b"/x").placement(ObjectId(u128::MAX), 100);
    assert_eq!(placement, Placement::Keep(Admission { class: Class::Auto, expires_at_seconds: Some(110) }));
}
