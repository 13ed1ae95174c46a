#![expect(clippy::unwrap_used, reason = "tests")]
use clap::CommandFactory;
use forebay_wire::id::DatasetName;

use super::*;

fn environment(folder: &std::path::Path) -> Environment {
    Environment { run: RunRoot::new(folder.join("run")), cache: Some(folder.join("cache")) }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_shows_how_to_begin() {
    let help = Cli::command().render_help().to_string();
    for word in ["doctor", "mount", "unmount", "preload", "status", "free", "kind: Dataset", "Exit codes"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert!(!help.contains("holder"), "{help}");
}

#[test]
fn each_data_set_has_a_cache_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(folder.path());
    let name = DatasetName::new("vision", "imagenet").unwrap();
    let path = |args: NodeArgs| settings::node(&environment, &args, &name).map(|config| config.tiers[0].path.clone());
    let none = NodeArgs { config: None, cache_dir: None };
    assert_eq!(path(none.clone()).unwrap(), folder.path().join("cache/vision-imagenet"));
    assert_eq!(path(NodeArgs { cache_dir: Some("/x".into()), ..none.clone() }).unwrap(), PathBuf::from("/x/vision-imagenet"));
    let file = folder.path().join("node.yaml");
    std::fs::write(&file, "apiVersion: forebay.dev/v1alpha1\nkind: NodeConfig\ntiers: [{ path: /tier, capacity: 1Gi }]\n").unwrap();
    assert_eq!(path(NodeArgs { config: Some(file), ..none.clone() }).unwrap(), PathBuf::from("/tier/vision-imagenet"));
    let failure = path(NodeArgs { config: Some(folder.path().join("none.yaml")), ..none }).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.message.contains("none.yaml") && failure.message.contains("check the path"), "{failure}");
}

fn mount(folder: &std::path::Path, dataset: &str, mount_point: &str) -> failure::Failure {
    let file = folder.join("dataset.yaml");
    std::fs::write(&file, dataset).unwrap();
    let args = MountArgs {
        dataset: file,
        mount_point: folder.join(mount_point),
        node: NodeArgs { config: None, cache_dir: None },
        foreground: false,
        hung_after: 10,
        offline: false,
        output: OutputArgs { output: Output::Text },
    };
    mount::mount(&environment(folder), &args).unwrap_err()
}

const HEAD: &str = "apiVersion: forebay.dev/v1alpha1\nkind: Dataset\nmetadata: { name: a }\nspec:\n";

#[test]
fn what_is_wrong_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let check = |spec: &str, mount_point: &str, exit: Exit, words: &str| {
        let failure = mount(folder.path(), &format!("{HEAD}{spec}"), mount_point);
        assert!(failure.exit == exit && failure.message.contains(words), "{failure:?}, expected {exit:?} {words}");
        assert!(!folder.path().join("run").exists(), "something was left behind");
    };
    let source = format!("  source: file://{}\n", folder.path().join("bucket").display());
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/file"), "").unwrap();
    check("  source: gs://a\n", "data", Exit::Usage, "spec.source (line 5)");
    check(&source, "missing", Exit::CannotCreate, "create it with `mkdir -p");
    check(&source, "full", Exit::CannotCreate, "it is not empty");
    check(&source, "full/file", Exit::CannotCreate, "it is no folder");
    check(&source, "data", Exit::NoInput, "bucket");
    check("  source: s3://abc\n  secretRef: { name: s3 }\n", "data", Exit::Usage, "set `secrets`");
    check("  source: s3://abc\n  s3: { endpoint: \"http://127.0.0.1:9\", anonymous: true }\n", "data", Exit::Unavailable, "127.0.0.1:9");
    std::fs::remove_dir_all(folder.path().join("cache")).unwrap();
    std::fs::write(folder.path().join("cache"), "a file").unwrap();
    check(&source, "data", Exit::CannotCreate, "name another with --cache-dir");
}
