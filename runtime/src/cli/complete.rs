//! Completes a command line: what may stand in the place of its last word.
//!
//! Runs in the runtime command's process, for the scripts in `runtime/completions`. These know no command and no flag: all is read
//! from the tables by which command lines are understood, so that nothing can be missing here. It looks at no container
//! and no file, but says where to look. A line that is not understood is completed by nothing, and is no error: somebody is
//! still writing it.

use super::flags::{self, Flag, Matches, Order, Takes};
use super::verbs::{GLOBAL, VERBS, Verb};
use super::{Surroundings, global, verb};
use nix::sys::signal;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What may stand there.
#[derive(Debug, PartialEq)]
pub(crate) enum Offer {
    Words(Vec<Word>),
    /// The ids of containers below the `--root` of the line that begin so.
    Containers {
        root: PathBuf,
        begin: String,
    },
    Files,
    Directories,
}

/// A word that may stand there.
#[derive(Debug, PartialEq)]
pub(crate) struct Word {
    pub(crate) text: String,
    /// What it means; empty if it says that itself.
    pub(crate) help: &'static str,
}

/// The words of a line up to the one that is completed, or those of them that follow the command's name.
struct Before {
    known: &'static [Flag],
    found: Matches,
    /// The flag that the next word is the value of.
    pending: Option<&'static Flag>,
    /// Whether the next word may be a flag.
    flags: bool,
}

/// What may stand in the place of the last of `words`, among which the program's name is not.
pub(super) fn offer(words: &[OsString], here: &Surroundings) -> Offer {
    words
        .split_last()
        .and_then(|(last, before)| complete(before, last, here))
        .unwrap_or(Offer::Words(Vec::new()))
}

fn complete(before: &[OsString], last: &OsStr, here: &Surroundings) -> Option<Offer> {
    let line = Before::read(before, GLOBAL, Order::FlagsFirst)?;
    let Some((command, rest)) = line.found.args.split_first() else {
        return line.flag(last).or_else(|| words(commands(), last));
    };
    if command == "help" || command == "h" {
        return if rest.is_empty() {
            words(commands(), last)
        } else {
            None
        };
    }
    let verb = verb(command).ok()?;
    let after = Before::read(rest, verb.flags, verb.order)?;
    if let Some(offer) = after.flag(last) {
        return Some(offer);
    }
    let mut next = arguments(verb, after.found.args.len()).peekable();
    match *next.peek()? {
        "<file>" => Some(Offer::Files),
        "<container-id>" => Some(Offer::Containers {
            root: global(&line.found, here).ok()?.root,
            begin: last.to_str()?.to_owned(),
        }),
        "[signal]" => words(signals(last), last),
        word if is_word(word) => {
            let mut offered: Vec<&str> = next.filter(|word| is_word(word)).collect();
            offered.dedup();
            words(offered.into_iter().map(plain), last)
        }
        _ => None,
    }
}

impl Before {
    /// None if the words are not understood.
    fn read(words: &[OsString], known: &'static [Flag], order: Order) -> Option<Before> {
        let scan = |words: &[OsString]| flags::scan(words.to_vec(), known, order).ok();
        if let Some(found) = scan(words) {
            let over = words.iter().any(|word| word == "--")
                || (order == Order::FlagsFirst && !found.args.is_empty());
            return Some(Before {
                known,
                found,
                pending: None,
                flags: !over,
            });
        }
        // A flag at the end that lacks its value would be an error in a line that is complete.
        let (last, before) = words.split_last()?;
        Some(Before {
            known,
            found: scan(before)?,
            pending: Some(named(known, name(last)?)?),
            flags: false,
        })
    }

    /// The next word as a flag, a flag with its value, or the value of the flag before it; None if it is none of these.
    fn flag(&self, word: &OsStr) -> Option<Offer> {
        if let Some(flag) = self.pending {
            return Some(values(flag, "", word));
        }
        let bytes = name(word).filter(|_| self.flags)?.as_bytes();
        let Some(end) = bytes.iter().position(|b| *b == b'=') else {
            return words(names(self.known), word);
        };
        let (name, begin) = (&bytes[..end], &bytes[end + 1..]);
        let flag = named(self.known, OsStr::from_bytes(name));
        let before = word.to_str().map(|word| &word[..word.len() - begin.len()]);
        let Some((flag, before)) = flag.zip(before) else {
            return Some(Offer::Words(Vec::new()));
        };
        Some(values(flag, before, OsStr::from_bytes(begin)))
    }
}

