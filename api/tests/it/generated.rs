//! The files made from the types are those in the repository.

use std::fs;
use std::path::Path;

#[test]
fn files_made_from_the_types_are_fresh() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut stale = Vec::new();
    for file in forebay_api::generated::files() {
        let path = repository.join(file.path);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &file.text).unwrap();
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(&file.text) {
            stale.push(file.path);
        }
    }
    assert!(stale.is_empty(), "not what the types say: {stale:?}; run `make crds` and look at the difference");
}

#[test]
fn the_same_types_give_the_same_bytes() {
    let texts = || forebay_api::generated::files().map(|file| file.text);
    assert_eq!(texts(), texts());
}
