//! The differences that are meant, each with its reason.
//!
//! Not generated, and refused here where runc takes it: text behind the document, of which runc reads nothing; half of a surrogate pair, which is no
//! character; read-only and masked
//! paths through magic links, which lead out of the container's tree; `intelRdt` where resctrl is not mounted, which runc passes over in silence.

use super::Difference;
use serde_json::Value;

/// A difference that may be there, and why.
struct Known {
    /// The start of [`Difference::at`].
    at: &'static str,
    /// Whether it is this one, given the config.
    is: fn(&Difference, &Value) -> bool,
    why: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        at: "/interfaces/veth",
        is: |_, config| !makes(config, "network"),
        why: "devices of other tests, which come and go in the host's namespace",
    },
    Known {
        at: "/addresses/veth",
        is: |_, config| !makes(config, "network"),
        why: "the same",
    },
    Known {
        at: "/signals_ignored",
        is: |found, _| {
            let theirs = |number| found.theirs.replace(&format!(",{number}"), "");
            found.ours == "[13]" && theirs(32).replace(",33", "") == "[13]"
        },
        why: "the C library of the suite leaves its own two real-time signals ignored, and runc does not look at both",
    },
    Known {
        at: "/fds/",
        is: |found, _| {
            found.theirs.contains("pipe")
                && (found.ours.contains("memfd") || found.ours.contains("/dev/null"))
        },
        why: "the process gets the caller's own streams; runc copies between them and pipes",
    },
    Known {
        at: "refused",
        is: |found, config| {
            found.ours.to_lowercase().contains("file too large")
                && config["process"]["rlimits"].to_string().contains("FSIZE")
        },
        why: "the process gets the caller's own streams, here a file, and may write no more to one than its limit says",
    },
    Known {
        at: "refused",
        is: |found, _| {
            found
                .ours
                .contains("has a letter that is none of r, w and m")
        },
        why: "letters of access that mean nothing are refused; runc takes a rule without a type for one of all devices, whatever its letters, and a slip of the pen then allows them all",
    },
    Known {
        at: "/session_keyring",
        is: |_, config| makes(config, "user"),
        why: "made by root of the user namespace, the keyring can be searched by its owner; runc opens it to others instead",
    },
    Known {
        at: "/mounts/",
        is: |found, config| {
            let target = found.at["/mounts/".len()..]
                .split('#')
                .next()
                .unwrap_or_default();
            let last = target.rsplit('|').next().unwrap_or_default();
            let masked = config["linux"]["maskedPaths"].as_array();
            let ends = |path: &Value| path.as_str().is_some_and(|path| path.ends_with(last));
            masked.is_some_and(|all| all.iter().any(ends))
        },
        why: "CVE-2025-31133: what covers a masked path is the host's null device or a directory of init's, not the container's",
    },
    Known {
        at: "/mounts/|sys|fs|cgroup#0/source",
        is: |_, config| !makes(config, "cgroup"),
        why: "without a namespace of its own the container's group is bound from the host's mount, and named as that is",
    },
    Known {
        at: "/mounts/",
        is: |found, config| {
            let options = config["mounts"].to_string();
            found.at.ends_with("/options")
                && (options.contains("\"rno") || options.contains("\"rro\""))
        },
        why: "a recursive option counts for a mount that is no bind, too; runc forgets it there",
    },
    Known {
        at: "/mounts/",
        is: |found, _| found.at.ends_with("/source") && found.theirs == "\"\"",
        why: "a mount without a source is named after its type; runc leaves the name empty",
    },
    Known {
        at: "/mounts/",
        is: |found, config| {
            found.at.ends_with("/propagation")
                && found.theirs == "[]"
                && of_type(config, "cgroup").any(|entry| {
                    let options = entry["options"].as_array();
                    let is_shared = |word: &Value| word == "shared" || word == "rshared";
                    options.is_some_and(|words| words.iter().any(is_shared))
                })
        },
        why: "the propagation of a mount of the cgroup file system counts as well; runc forgets it there",
    },
    Known {
        at: "/env",
        is: |found, config| found.theirs == "[]" && config["process"]["env"].is_null(),
        why: "HOME is set whenever it is missing; runc sets none if there is no list at all",
    },
    Known {
        at: "/lists/",
        is: |found, config| {
            let target = found.at.trim_start_matches("/lists/");
            of_type(config, "proc").any(|entry| entry["destination"] == target)
        },
        why: "the directory is a procfs, and lists processes",
    },
    Known {
        at: "/rlimits/RLIMIT_CPU",
        is: |_, config| {
            let all = config["process"]["rlimits"].as_array();
            let none = |number: &Value| number == 0 || number.is_null();
            let spent = |limit: &Value| limit["type"] == "RLIMIT_CPU" && none(&limit["soft"]);
            all.is_some_and(|all| all.iter().any(spent))
        },
        why: "the kernel adds a second whenever the time is used up, here by what runc does before the program",
    },
    Known {
        at: "/stats/",
        is: |found, config| {
            found.at.ends_with("/mode")
                && found.theirs == "1023"
                && config["linux"]["maskedPaths"].is_array()
        },
        why: "the directory that covers a masked one is writable for nobody; runc's says that it is, but is mounted read-only",
    },
    Known {
        at: "/caps/",
        is: |_, config| config["process"]["capabilities"].is_null(),
        why: "a process without capabilities has none, as in runc before 1.2; a newer one leaves it all that root has",
    },
    Known {
        at: "/caps/",
        is: |_, config| {
            config["process"]["capabilities"]
                .to_string()
                .contains("\"CHOWN\"")
        },
        why: "a name without CAP_ means the same; runc leaves it out",
    },
    Known {
        at: "/scheduler/",
        is: |_, config| config["process"]["scheduler"].is_object(),
        why: "runc before 1.2 knows no scheduler",
    },
    Known {
        at: "/mounts/",
        is: |found, _| {
            found.at.ends_with("/super") && found.ours.replace("\"mode=755\",", "") == found.theirs
        },
        why: "a tmpfs has the mode of the directory that it covers; runc before 1.2 leaves it the kernel's",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("is listed twice"),
        why: "config.md, rlimits: a type that is given twice must be an error",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("ociVersion"),
        why: "config.md, ociVersion: must be SemVer, and 2.0.0 is another specification; runc does not look, or before 1.2 not closely",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("invalid type: null, expected u64"),
        why: "config.md, rlimits: soft and hard are required; runc takes null for 0",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("timeout must be greater than zero: 0"),
        why: "config.md, hooks: a timeout must be greater than zero; with runc a hook that ends at once may win against none",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("missing field `destination`"),
        why: "config.md, mounts: destination is required; runc mounts over the root",
    },
    Known {
        at: "refused",
        is: |found, _| {
            found
                .ours
                .contains("the destination must not be the root itself")
        },
        why: "a mount over the root would hide what all others are made in; runc makes it, and the program is not in the root of the config",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("a bind mount needs a source"),
        why: "runc takes a source that is missing for the bundle's directory, and lets the container into it",
    },
    Known {
        at: "refused",
        is: |found, config| {
            found.ours.contains("set the mount's attributes")
                && makes(config, "user")
                && of_type(config, "sysfs")
                    .any(|entry| entry["options"].to_string().contains("atime"))
        },
        why: "in a user namespace the kernel keeps the access times of sysfs; runc forgets recursive options",
    },
    Known {
        at: "refused",
        is: |found, _| {
            found
                .ours
                .contains("invalid type: null, expected struct Hook")
        },
        why: "a hook is an object; runc takes null for a hook without a path, which fails when its time comes",
    },
    Known {
        at: "refused",
        is: |found, _| found.ours.contains("create device /: invalid argument"),
        why: "a device without a path cannot be made; runc takes the root directory for it",
    },
];

/// Whether a config has a namespace of this kind.
fn makes(config: &Value, kind: &str) -> bool {
    let namespaces = config["linux"]["namespaces"].as_array();
    namespaces.is_some_and(|all| all.iter().any(|namespace| namespace["type"] == kind))
}

/// The mounts of this type.
fn of_type<'a>(config: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let mounts = config["mounts"].as_array().into_iter().flatten();
    mounts.filter(move |entry| entry["type"] == kind)
}

/// Why a difference is one that may be there.
pub(super) fn reason(found: &Difference, config: &Value) -> Option<&'static str> {
    let known = KNOWN
        .iter()
        .find(|known| found.at.starts_with(known.at) && (known.is)(found, config));
    known.map(|known| known.why)
}
