//! The last desired state, on the host's tmpfs: what a node that is started again serves before the operator speaks.
//! Knows one file. It holds credentials: mode 0600, and never anywhere but in the run folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use forebay_wire::control_service::SyncRequest;
use prost::Message;

/// The file below the run folder.
#[derive(Clone, Debug)]
pub(super) struct DesiredFile(PathBuf);

impl DesiredFile {
    pub(super) fn below(run: &Path) -> Self {
        Self(run.join("desired"))
    }

    /// `None`: nothing was ever wanted, or what lies there can't be read, which is the same to a node: the operator will say it again.
    pub(super) fn read(&self) -> Option<SyncRequest> {
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "what was wanted of this node last can't be read; it serves when the operator says it again");
                return None;
            }
        };
        SyncRequest::decode(bytes.as_slice())
            .inspect_err(|error| tracing::warn!(%error, "what was wanted of this node last is damaged; the operator will say it again"))
            .ok()
    }

    /// Replaces it in one step.
    pub(super) fn write(&self, request: &SyncRequest) -> io::Result<()> {
        let next = self.0.with_extension("next");
        drop(fs::remove_file(&next));
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&next)?;
        file.write_all(&request.encode_to_vec())?;
        fs::rename(&next, &self.0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_wanted_last_is_found_again_by_this_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = DesiredFile::below(folder.path());
        assert_eq!(file.read(), None);
        for generation in ["1", "2"] {
            let request = SyncRequest { generation: generation.to_owned(), desired: Some(Default::default()), ..SyncRequest::default() };
            file.write(&request).unwrap();
            assert_eq!(file.read(), Some(request));
        }
        assert_eq!(fs::metadata(folder.path().join("desired")).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(folder.path().join("desired"), [0xff; 9]).unwrap();
        assert_eq!(file.read(), None);
    }
}
