//! The table of commands and flags: what `parse` accepts and what the help text shows.
//!
//! Names and meanings are runc's; `--cgroup-manager` and `--log-level` are crun's.

use super::flags::{Flag, Order, Takes};

/// A command as the command line knows it.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// One line, after the name, in the list of commands; hidden if empty.
    pub(super) summary: &'static str,
    /// What follows `NAME [command options]`. Completion reads it as well: see `complete::Argument`.
    pub(super) arguments: &'static str,
    /// How many arguments there may be.
    pub(super) count: (usize, usize),
    pub(super) order: Order,
    pub(super) flags: &'static [Flag],
    /// A paragraph or more for its own help text.
    pub(super) description: &'static str,
}

const fn flag(takes: Takes, names: &'static [&'static str], help: &'static str) -> Flag {
    Flag { names, takes, help }
}

const fn value(names: &'static [&'static str], help: &'static str) -> Flag {
    flag(Takes::Value, names, help)
}

const fn file(names: &'static [&'static str], help: &'static str) -> Flag {
    flag(Takes::File, names, help)
}

const fn directory(names: &'static [&'static str], help: &'static str) -> Flag {
    flag(Takes::Directory, names, help)
}

const fn one_of(
    words: &'static [&'static str],
    names: &'static [&'static str],
    help: &'static str,
) -> Flag {
    flag(Takes::OneOf(words), names, help)
}

const fn switch(names: &'static [&'static str], help: &'static str) -> Flag {
    flag(Takes::Switch, names, help)
}

const HELP: Flag = switch(&["help", "h"], "show help");
const BUNDLE: Flag = directory(
    &["bundle", "b"],
    "directory with config.json (default: the current directory)",
);
const CONFIG: Flag = file(
    &["config", "f"],
    "config to use (default: config.json in the bundle)",
);
const NO_SUBREAPER: Flag = switch(
    &["no-subreaper"],
    "do not adopt the container's orphaned processes",
);
const CONSOLE_SOCKET: Flag = file(
    &["console-socket"],
    "UNIX socket that is sent the master end of the container's pseudo-terminal",
);
const PIDFD_SOCKET: Flag = file(
    &["pidfd-socket"],
    "UNIX socket that is sent a pidfd of the process",
);
const PID_FILE: Flag = file(&["pid-file"], "file to write the process id to");
const NO_PIVOT: Flag = switch(
    &["no-pivot"],
    "move the root mount instead of pivot_root, for a root file system on a ramdisk",
);
const NO_NEW_KEYRING: Flag = switch(
    &["no-new-keyring"],
    "keep the caller's session keyring instead of making a new one",
);
const PRESERVE_FDS: Flag = value(
    &["preserve-fds"],
    "pass N more file descriptors, after stdio and the LISTEN_FDS ones (default: 0)",
);
const REGEX: Flag = switch(
    &["regex", "r"],
    "for all containers in whose id this regular expression matches something",
);
const DRY_RUN: Flag = switch(
    &["dry-run"],
    "print what would be done, step by step, and do nothing",
);
const DRY_FORMAT: Flag = one_of(
    &["text", "json"],
    &["format"],
    "with --dry-run: text or json (default: \"text\")",
);
const OUTPUT_FORMAT: Flag = one_of(
    &["text", "json"],
    &["format", "f"],
    "text or json (default: \"text\")",
);
const DETACH: Flag = switch(&["detach", "d"], "return as soon as the process runs");
const FORMAT: Flag = one_of(
    &["table", "json"],
    &["format", "f"],
    "table or json (default: \"table\")",
);

const IMAGE_PATH: Flag = directory(
    &["image-path"],
    "directory of CRIU's image files (default: \"./checkpoint\")",
);
const WORK_PATH: Flag = directory(
    &["work-path"],
    "directory of CRIU's logs and working files (default: that of the images)",
);
const TCP_ESTABLISHED: Flag = switch(&["tcp-established"], "keep open TCP connections");
const EXT_UNIX_SK: Flag = switch(
    &["ext-unix-sk"],
    "allow UNIX sockets that are connected to the outside",
);
const SHELL_JOB: Flag = switch(
    &["shell-job"],
    "allow processes that use a terminal of the outside",
);
const FILE_LOCKS: Flag = switch(&["file-locks"], "keep file locks");
const MANAGE_CGROUPS: Flag = one_of(
    &["soft", "full", "strict", "ignore"],
    &["manage-cgroups-mode"],
    "what CRIU does about cgroups: soft, full, strict or ignore (default: soft)",
);
const NETWORK_LOCK: Flag = one_of(
    &["iptables", "nftables", "skip"],
    &["network-lock"],
    "how CRIU locks the network meanwhile: iptables, nftables or skip (default: as CRIU is configured)",
);
const EMPTY_NS: Flag = value(
    &["empty-ns"],
    "a namespace that is made anew, without its properties: network, as always",
);
const AUTO_DEDUP: Flag = switch(
    &["auto-dedup"],
    "drop pages from images when later ones have them",
);
const LAZY_PAGES: Flag = switch(
    &["lazy-pages"],
    "bring memory pages when they are used (userfaultfd)",
);

