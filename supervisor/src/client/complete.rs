//! `complete`: what may stand in the place of a command line's last word, for the scripts in `runtime/completions`, which ask the programs
//! that they complete for.
//!
//! All is read from what the command line is parsed by, so that nothing can be missing here. A line that is not understood is completed by nothing,
//! and is no error: somebody is still writing it. The daemon is asked if it runs, and is not started for this.

use std::time::Duration;

use clap::{Arg, Command};
use tokio::time::timeout;

use super::connection::{Daemon, Place, patient};
use super::line::Line;
use super::print;
use crate::chunks::answered;
use crate::fault::Result;
use crate::protos::containers::{ListContainersRequest, ListContainersResponse};
use crate::protos::images::{ListImagesRequest, ListImagesResponse};
use crate::protos::system::{ListVolumesRequest, ListVolumesResponse};

/// Somebody waits for a key.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of options whose values are some of a few.
const WORDS: [(&str, &[&str]); 11] = [
    ("network", &["none", "host", "container:"]),
    ("pid", &["host", "container:"]),
    ("ipc", &["private", "host"]),
    ("userns", &["host", "auto", "container:"]),
    ("uts", &["host"]),
    ("cgroupns", &["private", "host"]),
    ("attach", &["stdin", "stdout", "stderr"]),
    ("restart", &["no", "on-failure", "always", "unless-stopped"]),
    ("log_driver", &["json-file", "none"]),
    ("signal", SIGNALS),
    ("stop_signal", SIGNALS),
];
const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH",
];

/// What may stand there.
#[derive(Debug, PartialEq, Eq)]
enum Offer {
    /// With what they mean.
    Words(Vec<(String, String)>),
    Containers,
    Images,
    Volumes,
    /// Of any of the three kinds.
    Things,
    Files,
}

/// `words` are those after the program's name, up to the cursor.
pub(super) async fn run(root: &Command, mut place: Place, words: &[String]) -> Result<u8> {
    let Some((last, before)) = words.split_last() else {
        return Ok(0);
    };
    let Some(before) = Line::read(root, before) else {
        return Ok(0);
    };
    for (name, value) in &before.place {
        match &**name {
            "address" => place.address = Some(value.trim_start_matches("unix://").into()),
            "state" => place.state = value.into(),
            _ => {}
        }
    }
    let (offer, prefix) = before.offer(last);
    let begin = &last[prefix.len()..];
    let text = match offer {
        Offer::Files => ":files\n".to_owned(),
        Offer::Words(words) => lines(words, prefix, begin),
        // Without a daemon there is nothing to offer.
        things => match Daemon::running(&place).await {
            Ok(daemon) => {
                let words = timeout(PATIENCE, asked(&daemon, &things)).await;
                lines(words.unwrap_or_default(), prefix, begin)
            }
            Err(_) => String::new(),
        },
    };
    print(&text)?;
    Ok(0)
}

/// A word and, after a tab, what it means.
fn lines(words: Vec<(String, String)>, prefix: &str, begin: &str) -> String {
    let begun = words
        .into_iter()
        .filter(|(word, _)| word.starts_with(begin))
        .map(|(word, help)| match &*help {
            "" => format!("{prefix}{word}\n"),
            help => format!("{prefix}{word}\t{help}\n"),
        });
    begun.collect()
}

