//! `ps`: the processes of a container, as pids or as the host's `ps` shows them.

use crate::cli::Format;
use crate::report::{Context, Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::process::{Command, Stdio};

/// Shows the processes `pids`, which are those of the container's cgroup; `options` are for the host's `ps`.
pub(crate) fn run(pids: &[i32], format: Format, options: &[OsString]) -> Result<String> {
    match format {
        Format::Json => json(pids),
        Format::Table => {
            let default = [OsString::from("-ef")];
            table(
                &host_ps(if options.is_empty() {
                    &default
                } else {
                    options
                })?,
                pids,
            )
        }
    }
}

/// One line; `null` for none, as `list` has it.
fn json(pids: &[i32]) -> Result<String> {
    if pids.is_empty() {
        return Ok("null\n".to_owned());
    }
    let text = serde_json::to_string(pids);
    text.map(|text| text + "\n")
        .map_err(|e| Error::new(Kind::Invalid, format!("show processes: {e}")))
}

fn host_ps(options: &[OsString]) -> Result<String> {
    let story = || format!("run ps {}", options.join(OsStr::new(" ")).display());
    let output = Command::new("ps")
        .args(options)
        .stdin(Stdio::null())
        .output()
        .context(story)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(
            Kind::System,
            format!("{}: {}: {}", story(), output.status, said.trim_end()),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The title line and the lines whose PID column has one of `pids`.
fn table(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let Some(column) = title.split_whitespace().position(|name| name == "PID") else {
        return Err(Error::invalid("couldn't find PID field in ps output"));
    };
    let ours = lines.filter(|line| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    });
    Ok(std::iter::once(title)
        .chain(ours)
        .map(|line| format!("{line}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PS: &str = "UID        PID  PPID  C STIME TTY          TIME CMD\n\
                      root         1     0  0 05:05 ?        00:00:00 init 42\n\
                      root        42     1  0 05:05 ?        00:00:00 sleep 1000\n\
                      root       420    42  0 05:05 ?        00:00:00 sleep 1000\n";

    #[test]
    fn only_the_pid_column_decides() {
        let lines: Vec<_> = PS.lines().collect();
        assert_eq!(
            table(PS, &[42]).unwrap(),
            format!("{}\n{}\n", lines[0], lines[2])
        );
        assert_eq!(table(PS, &[]).unwrap(), format!("{}\n", lines[0]));
    }

    #[test]
    fn a_table_without_pids_is_refused() {
        let error = table("COMMAND\nsleep\n", &[42]).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find PID field in ps output");
        assert!(table("", &[42]).is_err());
    }

    #[test]
    fn pids_as_json() {
        assert_eq!(json(&[3, 1]).unwrap(), "[3,1]\n");
        assert_eq!(json(&[]).unwrap(), "null\n");
    }

    #[test]
    fn the_host_has_a_ps() {
        let us = std::process::id() as i32;
        let text = run(&[us], Format::Table, &[]).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        let text = run(
            &[us],
            Format::Table,
            &[
                "-o".into(),
                "pid,comm".into(),
                "-p".into(),
                us.to_string().into(),
            ],
        )
        .unwrap();
        assert!(
            text.starts_with("    PID COMMAND\n") || text.starts_with("  PID COMMAND\n"),
            "{text}"
        );
        let error = run(&[us], Format::Table, &["--no-such-option".into()])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("run ps --no-such-option: exit status: 1: "),
            "{error}"
        );
    }
}
