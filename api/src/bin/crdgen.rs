//! Writes the CustomResourceDefinitions and their reference, or tells whether they are fresh.
//! Knows files. Does not know what stands in them: `forebay_api::generated` does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

/// Write the CustomResourceDefinitions and their reference, all made from the types in api/.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The repository: files go to `crds/` and `docs/` in it.
    #[arg(default_value = ".")]
    repository: PathBuf,
    /// Write nothing; exit with 1 and name each file that would change.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let Arguments { repository, check } = Arguments::parse();
    let mut exit = ExitCode::SUCCESS;
    for file in forebay_api::generated::files() {
        let path = repository.join(file.path);
        let result = if check { is_fresh(&path, &file.text) } else { write(&path, &file.text) };
        if let Err(message) = result {
            eprintln!("{}: {message}", path.display());
            exit = ExitCode::FAILURE;
        }
    }
    exit
}

fn is_fresh(path: &Path, text: &str) -> Result<(), String> {
    match std::fs::read_to_string(path) {
        Ok(old) if old == text => Ok(()),
        Ok(_) => Err("not what the types say: run `make crds`".to_owned()),
        Err(error) => Err(format!("read: {error}; run `make crds`")),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().ok_or("no folder")?;
    std::fs::create_dir_all(folder).map_err(|error| format!("make its folder: {error}"))?;
    std::fs::write(path, text).map_err(|error| format!("write: {error}"))
}