/// A daemon that does not answer has nothing.
async fn asked(daemon: &Daemon, things: &Offer) -> Vec<(String, String)> {
    let mut names = vec![];
    let all = *things == Offer::Things;
    if all || *things == Offer::Containers {
        let request = ListContainersRequest {
            all: true,
            ..Default::default()
        };
        let answer = answered(daemon.containers.list(patient(), &request)).await;
        let containers = answer.map(|answer: ListContainersResponse| answer.containers);
        names.extend(containers.unwrap_or_default().into_iter().map(|container| {
            let image = container.config.image.clone();
            (container.name, format!("of {image}"))
        }));
    }
    if all || *things == Offer::Images {
        let request = ListImagesRequest::default();
        let answer = answered(daemon.images.list(patient(), &request)).await;
        let images = answer.map(|answer: ListImagesResponse| answer.images);
        let named = images
            .unwrap_or_default()
            .into_iter()
            .flat_map(|image| image.names);
        names.extend(named.map(|name| {
            let short = name.strip_suffix(":latest").map(str::to_owned);
            (short.unwrap_or(name), String::new())
        }));
    }
    if all || *things == Offer::Volumes {
        let request = ListVolumesRequest::default();
        let answer = answered(daemon.volumes.list(patient(), &request)).await;
        let volumes = answer.map(|answer: ListVolumesResponse| answer.volumes);
        names.extend(
            volumes
                .unwrap_or_default()
                .into_iter()
                .map(|volume| (volume.name, String::new())),
        );
    }
    names
}

impl Line<'_> {
    /// And the part of the last word that stays as it is.
    fn offer<'b>(&self, last: &'b str) -> (Offer, &'b str) {
        if let Some(option) = self.pending {
            return (self.values(option), "");
        }
        if last.starts_with('-') && !self.over {
            let Some((name, _)) = last.split_once('=') else {
                return (Offer::Words(self.flags()), "");
            };
            let offer = self.named(name).map(|option| self.values(option));
            return (offer.unwrap_or(nothing()), &last[..=name.len()]);
        }
        if self.command.has_subcommands() {
            let shown = self
                .command
                .get_subcommands()
                .filter(|one| !one.is_hide_set());
            let words = shown.map(|one| (one.get_name().to_owned(), help(one.get_about())));
            return (Offer::Words(words.collect()), "");
        }
        let offer = self.positional().map(|arg| self.values(arg));
        (offer.unwrap_or(nothing()), "")
    }

    /// All that help texts show.
    fn flags(&self) -> Vec<(String, String)> {
        let mut flags = vec![];
        for option in self.options().filter(|option| !option.is_hide_set()) {
            let help = help(option.get_help());
            if let Some(name) = option.get_long() {
                flags.push((format!("--{name}"), help.clone()));
            }
            if let Some(letter) = option.get_short() {
                flags.push((format!("-{letter}"), help));
            }
        }
        flags
    }

    /// What an option or an argument may be.
    fn values(&self, of: &Arg) -> Offer {
        let id = of.get_id().as_str();
        if let Some((_, words)) = WORDS.iter().find(|(name, _)| *name == id) {
            let words = words.iter().map(|word| ((*word).to_owned(), String::new()));
            return Offer::Words(words.collect());
        }
        let parent = self.command.get_name();
        match id {
            "container" | "containers" => Offer::Containers,
            "image" | "images" => Offer::Images,
            "name" if parent == "images" || parent == "ls" => Offer::Images,
            "volumes" if of.is_positional() => Offer::Volumes,
            "names" if parent == "inspect" => Offer::Things,
            "file" | "input" | "output" | "env_file" | "label_file" | "volume" | "device"
            | "root" | "state" | "address" => Offer::Files,
            _ => nothing(),
        }
    }
}

fn nothing() -> Offer {
    Offer::Words(vec![])
}

