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
        std::fs::write(below.join("file"), "").unwrap();
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
                seen(&["--mount", &format!("{bound},{more}").trim_end_matches(',')]),
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
