//! A command line word by word, by the description that clap parses it with: what each word is, as far as the line goes. It is how a line is
//! completed, and how one that is Docker's is made one of clap's.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

/// The words of a line up to some point.
pub(super) struct Line<'a> {
    pub(super) command: &'a Command,
    /// Options that all commands take.
    global: &'a Command,
    /// The option that the next word is the value of.
    pub(super) pending: Option<&'a Arg>,
    /// So many arguments are there.
    arguments: usize,
    /// What follows belongs to somebody else, or is no option.
    pub(super) over: bool,
    /// Where the daemon would be.
    pub(super) place: Vec<(String, String)>,
}

impl<'a> Line<'a> {
    fn new(root: &'a Command) -> Self {
        Self {
            command: root,
            global: root,
            pending: None,
            arguments: 0,
            over: false,
            place: vec![],
        }
    }

    /// None if the words are not understood.
    pub(super) fn read(root: &'a Command, words: &[String]) -> Option<Self> {
        let mut line = Self::new(root);
        for word in words {
            line.word(word)?;
        }
        Some(line)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        if let Some(option) = self.pending.take() {
            self.place
                .push((option.get_id().to_string(), word.to_owned()));
        } else if self.over || !word.starts_with('-') || word == "-" {
            self.argument(word)?;
        } else if word == "--" {
            self.over = true;
        } else {
            self.option(word)?;
        }
        Some(())
    }

    fn argument(&mut self, word: &str) -> Option<()> {
        if self.command.has_subcommands() {
            self.command = self.command.find_subcommand(word)?;
            return Some(());
        }
        // None if there is one too many.
        self.positional()?;
        self.arguments += 1;
        let next = self.positional();
        self.over |= next.is_some_and(Arg::is_trailing_var_arg_set);
        Some(())
    }

    fn option(&mut self, word: &str) -> Option<()> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        if name.starts_with("--") {
            let option = self.named(name)?;
            match value {
                Some(value) => self
                    .place
                    .push((option.get_id().to_string(), value.to_owned())),
                None if wants_value(option) => self.pending = Some(option),
                None => {}
            }
            return Some(());
        }
        let mut letters = word[1..].chars();
        while let Some(letter) = letters.next() {
            let option = self
                .options()
                .find(|option| option.get_short() == Some(letter))?;
            if wants_value(option) {
                if letters.as_str().is_empty() {
                    self.pending = Some(option);
                }
                break;
            }
        }
        Some(())
    }

    /// The option that is written so, with its dashes and without a value.
    pub(super) fn named(&self, word: &str) -> Option<&'a Arg> {
        if let Some(name) = word.strip_prefix("--") {
            return self.options().find(|option| {
                option.get_long() == Some(name)
                    || option
                        .get_all_aliases()
                        .is_some_and(|aliases| aliases.contains(&name))
            });
        }
        let letter = word.strip_prefix('-')?;
        self.options().find(|option| {
            option
                .get_short()
                .is_some_and(|short| short.to_string() == letter)
        })
    }

    pub(super) fn options(&self) -> impl Iterator<Item = &'a Arg> {
        let own = self.command.get_arguments();
        let global = self
            .global
            .get_arguments()
            .filter(|arg| arg.is_global_set());
        own.chain(global).filter(|arg| !arg.is_positional())
    }

    /// What the next argument is. The last one may be repeated.
    pub(super) fn positional(&self) -> Option<&'a Arg> {
        let all: Vec<_> = self.command.get_positionals().collect();
        let last = all.last().copied();
        let many = last.filter(|arg| arg.get_action().takes_values() && repeats(arg));
        all.get(self.arguments).copied().or(many)
    }

    /// The flags of a word that has nothing else, in full, and whether the last one is meant: as Docker's, it may be written with a value
    /// (`--rm=true`, `-it=false`).
    fn pure_flags(&self, word: &str) -> Option<(Vec<String>, bool)> {
        if self.over || self.pending.is_some() {
            return None;
        }
        let (names, given) = match word.split_once('=') {
            Some((names, value)) => (names, super::filter::truth(value)?),
            None => (word, true),
        };
        let names = match names.strip_prefix("--") {
            Some(_) => vec![names.to_owned()],
            None => names
                .strip_prefix('-')?
                .chars()
                .map(|letter| format!("-{letter}"))
                .collect(),
        };
        let long = |name: &String| {
            let option = self.named(name)?;
            let is_flag = matches!(option.get_action(), ArgAction::SetTrue);
            Some(format!("--{}", option.get_long().filter(|_| is_flag)?))
        };
        let flags: Vec<String> = names.iter().map(long).collect::<Option<_>>()?;
        (!flags.is_empty()).then_some((flags, given))
    }
}

