//! Limits in force: hogs of memory, CPU time, processes, disk and huge pages against the kernel's own counts.
//!
//! Nearly all of it needs the controllers on cgroup v2, and so a virtual machine. Rates are taken between two lines that the
//! probe prints around its work, so that what the runtime takes to start it does not count.

use crate::cgroup::scratch_disk;
use integration::runtime::Lines;
use integration::{Bundle, Container, beyond, host, require};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

#[test]
fn run_says_137_for_a_memory_hog() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle.config.probe(&["eat", "128"]).set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
    );
    let finished = bundle.run();
    assert_eq!(finished.code(), 137, "{finished}");
    assert_eq!(finished.stdout, "", "it was killed before it was full");
}

#[test]
fn a_memory_hog_is_killed_at_its_limit() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle.config.probe(&["eat", "128"]).set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
    );
    let mut container = bundle.create();
    let cgroup = container.cgroup();
    container.start().success();
    assert_eq!(container.wait(), 137);
    assert_eq!(container.status(), "stopped");
    assert_eq!(count(&cgroup, "memory.events", "oom_kill"), 1);
    assert!(count(&cgroup, "memory.events", "max") > 0);
    // KERNEL(5.19): memory.peak
    if cgroup.join("memory.peak").exists() {
        let peak: u64 = host::cgroup_file(&cgroup, "memory.peak").parse().unwrap();
        assert!((24 * MIB..=32 * MIB).contains(&peak), "peak {peak}");
    }
}

#[test]
fn what_fits_into_the_limit_is_left_alone() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle.config.probe(&["eat", "16"]).set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
    );
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.stdout.line(), "full");
    assert_eq!(count(&container.cgroup(), "memory.events", "oom_kill"), 0);
}

#[test]
fn exec_shares_the_memory_limit() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
    );
    let container = bundle.pause();
    let finished = container.exec(&[], &["/bin/probe", "eat", "128"]);
    assert_eq!(finished.code(), 137, "{finished}");
    assert_eq!(count(&container.cgroup(), "memory.events", "oom_kill"), 1);
    assert_eq!(
        container.status(),
        "running",
        "the smaller process is spared"
    );
}

#[test]
fn the_whole_group_is_killed_if_the_config_says_so() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .set(
            "/linux/resources/memory",
            json!({ "limit": 32 * MIB, "swap": 32 * MIB }),
        )
        .set(
            "/linux/resources/unified",
            json!({ "memory.oom.group": "1" }),
        );
    let mut container = bundle.pause();
    let finished = container.exec(&[], &["/bin/probe", "eat", "128"]);
    assert_eq!(finished.code(), 137, "{finished}");
    assert_eq!(container.wait(), 137);
}

#[test]
fn memory_beyond_the_limit_goes_to_swap_as_far_as_that_is_allowed() {
    require!(
        containers,
        controller("memory"),
        path("/dev/scratch"),
        path("/sbin/mkswap"),
        path("/sbin/swapon")
    );
    let swap = Swap::on();
    let mut bundle = Bundle::new();
    bundle.config.probe(&["eat", "64"]).set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 128 * MIB }),
    );
    let mut container = bundle.create();
    let cgroup = container.cgroup();
    container.start().success();
    assert_eq!(container.stdout.line(), "full");
    let swapped: u64 = host::cgroup_file(&cgroup, "memory.swap.current")
        .parse()
        .unwrap();
    assert!((30 * MIB..=96 * MIB).contains(&swapped), "{swapped}");
    drop(container);

    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 32 * MIB, "swap": 48 * MIB }),
    );
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.wait(), 137, "16 MiB of swap are not enough");
    drop(swap);
}

