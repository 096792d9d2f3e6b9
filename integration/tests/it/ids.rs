//! Container ids: what may be one, and that each is taken once.

use integration::place::unique;
use integration::{Bundle, Container, beyond, require};
use std::fs;

#[test]
fn an_id_is_taken_until_its_container_is_deleted() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let id = container.id.clone();
    let again = || bundle.call("create", &[], &id).failure().says("exist");
    again();
    assert_eq!(
        container.status(),
        "running",
        "the first container is untouched"
    );
    container.kill("KILL").success();
    container.wait();
    again();
    container.delete().success();
    let second = Container::create(&bundle.runtime, &bundle.path(), &[], &id).unwrap();
    assert_eq!(second.status(), "created");
}

#[test]
fn ids_may_hold_letters_digits_and_four_marks() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    bundle.save();
    for id in [unique("Az09_+-.x"), unique("_a"), unique("+a")] {
        bundle.call("run", &[], &id).success();
        bundle.assert_gone(&id);
    }
}

#[test]
fn ids_may_start_with_a_dot() {
    require!(containers);
    beyond!(
        ids_may_start_with_a_dot,
        [crun(
            "names the session keyring by the id alone, and the kernel reserves names with a dot"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    bundle.save();
    let id = unique("..a");
    bundle.call("run", &[], &id).success();
    bundle.assert_gone(&id);
}

#[test]
fn ids_that_could_name_another_place_are_refused() {
    require!(containers);
    beyond!(
        ids_that_could_name_another_place_are_refused,
        [crun_before(
            "1.28",
            "accepts any id without a slash, also `.`, `..` and shell characters"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    bundle.save();
    for id in [
        ".", "..", "", "a/b", "../a", "a b", "a:b", "ä", "a\n", "a*", "a@b",
    ] {
        bundle.call("run", &[], id).failure();
    }
    let left: Vec<_> = fs::read_dir(&bundle.runtime.root)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_id_must_be_given() {
    require!(containers);
    let bundle = Bundle::new();
    bundle.save();
    for verb in ["create", "run", "start", "state", "kill", "delete", "exec"] {
        bundle.runtime.call(&[verb]).failure();
    }
}