/// A line as Docker understands it, for clap: flags may have values, of which the last counts, and what follows a container's image, or a
/// container that something is to be executed in, is that program's, whatever it looks like. `words` are those after the program's name.
pub(super) fn for_clap(root: &Command, words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut line = Line::new(root);
    // Whether they are flags.
    let mut all: Vec<(OsString, bool)> = vec![];
    let mut words = words;
    for word in words.by_ref() {
        let text = word.to_string_lossy();
        if let Some((mut flags, given)) = line.pure_flags(&text) {
            if !given && let Some(last) = flags.pop() {
                all.retain(|(word, is_flag)| !is_flag || *word != *last);
            }
            all.extend(flags.into_iter().map(|flag| (flag.into(), true)));
            continue;
        }
        let was_over = line.over;
        // What is not understood clap explains.
        let understood = line.word(&text).is_some();
        let begins = line.over && !was_over && text != "--";
        all.push((word, false));
        if begins {
            all.push(("--".into(), false));
        }
        if !understood || line.over || line.command.get_name() == "complete" {
            break;
        }
    }
    let all = all.into_iter().map(|(word, _)| word);
    all.chain(words).collect()
}

/// Its value may be the next word.
fn wants_value(option: &Arg) -> bool {
    option.get_action().takes_values() && !option.is_require_equals_set()
}

fn repeats(arg: &Arg) -> bool {
    arg.get_num_args()
        .is_some_and(|count| count.max_values() > 1)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::super::cli::{Cli, Command as Said, ContainerCommand, Verb};
    use super::*;

    fn parsed(line: &str) -> Verb {
        let mut root = Cli::command();
        root.build();
        let words = for_clap(&root, line.split(' ').map(OsString::from));
        let line = [OsString::from("caissonctl")].into_iter().chain(words);
        match Cli::try_parse_from(line).unwrap().command {
            Said::Verb(verb) | Said::Container(ContainerCommand::Verb(verb)) => *verb,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        for (line, command) in [
            ("run --rm image -c x", &["-c", "x"][..]),
            (
                "run -it --name x image --privileged --rm",
                &["--privileged", "--rm"],
            ),
            ("run --entrypoint sh image --help", &["--help"]),
            ("-H /s run image -- x", &["--", "x"]),
            ("run image sh -c x", &["sh", "-c", "x"]),
            ("run -- image -d", &["-d"]),
            ("run image", &[]),
            ("container run --rm image -c x", &["-c", "x"]),
        ] {
            let Verb::Run(run) = parsed(line) else {
                panic!("{line}");
            };
            assert_eq!(run.create.image, "image", "{line}");
            assert_eq!(run.create.command, command, "{line}");
            assert!(!run.detach, "{line}");
        }
        let Verb::Exec(exec) = parsed("exec -i one --help -d") else {
            panic!();
        };
        assert_eq!(exec.command, ["--help", "-d"]);
        assert!(exec.interactive && !exec.detach);
    }

    #[test]
    fn flags_may_have_values() {
        let Verb::Run(run) = parsed("run --detach=true --sig-proxy=false image --detach=false")
        else {
            panic!();
        };
        assert!(run.detach && !run.attached.sig_proxy);
        assert_eq!(run.create.command, ["--detach=false"]);
        let Verb::Ps(ps) = parsed("ps --all=1 -q=false") else {
            panic!();
        };
        assert!(ps.all && !ps.quiet);
        let Verb::Exec(exec) = parsed("exec -it=false box sh") else {
            panic!();
        };
        assert!(exec.interactive && !exec.tty);
    }

    #[test]
    fn of_what_is_said_twice_the_last_counts_but_for_lists() {
        let line = "run --rm -it --rm=false -i --name a -m 1m -e A=1 --name=b -e B=2 -m 2m -t=0 --sig-proxy --sig-proxy=false image";
        let Verb::Run(run) = parsed(line) else {
            panic!();
        };
        let options = &run.create.options;
        assert!(options.interactive && !options.rm && !options.tty && !run.attached.sig_proxy);
        assert_eq!(
            (&*options.name, &*options.env),
            ("b", &["A=1".to_owned(), "B=2".into()][..])
        );
    }
}
