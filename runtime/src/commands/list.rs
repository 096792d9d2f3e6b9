//! `list`: all containers below the root, as runc's table or JSON.

use super::state::Shown;
use crate::cli::Format;
use crate::log::Log;
use crate::report::{Error, Kind, Result};
use crate::state::{ContainerId, Root, State, Status};
use std::path::Path;

/// Makes the list. What is broken, or goes away meanwhile, is told and left out: one container must not hide the others.
pub(crate) fn run(
    root: &Root,
    format: Format,
    quiet: bool,
    log: &Log,
    frozen: impl Fn(&State) -> Result<bool>,
) -> Result<String> {
    let mut found = Vec::new();
    for id in root.ids()? {
        match load(root, &id, &frozen) {
            Ok(container) => found.push(container),
            Err(error) => log.warn(format_args!("load container '{id}': {error}, ignoring")),
        }
    }
    if quiet {
        return Ok(found
            .iter()
            .map(|(state, _)| format!("{}\n", state.id))
            .collect());
    }
    let users = std::fs::read("/etc/passwd").unwrap_or_default();
    let users = String::from_utf8_lossy(&users);
    let shown: Vec<_> = found
        .iter()
        .map(|(state, status)| Shown::new(state, *status, user_name(&users, state.owner)))
        .collect();
    match format {
        Format::Table => Ok(table(&shown)),
        Format::Json => json(&shown),
    }
}

fn load(
    root: &Root,
    id: &ContainerId,
    frozen: impl Fn(&State) -> Result<bool>,
) -> Result<(State, Status)> {
    let directory = root.directory(id)?;
    let state = directory.load()?;
    let status = directory.status(&state, frozen)?;
    Ok((state, status))
}

/// The name of a user in the text of a passwd file. The C library's look-up would load the host's plug-ins, which a static
/// program cannot.
fn user_name(passwd: &str, uid: u32) -> String {
    let names = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then_some(name)
    });
    names
        .into_iter()
        .next()
        .map_or_else(|| format!("#{uid}"), str::to_owned)
}

/// Columns are at least 12 wide with 3 spaces between them, the last one is as it is.
fn table(shown: &[Shown]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = shown.iter().map(|c| {
        let path = |path: &Path| path.display().to_string();
        [
            c.id.to_owned(),
            c.pid.to_string(),
            c.status.clone(),
            path(c.bundle),
            c.created.to_owned(),
            c.owner.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count() + 3)
            .max()
            .unwrap_or(0)
            .max(12)
    };
    let widths: Vec<_> = (0..5).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<String>() + &row[5] + "\n"
        })
        .collect()
}

/// One line; Go's encoder, and so runc, says `null` for a list that was never added to.
fn json(shown: &[Shown]) -> Result<String> {
    if shown.is_empty() {
        return Ok("null\n".to_owned());
    }
    let text = serde_json::to_string(shown);
    text.map(|text| text + "\n")
        .map_err(|e| Error::new(Kind::Invalid, format!("show containers: {e}")))
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::example;
    use super::*;
    use crate::log::{Destination, Settings};
    use crate::state::Init;

    #[test]
    fn what_is_broken_hides_nothing_else() {
        let scratch = std::env::temp_dir().join(format!("caisson-list-{}", std::process::id()));
        let root = Root::open(&scratch.join("root"), false).unwrap();
        for id in ["good", "half-made", "unknown"] {
            let locked = root.create(&ContainerId::new(id).unwrap()).unwrap();
            if id != "half-made" {
                locked
                    .save(&State {
                        init: Some(Init::of(std::process::id() as i32).unwrap()),
                        ..example(id)
                    })
                    .unwrap();
            }
        }
        let file = scratch.join("log");
        let log = Log::open(&Settings {
            to: Destination::File(file.clone()),
            ..Settings::default()
        })
        .unwrap();
        let frozen = |state: &State| match state.id.as_str() {
            "unknown" => Err(Error::invalid("no cgroup")),
            _ => Ok(true),
        };
        let ids = run(&root, Format::Table, true, &log, frozen).unwrap();
        let json = run(&root, Format::Json, false, &log, frozen).unwrap();
        let logged = std::fs::read_to_string(file).unwrap();
        std::fs::remove_dir_all(scratch).unwrap();
        assert_eq!(ids, "good\n");
        assert!(
            json.contains("\"status\":\"paused\"") && !json.contains("unknown"),
            "{json}"
        );
        assert!(logged.contains("msg=\"load container 'half-made': container does not exist: 'half-made', ignoring\""), "{logged}");
        assert!(
            logged.contains("msg=\"load container 'unknown': no cgroup, ignoring\""),
            "{logged}"
        );
    }

    #[test]
    fn the_table_is_runcs() {
        let (one, mut two) = (example("c1"), example("a-container-with-a-long-name"));
        two.bundle = "/run/a/longer/path".into();
        let shown = [
            Shown::new(&one, Status::Created, "root".into()),
            Shown::new(&two, Status::Stopped, "#1000".into()),
        ];
        let expected = "\
ID                             PID         STATUS      BUNDLE               CREATED                          OWNER
c1                             42          created     /b                   2026-11-23T05:05:21.750780664Z   root
a-container-with-a-long-name   0           stopped     /run/a/longer/path   2026-11-23T05:05:21.750780664Z   #1000
";
        assert_eq!(table(&shown), expected);
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }

    #[test]
    fn the_json_is_one_line() {
        let state = example("c1");
        let text = json(&[Shown::new(&state, Status::Created, "root".into())]).unwrap();
        let expected = concat!(
            r#"[{"ociVersion":"1.3.0","id":"c1","pid":42,"status":"created","bundle":"/b","rootfs":"/b/rootfs","#,
            r#""created":"2026-11-23T05:05:21.750780664Z","owner":"root"}]"#,
            "\n"
        );
        assert_eq!(text, expected);
        assert_eq!(json(&[]).unwrap(), "null\n");
    }

    #[test]
    fn owners_have_names_or_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:1000::/:/bin/sh\nalso:x:1000:1000::/:/bin/sh\n";
        assert_eq!(user_name(passwd, 0), "root");
        assert_eq!(user_name(passwd, 1000), "me");
        assert_eq!(user_name(passwd, 1), "#1");
        assert_eq!(user_name("", 0), "#0");
    }
}
