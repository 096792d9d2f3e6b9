//! What a container gets without a word about it, as from Docker, and the words that change it.

use integration::host;
use integration::require;
use integration::supervisor::{IMAGE, Supervisor};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

#[test]
fn what_is_mounted_below_a_read_only_bind_is_read_only_too() {
    require!(containers, busybox);
    host::in_own_mounts(|| {
        let supervisor = Supervisor::new();
        let source = supervisor.scratch.dir("source");
        let below = supervisor.scratch.dir("source/below");
        mount(
            Some("below"),
            &below,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        integration::place::write(&below.join("file"), "");
        let source = source.display().to_string();
        let script =
            "for f in /m /m/below; do touch $f/new 2>/dev/null && echo $f; done; ls /m/below";
        let seen = |flags: &[&str]| {
            let said =
                supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat());
            // For the next one.
            std::fs::remove_file(below.join("new")).ok();
            said.replace('\n', " ")
        };
        let bound = format!("type=bind,src={source},dst=/m");
        assert_eq!(seen(&["-v", &format!("{source}:/m:ro")]), "file");
        assert_eq!(seen(&["--mount", &format!("{bound},readonly")]), "file");
        for (more, expected) in [
            ("", "/m /m/below file new"),
            ("readonly,bind-recursive=enabled", "file"),
            ("readonly,bind-recursive=readonly", "file"),
            ("readonly,bind-recursive=writable", "/m/below file new"),
            ("readonly,bind-recursive=disabled", ""),
            ("bind-nonrecursive", "/m /m/below new"),
        ] {
            assert_eq!(
                seen(&["--mount", format!("{bound},{more}").trim_end_matches(',')]),
                expected,
                "{more}"
            );
        }
        let mapped = ["--userns", "auto", "-v", &format!("{source}:/m:ro")];
        assert_eq!(seen(&mapped), "file");
        umount2(&below, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn in_a_network_of_its_own_any_user_may_take_any_port_and_ping() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let files = ["ip_unprivileged_port_start", "ping_group_range"]
        .map(|name| format!("/proc/sys/net/ipv4/{name}"));
    let seen = |flags: &[&str]| {
        let cat = ["cat", &files[0], &files[1]];
        let said = supervisor.says(&[&["run", "--rm"], flags, &[IMAGE], &cat[..]].concat());
        said.replace(['\n', '\t'], " ")
    };
    assert_eq!(seen(&[]), "0 0 2147483647");
    let host = files
        .clone()
        .map(|file| std::fs::read_to_string(file).unwrap());
    let host = host.concat().trim().replace(['\n', '\t'], " ");
    assert_eq!(seen(&["--network", "host"]), host);
    let said = ["--sysctl", "net.ipv4.ip_unprivileged_port_start=81"];
    assert_eq!(seen(&said), "81 0 2147483647");
    let id = supervisor.detached(&["--sysctl", "net/ipv4/ping_group_range=7 9"], "sleep 1000");
    assert_eq!(seen(&["--network", &format!("container:{id}")]), "0 7 9");
    // The groups of a user namespace are not that many.
    let mapped = seen(&["--userns", "auto"]);
    assert!(
        mapped.starts_with("0 ") && mapped != "0 0 2147483647",
        "{mapped}"
    );
    let listen = "nc -l -p 80 >/tmp/got & while ! nc 127.0.0.1 80 </srv/file; do :; done; wait; cat /tmp/got";
    let web = ["run", "--rm", "-u", "web", IMAGE, "sh", "-c", listen];
    assert_eq!(supervisor.says(&web), "from the image");
}

#[test]
fn apparmor_confines_who_names_no_profile() {
    require!(containers, busybox, apparmor);
    let supervisor = Supervisor::new();
    let run = |flags: &[&str], script: &str| {
        supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
    };
    let who = "cat /proc/self/attr/current";
    let (ours, free) = ("caisson-default (enforce)", "unconfined");
    let unconfined = ["--security-opt", "apparmor=unconfined"];
    assert_eq!(run(&[], who), ours);
    assert_eq!(run(&["--security-opt", "no-new-privileges"], who), ours);
    assert_eq!(run(&["--userns", "auto"], who), ours);
    assert_eq!(run(&unconfined, who), free);
    assert_eq!(run(&["--privileged"], who), free);
    assert_eq!(
        run(
            &["--privileged", "--security-opt", "apparmor=caisson-default"],
            who
        ),
        ours
    );
    let id = supervisor.detached(&["--init"], "sleep 1000 & sleep 1000");
    assert_eq!(
        supervisor.says(&["exec", &id, "cat", "/proc/self/attr/current"]),
        ours
    );
    assert_eq!(
        supervisor.says(&["exec", "--privileged", &id, "cat", "/proc/1/attr/current"]),
        ours
    );
    supervisor.says(&["stop", "-t", "1000", &id]);
    assert_eq!(supervisor.says(&["wait", &id]), "143");
    let others = "sleep 1000 & readlink /proc/$!/exe && kill $!; wait $!; echo $?";
    assert_eq!(run(&[], others), "/bin/busybox\n143");
    // Nothing else is in the way of these.
    let open = [
        "--cap-add",
        "SYS_ADMIN",
        "--security-opt",
        "systempaths=unconfined",
    ];
    let tries = "try() { ( eval \"$1\" ) >/dev/null 2>&1 && echo \"$1\"; };
        try 'mount -t tmpfs none /srv'; try 'mount -t proc none /srv';
        try 'head -c 1 /proc/kcore'; try 'cat /proc/sys/kernel/printk >/proc/sys/kernel/printk'; try 'cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness';
        try 'cat /proc/sys/kernel/shmmax >/proc/sys/kernel/shmmax'; try 'echo 1 >/proc/self/oom_score_adj'; true";
    let allowed =
        "cat /proc/sys/kernel/shmmax >/proc/sys/kernel/shmmax\necho 1 >/proc/self/oom_score_adj";
    assert_eq!(run(&open, tries), allowed);
    let freely = run(&[&open[..], &unconfined].concat(), tries);
    assert!(freely.starts_with("mount -t tmpfs none /srv\n"), "{freely}");
}

#[test]
fn a_profile_that_is_not_applied_is_not_passed_over_in_silence() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = [
        "run",
        "--rm",
        "--security-opt",
        "apparmor=no-such",
        IMAGE,
        "true",
    ];
    let finished = supervisor.ctl(&run);
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        finished.failure().says("no-such");
    } else {
        finished
            .success()
            .says("the profile no-such is not applied");
    }
}
