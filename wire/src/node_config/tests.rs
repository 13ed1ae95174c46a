#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

fn file(rest: &str) -> String {
    format!("apiVersion: forebay.dev/v1alpha1\nkind: NodeConfig\n{rest}")
}

#[test]
fn an_empty_config_is_the_default() {
    assert_eq!(NodeConfig::parse("n.yaml", &file("")).unwrap(), NodeConfig::default());
}

#[test]
fn the_whole_vocabulary_is_read() {
    let text = "tiers: [{ path: /mnt/nvme0/forebay, capacity: 90%, keepFreePercent: 15 }, { path: /mnt/hdd, capacity: 2Ti }]\nblockSize: 1Mi\npassthrough: { enabled: false, minBytes: 128Ki }\nfills: { max: 8, bufferBytes: 64Mi }\nsource: { maxBytesPerSecond: 1Gi, maxRequestsPerSecond: 100 }\nserving: NoOpen\nmetrics: { address: \"[::1]:0\" }\nsecrets: /etc/forebay/secrets\nambientCredentials: Deny\nlog: { format: JSON, level: debug }\n";
    let config = NodeConfig::parse("n.yaml", &file(text)).unwrap();
    assert_eq!(
        config.tiers[0],
        Tier { path: "/mnt/nvme0/forebay".into(), capacity: "90%".parse().unwrap(), keep_free: Percent::new(15).unwrap() }
    );
    assert_eq!(config.tiers[1].keep_free.get(), KEEP_FREE_PERCENT);
    assert_eq!((config.block_size.bytes(), config.passthrough, config.fills_max), (1 << 20, false, 8));
    assert_eq!(
        (config.serving, config.ambient_credentials, config.log.format),
        (ServingMode::NoOpen, AmbientCredentials::Deny, LogFormat::Json)
    );
    assert_eq!(config.metrics.unwrap().port(), 0);
}

/// A whole section about peers, with one field written otherwise.
fn peers(changed: &str, to: &str) -> String {
    let whole = "peers: { name: a, listen: \"0.0.0.0:7071\", cache: cache.example, certificates: /etc/forebay/tls, nodes: [{ name: a, address: \"10.0.0.1:7071\", weight: 2Ti, zone: z1, rack: r1 }, { name: b.lan, address: \"b.lan:7071\", weight: 1000 }] }";
    assert!(whole.contains(changed), "{changed}");
    whole.replacen(changed, to, 1)
}

#[test]
fn the_other_nodes_of_a_cache_are_read() {
    let peers = NodeConfig::parse("n.yaml", &file(&peers("", ""))).unwrap().peers.unwrap();
    assert_eq!((peers.name.as_str(), peers.cache.as_str(), peers.listen.port()), ("a", "cache.example", 7071));
    let [a, b] = &peers.nodes[..] else { panic!("{peers:?}") };
    assert_eq!((a.weight.unwrap().bytes(), a.zone.as_ref().unwrap().as_str(), a.rack.as_ref().unwrap().as_str()), (2 << 40, "z1", "r1"));
    assert_eq!((b.address.as_str(), b.weight.unwrap().bytes(), &b.zone, &b.rack), ("b.lan:7071", 1000, &None, &None));
    let rows = [
        ("name: a, listen", "name: c, listen", "peers.name (line 3): c is not in `peers.nodes`"),
        ("name: a, listen", "name: A, listen", "peers.name (line 3): this is no name of a node"),
        ("\"0.0.0.0:7071\"", "\"7071\"", "peers.listen (line 3): this is no address"),
        ("cache.example", "\"*\"", "peers.cache (line 3): this is no DNS name"),
        ("/etc/forebay/tls", "tls", "peers.certificates (line 3): `tls` is no absolute path"),
        ("b.lan:7071", "b.lan", "peers.nodes[1].address (line 3): this is no address"),
        ("b.lan:7071", "b.lan:0", "peers.nodes[1].address (line 3): this is no address"),
        ("name: b.lan", "name: a", "peers.nodes[1].name (line 3): a is in the list twice"),
        (", weight: 1000", "", "peers.nodes (line 3): some nodes have a weight and some have none"),
        ("weight: 1000", "weight: 0", "peers.nodes[1].weight (line 3): 0 would stop everything"),
        ("rack: r1", "rack: \"-\"", "peers.nodes[0].rack (line 3): this is no label"),
        ("rack: r1", "row: r1", "peers.nodes[0].row (line 3): unknown field `row`"),
    ];
    for (changed, to, expected) in rows {
        let problems = NodeConfig::parse("n.yaml", &file(&self::peers(changed, to))).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("n.yaml: {expected}")), "{problems}\nexpected {expected}");
    }
}

#[test]
fn every_wrong_field_is_named_with_its_line_and_a_cure() {
    let rows = [
        ("tiers: [{ path: cache }]", "tiers[0].path (line 3): `cache` is no absolute path"),
        ("tiers: [{ capacity: 1Gi }]", "tiers[0] (line 3): the field `path` is missing"),
        ("tiers: [{ path: /a, capacity: 101% }]", "tiers[0].capacity (line 3): `101%` is no percentage"),
        ("tiers: [{ path: /a, capacity: 0% }]", "tiers[0].capacity (line 3): a tier of 0 holds nothing"),
        ("tiers: [{ path: /a, keepFreePercent: 100 }]", "tiers[0].keepFreePercent (line 3): write a number from 0 to 99"),
        ("tiers: [{ path: /a }, { path: /a/b }]", "tiers[1].path (line 3): this folder and another tier's lie inside each other"),
        ("blockSize: 3Mi", "blockSize (line 3): 3Mi is no block size"),
        ("blockSize: 32Ki", "blockSize (line 3): 32Ki is no block size"),
        ("passthrough: { minBytes: 1 }", "passthrough.minBytes (line 3): a file below 4Ki"),
        ("passthrough: true", "passthrough (line 3): a value of the wrong kind"),
        ("fills: { max: 0 }", "fills.max (line 3): write a number from 1 to 4096"),
        ("fills: { bufferBytes: 1Mi }", "fills.bufferBytes (line 3): 1Mi is less than four blocks of 4Mi"),
        ("source: { maxBytesPerSecond: 0 }", "source.maxBytesPerSecond (line 3): 0 would stop everything"),
        ("source: { maxRequestsPerSecond: 0 }", "source.maxRequestsPerSecond (line 3): 0 would stop everything"),
        ("serving: Fast", "serving (line 3): unknown value: write one of Auto, Open, NoOpen"),
        ("metrics: { address: localhost }", "metrics.address (line 3): this is no address"),
        ("secrets: secrets", "secrets (line 3): `secrets` is no absolute path"),
        ("ambientCredentials: Maybe", "ambientCredentials (line 3): unknown value: write one of Allow, Deny"),
        ("log: { level: \"\" }", "log.level (line 3): an empty level logs nothing"),
        ("log: { format: XML }", "log.format (line 3): unknown value: write one of Text, JSON"),
        ("tier: []", "tier (line 3): unknown field `tier`; did you mean `tiers`?"),
    ];
    for (text, expected) in rows {
        let problems = NodeConfig::parse("n.yaml", &file(text)).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("n.yaml: {expected}")), "{problems}\nexpected {expected}");
    }
}