#[test]
fn a_cpu_hog_is_throttled_to_its_quota() {
    require!(containers, controller("cpu"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["burn", "1500"])
        .set("/linux/resources/cpu", json!({ "quota": 20_000 }))
        .set("/linux/resources/unified", first_served());
    let mut container = bundle.create();
    container.start().success();
    let used = cpu_share(&container.cgroup(), &mut container.stdout);
    assert!((0.18..=0.22).contains(&used), "used {used} of a CPU");
}

#[test]
fn all_processes_of_a_container_share_its_quota() {
    require!(containers, controller("cpu"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .set(
            "/linux/resources/cpu",
            json!({ "quota": 20_000, "period": 50_000 }),
        )
        .set("/linux/resources/unified", first_served());
    let container = bundle.pause();
    container.exec_detached(&[], &["/bin/probe", "spin"]);
    let mut burning =
        container
            .runtime
            .start(&["exec", &container.id, "/bin/probe", "burn", "1000"]);
    let used = cpu_share(&container.cgroup(), &mut burning.stdout);
    assert!((0.36..=0.44).contains(&used), "used {used} of a CPU");
    burning.wait().success();
}

#[test]
fn a_fork_bomb_stops_at_the_limit() {
    require!(containers, controller("pids"));
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["fork", "100"])
        .set("/linux/resources/pids", json!({ "limit": 16 }));
    let mut container = bundle.create();
    let cgroup = container.cgroup();
    container.start().success();
    assert_eq!(container.stdout.line(), "15 EAGAIN");
    assert_eq!(container.wait(), 0);
    assert!(count(&cgroup, "pids.events", "max") > 0);
    // KERNEL(6.6): pids.peak
    if cgroup.join("pids.peak").exists() {
        assert_eq!(host::cgroup_file(&cgroup, "pids.peak"), "16");
    }
}

#[test]
fn exec_beyond_the_limit_of_pids_is_refused() {
    require!(containers, controller("pids"));
    beyond!(
        exec_beyond_the_limit_of_pids_is_refused,
        [
            runc("needs more tasks than its process to start it"),
            crun("moves the process in, which no limit stops")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/resources/pids", json!({ "limit": 2 }));
    let container = bundle.pause();
    container
        .exec(&[], &["/bin/probe", "echo", "fits"])
        .success();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    container
        .exec(&[], &["/bin/probe", "echo", "too many"])
        .failure()
        .says("pids");
    assert!(host::alive(second.pid));
}

#[test]
fn a_writer_is_throttled_to_its_rate() {
    require!(containers, controller("io"), path("/dev/scratch"));
    let _disk = disk();
    let (bytes, rate) = (8 * MIB, 2 * MIB);
    let (_bundle, mut container) = transfer("write-direct", bytes, "throttleWriteBpsDevice", rate);
    assert_rate(&mut container, "wbytes", bytes, rate);
}

#[test]
fn a_reader_is_throttled_to_its_rate() {
    require!(containers, controller("io"), path("/dev/scratch"));
    let _disk = disk();
    let (bytes, rate) = (8 * MIB, 2 * MIB);
    let (_bundle, mut container) = transfer("read-direct", bytes, "throttleReadBpsDevice", rate);
    assert_rate(&mut container, "rbytes", bytes, rate);
}

#[test]
fn operations_are_throttled_to_their_rate() {
    require!(containers, controller("io"), path("/dev/scratch"));
    let _disk = disk();
    // The probe transfers 64 KiB at a time.
    let (count, rate) = (60, 20);
    let (_bundle, mut container) =
        transfer("write-direct", count << 16, "throttleWriteIOPSDevice", rate);
    assert_rate(&mut container, "wios", count, rate);
}

#[test]
fn huge_pages_stop_at_the_limit() {
    require!(
        containers,
        controller("hugetlb"),
        throwaway_machine(),
        path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    );
    beyond!(
        huge_pages_stop_at_the_limit,
        [
            runc_before("1.1.15", "does not limit the reservation"),
            crun("does not limit the reservation")
        ]
    );
    fs::OpenOptions::new()
        .write(true)
        .open("/proc/sys/vm/nr_hugepages")
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"8"))
        .unwrap();
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/hugepageLimits",
        json!([{ "pageSize": "2MB", "limit": 4 * MIB }]),
    );
    // mmap(0, size, read and write, private, anonymous and of huge pages, no file)
    let mut map = |size: u64| {
        let size = size.to_string();
        bundle.config.probe(&[
            "syscall",
            "mmap",
            "0",
            &size,
            "3",
            &(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB).to_string(),
            &u64::MAX.to_string(),
            "0",
        ]);
        bundle.run().success().json()["mmap"].clone()
    };
    assert_eq!(map(4 * MIB), "ok");
    assert_eq!(map(6 * MIB), "ENOMEM");
}

#[test]
fn a_container_lives_with_half_a_mebibyte_and_one_process() {
    require!(containers, controller("memory"), controller("pids"));
    beyond!(
        a_container_lives_with_half_a_mebibyte_and_one_process,
        [runc(
            "needs megabytes and several threads before the container's program runs"
        )]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["echo", "alive"])
        .set("/linux/resources", little());
    let mut container = bundle.create();
    let cgroup = container.cgroup();
    assert_eq!(host::cgroup_file(&cgroup, "memory.max"), "524288");
    assert_eq!(host::cgroup_file(&cgroup, "pids.current"), "1");
    container.start().success();
    assert_eq!(container.stdout.line(), "alive");
    assert_eq!(container.wait(), 0);
    assert_eq!(count(&cgroup, "memory.events", "oom_kill"), 0);
    assert_eq!(count(&cgroup, "pids.events", "max"), 0);
    drop(container);
    assert_eq!(bundle.run().success().stdout, "alive\n");
}

fn little() -> Value {
    json!({
        "memory": { "limit": 512 << 10, "swap": 512 << 10 },
        "pids": { "limit": 1 },
    })
}

/// What takes a process in between must not need room that the container's limits do not have.
#[test]
fn other_namespaces_and_lent_mounts_need_no_more_room_than_that() {
    require!(
        containers,
        controller("memory"),
        controller("pids"),
        userns,
        id_mapped_mounts,
        namespace("time")
    );
    beyond!(
        other_namespaces_and_lent_mounts_need_no_more_room_than_that,
        [
            runc("needs megabytes and several threads before the container's program runs"),
            crun("may not write the offsets of a user namespace's clocks")
        ]
    );
    let mut first = Bundle::new();
    first.config.user_namespace(100_000, 65536);
    let holder = first.pause();
    let user = |bundle: &mut Bundle| {
        bundle.config.user_namespace(100_000, 65536);
    };
    let time = |bundle: &mut Bundle| {
        bundle
            .config
            .push("/linux/namespaces", json!({ "type": "time" }))
            .set(
                "/linux/timeOffsets",
                json!({ "monotonic": { "secs": 5000 } }),
            );
    };
    let joined = |bundle: &mut Bundle| {
        let path = format!("/proc/{}/ns/user", holder.pid);
        bundle.config.join_namespace("user", &path);
    };
    let lent = |bundle: &mut Bundle| {
        user(bundle);
        let source = bundle.scratch.dir("source").display().to_string();
        bundle.dir("lent");
        let words = ["rbind", "ridmap"];
        bundle.config.mount("/lent", "bind", &source, &words);
    };
    type Change<'a> = &'a dyn Fn(&mut Bundle);
    let kinds: [(&str, Change<'_>); 5] = [
        ("user", &user),
        ("time", &time),
        ("joined", &joined),
        ("lent", &lent),
        ("both", &|bundle| {
            user(bundle);
            time(bundle);
        }),
    ];
    for (kind, change) in kinds {
        let mut bundle = Bundle::new();
        bundle.config.probe(&["echo", kind]);
        bundle.config.set("/linux/resources", little());
        change(&mut bundle);
        let mut container = bundle.create();
        let cgroup = container.cgroup();
        assert_eq!(host::cgroup_file(&cgroup, "pids.current"), "1", "{kind}");
        container.start().success();
        assert_eq!(container.stdout.line(), kind);
        assert_eq!(container.wait(), 0, "{kind}");
        assert_eq!(count(&cgroup, "memory.events", "oom_kill"), 0, "{kind}");
        assert_eq!(count(&cgroup, "pids.events", "max"), 0, "{kind}");
    }
}

#[test]
fn a_memory_limit_that_is_too_small_to_start_with_is_named() {
    require!(containers, controller("memory"));
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/resources/memory",
        json!({ "limit": 16 << 10, "swap": 16 << 10 }),
    );
    bundle.create_fails().says("memory limit");
}

#[test]
fn the_parked_process_is_small() {
    require!(containers);
    beyond!(
        the_parked_process_is_small,
        [runc("parks a whole Go runtime")]
    );
    // Of one alone, the kernel counts the pages of the runtime's own file as private too.
    let (bundle, other) = (Bundle::new(), Bundle::new());
    let (container, _other) = (bundle.create(), other.create());
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", container.pid)).unwrap();
    let kib = |name: &str| -> u64 {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"))
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let private = kib("Private_Clean:") + kib("Private_Dirty:") + kib("Private_Hugetlb:");
    assert!(
        private < 1024,
        "{private} KiB are the process's own:\n{text}"
    );
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    assert!(status.contains("\nThreads:\t1\n"), "{status}");
}

/// The value of a key in a file of `key value` lines.
#[track_caller]
fn count(cgroup: &Path, name: &str, key: &str) -> u64 {
    let text = host::cgroup_file(cgroup, name);
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {key} in {name}: {text}"))
}

/// The greatest weight, so that other tests that run now do not keep the container from its quota.
fn first_served() -> serde_json::Value {
    json!({ "cpu.weight": "10000" })
}

/// How much of a CPU the group used while the `probe burn` with this output ran, by the kernel's count.
#[track_caller]
fn cpu_share(cgroup: &Path, output: &mut Lines) -> f64 {
    let used = || (Instant::now(), count(cgroup, "cpu.stat", "usage_usec"));
    assert_eq!(output.line(), "begin");
    let (begin, before) = used();
    assert_eq!(output.line(), "done");
    let (end, after) = used();
    assert!(count(cgroup, "cpu.stat", "nr_throttled") > 0);
    assert!(count(cgroup, "cpu.stat", "throttled_usec") > 0);
    Duration::from_micros(after - before).as_secs_f64() / (end - begin).as_secs_f64()
}

/// A created container, after the bundle that must outlive it, that will move this many bytes to or from the blank disk under this throttle.
#[track_caller]
fn transfer(verb: &str, bytes: u64, throttle: &str, rate: u64) -> (Bundle, Container) {
    let (major, minor) = scratch_disk();
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&[verb, "/dev/disk", &bytes.to_string()])
        .push(
            "/linux/devices",
            json!({ "path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600 }),
        )
        .set(
            "/linux/resources",
            json!({
                "devices": [
                    { "allow": false, "access": "rwm" },
                    { "allow": true, "type": "b", "major": major, "minor": minor, "access": "rw" },
                ],
                "blockIO": { throttle: [{ "major": major, "minor": minor, "rate": rate }] },
            }),
        );
    let container = bundle.create();
    (bundle, container)
}

/// Runs the transfer and compares its rate, by the clock and by the key of io.stat, with the limit.
#[track_caller]
fn assert_rate(container: &mut Container, key: &str, amount: u64, rate: u64) {
    let cgroup = container.cgroup();
    container.start().success();
    assert_eq!(container.stdout.line(), "begin");
    let begin = Instant::now();
    assert_eq!(container.stdout.line(), "done");
    let seconds = begin.elapsed().as_secs_f64();
    let (major, minor) = scratch_disk();
    let stat = host::cgroup_file(&cgroup, "io.stat");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{major}:{minor} ")));
    let counted: u64 = line
        .and_then(|line| {
            line.split(' ')
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
        })
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {key} of {major}:{minor} in io.stat: {stat}"));
    assert!(counted >= amount, "{counted} of {amount} counted");
    let measured = amount as f64 / seconds / rate as f64;
    assert!(
        (0.75..=1.1).contains(&measured),
        "{measured} times the limit of {rate}, in {seconds} s"
    );
}

/// The blank disk, for one test at a time.
fn disk() -> MutexGuard<'static, ()> {
    static DISK: Mutex<()> = Mutex::new(());
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The blank disk as swap space, until it is dropped.
struct Swap {
    _disk: MutexGuard<'static, ()>,
}

impl Swap {
    fn on() -> Swap {
        let swap = Swap { _disk: disk() };
        tool("/sbin/mkswap");
        tool("/sbin/swapon");
        swap
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let mut command = Command::new("/sbin/swapoff");
        command.arg("/dev/scratch");
        integration::runtime::finish(command);
    }
}

#[track_caller]
fn tool(path: &str) {
    let mut command = Command::new(path);
    command.arg("/dev/scratch");
    integration::runtime::finish(command).success();
}
