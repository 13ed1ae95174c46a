//! What the API server checks of a CachePolicy beyond the types of its fields.
//! Knows what can't be meant. Does not know any node.

use forebay_wire::dataset_spec::Priority;
use serde_json::json;

use crate::crd::field::Field;
use crate::crd::names::{QUANTITY, folder, own_name, quantity};

pub(crate) fn fields() -> Vec<Field> {
    let mut fields = vec![
        own_name(Field::at(""), "labels of its nodes' pods carry it"),
        Field::at("spec.nodes.topologyKey").limit("maxLength", 317).rule(
            r"self == '' || self.matches('^([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')",
            "this is no key of a label: write one such as topology.kubernetes.io/zone",
        ),
    ];
    tiers(&mut fields);
    fields.push(quantity(Field::at("spec.source.maxBytesPerSecond")).left_out("no limit"));
    fields.push(Field::at("spec.source.maxRequestsPerSecond").limit("minimum", 1).left_out("no limit"));
    fields.push(Field::at("spec.maxPriority").limit("minimum", Priority::MIN).limit("maximum", Priority::MAX));
    fields.push(
        Field::at("spec.allowedNamespaces")
            .rule_at(
                ".selector",
                "!(has(self.from) && self.from == 'Selector') || has(self.selector)",
                "`from: Selector` needs a selector: write one, or `from: All`",
            )
            .rule_at(
                ".selector",
                "!has(self.selector) || (has(self.from) && self.from == 'Selector')",
                "a selector goes with `from: Selector` only: write that, or remove it",
            ),
    );
    fields.push(Field::at("spec.allowedSources").limit("maxItems", 64).limit("x-kubernetes-list-type", "set"));
    fields.push(Field::at("spec.allowedSources[]").limit("maxLength", 1100).rule(
        "self.matches('^(s3://.|file:///|https?://.)')",
        "this allows nothing: write how a source or an endpoint begins, with `*` for the rest, as in s3://bucket/*, file:///mnt/data/* or https://minio.corp:9000",
    ));
    fields
}

fn tiers(fields: &mut Vec<Field>) {
    fields.push(
        Field::at("spec.tiers")
            .limit("minItems", 1)
            .limit("maxItems", 8)
            .limit("x-kubernetes-list-type", "atomic")
            .rule("self.filter(t, t.type == 'Memory').size() <= 1", "there are two tiers in memory: join them into one"),
    );
    fields.push(
        Field::at("spec.tiers[]")
            .rule_at(
                ".paths",
                "self.type != 'Memory' || !has(self.paths) || self.paths.size() == 0",
                "memory has no folder: remove paths, or write `type: Disk`",
            )
            .rule_at(
                ".keepFreePercent",
                "self.type != 'Memory' || !has(self.keepFreePercent)",
                "memory has no filesystem to keep free: remove keepFreePercent",
            )
            .rule_at(
                ".paths",
                "self.type != 'Disk' || (has(self.paths) && self.paths.size() > 0)",
                "a tier on disk needs a folder: write paths, as in [/mnt/nvme*/forebay]",
            )
            .rule_at(
                ".capacity",
                "self.type != 'Memory' || type(self.capacity) == int || !self.capacity.endsWith('%')",
                "a part of which memory is not clear: write a quantity, as in 32Gi",
            ),
    );
    fields.push(Field::at("spec.tiers[].paths").limit("maxItems", 32).limit("x-kubernetes-list-type", "set"));
    fields.push(folder(Field::at("spec.tiers[].paths[]")).rule(
        "!self.matches('^/[^/]*[*]')",
        "a pattern needs a folder to look in: begin it with one without `*`, as in /mnt/nvme*/forebay",
    ));
    fields.push(
        Field::at("spec.tiers[].capacity")
            .limit("maxLength", 24)
            .rule(
                format!("type(self) == int || self.matches('{QUANTITY}') || self.matches('^(100|[0-9]{{1,2}})%$')"),
                "this is no capacity: write a quantity as in 2Ti, or a part of the filesystem as in 90%",
            )
            .rule(
                "type(self) == int ? self > 0 : !self.matches('^0[0.]*([A-Za-z]*|%)$')",
                "a tier of 0 holds nothing: write a larger capacity, or remove the tier",
            ),
    );
    fields.push(Field::at("spec.tiers[].keepFreePercent").limit("maximum", json!(99)).left_out("15"));
}
