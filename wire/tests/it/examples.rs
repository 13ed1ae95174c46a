//! Every file of `examples/` is read by the type that its kind names.

use std::path::Path;

use forebay_wire::dataset_spec::Dataset;
use forebay_wire::node_config::NodeConfig;

#[test]
fn every_example_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        if text.contains("\nkind: NodeConfig\n") {
            NodeConfig::parse(&name, &text).unwrap_or_else(|problems| panic!("{problems}"));
        } else {
            Dataset::parse(&name, &text).unwrap_or_else(|problems| panic!("{problems}"));
        }
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} examples were found");
}
