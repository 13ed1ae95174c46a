//! `mount` and `unmount`: everything that can be found wrong is found before a process is started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_daemon::exit::Exit;
use forebay_mounter::run_folder::RunRoot;

use super::failure::Failure;
use super::{Environment, MountArgs, Output, settings};
use crate::doctor::source;
use crate::holder::{self, MountRequest, Mounted};

/// The daemon answers before it lists, so this is for opening a large store.
const READY_WITHIN: Duration = Duration::from_secs(120);

pub(super) fn mount(environment: &Environment, args: &MountArgs) -> Result<Exit, Failure> {
    let dataset = settings::dataset(&args.dataset)?;
    let config = settings::node(environment, &args.node, &dataset.name)?;
    for note in &dataset.notes {
        eprintln!("note: {note}");
    }
    let mount_point = mount_point(&environment.run, &args.mount_point)?;
    settings::ensure_writable(&config)?;
    if args.offline {
        for spec in &dataset.sources {
            crate::access::resolve(spec, &config)?;
        }
    } else {
        super::commands::block_on(async {
            for spec in &dataset.sources {
                source::probe(spec, &config).await?;
            }
            Ok(())
        })?;
    }
    let folder = Copies::folder(&environment.run, &mount_point);
    let copies = Copies::write(&folder, args)?;
    let mut serve_arguments = vec!["--dataset".into(), copies.dataset.clone().into(), "--mount-point".into(), mount_point.clone().into()];
    if let Some(file) = &copies.config {
        serve_arguments.extend(["--config".into(), file.into()]);
    }
    for tier in &config.tiers {
        serve_arguments.extend(["--tier".into(), tier.path.clone().into()]);
    }
    let request = MountRequest {
        mount_point: mount_point.clone(),
        name: dataset.name.to_string(),
        serve_arguments,
        allow_other: rustix::process::geteuid().is_root(),
        passthrough: config.passthrough,
        ready_within: READY_WITHIN,
        hung_after: Duration::from_secs(args.hung_after),
    };
    let result = if args.foreground {
        holder::run_foreground(&environment.run, &request, |mounted| report(mounted, &request.name, args.output.output))
            .inspect(|()| Copies::remove(&environment.run, &mount_point))
    } else {
        holder::start(&environment.run, &request).map(|mounted| report(&mounted, &request.name, args.output.output))
    };
    if let Err(error) = result {
        // One that is mounted already still needs its files.
        if !matches!(error, holder::HolderError::AlreadyMounted { .. }) {
            Copies::remove(&environment.run, &mount_point);
        }
        return Err(error.into());
    }
    Ok(Exit::Ok)
}

fn report(mounted: &Mounted, name: &str, output: Output) {
    match output {
        Output::Text => println!("{name} is mounted on {}", mounted.mount_point.display()),
        Output::Json => super::output::json(mounted),
    }
}

pub(super) fn unmount(environment: &Environment, mount_point: &Path) -> Result<Exit, Failure> {
    let canonical = holder::canonical(mount_point)?;
    let failed = holder::unmount(&environment.run, &canonical)?;
    Copies::remove(&environment.run, &canonical);
    println!("{} is unmounted", mount_point.display());
    if let Some(why) = failed {
        eprintln!("note: its reads failed before that: {why}");
    }
    Ok(Exit::Ok)
}

/// The body of the hidden `holder`: what it finds out goes to its parent.
pub(super) fn hold(folder: &Path) -> Result<Exit, Failure> {
    super::serve::protect()?;
    let _log = forebay_daemon::logging::init(forebay_daemon::logging::Format::Text, "info")
        .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    holder::run(folder)?;
    Ok(Exit::Ok)
}

/// An existing, empty folder that isn't a mount yet.
fn mount_point(run: &RunRoot, path: &Path) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let refuse = |exit, why: &str| Err(Failure::new(exit, format!("mount on {shown}: {why}")));
    let canonical = holder::canonical(path).map_err(|_| {
        Failure::new(Exit::CannotCreate, format!("mount on {shown}: there is no such folder; create it with `mkdir -p {shown}`"))
    })?;
    // A live mount of ours, or a dead one that `start` clears away.
    if holder::node_socket(run, &canonical).is_ok() {
        return refuse(Exit::Temporary, &format!("it is a mount of Forebay already; unmount it first with `forebay-node unmount {shown}`"));
    }
    // A dead one fails whatever asks it, each kernel with an errno of its own.
    if forebay_mounter::device::is_mounted(&canonical) {
        return Ok(canonical);
    }
    match std::fs::read_dir(&canonical) {
        Ok(mut entries) => match entries.next() {
            None => Ok(canonical),
            Some(_) => refuse(Exit::CannotCreate, "it is not empty, and its files would be hidden; give an empty folder"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            refuse(Exit::CannotCreate, "it is no folder; give an empty folder")
        }
        Err(error) => refuse(Exit::CannotCreate, &format!("{error}; give a folder that this user can read")),
    }
}

/// The files of a mount as they were when it was made: an edit, or a mistake in one, doesn't reach a daemon that is started again.
struct Copies {
    dataset: PathBuf,
    config: Option<PathBuf>,
}

impl Copies {
    fn folder(run: &RunRoot, mount_point: &Path) -> PathBuf {
        let mount = run.mount(mount_point);
        run.path().join("settings").join(mount.path().file_name().unwrap_or_default())
    }

    fn write(folder: &Path, args: &MountArgs) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |error: std::io::Error| {
            Failure::new(
                Exit::CannotCreate,
                format!("write into {}: {error}; set FOREBAY_RUN to a folder that this user can write", folder.display()),
            )
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let copies = Self { dataset: folder.join("dataset.yaml"), config: args.node.config.as_ref().map(|_| folder.join("node.yaml")) };
        std::fs::write(&copies.dataset, settings::read(&args.dataset)?).map_err(failed)?;
        if let (Some(from), Some(to)) = (&args.node.config, &copies.config) {
            std::fs::write(to, settings::read(from)?).map_err(failed)?;
        }
        Ok(copies)
    }

    fn remove(run: &RunRoot, mount_point: &Path) {
        let folder = Self::folder(run, mount_point);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => eprintln!("note: {} stays: {error}", folder.display()),
            _ => {}
        }
    }
}
