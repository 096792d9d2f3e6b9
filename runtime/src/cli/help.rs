//! Help and version texts, rendered from the table of commands.

use super::flags::{Flag, Takes};
use super::verbs::{GLOBAL, VERBS, Verb};
use crate::state::OCI_VERSION;
use std::fmt::Write as _;

/// The whole program's help text.
pub(super) fn program(name: &str) -> String {
    let mut commands: Vec<_> = VERBS
        .iter()
        .filter(|v| !v.summary.is_empty())
        .map(|v| (v.name.to_owned(), v.summary))
        .collect();
    commands.push((
        "help, h".to_owned(),
        "show help, of a command if one is named",
    ));
    format!(
        "NAME:\n   {name} - Open Container Initiative runtime\n\n\
         {name} runs containers from OCI bundles: directories with a config.json and a root file system.\n\
         It does not stay: after create, the first process of a container belongs to the caller's child subreaper.\n\n\
         USAGE:\n   {name} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:\n{}\nGLOBAL OPTIONS:\n{}",
        env!("CARGO_PKG_VERSION"),
        columns(&commands),
        options(GLOBAL),
    )
}

/// One command's help text.
pub(super) fn command(name: &str, verb: &Verb) -> String {
    let mut text = format!("NAME:\n   {name} {}", verb.name);
    if !verb.summary.is_empty() {
        text += " - ";
        text += verb.summary;
    }
    text += "\n\nUSAGE:\n   ";
    text += format!("{name} {} [command options] {}", verb.name, verb.arguments).trim_end();
    text += "\n";
    if !verb.description.is_empty() {
        text += "\nDESCRIPTION:\n   ";
        text += &verb.description.replace('\n', "\n   ");
        text += "\n";
    }
    text += "\nOPTIONS:\n";
    text += &options(verb.flags);
    text
}

/// What `--version` prints. Engines read it by line: containerd looks for the prefixes `runc version`, `commit:` and
/// `spec:`, Docker takes the last line that has the word "version" in it, so that no other line may have it.
pub(super) fn version(name: &str) -> String {
    let mut text = format!(
        "{name} version {}\ncommit: {}\nspec: {OCI_VERSION}\n",
        env!("CARGO_PKG_VERSION"),
        env!("COMMIT")
    );
    if name != super::NAME {
        // Whoever reads a bug report must be able to tell.
        text += concat!("implementation: ", env!("CARGO_PKG_NAME"), "\n");
    }
    text
}

fn options(flags: &[Flag]) -> String {
    let shown = flags.iter().filter(|flag| !flag.help.is_empty());
    columns(
        &shown
            .map(|flag| (spelling(flag), flag.help))
            .collect::<Vec<_>>(),
    )
}

/// `--bundle value, -b value`
fn spelling(flag: &Flag) -> String {
    let value = if flag.takes == Takes::Switch {
        ""
    } else {
        " value"
    };
    let names = flag
        .names
        .iter()
        .map(|name| format!("{}{name}{value}", if name.len() == 1 { "-" } else { "--" }));
    names.collect::<Vec<_>>().join(", ")
}

fn columns(rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (left, right)| {
        // Writing to a string cannot fail.
        writeln!(text, "   {left:width$}  {right}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_and_command_is_in_the_help_text() {
        let text = program("caisson");
        for flag in GLOBAL.iter().filter(|f| f.names[0] != "criu") {
            for name in flag.names {
                assert!(text.contains(&format!("-{name}")), "{name}");
            }
        }
        assert!(!text.contains("criu"));
        let hidden = ["complete"];
        for verb in VERBS {
            assert_ne!(
                text.contains(&format!("\n   {} ", verb.name)),
                hidden.contains(&verb.name),
                "{}",
                verb.name
            );
        }
        for verb in VERBS {
            let text = command("caisson", verb);
            assert!(text.starts_with(&format!("NAME:\n   caisson {}", verb.name)));
            for flag in verb.flags.iter().filter(|flag| !flag.help.is_empty()) {
                assert!(
                    text.contains(&format!("   --{}", flag.names[0])),
                    "{} {}",
                    verb.name,
                    flag.names[0]
                );
            }
        }
    }

    #[test]
    fn the_version_is_in_one_line_only() {
        for name in ["caisson", "runc"] {
            let text = version(name);
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(
                lines[0],
                format!("{name} version {}", env!("CARGO_PKG_VERSION"))
            );
            assert!(lines[1].starts_with("commit: "));
            assert_eq!(lines[2], "spec: 1.3.0");
            assert_eq!(
                lines
                    .iter()
                    .filter(|line| line.to_lowercase().contains("version"))
                    .count(),
                1
            );
        }
        assert_eq!(version("caisson").lines().count(), 3);
    }
}
