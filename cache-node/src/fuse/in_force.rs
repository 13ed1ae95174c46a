//! What one mount has of what kernels give: agreed with the kernel when it was mounted, and lost where the kernel refuses it later.
//! Knows the session. Does not know how a data set is served: that the kernel opens by itself is said by the filesystem.

use std::sync::Arc;

use forebay_mounter::init::Features;

use super::passthrough::Passthrough;

/// Passthrough came with this minor version of the kernel's protocol, in Linux 6.9.
const PASSTHROUGH_MINOR: u32 = 40;

/// Of one session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct InForce {
    features: Features,
    /// Whether the node's file lets it be used.
    wanted: bool,
    passthrough: Arc<Passthrough>,
}

impl InForce {
    pub(super) fn new(features: Features, wanted: bool, passthrough: Arc<Passthrough>) -> Self {
        Self { features, wanted, passthrough }
    }

    /// Why the kernel doesn't read complete files by itself; `None` where it does. As it is now.
    pub fn without_passthrough(&self) -> Option<&'static str> {
        if self.passthrough.is_on() {
            None
        } else if self.features.kernel_minor < PASSTHROUGH_MINOR {
            Some("the kernel is older than 6.9")
        } else if !self.features.passthrough {
            Some(
                "it was mounted without: the driver has it switched off (csi.passthrough of the chart), or this kernel was built without it",
            )
        } else if !self.wanted {
            Some("passthrough.enabled in the node's file is false")
        } else {
            Some("the kernel refused it, as for a cache folder on a stacked filesystem such as overlayfs, or for a user that isn't root")
        }
    }

    /// Whether the kernel sends again what a daemon that died had not answered; else reads fail then.
    pub fn resend(&self) -> bool {
        self.features.resend
    }
}
