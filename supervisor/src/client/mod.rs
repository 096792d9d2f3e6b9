//! `caissonctl`: Docker-shaped verbs over the daemon's interface.
//!
//! ```text
//! argv ──cli──▶ Command ──verbs──▶ requests ──▶ caissond
//!                                  answers ──view──▶ rows of JSON ──table, format──▶ text
//! ```
//!
//! Errors are one line, with a hint where there is one. The exit code is the container's own for `run`, `exec` and `attach`; 125 if the daemon
//! refused, 126 and 127 if the program cannot be executed or is not there.

mod arguments;
mod cli;
mod complete;
mod connection;
mod containers;
mod copy;
mod filter;
mod format;
mod images;
mod line;
mod lists;
#[cfg(test)]
mod manual;
mod output;
mod process;
mod prune;
mod run;
mod system;
mod table;
mod terminal;
mod view;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory as _, Parser as _};

use crate::fault::{Fault, Kind, Result};

/// The daemon, or the client itself, could not do it.
const REFUSED: u8 = 125;

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let mut root = cli::Cli::command();
    root.build();
    let name = std::env::args_os().take(1);
    let line = name.chain(line::for_clap(&root, std::env::args_os().skip(1)));
    let cli = match cli::Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(error) => {
            return refuse(&root, &error);
        }
    };
    let runs_processes = cli.command.runs_processes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(cli.run());
            // What still waits for standard input is not waited for.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(Fault::unknown(format!("start: {error}"))),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(fault) => {
            say(&fault);
            ExitCode::from(match fault.kind {
                Kind::NoProgram => 127,
                Kind::NotExecutable => 126,
                _ if runs_processes => REFUSED,
                _ => 1,
            })
        }
    }
}

/// Help and the like go to standard output, an error is one line.
fn refuse(root: &Command, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Nobody can be told about it when this fails.
        error.print().ok();
        return ExitCode::from(if error.use_stderr() { REFUSED } else { 0 });
    }
    let mut path = vec![root.get_name()];
    let mut command = root;
    for word in std::env::args_os().skip(1) {
        if let Some(inner) = command.find_subcommand(word) {
            path.push(inner.get_name());
            command = inner;
        } else if !command.has_subcommands() {
            break;
        }
    }
    let whole = error.render().to_string();
    let lines = whole.lines().map(str::trim);
    let text: Vec<&str> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        // An option that is not known is hardly ever meant as an image's name.
        .filter(|line| !line.is_empty() && !line.starts_with("tip: to pass "))
        .map(|line| line.trim_start_matches("error: "))
        .collect();
    let (text, path) = (text.join(" "), path.join(" "));
    say(&Fault::new(format!("{text} (see '{path} --help')")));
    ExitCode::from(REFUSED)
}

/// One line, and what could be done.
fn say(fault: &Fault) {
    let text = harmless(&fault.text.trim().replace('\n', "; "));
    tell(&format!("caissonctl: {text}"));
}

/// A line for standard error, in one piece: others may write there at the same time.
fn tell(line: &str) {
    // Nobody can be told that standard error is closed.
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}

/// What others wrote is not to write to the user's terminal what it takes for orders.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => harmless.extend(character.escape_default()),
            false => harmless.push(character),
        }
    }
    harmless
}

/// Of a container.
fn say_lost(bytes: u64) {
    say(&Fault::unknown(format!(
        "{bytes} bytes of output are lost: the container's log did not take them; see to it that the daemon's disk has room"
    )));
}

/// Text for standard output. A reader who has left needs none.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Fault::unknown(format!("write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