pub(super) static GLOBAL: &[Flag] = &[
    switch(&["debug"], "the same as --log-level debug"),
    file(
        &["log"],
        "append log records to this file, or send them to journald:NAME or syslog:NAME (default: standard error)",
    ),
    one_of(
        &["text", "json"],
        &["log-format"],
        "text or json (default: \"text\")",
    ),
    one_of(
        &["error", "warning", "debug"],
        &["log-level"],
        "error, warning or debug (default: \"warning\")",
    ),
    file(
        &["trace"],
        "append a line of JSON to this file for each phase and each step, with the time",
    ),
    directory(
        &["root"],
        "directory for the state of containers, best on a tmpfs (default: \"/run/caisson\")",
    ),
    switch(
        &["systemd-cgroup"],
        "the same as --cgroup-manager systemd; cgroupsPath is then \"slice:prefix:name\"",
    ),
    one_of(
        &["cgroupfs", "systemd", "disabled"],
        &["cgroup-manager"],
        "cgroupfs, systemd or disabled (default: \"cgroupfs\")",
    ),
    one_of(
        &["true", "false", "auto"],
        &["rootless"],
        "ignore cgroup permission errors: true, false or auto (default: \"auto\")",
    ),
    // Old engines pass it; where criu is, is looked up in PATH.
    file(&["criu"], ""),
    HELP,
    switch(&["version", "v"], "print the version"),
];

