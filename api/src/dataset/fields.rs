//! What the API server checks of a Dataset beyond the types of its fields.
//! Knows the rules of `forebay-wire` as far as CEL can say them; the operator has the last word with `Dataset::parse`.
//! Invariant: nothing is refused here that a node would take, but for spellings that a list's key can't have (`/a/` for `/a`).

use forebay_wire::dataset_spec::Priority;
use serde_json::json;

use crate::crd::field::Field;
use crate::crd::names::{NAME_BYTES_MAX, dataset_path, duration, object_name, own_name, quantity};

/// More data sources or rules than this nobody could oversee; CEL's cost is counted for full lists.
const LIST_ITEMS_MAX: u32 = 64;

pub(crate) fn fields() -> Vec<Field> {
    let mut fields = vec![
        own_name(Field::at(""), "the claim, the volume and metrics carry it"),
        spec(),
        Field::at("spec.sources").limit("minItems", 1).limit("maxItems", LIST_ITEMS_MAX).map_by("path").rule(
            "!self.exists(a, self.exists(b, a.path != b.path && (a.path == '/' || b.path.startsWith(a.path + '/'))))",
            "two sources lie inside each other: give each source a path of its own",
        ),
        entry(),
        dataset_path(Field::at("spec.sources[].path")),
        Field::at("spec.sources[].uri").limit("maxLength", URI_BYTES_MAX),
        Field::at("spec.source").limit("maxLength", URI_BYTES_MAX),
        object_name(Field::at("spec.policyRef"), "name").left_out("the default CachePolicy"),
        Field::at("spec.policyRef.name").limit("maxLength", NAME_BYTES_MAX),
    ];
    for base in ["spec", "spec.sources[]"] {
        fields.push(object_name(Field::at(format!("{base}.secretRef")), "name"));
        for name in ["secretRef.name", "serviceAccountName"] {
            fields.push(Field::at(format!("{base}.{name}")).limit("maxLength", NAME_BYTES_MAX));
        }
        s3(&mut fields, base);
    }
    rules(&mut fields);
    rest(&mut fields);
    fields
}

fn spec() -> Field {
    let mut spec = Field::at("spec")
        .rule("has(self.source) || has(self.sources)", "no source is named: write `source: s3://bucket/prefix/`, or a list `sources`")
        .rule_at(
            ".sources",
            "!(has(self.source) && has(self.sources))",
            "`source` and `sources` exclude each other: move `source` into the list, or remove one",
        );
    for name in ["secretRef", "serviceAccountName", "s3"] {
        spec = spec.rule_at(
            &format!(".{name}"),
            format!("!(has(self.sources) && has(self.{name}))"),
            &format!("with `sources`, `{name}` belongs into each entry that needs it: move it there"),
        );
    }
    one_source(spec, "source")
        .rule_at(
            ".source",
            "!(has(oldSelf.source) && has(self.source)) || self.source == oldSelf.source",
            "the source of a Dataset can't change: make another Dataset, and remove this one when nobody uses it",
        )
        // Between the two forms, `source` is the entry of the path `/`.
        .rule_at(
            ".sources",
            "!(has(oldSelf.source) && has(self.sources)) || self.sources.exists(s, s.path == '/' && s.uri == oldSelf.source)",
            "the source of a Dataset can't change: write the old one with `path: /`, or make another Dataset",
        )
        .rule_at(
            ".source",
            "!(has(oldSelf.sources) && has(self.source)) || oldSelf.sources.exists(s, s.path == '/' && s.uri == self.source)",
            "the sources of a Dataset can't change into another one: make another Dataset",
        )
}

/// One of `sources`.
fn entry() -> Field {
    one_source(Field::at("spec.sources[]"), "uri").rule_at(
        ".uri",
        "self.uri == oldSelf.uri",
        "a source's uri can't change under its path: remove this source in one step and add the new one in another, or make another Dataset",
    )
}

/// The longest key that S3 knows, and a bucket.
const URI_BYTES_MAX: u32 = 1100;