fn help(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::cli::Cli;
    use super::*;

    fn offered(line: &[&str]) -> Option<Offer> {
        let mut root = Cli::command();
        root.build();
        let words: Vec<_> = line.iter().map(ToString::to_string).collect();
        let (last, before) = words.split_last().unwrap();
        Line::read(&root, before).map(|before| before.offer(last).0)
    }

    fn words(line: &[&str]) -> Vec<String> {
        match offered(line) {
            Some(Offer::Words(words)) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    /// Each command with the words that lead to it.
    fn commands() -> Vec<(Vec<String>, Command)> {
        let mut root = Cli::command();
        root.build();
        let mut all = vec![(vec![], root)];
        let mut at = 0;
        while at < all.len() {
            let (path, command) = all[at].clone();
            for inner in command.get_subcommands().filter(|one| !one.is_hide_set()) {
                let path = [&path[..], &[inner.get_name().to_owned()]].concat();
                all.push((path, inner.clone()));
            }
            at += 1;
        }
        all
    }

    #[test]
    fn every_command_and_every_option_is_offered_where_it_is_taken() {
        let all = commands();
        assert!(all.len() > 50, "{}", all.len());
        for (path, command) in all {
            let line = |last| {
                let path = path.iter().map(String::as_str);
                path.chain([last]).collect::<Vec<_>>()
            };
            let names: Vec<_> = command
                .get_subcommands()
                .filter(|one| !one.is_hide_set())
                .map(|one| one.get_name().to_owned())
                .collect();
            if !names.is_empty() {
                assert_eq!(words(&line("")), names, "{path:?}");
            }
            let offered = words(&line("--"));
            let all = command.get_arguments();
            for option in all.filter(|one| !one.is_positional() && !one.is_hide_set()) {
                let name = format!("--{}", option.get_long().unwrap());
                assert!(offered.contains(&name), "{path:?}: {name}");
            }
            assert!(offered.contains(&"--address".to_owned()), "{path:?}");
        }
    }

    #[test]
    fn containers_images_and_files_are_where_they_belong() {
        for (line, wanted) in [
            (&["stop", ""][..], Offer::Containers),
            (&["rm", "-f", "one", "tw"], Offer::Containers),
            (&["exec", "-it", ""], Offer::Containers),
            (&["run", ""], Offer::Images),
            (&["run", "--rm", "-e", "A=b", "--name=x", ""], Offer::Images),
            (&["-H", "/s", "image", "rm", "x", ""], Offer::Images),
            (&["inspect", ""], Offer::Things),
            (&["volume", "rm", ""], Offer::Volumes),
            (&["load", "-i", ""], Offer::Files),
            (&["run", "--env-file", ""], Offer::Files),
            (&["run", "--env-file="], Offer::Files),
            (&["image", "import", ""], Offer::Files),
        ] {
            assert_eq!(offered(line), Some(wanted), "{line:?}");
        }
    }

    #[test]
    fn what_belongs_to_the_container_is_completed_by_nothing() {
        for line in [
            &["run", "image", ""][..],
            &["run", "image", "-"],
            &["run", "image", "sh", "--"],
            &["exec", "one", "-"],
            &["rename", "one", ""],
            &["rename", "one", "two", ""],
            &["run", "--name", ""],
        ] {
            assert_eq!(words(line), [] as [String; 0], "{line:?}");
        }
        for line in [
            &["nonsense", ""][..],
            &["rename", "one", "two", "three", ""],
            &["run", "--nonsense", ""],
        ] {
            assert_eq!(offered(line), None, "{line:?}");
        }
        assert!(words(&["logs", "one", "-"]).contains(&"--follow".to_owned()));
        assert_eq!(words(&["run", "--network", ""])[..2], ["none", "host"]);
        assert_eq!(words(&["run", "--network=h"])[..2], ["none", "host"]);
    }

    #[test]
    fn every_word_that_is_offered_is_taken() {
        use clap::Parser as _;
        for (option, words) in WORDS {
            let taken = Cli::command();
            let mut found = taken.get_subcommands().flat_map(Command::get_arguments);
            assert!(found.any(|arg| arg.get_id() == option), "{option}");
            let option = format!("--{}", option.replace('_', "-"));
            for word in words {
                let command = if option == "--signal" {
                    "kill"
                } else {
                    "create"
                };
                let line = ["caissonctl", command, &option, word, "x"];
                assert!(Cli::try_parse_from(line).is_ok(), "{line:?}");
            }
        }
    }
}