pub(super) static VERBS: &[Verb] = &[
    Verb {
        name: "check",
        summary: "say what of a bundle would fail on this host, and run nothing",
        arguments: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[BUNDLE, OUTPUT_FORMAT, HELP],
        description: "One line for each field of config.json that is wrong, here or anywhere, with all that is known of why. Exits\n\
                      with 1 if a container could not be created or started; a warning is no failure. The global options\n\
                      count as they do for `create`. Makes nothing: no cgroup, no mount, no process.",
    },
    Verb {
        name: "checkpoint",
        summary: "save the processes of a running container, by CRIU",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            IMAGE_PATH,
            WORK_PATH,
            value(
                &["parent-path"],
                "directory of an earlier --pre-dump, relative to that of the images",
            ),
            switch(
                &["leave-running"],
                "let the container go on, instead of deleting it",
            ),
            TCP_ESTABLISHED,
            switch(
                &["tcp-skip-in-flight"],
                "leave TCP connections out that are not established yet",
            ),
            switch(
                &["link-remap"],
                "give files that were removed but are open a name again",
            ),
            EXT_UNIX_SK,
            SHELL_JOB,
            LAZY_PAGES,
            value(
                &["status-fd"],
                "file descriptor to write \\0 to as soon as --lazy-pages serves pages",
            ),
            value(&["page-server"], "ADDRESS:PORT of a CRIU page server"),
            FILE_LOCKS,
            switch(
                &["pre-dump"],
                "save memory only and let the container go on, for a later --parent-path",
            ),
            MANAGE_CGROUPS,
            NETWORK_LOCK,
            EMPTY_NS,
            AUTO_DEDUP,
            HELP,
        ],
        description: "The images are for `restore`, here or elsewhere. The container is deleted unless it is to go on. CRIU is the\n\
                      program `criu` of PATH; the annotation org.criu.config names its configuration (default: /etc/criu/runc.conf).",
    },
    Verb {
        name: "complete",
        summary: "",
        arguments: "<word>...",
        count: (1, usize::MAX),
        order: Order::FlagsFirst,
        flags: &[HELP],
        description: "Prints what may stand in the place of the last word of a command line, which is given without the\n\
                      program's name: one proposal a line, with a tab and what it means. A line \":files\" or \":directories\"\n\
                      says that paths may stand there. The scripts for shells call this.",
    },
    Verb {
        name: "create",
        summary: "create a container",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            // For who passes the flags of `run`: a command that ends adopts nobody.
            switch(&["no-subreaper"], ""),
            DRY_RUN,
            DRY_FORMAT,
            HELP,
        ],
        description: "Sets up everything that the bundle's config.json asks for and stops right before the\n\
                      container's program, which `start` lets run. The id must be unique on this host.",
    },
    Verb {
        name: "delete",
        summary: "delete what is left of a container",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            switch(
                &["force", "f"],
                "kill the container first if it is running; an unknown id is no error",
            ),
            REGEX,
            HELP,
        ],
        description: "Removes a stopped container's cgroup and state and runs its poststop hooks.",
    },
    Verb {
        name: "events",
        summary: "show what a container uses, and when it runs out of memory",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            value(
                &["interval"],
                "time between two lines of statistics, such as 100ms or 1m30s (default: 5s)",
            ),
            switch(&["stats"], "print the statistics once and end"),
            HELP,
        ],
        description: "Prints JSON objects, one a line: type \"stats\" at each interval, type \"oom\" when the kernel has killed\n\
                      a process at the memory limit. Ends with the container.",
    },
    Verb {
        name: "exec",
        summary: "execute a new process inside a container",
        arguments: "<container-id> <command> [arguments...] | -p process.json <container-id>",
        count: (1, usize::MAX),
        order: Order::FlagsFirst,
        flags: &[
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            DETACH,
            file(
                &["process", "p"],
                "file with the whole process in the form of config.json",
            ),
            switch(&["tty", "t"], "give the process a pseudo-terminal"),
            value(&["cwd"], "working directory in the container"),
            value(
                &["env", "e"],
                "set an environment variable, NAME=VALUE; may be repeated",
            ),
            value(&["user", "u"], "run as this user, <uid>[:<gid>]"),
            value(
                &["additional-gids", "g"],
                "a further group id; may be repeated",
            ),
            value(&["process-label"], "SELinux label of the process"),
            value(&["apparmor"], "AppArmor profile of the process"),
            switch(
                &["no-new-privs"],
                "the process and its children gain no privileges by execve",
            ),
            value(&["cap", "c"], "a further capability; may be repeated"),
            PRESERVE_FDS,
            value(
                &["cgroup"],
                "existing cgroup below the container's to run in",
            ),
            switch(&["ignore-paused"], "allow it in a paused container"),
            HELP,
        ],
        description: "Everything after the container's id is the command, flags included.",
    },
    Verb {
        name: "features",
        summary: "show what this runtime supports, as JSON",
        arguments: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[HELP],
        description: "The document is the one of the runtime specification's features.md.",
    },
    Verb {
        name: "kill",
        summary: "send a signal to a container's init process (default: SIGTERM)",
        arguments: "<container-id> [signal]",
        count: (1, 2),
        order: Order::Anywhere,
        flags: &[
            switch(&["all", "a"], "send it to all processes of the container"),
            REGEX,
            HELP,
        ],
        description: "The signal is a number or a name, with or without SIG, such as KILL, SIGHUP or SIGRTMIN+3.",
    },
    Verb {
        name: "list",
        summary: "list the containers below --root",
        arguments: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[FORMAT, switch(&["quiet", "q"], "only the ids"), HELP],
        description: "",
    },
    Verb {
        name: "mounts",
        summary: "mount in a container that is there, and unmount",
        arguments: "add <container-id> <file> | remove <container-id> <file>",
        count: (3, 3),
        order: Order::Anywhere,
        flags: &[HELP],
        description: "The file, '-' for standard input, has a list of mounts, or an object with \"mounts\", as config.json has them. All of\n\
                      them come, or none; they go in the opposite order. Sources are those of the host.",
    },
    Verb {
        name: "pause",
        summary: "suspend all processes of a container",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[HELP],
        description: "",
    },
    Verb {
        name: "ps",
        summary: "show the processes of a container",
        arguments: "<container-id> [ps options]",
        count: (1, usize::MAX),
        order: Order::FlagsFirst,
        flags: &[FORMAT, HELP],
        description: "The table is that of the host's ps, run with the options given (default: -ef).",
    },
    Verb {
        name: "restore",
        summary: "make a container again from what `checkpoint` has saved",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            CONSOLE_SOCKET,
            IMAGE_PATH,
            WORK_PATH,
            TCP_ESTABLISHED,
            switch(
                &["tcp-close"],
                "close connections that were established, instead of keeping them",
            ),
            EXT_UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            MANAGE_CGROUPS,
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            NETWORK_LOCK,
            EMPTY_NS,
            AUTO_DEDUP,
            LAZY_PAGES,
            value(
                &["lsm-profile"],
                "profile or label of the processes, TYPE:NAME",
            ),
            value(&["lsm-mount-context"], "SELinux label of the mounts"),
            HELP,
        ],
        description: "The bundle is that of the container that was saved, with what is to differ. Without --detach it stays with the\n\
                      container as `run` does.",
    },
    Verb {
        name: "resume",
        summary: "resume the processes of a paused container",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[HELP],
        description: "",
    },
    Verb {
        name: "run",
        summary: "create and start a container",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            BUNDLE,
            CONFIG,
            CONSOLE_SOCKET,
            PIDFD_SOCKET,
            PID_FILE,
            DETACH,
            switch(&["keep"], "do not delete the container when it has exited"),
            NO_SUBREAPER,
            NO_PIVOT,
            NO_NEW_KEYRING,
            PRESERVE_FDS,
            DRY_RUN,
            DRY_FORMAT,
            HELP,
        ],
        description: "Without --detach it forwards signals, waits, deletes the container and exits with its exit\n\
                      code (128 and the signal's number if a signal ended it).",
    },
    Verb {
        name: "seccomp",
        summary: "print the program of a container's or a profile's seccomp filter",
        arguments: "dump <container-id> | dump --profile FILE",
        count: (1, 2),
        order: Order::Anywhere,
        flags: &[
            file(
                &["profile"],
                "linux.seccomp object of a config.json, in a file of its own",
            ),
            switch(&["raw"], "the program's bytes instead of a listing"),
            HELP,
        ],
        description: "Prints the BPF program of a container, or the one that a seccomp profile is compiled to.",
    },
    Verb {
        name: "spec",
        summary: "write a config.json to start from",
        arguments: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[
            directory(
                &["bundle", "b"],
                "directory to write it to (default: the current directory)",
            ),
            file(
                &["file", "f"],
                "file to write (default: config.json in the bundle)",
            ),
            switch(
                &["rootless"],
                "for a container that an unprivileged user runs",
            ),
            HELP,
        ],
        description: "The file asks for a shell with a terminal, few capabilities and a read-only root at\n\
                      \"rootfs\". An existing file is left alone.",
    },
    Verb {
        name: "start",
        summary: "let the program of a created container run",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[HELP],
        description: "",
    },
    Verb {
        name: "state",
        summary: "show the state of a container, as JSON",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[HELP],
        description: "",
    },
    Verb {
        name: "update",
        summary: "change the resources of a container",
        arguments: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            file(
                &["resources", "r"],
                "file with an object as linux.resources of config.json, '-' for standard input; other limits are ignored then",
            ),
            switch(
                &["force", "f"],
                "set a memory limit even if processes have to be killed for it",
            ),
            value(&["blkio-weight"], "weight of input and output, 10 to 1000"),
            value(&["cpu-period"], "period of the CPU quota, in microseconds"),
            value(
                &["cpu-quota"],
                "CPU time in each period, in microseconds; -1 is no limit",
            ),
            value(
                &["cpu-burst"],
                "unused CPU time that may be saved up, in microseconds",
            ),
            value(&["cpu-share"], "weight of CPU time, 2 to 262144"),
            value(&["cpu-rt-period"], "no effect with cgroup v2"),
            value(&["cpu-rt-runtime"], "no effect with cgroup v2"),
            one_of(
                &["0", "1"],
                &["cpu-idle"],
                "1: only CPU time that nobody else wants",
            ),
            value(&["cpuset-cpus"], "CPUs to use, such as 0-2,5"),
            value(&["cpuset-mems"], "memory nodes to use"),
            // Old engines pass them.
            value(&["kernel-memory"], ""),
            value(&["kernel-memory-tcp"], ""),
            value(
                &["memory"],
                "memory limit, such as 512m; -1 is no limit, neither of memory nor of swap",
            ),
            value(
                &["memory-reservation"],
                "memory that is not reclaimed while others have some",
            ),
            value(
                &["memory-swap"],
                "limit of memory and swap together; -1 is no limit of swap",
            ),
            value(
                &["pids-limit"],
                "how many processes and threads there may be; -1 is no limit",
            ),
            value(&["l3-cache-schema"], "Intel RDT: part of the L3 cache"),
            value(&["mem-bw-schema"], "Intel RDT: share of memory bandwidth"),
            HELP,
        ],
        description: "What is not given stays as it is. If memory is limited to less than is in use, the rest is reclaimed; if not enough\n\
                      can be, the limit is refused, unless --force or \"checkBeforeUpdate\": false says to kill processes. With\n\
                      \"checkBeforeUpdate\": true it is refused at once. Device rules are changed if the file has \"devices\".",
    },
];