/// What holds for a source whose URI is the field `uri`, and for what stands beside it.
///
/// These rules stand at the field around the URI: at the URI itself the server would repeat it, and somebody may have written a
/// password into it.
fn one_source(field: Field, uri: &str) -> Field {
    let place = format!(".{uri}");
    let check = |cel: &str| format!("!has(self.{uri}) || {}", cel.replace("URI", &format!("self.{uri}")));
    let folder = |name: &str| format!("!(has(self.{uri}) && self.{uri}.startsWith('file:') && has(self.{name}))");
    object_name(field, "serviceAccountName")
        .rule_at(
            &place,
            check("URI.startsWith('s3://') || URI.startsWith('file:')"),
            "this source is not known: write s3://bucket/prefix/ or file:///folder",
        )
        .rule_at(
            &place,
            check("!URI.matches('^[a-z0-9]+://[^/]*@')"),
            "credentials don't belong into a URI: remove what stands before the @ and name a secretRef",
        )
        .rule_at(
            &place,
            check(
                r"!URI.startsWith('s3://') || URI.matches('^s3://[^/]*@') || (URI.matches('^s3://[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*\\.?(/|$)') && URI.matches('^s3://[^/]{3,63}(/|$)'))",
            ),
            "this is no name of a bucket: 3 to 63 letters, digits, `.`, `-` or `_`, as in s3://bucket/prefix/",
        )
        .rule_at(
            &place,
            check(r"!URI.startsWith('file:') || (URI.startsWith('file:///') && !URI.matches('/\\.\\.(/|$)'))"),
            "a folder has three slashes and no `..`: write file:///folder",
        )
        .rule_at(
            ".serviceAccountName",
            "!(has(self.secretRef) && has(self.serviceAccountName))",
            "`secretRef` and `serviceAccountName` exclude each other: remove one",
        )
        .rule_at(".s3", folder("s3"), "`s3` goes with a source s3://... only: remove it")
        .rule_at(".secretRef", folder("secretRef"), "a folder needs no credentials: remove secretRef")
        .rule_at(
            ".s3.anonymous",
            "!(has(self.s3) && has(self.s3.anonymous) && self.s3.anonymous && has(self.secretRef))",
            "requests with a secretRef are signed: remove `anonymous` or `secretRef`",
        )
}

fn s3(fields: &mut Vec<Field>, base: &str) {
    let at = |name: &str| Field::at(format!("{base}.s3{name}"));
    fields.push(
        at("")
            .rule_at(
                ".endpoint",
                "!has(self.endpoint) || !self.endpoint.contains('@')",
                "credentials don't belong into an endpoint: remove what stands before the @ and name a secretRef",
            )
            .rule_at(
                ".endpoint",
                r"!has(self.endpoint) || self.endpoint.contains('@') || self.endpoint.matches('^https?://([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?/?$')",
                "an endpoint is https:// or http://, a host and maybe a port, without a path: write it as in https://minio.corp:9000",
            )
            .rule_at(
                ".caBundleRef",
                "!(has(self.endpoint) && has(self.caBundleRef) && self.endpoint.startsWith('http://'))",
                "an endpoint http://... shows no certificate: write https://, or remove caBundleRef",
            )
            .rule_at(
                ".anonymous",
                "!(has(self.anonymous) && self.anonymous && has(self.roleARN) && self.roleARN != '')",
                "a role can't be assumed without credentials: remove `anonymous` or `roleARN`",
            ),
    );
    fields.push(at(".endpoint").left_out("AWS' own for the region").limit("maxLength", 512));
    fields.push(
        at(".region")
            .left_out("found out from the bucket")
            .limit("maxLength", 64)
            .rule("self.matches('^[A-Za-z0-9_-]+$')", "this is no region: write one such as us-east-1, or leave it out to have it found"),
    );
    fields.push(at(".addressing").left_out("Auto"));
    fields.push(at(".requesterPays").left_out("false"));
    fields.push(at(".anonymous").left_out("false"));
    fields.push(at(".roleARN").limit("maxLength", 2048).rule(
        "self == '' || self.matches('^arn:aws[a-z0-9-]*:iam::[0-9]*:role/.')",
        "this is no role: write it as arn:aws:iam::123456789012:role/reader",
    ));
    fields.push(object_name(at(".caBundleRef"), "name"));
    fields.push(at(".caBundleRef.name").limit("maxLength", NAME_BYTES_MAX));
    fields.push(at(".caBundleRef.key").left_out("ca.crt").limit("maxLength", 253).rule(
        r"self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')",
        "this is no key of a ConfigMap or Secret: use letters, digits, `-`, `_` and `.`",
    ));
}

