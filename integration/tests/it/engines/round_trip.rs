//! Images between the supervisor and other engines: what `caissonctl save` writes they load, what they save it loads, and an image keeps its id
//! (the digest of its configuration) and the digests of its layers; its manifest too, where the archive has one.

use super::{Daemon, Image, by_default, containerd, docker, installed, line_of_readme};
use integration::require;
use integration::supervisor::{IMAGE, Supervisor};

/// An engine's words for loading, for saving (the image and the file follow), and for looking at images.
struct Engine {
    name: &'static str,
    saves: &'static [&'static str],
}

/// Both forms, the second of which has the manifest.
const PODMAN: Engine = Engine {
    name: "podman",
    saves: &[
        "podman save -q --format docker-archive -o",
        "podman save -q --format oci-archive -o",
    ],
};
const DOCKER: Engine = Engine {
    name: "docker",
    saves: &["docker save -o"],
};

#[test]
fn podman_loads_what_is_saved_and_the_other_way_round() {
    require!(throwaway_machine, busybox, program("podman"));
    let image = Image::new();
    image.sh("podman import -q box.tar box:1");
    there_and_back(&image, &PODMAN);
}

#[test]
fn docker_loads_what_is_saved_and_the_other_way_round() {
    require!(
        throwaway_machine,
        busybox,
        program("dockerd"),
        program("docker")
    );
    let (image, _docker) = (Image::new(), docker());
    let (_containerd, address) = containerd(&image);
    let line = by_default(&line_of_readme("dockerd", &installed(), ""));
    let _daemon = Daemon::start(&image, &format!("{line} --containerd {address}"));
    image.sh("docker import box.tar box:1");
    there_and_back(&image, &DOCKER);
}

#[test]
fn skopeo_copies_what_is_saved_and_the_other_way_round() {
    require!(containers, busybox, program("skopeo"));
    let image = Image::new();
    let supervisor = supervisor();
    let ours = seen(&supervisor, "made:1");
    image.sh(&save(&supervisor, "made:1"));
    let raw = image.sh("skopeo inspect oci-archive:ours.tar").json();
    let listed = supervisor.says(&[
        "images",
        "--digests",
        "--format",
        "{{.Repository}} {{.Digest}}",
    ]);
    let listed = listed.lines().find_map(|line| line.strip_prefix("made "));
    assert_eq!(raw["Digest"].as_str(), listed);
    for (form, to) in [
        ("docker-archive", "docker-archive:back.tar:made:1"),
        ("oci-archive", "oci-archive:back.tar:made:1"),
    ] {
        image.sh(&format!("skopeo copy -q {form}:ours.tar {to}"));
        supervisor.says(&["rmi", "made:1"]);
        load(&image, &supervisor);
        let back = seen(&supervisor, "made:1");
        assert_eq!(back, ours, "{form}");
        image.sh("rm back.tar");
    }
}

/// With an image of two layers, `made:1`.
fn supervisor() -> Supervisor {
    let supervisor = Supervisor::new();
    supervisor.says(&[
        "run",
        "--name",
        "box",
        IMAGE,
        "sh",
        "-c",
        "echo kept >/kept",
    ]);
    supervisor.says(&["commit", "box", "made:1"]);
    supervisor
}

/// An image's id and layers.
#[track_caller]
fn seen(supervisor: &Supervisor, name: &str) -> String {
    supervisor.says(&[
        "image",
        "inspect",
        "--format",
        "{{.Id}} {{json .RootFS.Layers}}",
        name,
    ])
}

fn save(supervisor: &Supervisor, name: &str) -> String {
    let words = supervisor.command(&["save", "-o", "ours.tar", name]);
    let words = std::iter::once(words.get_program()).chain(words.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("rm -f ours.tar; {}", words.join(" "))
}

#[track_caller]
fn load(image: &Image, supervisor: &Supervisor) {
    let archive = image.bundle.scratch.name("back.tar");
    supervisor.says(&["load", "-q", "-i", &archive]);
}

#[track_caller]
fn there_and_back(image: &Image, engine: &Engine) {
    let (supervisor, name) = (supervisor(), engine.name);
    let theirs = |image_name: &str| {
        let line = format!(
            "{name} image inspect --format '{{{{.Id}}}} {{{{json .RootFS.Layers}}}}' {image_name}"
        );
        let said = image.sh(&line).stdout.trim().to_owned();
        // Podman leaves it out of ids.
        format!("sha256:{}", said.trim_start_matches("sha256:"))
    };
    // What we have made, and what they have made.
    let made = theirs("box:1");
    for save_line in engine.saves {
        image.sh(&format!("rm -f back.tar; {save_line} back.tar box:1"));
        load(image, &supervisor);
        let named = local(&supervisor, "box:1");
        assert_eq!(seen(&supervisor, &named), made, "{save_line}");
        image.sh(&format!(
            "{name} rmi box:1; {}; {name} load -i ours.tar",
            save(&supervisor, &named)
        ));
        assert_eq!(theirs(&named), made, "{save_line}, and back");
        if named != "box:1" {
            image.sh(&format!("{name} tag {named} box:1"));
        }
        supervisor.says(&["rmi", &named]);
    }
    let ours = seen(&supervisor, "made:1");
    for save_line in engine.saves {
        image.sh(&format!(
            "{}; {name} load -i ours.tar",
            save(&supervisor, "made:1")
        ));
        assert_eq!(theirs("made:1"), ours);
        image.sh(&format!(
            "rm -f back.tar; {save_line} back.tar made:1; {name} rmi made:1"
        ));
        supervisor.says(&["rmi", "made:1"]);
        load(image, &supervisor);
        let named = local(&supervisor, "made:1");
        assert_eq!(seen(&supervisor, &named), ours, "{save_line}");
        if named != "made:1" {
            supervisor.says(&["tag", &named, "made:1"]);
            supervisor.says(&["rmi", &named]);
        }
    }
    let said = supervisor.says(&["run", "--rm", "made:1", "cat", "/kept"]);
    assert_eq!(said, "kept");
}

/// What an image is called here that an engine may keep as one of `localhost`.
fn local(supervisor: &Supervisor, name: &str) -> String {
    let with_host = format!("localhost/{name}");
    let found = supervisor.ctl(&["image", "inspect", &with_host]);
    if found.status.success() {
        with_host
    } else {
        name.to_owned()
    }
}
