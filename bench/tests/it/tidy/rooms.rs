//! What each room must not name, and what to write instead. The table behind ARCHITECTURE.md's "Rooms".

pub(super) struct Rule {
    /// Path prefixes in which the rule holds.
    rooms: &'static [&'static str],
    /// Path prefixes inside them in which it doesn't.
    except: &'static [&'static str],
    pub(super) words: &'static [&'static str],
    pub(super) instead: &'static str,
}

impl Rule {
    pub(super) fn holds_in(&self, path: &str) -> bool {
        self.rooms.iter().any(|room| path.starts_with(room)) && !self.except.iter().any(|room| path.starts_with(room))
    }
}

/// Whether `code` has `word` as a whole: not inside a longer identifier.
pub(super) fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Decisions on values: clock, disk, socket and randomness come to them as arguments.
const PURE: &[&str] = &[
    "wire/src/block.rs",
    "cache-node/placement/src/",
    "cache-node/src/rules.rs",
    "cache-node/store/src/evict.rs",
    "cache-node/store/src/evict/",
];

/// The operator's decisions: which policy, which sources, which objects, which conditions.
const OPERATOR_PURE: &[&str] = &[
    "operator/src/selector.rs",
    "operator/src/glob.rs",
    "operator/src/dataset/allowed.rs",
    "operator/src/dataset/ignored.rs",
    "operator/src/dataset/policy.rs",
    "operator/src/dataset/reference.rs",
    "operator/src/dataset/users.rs",
    "operator/src/dataset/validate.rs",
    "operator/src/dataset/build",
    "operator/src/dataset/status/conditions.rs",
    "operator/src/dataset/status/summary.rs",
    "operator/src/cache_policy/build",
    "operator/src/clients/plan.rs",
    "operator/src/node_set/config.rs",
    "operator/src/node_set/daemon_set.rs",
    "operator/src/nodes/generation.rs",
];

/// The plugin's: what a figure means, what is wrong, which field a wish changes.
const PLUGIN_PURE: &[&str] =
    &["plugin/src/change.rs", "plugin/src/status.rs", "plugin/src/status/", "plugin/src/doctor.rs", "plugin/src/doctor/"];

/// Everything of the node: its own crate and those of its rooms.
const NODE: &str = "cache-node/";

