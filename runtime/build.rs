//! Finds out which commit is being built, for `--version`, and leaves out of the released program what nothing in it reads.

#![allow(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=CAISSON_COMMIT");
    // A new checkout changes HEAD. A new commit on the same branch does not, and is not worth building everything again.
    if let Some(head) = git(&["rev-parse", "--git-path", "HEAD"]) {
        println!("cargo::rerun-if-changed={head}");
    }
    // Builds from an archive have no repository; packagers name the commit.
    let commit = std::env::var("CAISSON_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!(
        "cargo::rustc-env=COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
    leave_unwinding_out();
}

/// A fourteenth of the program.
fn leave_unwinding_out() {
    println!("cargo::rerun-if-changed=unwind.ld");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{here}/unwind.ld");
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout)
        .ok()
        .map(|text| text.trim().to_owned())
}
