//! crun's annotations about seccomp, and `seccomp dump`, which shows what came of them.

use integration::{Bundle, beyond, require};
use serde_json::{Value, json};

#[test]
fn a_program_in_the_annotation_takes_the_profiles_place() {
    require!(containers);
    beyond!(
        a_program_in_the_annotation_takes_the_profiles_place,
        [runc("does not know it")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/seccomp", refusing("mkdir", libc::ENOMEDIUM));
    bundle.config.set(
        "/annotations",
        json!({ "run.oci.seccomp_bpf_data": base64(&refuse(libc::SYS_sethostname, libc::EXDEV)) }),
    );
    assert_eq!(
        bundle.tries(&["mkdir:/tmp/x", "hostname:x"]),
        ["EROFS", "EXDEV"]
    );
    let container = bundle.pause();
    let finished = container
        .exec(&[], &["/bin/probe", "try", "hostname:x"])
        .success();
    assert_eq!(finished.json(), json!({ "hostname:x": "EXDEV" }));
}

#[test]
fn a_program_that_is_none_is_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    for data in ["*", "BgAA", "AAAAAAAAAAA="] {
        bundle
            .config
            .set("/annotations", json!({ "run.oci.seccomp_bpf_data": data }));
        if integration::peer::is("caisson") {
            bundle.create_fails().failure().says("seccomp");
        }
    }
}

#[test]
fn a_name_that_nobody_knows_is_an_error_if_the_annotation_says_so() {
    require!(containers);
    beyond!(
        a_name_that_nobody_knows_is_an_error_if_the_annotation_says_so,
        [runc("does not know it")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/seccomp", refusing("abracadabra", libc::EXDEV))
        .probe(&["exit", "0"]);
    bundle.run().success();
    let mut annotate = |value| {
        let annotations = json!({ "run.oci.seccomp_fail_unknown_syscall": value });
        bundle.config.set("/annotations", annotations);
        bundle.save();
        bundle.run()
    };
    annotate("0").success();
    for on in ["1", "true", ""] {
        annotate(on).failure().says("abracadabra");
    }
}

#[test]
fn dump_shows_the_program_of_a_container() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    let profile = refusing("mkdir", libc::ENOMEDIUM);
    let file = bundle.scratch.file("profile.json", profile.to_string());
    bundle.config.set("/linux/seccomp", profile);
    let container = bundle.create();
    let dump = |args: &[&str]| {
        let args = [&["seccomp", "dump"], args].concat();
        bundle.runtime.call(&args)
    };
    let of_container = dump(&[&container.id]).success().stdout;
    assert!(of_container.contains("ret ERRNO(123)"), "{of_container}");
    let file = file.display().to_string();
    let of_profile = dump(&["--profile", &file]).success().stdout;
    assert_eq!(of_container, of_profile);
    bundle.config.remove("/linux/seccomp");
    let bare = bundle.create();
    dump(&[&bare.id]).failure().says("no seccomp filter");
    dump(&["no-such-container"])
        .failure()
        .says("does not exist");
}

fn refusing(call: &str, errno: i32) -> Value {
    let rule = json!({ "names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": errno });
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })
}

/// `if nr == call { ERRNO(errno) } else { ALLOW }`, as bytes.
fn refuse(call: i64, errno: i32) -> Vec<u8> {
    let instructions: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, call as u32),
        (0x06, 0, 0, 0x0005_0000 | errno as u32),
        (0x06, 0, 0, 0x7fff_0000),
    ];
    instructions
        .iter()
        .flat_map(|(code, jt, jf, k)| {
            let mut bytes = code.to_ne_bytes().to_vec();
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_ne_bytes());
            bytes
        })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        let digit = |at: usize| match at <= group.len() {
            true => DIGITS[(bits >> (18 - 6 * at) & 63) as usize] as char,
            false => '=',
        };
        [0, 1, 2, 3].map(digit)
    };
    bytes.chunks(3).flat_map(group).collect()
}
