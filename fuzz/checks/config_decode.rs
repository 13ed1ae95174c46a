//! A Dataset or a node's file of any text is read or refused with a message that names the file, never a panic.

use forebay_wire::dataset_spec::Dataset;
use forebay_wire::node_config::NodeConfig;

pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Dataset::parse("d.yaml", &text) {
        Ok(dataset) => assert!(!dataset.sources.is_empty()),
        Err(problems) => assert!(problems.to_string().starts_with("d.yaml")),
    }
    match NodeConfig::parse("n.yaml", &text) {
        Ok(config) => assert!(config.block_size.bytes().is_power_of_two()),
        Err(problems) => assert!(problems.to_string().starts_with("n.yaml")),
    }
}
