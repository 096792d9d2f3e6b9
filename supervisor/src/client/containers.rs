//! The verbs of containers that attach to nothing: requests for each that was named, and lists.

use std::collections::HashMap;
use std::io::{self, Write as _};

use futures_util::future::try_join_all;
use serde_json::Value;
use tokio::time::{Duration, interval};

use super::arguments::policy;
use super::cli::{Logs, Stats, Update, Verb};
use super::connection::{Daemon, patient};
use super::process::lost;
use super::{harmless, print, say, table};
use crate::chunks::answered;
use crate::container::{span, text_of, time_in};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::containers as api;
use crate::records::now;
use crate::sys::of_our_zone;

/// How many containers something is done to at once.
const AT_ONCE: usize = 50;

pub(super) async fn run(daemon: &Daemon, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Stop(asked) => {
            each_at_once(&asked.containers, async |name| {
                let request = stopping(name, &asked);
                done(daemon.containers.stop(patient(), &request).await)
            })
            .await
        }
        // In their order: one may need another.
        Verb::Restart(asked) => {
            each(&asked.containers, async |name| {
                let request = stopping(name, &asked);
                done(daemon.containers.restart(patient(), &request).await)
            })
            .await
        }
        Verb::Kill(asked) => kill(daemon, &asked).await,
        Verb::Rm(asked) => remove(daemon, &asked).await,
        Verb::Wait(asked) => wait(daemon, &asked.containers).await,
        Verb::Pause(asked) => pause(daemon, &asked.containers).await,
        Verb::Unpause(asked) => unpause(daemon, &asked.containers).await,
        Verb::Rename { container, name } => rename(daemon, container, name).await,
        Verb::Update(asked) => update(daemon, asked).await,
        Verb::Logs(asked) => logs(daemon, asked).await,
        Verb::Top { container, options } => top(daemon, container, &options).await,
        Verb::Port { container, port } => port_of(daemon, &container, port).await,
        Verb::Stats(asked) => stats(daemon, asked).await,
        Verb::Diff { container } => diff(daemon, container).await,
        Verb::Commit(asked) => commit(daemon, asked).await,
        // The other ones are taken before.
        _ => Err(Fault::unknown("no such command")),
    }
}

async fn kill(daemon: &Daemon, asked: &super::cli::Kill) -> Result<u8> {
    each_at_once(&asked.containers, async |name| {
        let request = api::KillContainerRequest {
            container: name.into(),
            signal: asked.signal.clone(),
            ..Default::default()
        };
        done(daemon.containers.kill(patient(), &request).await)
    })
    .await
}

async fn remove(daemon: &Daemon, asked: &super::cli::Rm) -> Result<u8> {
    at_once(&asked.containers, asked.force, async |name| {
        let request = api::RemoveContainerRequest {
            container: name.into(),
            force: asked.force,
            volumes: asked.volumes,
            ..Default::default()
        };
        done(daemon.containers.remove(patient(), &request).await)
    })
    .await
}

async fn pause(daemon: &Daemon, names: &[String]) -> Result<u8> {
    each_at_once(names, async |name| {
        let request = api::PauseContainerRequest {
            container: name.into(),
            ..Default::default()
        };
        done(daemon.containers.pause(patient(), &request).await)
    })
    .await
}

async fn unpause(daemon: &Daemon, names: &[String]) -> Result<u8> {
    each_at_once(names, async |name| {
        let request = api::UnpauseContainerRequest {
            container: name.into(),
            ..Default::default()
        };
        done(daemon.containers.unpause(patient(), &request).await)
    })
    .await
}

async fn rename(daemon: &Daemon, container: String, name: String) -> Result<u8> {
    let request = api::RenameContainerRequest {
        container,
        name,
        ..Default::default()
    };
    done(daemon.containers.rename(patient(), &request).await)?;
    Ok(0)
}

/// Does it to each, one after the other, and prints the names for which it was done. The exit code is 1 if one could not be.
pub(super) async fn each(names: &[String], act: impl AsyncFn(&str) -> Result<()>) -> Result<u8> {
    let mut code = 0;
    for name in names {
        code |= one(name, false, &act).await?;
    }
    Ok(code)
}

/// The same at once, as far as nobody is overrun by it.
pub(super) async fn each_at_once(
    names: &[String],
    act: impl AsyncFn(&str) -> Result<()>,
) -> Result<u8> {
    at_once(names, false, act).await
}

/// With `forgiving`, that one is not there is said, and no more.
async fn at_once(
    names: &[String],
    forgiving: bool,
    act: impl AsyncFn(&str) -> Result<()>,
) -> Result<u8> {
    let mut code = 0;
    for some in names.chunks(AT_ONCE) {
        let each = some.iter().map(|name| one(name, forgiving, &act));
        let codes = try_join_all(each).await?;
        code |= codes.into_iter().fold(0, u8::max);
    }
    Ok(code)
}