/// What the argument of this number is in each form of the command, as the table of commands writes it.
fn arguments(verb: &Verb, number: usize) -> impl Iterator<Item = &'static str> {
    let forms = verb.arguments.split('|');
    forms.filter_map(move |form| form.split_whitespace().nth(number))
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_lowercase())
}

/// A flag without its dashes; None for what is no flag.
fn name(word: &OsStr) -> Option<&OsStr> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    Some(OsStr::from_bytes(name.strip_prefix(b"-").unwrap_or(name)))
}

fn named(known: &'static [Flag], name: &OsStr) -> Option<&'static Flag> {
    known
        .iter()
        .find(|flag| flag.names.iter().any(|n| OsStr::new(n) == name))
}

/// What `flag` may be given, `before` being what the word has in front of its value and `begin` what is there of it.
fn values(flag: &Flag, before: &str, begin: &OsStr) -> Offer {
    let texts = match flag.takes {
        Takes::File => return Offer::Files,
        Takes::Directory => return Offer::Directories,
        Takes::OneOf(texts) => texts,
        Takes::Switch | Takes::Value => &[],
    };
    let begun = texts.iter().filter(|text| starts(text, begin));
    let words = begun.map(|text| plain(format!("{before}{text}")));
    Offer::Words(words.collect())
}

/// The flags that help texts show, under all their names.
fn names(known: &'static [Flag]) -> Vec<Word> {
    let shown = known.iter().filter(|flag| !flag.help.is_empty());
    let words = shown.flat_map(|flag| {
        flag.names.iter().map(|name| Word {
            text: format!("{}{name}", if name.len() == 1 { "-" } else { "--" }),
            help: flag.help,
        })
    });
    words.collect()
}

/// The commands that the help text shows.
fn commands() -> Vec<Word> {
    let shown = VERBS.iter().filter(|verb| !verb.summary.is_empty());
    let words = shown.map(|verb| Word {
        text: verb.name.to_owned(),
        help: verb.summary,
    });
    words.collect()
}

/// The names of signals, with SIG if the word that is completed has it.
fn signals(begin: &OsStr) -> Vec<Word> {
    let full = begin.as_bytes().starts_with(b"SIG");
    let names = signal::Signal::iterator().map(signal::Signal::as_str);
    let names = names.chain(["SIGRTMIN", "SIGRTMAX"]);
    names
        .map(|name| plain(if full { name } else { &name["SIG".len()..] }))
        .collect()
}

fn words(all: impl IntoIterator<Item = Word>, begin: &OsStr) -> Option<Offer> {
    let begun = all.into_iter().filter(|word| starts(&word.text, begin));
    Some(Offer::Words(begun.collect()))
}

fn plain(text: impl Into<String>) -> Word {
    Word {
        text: text.into(),
        help: "",
    }
}

fn starts(text: &str, begin: &OsStr) -> bool {
    text.as_bytes().starts_with(begin.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(line: &[&str]) -> Offer {
        let words: Vec<_> = line.iter().map(OsString::from).collect();
        offer(&words, &Surroundings::default())
    }

    fn texts(line: &[&str]) -> Vec<String> {
        match offered(line) {
            Offer::Words(words) => words.into_iter().map(|word| word.text).collect(),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn containers(root: &str, begin: &str) -> Offer {
        Offer::Containers {
            root: root.into(),
            begin: begin.to_owned(),
        }
    }

    #[test]
    fn every_command_and_every_flag_is_offered_where_it_is_taken() {
        let shown = |flags: &'static [Flag]| -> Vec<&str> {
            let shown = flags.iter().filter(|flag| !flag.help.is_empty());
            shown.flat_map(|flag| flag.names).copied().collect()
        };
        let bare = |words: Vec<String>| -> Vec<String> {
            let bare = words.iter().map(|w| w.trim_start_matches('-').to_owned());
            bare.collect()
        };
        assert_eq!(bare(texts(&["-"])), shown(GLOBAL));
        let commands: Vec<_> = VERBS
            .iter()
            .filter(|verb| !verb.summary.is_empty())
            .collect();
        let names: Vec<_> = commands.iter().map(|verb| verb.name).collect();
        assert_eq!(texts(&[""]), names);
        assert_eq!(texts(&["help", ""]), names);
        for verb in VERBS {
            assert_eq!(
                bare(texts(&["--debug", verb.name, "-"])),
                shown(verb.flags),
                "{}",
                verb.name
            );
        }
    }

    #[test]
    fn every_word_of_a_fixed_set_is_offered_and_accepted() {
        let of = |prefix: &[&str], flags: &'static [Flag]| {
            for flag in flags {
                let Takes::OneOf(set) = flag.takes else {
                    continue;
                };
                let name = format!("--{}", flag.names[0]);
                assert_eq!(texts(&[prefix, &[&name, ""]].concat()), set);
                for word in set {
                    let attached = format!("{name}={word}");
                    let offered = texts(&[prefix, &[&attached]].concat());
                    assert_eq!(offered, std::slice::from_ref(&attached));
                    let mut line = [&["caisson"], prefix, &[&attached]].concat();
                    // `list` and `check` take no container, and all global flags.
                    match prefix {
                        [] => line.push("list"),
                        ["list" | "check"] => {}
                        _ => line.push("web"),
                    }
                    let parsed = super::super::parse(
                        line.iter().map(OsString::from),
                        &Surroundings::default(),
                    );
                    assert!(parsed.is_ok(), "{line:?}");
                }
            }
        };
        of(&[], GLOBAL);
        for verb in VERBS {
            of(&[verb.name], verb.flags);
        }
    }

    #[test]
    fn containers_are_offered_below_the_root_of_the_line() {
        for (line, root, begin) in [
            (&["start", ""][..], "/run/caisson", ""),
            (&["kill", "we"], "/run/caisson", "we"),
            (&["--root", "/r", "delete", "--force", ""], "/r", ""),
            (&["--root=/r", "exec", "--env", "A=1", "x"], "/r", "x"),
            (&["exec", "-p", "file", ""], "/run/caisson", ""),
            (&["seccomp", "dump", ""], "/run/caisson", ""),
            (&["mounts", "add", ""], "/run/caisson", ""),
            (&["kill", "--", ""], "/run/caisson", ""),
        ] {
            assert_eq!(offered(line), containers(root, begin), "{line:?}");
        }
    }

    #[test]
    fn values_are_offered_by_what_their_flag_takes() {
        assert_eq!(offered(&["run", "--bundle", "x"]), Offer::Directories);
        assert_eq!(offered(&["run", "-b=x"]), Offer::Directories);
        assert_eq!(offered(&["exec", "-p", ""]), Offer::Files);
        assert_eq!(offered(&["--log", ""]), Offer::Files);
        assert_eq!(offered(&["mounts", "remove", "web", ""]), Offer::Files);
        assert_eq!(texts(&["mounts", ""]), ["add", "remove"]);
        assert_eq!(texts(&["--log-level", "w"]), ["warning"]);
        assert_eq!(texts(&["-log-level=d"]), ["-log-level=debug"]);
        assert!(texts(&["exec", "--cwd", "/"]).is_empty());
        assert!(texts(&["run", "--detach="]).is_empty());
    }

    #[test]
    fn signals_have_their_names_with_and_without_sig() {
        assert_eq!(texts(&["kill", "web", "KI"]), ["KILL"]);
        assert_eq!(texts(&["kill", "web", "SIGKI"]), ["SIGKILL"]);
        assert_eq!(texts(&["kill", "--all", "web", "RTM"]), ["RTMIN", "RTMAX"]);
        let all = texts(&["kill", "web", ""]);
        assert!(all.len() > 30, "{all:?}");
        for name in all {
            name.parse::<super::super::Signal>().unwrap();
        }
    }

    #[test]
    fn what_belongs_to_others_or_is_not_understood_is_completed_by_nothing() {
        for line in [
            &["exec", "web", ""][..],
            &["exec", "web", "ls", "--"],
            &["ps", "web", "-"],
            &["run", "web", "x"],
            &["--nosuch", ""],
            &["--log-format=xml", "start", ""],
            &["nosuch", ""],
            &["run", "--detach=maybe", ""],
            &["run", "--nosuch=x"],
            &["help", "run", ""],
            &["kill", "web", "TERM", ""],
            &["kill", "--", "web", "--"],
        ] {
            assert!(texts(line).is_empty(), "{line:?}");
        }
    }
}
