//! From files and flags to a checked Dataset and NodeConfig, with a cache folder of its own for each data set.

use std::path::{Path, PathBuf};

use forebay_daemon::exit::Exit;
use forebay_daemon::logging;
use forebay_wire::dataset_spec::Dataset;
use forebay_wire::id::DatasetName;
use forebay_wire::node_config::{NodeConfig, Tier};

use super::failure::Failure;
use super::{Environment, NodeArgs};

/// Reads a text file that the user named.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let cure = match error.kind() {
            std::io::ErrorKind::NotFound => "check the path",
            std::io::ErrorKind::InvalidData => "it is no text in UTF-8",
            _ => "make it readable for this user",
        };
        Failure::new(Exit::Usage, format!("read {}: {error}; {cure}", path.display()))
    })
}

pub(super) fn dataset(path: &Path) -> Result<Dataset, Failure> {
    Ok(Dataset::parse(&path.display().to_string(), &read(path)?)?)
}

/// The config file, if one is given, and the folders of `name`: `--cache-dir`, else the config's tiers, else the default. Each data set has
/// its own folder below, so that one config file serves several mounts.
pub(super) fn node(environment: &Environment, args: &NodeArgs, name: &DatasetName) -> Result<NodeConfig, Failure> {
    let mut config = match &args.config {
        Some(path) => NodeConfig::parse(&path.display().to_string(), &read(path)?)?,
        None => NodeConfig::default(),
    };
    logging::check(&config.log.level).map_err(|error| Failure::new(Exit::Usage, format!("log.level: {error}")))?;
    if let Some(folder) = &args.cache_dir {
        config.tiers = vec![Tier { path: absolute(folder)?, ..config.tiers.first().cloned().unwrap_or_default() }];
    } else if config.tiers.is_empty() {
        let Some(folder) = &environment.cache else {
            return Err(Failure::new(Exit::Usage, "neither XDG_CACHE_HOME nor HOME is set: say where to cache with --cache-dir FOLDER"));
        };
        config.tiers = vec![Tier { path: folder.clone(), ..Tier::default() }];
    }
    for tier in &mut config.tiers {
        tier.path = tier.path.join(format!("{}-{}", name.namespace(), name.name()));
    }
    Ok(config)
}

/// From the working folder, without asking the disk.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))
}

/// Creates the tiers' folders where needed, and writes into each: `serve` would fail there, later and less clearly.
pub(crate) fn ensure_writable(config: &NodeConfig) -> Result<(), Failure> {
    for tier in &config.tiers {
        let probe = tier.path.join(format!(".probe-{}", std::process::id()));
        let written = std::fs::create_dir_all(&tier.path).and_then(|()| std::fs::write(&probe, b"1"));
        drop(std::fs::remove_file(&probe));
        written.map_err(|error| {
            let message = format!(
                "write into the cache folder {}: {error}; name another with --cache-dir FOLDER, or give this user the right to write there",
                tier.path.display()
            );
            Failure::new(Exit::CannotCreate, message)
        })?;
    }
    Ok(())
}