async fn one(name: &str, forgiving: bool, act: &impl AsyncFn(&str) -> Result<()>) -> Result<u8> {
    match act(name).await {
        Ok(()) => {
            print(&format!("{name}\n"))?;
            Ok(0)
        }
        Err(fault) => Ok(said(&fault, forgiving)),
    }
}

/// Says it, and has the exit code: with `forgiving`, what is not there is nothing to be told by that.
pub(super) fn said(fault: &Fault, forgiving: bool) -> u8 {
    say(fault);
    u8::from(!forgiving || fault.kind != Kind::NotFound)
}

fn done<T>(answer: ttrpc::Result<T>) -> Result<()> {
    answer.map(drop).map_err(Fault::from)
}

fn stopping(name: &str, asked: &super::cli::Stop) -> api::StopContainerRequest {
    api::StopContainerRequest {
        container: name.into(),
        timeout: asked.timeout,
        signal: asked.signal.clone(),
        ..Default::default()
    }
}

async fn wait(daemon: &Daemon, names: &[String]) -> Result<u8> {
    let mut code = 0;
    for name in names {
        let request = api::WaitContainerRequest {
            container: name.clone(),
            ..Default::default()
        };
        match daemon.containers.wait(patient(), &request).await {
            Ok(response) => print(&format!("{}\n", response.exit_code))?,
            // The others are waited for all the same.
            Err(error) => {
                say(&Fault::from(error));
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn update(daemon: &Daemon, asked: Update) -> Result<u8> {
    let restart = asked.restart.as_deref().map(policy).transpose()?;
    if restart.is_none() && asked.limits.is_none() {
        return Err(Fault::new(
            "nothing is said that could be changed (see 'caissonctl update --help')",
        ));
    }
    // Here 0 is said, and leaves all as it is, as for Docker.
    let limits = asked.limits.map(|limits| limits.resources()).transpose()?;
    let resources = limits.filter(|limits| *limits != api::Resources::default());
    let request = |name: &str| api::UpdateContainerRequest {
        container: name.into(),
        resources: resources.clone().into(),
        restart: restart.clone().into(),
        ..Default::default()
    };
    each_at_once(&asked.containers, async |name| {
        done(daemon.containers.update(patient(), &request(name)).await)
    })
    .await
}

/// An array, or each by a template.
pub(super) fn show(found: &[Value], format: Option<&str>) -> Result<()> {
    match format {
        None => {
            let text = serde_json::to_string_pretty(found).tried(|| "write JSON".into())?;
            print(&format!("{text}\n"))?;
        }
        Some(format) => print(&table::render(
            found,
            &[],
            Some(format).filter(|format| *format != "table"),
        )?)?,
    }
    Ok(())
}

/// A date, of our zone if it says none, seconds since the epoch, or so long ago: `10m`, `1h30m`, `1.5h`; as Docker has it, `-1h` is to come.
pub(super) fn time(word: &str) -> Result<i64> {
    let wrong = || {
        Fault::new(format!(
            "'{word}' is no time: 2026-11-26T08:00:00Z, seconds since 1970, or 10m for ten minutes ago"
        ))
    };
    if let Some(time) = time_in(word, of_our_zone) {
        return Ok(time);
    }
    let to_come = word.strip_prefix('-');
    // Exactly: it may be the time of a line, from which on is asked for.
    let (seconds, parts) = word.split_once('.').unwrap_or((word, "0"));
    let parts: String = parts.chars().take(9).collect();
    if to_come.is_none()
        && let Ok(seconds) = seconds.parse::<i64>()
        && let Ok(nanoseconds) = format!("{parts:0<9}").parse::<u32>()
    {
        let time = seconds.saturating_mul(1_000_000_000);
        return Ok(time.saturating_add(nanoseconds.into()));
    }
    let ago = to_come.or(word.strip_prefix('+')).unwrap_or(word);
    let ago = span(ago).ok_or_else(wrong)?;
    Ok(now().saturating_sub(if to_come.is_some() { -ago } else { ago }))
}

async fn logs(daemon: &Daemon, asked: Logs) -> Result<u8> {
    let tail = match asked.tail.as_str() {
        "all" => None,
        word if word.parse().is_ok_and(|lines: i64| lines < 0) => None,
        word => Some(
            word.parse()
                .map_err(|_| Fault::new(format!("'{word}' is no number of lines")))?,
        ),
    };
    let request = api::LogsRequest {
        container: asked.container,
        follow: asked.follow,
        tail,
        since: asked.since.as_deref().map_or(Ok(0), time)?,
        until: asked.until.as_deref().map_or(Ok(0), time)?,
        ..Default::default()
    };
    let mut stream = daemon.containers.logs(patient(), &request).await?;
    // Of each stream, whether the last record was a whole line.
    let mut whole = [true; 2];
    let mut overtaken = false;
    loop {
        let response = match stream.recv().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(0),
            Err(error) => return Err(lost(error, "there may be more output")),
        };
        if response.overtaken && !overtaken {
            overtaken = true;
            say(&Fault::unknown(
                "the log was rotated faster than it was read: lines may be missing (see --log-opt max-size and max-file)",
            ));
        }
        if response.lost_output > 0 {
            super::say_lost(response.lost_output);
        }
        let mut text = vec![];
        let whole = &mut whole[usize::from(response.stderr)];
        for line in response.data.split_inclusive(|byte| *byte == b'\n') {
            if asked.timestamps && *whole {
                text.extend_from_slice(text_of(response.time).as_bytes());
                text.push(b' ');
            }
            *whole = line.ends_with(b"\n");
            text.extend_from_slice(line);
        }
        let written = if response.stderr {
            io::stderr().write_all(&text)
        } else {
            io::stdout()
                .write_all(&text)
                .and_then(|()| io::stdout().flush())
        };
        match written {
            // The reader has left.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            written => written.tried(|| "write to standard output".into())?,
        }
    }
}

async fn top(daemon: &Daemon, container: String, options: &[String]) -> Result<u8> {
    let request = api::ProcessesRequest {
        container,
        ..Default::default()
    };
    let pids = daemon.containers.processes(patient(), &request).await?.pids;
    if !options.is_empty() {
        return top_as_asked(&pids, options);
    }
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    let output = std::process::Command::new("ps")
        .args([
            "-o",
            "uid,pid,ppid,c,stime,tty,time,cmd",
            "-p",
            &list.join(","),
        ])
        .output();
    match output {
        Ok(output) if output.status.success() => print(&String::from_utf8_lossy(&output.stdout))?,
        // Without ps, what /proc says.
        _ => {
            let row = |pid: &u32| {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                serde_json::json!({ "Pid": pid, "Command": command.trim() })
            };
            let rows: Vec<Value> = pids.iter().map(row).collect();
            print(&table::render(
                &rows,
                &[("PID", "Pid"), ("CMD", "Command")],
                None,
            )?)?;
        }
    }
    Ok(0)
}

/// No network here leads to a container, so no port does.
async fn port_of(daemon: &Daemon, container: &str, port: Option<String>) -> Result<u8> {
    super::lists::inspected(daemon, container, false).await?;
    match port {
        Some(port) => Err(Fault::new(format!(
            "no public port '{port}' published for {container}"
        ))),
        None => Ok(0),
    }
}

/// ps says what it says of all, and those of the container are picked by their pids.
fn top_as_asked(pids: &[u32], options: &[String]) -> Result<u8> {
    let shown = || format!("ps {}", options.join(" "));
    let output = std::process::Command::new("ps").args(options).output();
    let output = output.tried(|| format!("run {}", shown()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.lines().find(|line| !line.trim().is_empty());
        return Err(Fault::new(format!(
            "{}: {}",
            shown(),
            why.unwrap_or("it failed")
        )));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let header = text.lines().next().unwrap_or_default();
    let column = header.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| Fault::new(format!("{}: it shows no PID", shown())))?;
    let ours = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: u32| pids.contains(&pid))
    };
    let lines = text
        .lines()
        .take(1)
        .chain(text.lines().skip(1).filter(ours));
    print(&lines.map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(0)
}

async fn stats(daemon: &Daemon, asked: Stats) -> Result<u8> {
    let mut before = HashMap::new();
    let mut ticks = interval(Duration::from_secs(1));
    // A share of time needs two looks.
    for round in 0_u64.. {
        ticks.tick().await;
        let mut names = asked.containers.clone();
        if names.is_empty() {
            let request = api::ListContainersRequest {
                all: asked.all,
                ..Default::default()
            };
            let listed: api::ListContainersResponse =
                answered(daemon.containers.list(patient(), &request)).await?;
            names = listed
                .containers
                .into_iter()
                .map(|container| container.id)
                .collect();
        }
        let mut rows = vec![];
        for name in &names {
            let request = api::StatsRequest {
                container: name.clone(),
                ..Default::default()
            };
            match daemon
                .containers
                .stats(patient(), &request)
                .await
                .map_err(Fault::from)
            {
                Ok(seen) => rows.push(usage(
                    name,
                    &seen,
                    before.insert(seen.id.clone(), (seen.cpu_usec, seen.time)),
                )),
                // It has ended meanwhile, unless it was named.
                Err(_) if asked.containers.is_empty() => {}
                Err(fault) => return Err(fault),
            }
        }
        if round == 0 {
            continue;
        }
        let columns = &[
            ("CONTAINER ID", "ID"),
            ("NAME", "Name"),
            ("CPU %", "CPUPerc"),
            ("MEM USAGE / LIMIT", "MemUsage"),
            ("MEM %", "MemPerc"),
            ("NET I/O", "NetIO"),
            ("BLOCK I/O", "BlockIO"),
            ("PIDS", "PIDs"),
        ];
        let text = table::render(&rows, columns, asked.format.as_deref())?;
        if asked.no_stream {
            print(&text)?;
            break;
        }
        // Over what is there.
        print(&format!("\x1b[H\x1b[2J{text}"))?;
    }
    Ok(0)
}

#[expect(clippy::cast_precision_loss, reason = "percent, with two digits")]
fn usage(name: &str, seen: &api::StatsResponse, before: Option<(u64, i64)>) -> Value {
    let cpu = before.map_or(0.0, |(usec, time)| {
        let passed = (seen.time - time).max(1) as f64 / 1000.0;
        seen.cpu_usec.saturating_sub(usec) as f64 / passed * 100.0
    });
    let memory = seen.memory.saturating_sub(seen.memory_inactive_file);
    let limit = if seen.memory_limit == u64::MAX {
        None
    } else {
        Some(seen.memory_limit)
    };
    let share = limit.map_or(0.0, |limit| memory as f64 / limit.max(1) as f64 * 100.0);
    serde_json::json!({
        "Container": name,
        "ID": &seen.id[..12],
        "Name": seen.name,
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", table::binary(memory), limit.map_or_else(|| "none".into(), table::binary)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", table::decimal(seen.rx_bytes), table::decimal(seen.tx_bytes)),
        "BlockIO": format!("{} / {}", table::decimal(seen.read_bytes), table::decimal(seen.write_bytes)),
        "PIDs": seen.pids.to_string(),
    })
}

async fn commit(daemon: &Daemon, asked: super::cli::Commit) -> Result<u8> {
    let request = api::CommitRequest {
        container: asked.container,
        name: asked.name.unwrap_or_default(),
        author: asked.author,
        message: asked.message,
        changes: asked.change,
        pause: asked.pause,
        ..Default::default()
    };
    let response = daemon.containers.commit(patient(), &request).await;
    let response = response.map_err(|error| lost(error, "there may be no new image"))?;
    print(&format!("{}\n", response.id))?;
    Ok(0)
}

async fn diff(daemon: &Daemon, container: String) -> Result<u8> {
    let request = api::DiffRequest {
        container,
        ..Default::default()
    };
    let answer: api::DiffResponse = answered(daemon.containers.diff(patient(), &request)).await?;
    for change in answer.changes {
        let letter = match change.kind.enum_value_or_default() {
            api::diff_response::change::Kind::MODIFIED => 'C',
            api::diff_response::change::Kind::ADDED => 'A',
            api::diff_response::change::Kind::DELETED => 'D',
        };
        print(&format!("{letter} {}\n", harmless(&change.path)))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{now, span, time};

    #[test]
    fn times_are_exact() {
        for (word, expected) in [
            ("1795804812.123456789", 1_795_804_812_123_456_789),
            ("1795804812.5", 1_795_804_812_500_000_000),
            ("1795804812.0000000019", 1_795_804_812_000_000_001),
            ("1795804812", 1_795_804_812_000_000_000),
            ("99999999999999", i64::MAX),
        ] {
            assert_eq!(time(word).unwrap(), expected, "{word}");
        }
        for word in [
            "", ".", "1.x", "1.2.3", "nan", "inf", "-5", "--1h", "+-1h", "-",
        ] {
            assert!(time(word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_span_is_ago_and_a_negative_one_is_to_come() {
        let now = now();
        let (ago, to_come) = (time("+1h").unwrap(), time("-1h").unwrap());
        assert!((now - 3_600_000_000_000..now).contains(&ago));
        assert!(to_come >= now + 3_600_000_000_000);
    }

    #[test]
    fn spans_are_gos() {
        assert_eq!(span("500ms"), Some(500_000_000));
        assert_eq!(span("1.5h"), Some(5_400_000_000_000));
        assert_eq!(span("1h30m"), span("90m"));
        assert_eq!((span("2µs"), span("2μs")), (Some(2000), Some(2000)));
        assert_eq!(span("2d"), span("48h"));
        for word in ["", "s", "5", "5x", "1h30", "1..5s", "-1s"] {
            assert_eq!(span(word), None, "{word}");
        }
    }
}
