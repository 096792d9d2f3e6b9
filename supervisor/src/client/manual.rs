//! The commands of the manual page: from what the command line is parsed by → mdoc(7), between two marks of `supervisor/caissonctl.8`.
//! The rest of the page is written by hand. `MANUAL=write cargo test -p supervisor` puts it there.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::cli::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/caissonctl.8");
const BEGIN: &str = ".\\\" From the command line's own description:\n";
const END: &str = ".\\\" End of it.\n";

#[test]
fn the_manual_page_has_every_command_and_every_option() {
    let page = fs::read_to_string(PAGE).unwrap();
    let (head, rest) = page.split_once(BEGIN).unwrap();
    let (old, tail) = rest.split_once(END).unwrap();
    let mut root = Cli::command();
    root.build();
    let mut new = String::new();
    for command in shown(&root) {
        describe(&mut new, &root, command, &[]);
    }
    if std::env::var_os("MANUAL").is_some_and(|value| value == "write") {
        let mut open = fs::OpenOptions::new();
        let mut file = open.write(true).truncate(true).open(PAGE).unwrap();
        write!(file, "{head}{BEGIN}{new}{END}{tail}").unwrap();
    } else {
        assert_eq!(old, new, "MANUAL=write cargo test -p supervisor mends it");
    }
    for option in options(&root) {
        let name = option.get_long().unwrap();
        let item = format!(".Fl Fl {name}");
        assert!(head.contains(&item[1..]), "{name} is not in the page");
    }
}

#[test]
fn the_daemons_manual_page_has_what_its_help_has() {
    let page = fs::read_to_string(PAGE.replace("caissonctl.8", "caissond.8")).unwrap();
    let listed: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix(".It Fl Fl "))
        .filter_map(|item| item.split(' ').next())
        .collect();
    let help = crate::daemon::HELP.lines();
    let options: Vec<_> = help
        .filter_map(|line| line.strip_prefix("  --"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(options.len() > 4);
    assert_eq!(listed, options);
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    let inner = command.get_subcommands();
    inner.filter(|one| !one.is_hide_set() && one.get_name() != "help")
}

/// With a value and without.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let all = command.get_arguments();
    all.filter(|one| !one.is_positional() && !one.is_hide_set())
}

/// A command with its options, or those in it; of these only the names if they are commands of their own, too.
fn describe(page: &mut String, root: &Command, command: &Command, path: &[&str]) {
    let path = [path, &[command.get_name()]].concat();
    if command.has_subcommands() {
        let known = |inner: &&Command| {
            let same = root.find_subcommand(inner.get_name());
            same.is_some_and(|same| text(same.get_about()) == text(inner.get_about()))
        };
        let (known, own): (Vec<_>, Vec<_>) = shown(command).partition(known);
        if !known.is_empty() {
            let names: Vec<_> = known.iter().map(|one| one.get_name()).collect();
            // Strings take what is written to them.
            writeln!(page, ".It Cm {} Ar command ...", path.join(" ")).ok();
            let all = format!(
                "What the command does without the word: {}",
                names.join(", ")
            );
            writeln!(page, "{}", sentence(&all)).ok();
        }
        for inner in own {
            describe(page, root, inner, &path);
        }
        return;
    }
    let mut item = format!(".It Cm {}", path.join(" "));
    let options: Vec<_> = options(command)
        .filter(|one| !one.is_global_set() && one.get_id() != "help")
        .collect();
    if !options.is_empty() {
        item += " Op Ar options";
    }
    for argument in command.get_positionals() {
        item += &word(argument);
    }
    // Strings take what is written to them.
    writeln!(page, "{item}").ok();
    writeln!(page, "{}", sentence(&text(command.get_about()))).ok();
    if options.is_empty() {
        return;
    }
    page.push_str(".Bl -tag -width Ds\n");
    for option in options {
        let mut item = ".It".to_owned();
        if let Some(letter) = option.get_short() {
            write!(item, " Fl {letter} ,").ok();
        }
        write!(item, " Fl Fl {}", option.get_long().unwrap()).ok();
        if option.get_action().takes_values() && !option.is_require_equals_set() {
            item += &format!(" Ar {}", value(option));
        } else if option.is_require_equals_set() {
            item += " Ns Op = Ns Cm true | false";
        }
        let help = text(option.get_help());
        let name = option.get_long().unwrap();
        assert!(!help.is_empty(), "{path:?}: --{name} has no help");
        writeln!(page, "{item}").ok();
        writeln!(page, "{}", sentence(&help)).ok();
        let defaults: Vec<_> = option.get_default_values().iter().collect();
        if let [default] = defaults[..]
            && !option.is_hide_default_value_set()
            && option.get_action().takes_values()
        {
            let default = default.to_string_lossy();
            writeln!(page, "The default is\n.Ql {default} .").ok();
        }
    }
    page.push_str(".El\n");
}

/// An argument, as the command's line has it.
fn word(argument: &Arg) -> String {
    let many = argument
        .get_num_args()
        .is_some_and(|count| count.max_values() > 1);
    let name = format!("Ar {}{}", value(argument), if many { " ..." } else { "" });
    if argument.is_required_set() {
        format!(" {name}")
    } else {
        format!(" Op {name}")
    }
}

fn value(of: &Arg) -> String {
    let name = of.get_value_names().and_then(|names| names.first());
    name.map(|name| name.to_lowercase())
        .unwrap_or_default()
        .replace('_', "-")
}

fn text(of: Option<&clap::builder::StyledStr>) -> String {
    of.map(ToString::to_string).unwrap_or_default()
}

/// As mdoc takes it, in short lines: what begins one with a dot or a quote would be a macro, a backslash an escape.
fn sentence(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in format!("{}.", text.replace('\\', "\\e")).split(' ') {
        let last = lines.last_mut().unwrap();
        if last.is_empty() || last.len() + word.len() > 75 {
            let begin = if word.starts_with(['.', '\'']) {
                "\\&"
            } else {
                ""
            };
            lines.push(format!("{begin}{word}"));
        } else {
            *last += " ";
            *last += word;
        }
    }
    lines[1..].join("\n")
}
