//! The schemas of the files a user writes, kept so that a change is seen in review. `UPDATE_GOLDEN=1` writes them.

use std::path::Path;

fn check(name: &str, schema: &serde_json::Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(golden == text, "{name} is stale: look at the change, then run UPDATE_GOLDEN=1 cargo test -p forebay-wire");
}

#[test]
fn the_schema_of_a_dataset_is_the_golden_one() {
    check("dataset.schema.json", &forebay_wire::schema::dataset());
}

#[test]
fn the_schema_of_a_node_config_is_the_golden_one() {
    check("node-config.schema.json", &forebay_wire::schema::node_config());
}

#[test]
fn the_page_about_the_files_is_fresh() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let text = format!(
        "# The files and their fields\n\n\
         Made from the types that read them: `UPDATE_GOLDEN=1 cargo test -p forebay-wire` writes this page. A field that isn't here is refused, with its line.\n\n\
         ## The Dataset file\n\n\
         What is mounted: see [examples](../examples) and SEMANTICS.md. In Kubernetes it is the object of the same name.\n\n{}\n\
         ## The node's file\n\n\
         Given by `--config`. All of it may be left out. Limits hold for the process that reads the file: `forebay-node mount` starts one for each mount.\n\n{}",
        forebay_wire::schema::reference::table(&forebay_wire::schema::dataset()),
        forebay_wire::schema::reference::table(&forebay_wire::schema::node_config()),
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let page = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(page == text, "docs/config.md is stale: run UPDATE_GOLDEN=1 cargo test -p forebay-wire");
}

#[test]
fn every_field_is_described() {
    for schema in [forebay_wire::schema::dataset(), forebay_wire::schema::node_config()] {
        assert!(schema["description"].is_string());
        assert_eq!(schema["additionalProperties"], false);
    }
}