pub(super) const RULES: &[Rule] = &[
    Rule {
        rooms: &[""],
        except: &[],
        words: &["todo!", "unimplemented!", "dbg!"],
        instead: "finish it, or leave it out: what isn't built is absent",
    },
    Rule {
        rooms: &[NODE],
        except: &["cache-node/src/fuse"],
        words: &["fuser::"],
        instead: "only cache-node/src/fuse* speaks FUSE: answer through `fs`, with types of `fs`",
    },
    Rule { rooms: PURE, except: &[], words: &["SystemTime::now", "Instant::now"], instead: "a pure room takes the time as an argument" },
    Rule {
        rooms: PURE,
        except: &[],
        words: &["std::fs", "std::net", "tokio::", "rand::", "rustix::", "libc::"],
        instead: "a pure room decides on values: do the I/O in the caller",
    },
    Rule {
        rooms: &["wire/src/", "daemon/src/", "mounter/src/", "csi-driver/src/", NODE],
        except: &["cache-node/src/cli", "cache-node/src/main.rs", "cache-node/src/doctor", "csi-driver/src/cli.rs"],
        words: &["env::var", "env::var_os", "env::args", "env::vars"],
        instead: "only the command line reads flags and the environment: take the value as an argument",
    },
    Rule {
        rooms: &[NODE],
        except: &["cache-node/source/src/", "cache-node/src/cli", "cache-node/src/doctor"],
        words: &["aws_sdk_s3::", "aws_config::", "opendal::", "aws_sdk_sts::"],
        instead: "only `source` knows a storage: use the `Source` trait",
    },
    Rule {
        rooms: &["wire/src/", "daemon/src/", "mounter/src/", NODE, "csi-driver/src/"],
        except: &[],
        words: &["kube::", "k8s_openapi::", "forebay_api::"],
        instead: "only the operator knows Kubernetes: let it say what it wants through `wire`",
    },
    Rule {
        rooms: &["api/src/"],
        except: &["api/src/bin/"],
        words: &["std::fs", "std::net", "std::process", "tokio::", "env::var", "SystemTime::now", "Timestamp::now", "Instant::now"],
        instead: "`api` does no I/O and has no clock: take the value as an argument",
    },
    Rule {
        rooms: OPERATOR_PURE,
        except: &[],
        words: &["kube::api::", "Client", "tokio::", "SystemTime::now", "Timestamp::now", "Instant::now", "std::fs"],
        instead: "this room decides on what was observed: read in `observe`, write in `apply` or `status`, take the time as an argument",
    },
    Rule {
        rooms: PLUGIN_PURE,
        except: &[],
        words: &["kube::api::", "Client", "tokio::", "SystemTime::now", "Timestamp::now", "Instant::now", "std::fs", "println!"],
        instead: "this room judges what was observed: read in `observe` or `live`, write in `change::apply`, print in `cli`",
    },
    Rule {
        rooms: &["plugin/src/"],
        except: &["plugin/src/cli"],
        words: &["env::var", "env::args", "println!", "std::fs"],
        instead: "only the command line reads flags and the environment, and prints",
    },
    Rule {
        rooms: &["operator/src/"],
        except: &["operator/src/cli.rs"],
        words: &["env::var", "env::args", "std::fs"],
        instead: "only the command line reads flags, the environment and files: take the value as an argument",
    },
    Rule {
        rooms: &["operator/src/"],
        except: &[],
        words: &["fuser::", "forebay_source", "forebay_store", "forebay_manifest", "forebay_node::"],
        instead: "the operator knows what is desired and observed, never how a node does it: ask through `wire`",
    },
    Rule {
        rooms: &["wire/src/", "mounter/src/", "csi-driver/src/", NODE],
        except: &["cache-node/src/cli", "cache-node/src/main.rs", "cache-node/src/doctor"],
        words: &["anyhow::"],
        instead: "a room has a typed error of its own; `anyhow` is for main.rs, the command line and tools",
    },
    Rule {
        rooms: &["cache-node/peer/src/"],
        except: &[],
        words: &["forebay_placement", "forebay_source", "forebay_store", "forebay_manifest"],
        instead: "`peer` carries blocks and doesn't know where they come from or whose they are: let the node fill in `Blocks` and give ranks",
    },
    Rule {
        rooms: &["cache-node/src/peer.rs"],
        except: &[],
        words: &["forebay_source", "forebay_store", "forebay_manifest", "crate::fill", "crate::fs", "crate::node"],
        instead: "`peer` knows whose a block is and how to ask for it: what is done with it `fill` knows, what is given `node` fills in",
    },
    Rule {
        rooms: &["cache-node/src/fill", "cache-node/src/reader"],
        except: &[],
        words: &["crate::fs", "crate::fuse"],
        instead: "`fill` and `reader` know objects and blocks, not files: let `fs` translate",
    },
    Rule {
        rooms: &["cache-node/src/fs"],
        except: &[],
        words: &["crate::fuse"],
        instead: "the arrow is fuse -> fs: return a value and let `fuse` reply",
    },
    Rule {
        rooms: &["cache-node/src/fuse"],
        except: &[],
        words: &["forebay_source", "forebay_store", "crate::fill", "crate::rules"],
        instead: "`fuse` knows protocol and session, no policy: ask `fs`",
    },
    Rule {
        rooms: &["csi-driver/src/volume.rs", "csi-driver/src/status.rs"],
        except: &[],
        words: &["std::fs", "tokio::", "rustix::", "forebay_mounter::device"],
        instead: "what a volume means and which code an error has is decided on values: do the I/O in the caller",
    },
    Rule {
        rooms: &["csi-driver/src/"],
        except: &[
            "csi-driver/src/status.rs",
            "csi-driver/src/node.rs",
            "csi-driver/src/identity.rs",
            "csi-driver/src/registration.rs",
            "csi-driver/src/driver.rs",
        ],
        words: &["wire::csi", "forebay_wire::csi"],
        instead: "only the services know CSI's messages: give `sessions` a Volume and a Target",
    },
    Rule {
        rooms: &["mounter/src/"],
        except: &[],
        words: &["forebay_wire", "csi::"],
        instead: "the mounter knows the kernel and its own protocol: what is mounted, and for whom, the caller says",
    },
    Rule {
        rooms: &["bench/src/"],
        except: &[],
        words: &["forebay_node::", "forebay_wire::", "forebay_mounter::"],
        instead: "the bench measures from outside: run the binary, read its files and its `-o json`",
    },
];