fn rules(fields: &mut Vec<Field>) {
    fields.push(Field::at("spec.rules").limit("maxItems", LIST_ITEMS_MAX).map_by("path").rule(
        "self.all(r, !has(r.maxBytes) || (has(r.cache) ? r.cache == 'Pin' : self.exists(p, has(p.cache) && p.cache == 'Pin' && (p.path == '/' || r.path.startsWith(p.path + '/')))))",
        "maxBytes says how much to pin: add `cache: Pin` beside it, or remove maxBytes",
    ));
    fields.push(dataset_path(Field::at("spec.rules[].path")));
    fields.push(Field::at("spec.rules[].cache").left_out("that of the next shorter path, in the end Auto"));
    fields.push(quantity(Field::at("spec.rules[].maxBytes")).left_out("everything below the path"));
    fields.push(
        duration(Field::at("spec.rules[].ttl"), "a ttl is at least 1s: for no caching at all write `cache: Never`").left_out("for ever"),
    );
    fields.push(Field::at("spec.rules[].copies").rule(
        "(has(self.max) ? self.max : has(self.min) ? self.min : 1) >= (has(self.min) ? self.min : 1)",
        "1 <= min <= max <= 64 must hold: mend the two numbers",
    ));
    for end in ["min", "max"] {
        fields.push(Field::at(format!("spec.rules[].copies.{end}")).limit("minimum", 1).limit("maximum", 64).left_out(match end {
            "min" => "1",
            _ => "the same as `min`",
        }));
    }
    fields.push(Field::at("spec.rules[].localCopy").left_out("that of the next shorter path, in the end Hot"));
}

fn rest(fields: &mut Vec<Field>) {
    fields.push(Field::at("spec.eviction").left_out("Hold"));
    fields.push(quantity(Field::at("spec.quota")).left_out("as much as the cache has room for"));
    fields.push(Field::at("spec.priority").limit("minimum", Priority::MIN).limit("maximum", Priority::MAX).left_out("0"));
    fields.push(Field::at("spec.verify").left_out("Stream"));
    fields.push(Field::at("spec.preload.when").left_out("Never"));
    fields.push(
        Field::at("spec.preload.paths")
            .limit("minItems", 1)
            .limit("maxItems", LIST_ITEMS_MAX)
            .limit("x-kubernetes-list-type", "set")
            .left_out("everything"),
    );
    fields.push(dataset_path(Field::at("spec.preload.paths[]")));
    fields.push(quantity(Field::at("spec.preload.maxBytesPerSecond")).left_out("no limit of its own"));
    fields.push(Field::at("spec.preload.revision").limit("minimum", 0).left_out("0"));
    fields.push(Field::at("spec.preload.suspend").left_out("false"));
    fields.push(Field::at("spec.preload.verify").left_out("false"));
    fields.push(Field::at("spec.sync").rule_at(
        ".interval",
        "!(has(self.mode) && self.mode == 'Never' && has(self.interval))",
        "`mode: Never` has no interval: remove it, or write `mode: Interval`",
    ));
    fields.push(Field::at("spec.sync.mode").left_out("Interval"));
    fields
        .push(duration(Field::at("spec.sync.interval"), "an interval is at least 1s; for none at all write `mode: Never`").left_out("10m"));
    for (id, default) in [("uid", "0"), ("gid", "0")] {
        // The kernel's "no change" value is no owner.
        fields.push(Field::at(format!("spec.permissions.{id}")).limit("maximum", json!(u32::MAX - 1)).left_out(default));
    }
    for (mode, default) in [("fileMode", "0444"), ("directoryMode", "0555")] {
        fields.push(
            Field::at(format!("spec.permissions.{mode}"))
                .left_out(default)
                .limit("maxLength", 8)
                .rule("self.matches('^0*[0-7]{1,3}$')", "this is no mode: write three octal digits in quotes, as in \"0444\""),
        );
    }
    fields.push(Field::at("spec.volume.claim").left_out("Create"));
}
