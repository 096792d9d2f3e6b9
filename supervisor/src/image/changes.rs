//! Instructions of a Dockerfile that change an image's configuration: what `commit --change` takes. Pure; it edits the `config` of a
//! configuration as JSON, so that what is not known here stays as it is.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// What a Dockerfile does, but FROM, MAINTAINER and ONBUILD.
const TRIGGERS: [&str; 15] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// One instruction.
pub(crate) fn apply(config: &mut Map<String, Value>, instruction: &str) -> Result<()> {
    let of = || format!("the change '{instruction}'");
    let instruction = instruction.trim();
    let (word, rest) = instruction
        .split_once(char::is_whitespace)
        .unwrap_or((instruction, ""));
    let rest = rest.trim();
    let word = word.to_ascii_uppercase();
    ensure!(
        !rest.is_empty() || matches!(word.as_str(), "CMD" | "ENTRYPOINT"),
        "{} needs something that it sets",
        of()
    );
    match word.as_str() {
        "CMD" => set(config, "Cmd", command(rest)),
        "ENTRYPOINT" => {
            // A command was meant for the one before.
            if config.get("Entrypoint").is_some_and(|old| !old.is_null()) {
                config.remove("Cmd");
            }
            set(config, "Entrypoint", command(rest));
        }
        "ENV" => {
            for (name, value) in pairs(rest).with_context(of)? {
                env(config, &format!("{name}={value}"));
            }
        }
        "LABEL" => {
            for (name, value) in pairs(rest).with_context(of)? {
                object(config, "Labels").insert(name, json!(value));
            }
        }
        "EXPOSE" => {
            for port in words(rest).with_context(of)? {
                let port = exposed(&port).with_context(of)?;
                object(config, "ExposedPorts").insert(port, json!({}));
            }
        }
        "VOLUME" => {
            let paths = list(rest).map_or_else(|| words(rest), Ok);
            for path in paths.with_context(of)? {
                object(config, "Volumes").insert(path, json!({}));
            }
        }
        "HEALTHCHECK" => set(config, "Healthcheck", healthcheck(rest).with_context(of)?),
        "ONBUILD" => {
            let trigger = rest.split(char::is_whitespace).next().unwrap_or_default();
            ensure!(
                TRIGGERS.contains(&&*trigger.to_ascii_uppercase()),
                "{}: {trigger} is nothing that can be put off to a build",
                of()
            );
            list_in(config, "OnBuild").push(json!(rest));
        }
        "USER" => set(config, "User", json!(rest)),
        "STOPSIGNAL" => {
            crate::container::signal(rest).with_context(of)?;
            set(config, "StopSignal", json!(rest));
        }
        "WORKDIR" => {
            let old = config.get("WorkingDir").and_then(Value::as_str);
            let path = joined(old.unwrap_or_default(), rest);
            set(config, "WorkingDir", json!(path));
        }
        _ => bail!(
            "{} is none of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR",
            of()
        ),
    }
    Ok(())
}

pub(crate) fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

/// `NAME=value` takes the place of what is there.
pub(crate) fn env(config: &mut Map<String, Value>, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    let all = list_in(config, "Env");
    let same = |other: &Value| {
        let other = other.as_str().unwrap_or_default();
        other.split('=').next() == Some(name)
    };
    match all.iter().position(same) {
        Some(at) => all[at] = json!(variable),
        None => all.push(json!(variable)),
    }
}

pub(crate) fn object<'a>(
    config: &'a mut Map<String, Value>,
    key: &str,
) -> &'a mut Map<String, Value> {
    let entry = config.entry(key).or_insert(Value::Null);
    if !entry.is_object() {
        *entry = json!({});
    }
    match entry {
        Value::Object(object) => object,
        _ => unreachable!("it was made one"),
    }
}

fn list_in<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let entry = config.entry(key).or_insert(Value::Null);
    if !entry.is_array() {
        *entry = json!([]);
    }
    match entry {
        Value::Array(list) => list,
        _ => unreachable!("it was made one"),
    }
}

/// `[--interval=30s …] CMD command`, or `NONE`. What is 0 is as in the image below, and so not said.
fn healthcheck(text: &str) -> Result<Value> {
    let (mut check, mut rest) = (Map::new(), text);
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, more) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        let (name, value) = flag
            .split_once('=')
            .with_context(|| format!("--{flag} has no value"))?;
        let (key, number) = match name {
            "interval" => ("Interval", nanoseconds(value)?),
            "timeout" => ("Timeout", nanoseconds(value)?),
            "start-period" => ("StartPeriod", nanoseconds(value)?),
            "start-interval" => ("StartInterval", nanoseconds(value)?),
            "retries" => {
                let number = value.parse::<u32>();
                let number = number.with_context(|| format!("'{value}' is no number"))?;
                ("Retries", number.into())
            }
            _ => bail!(
                "--{name} is none of --interval, --timeout, --start-period, --start-interval and --retries"
            ),
        };
        if number > 0 {
            set(&mut check, key, json!(number));
        }
        rest = more.trim_start();
    }
    let (kind, test) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match (&*kind.to_ascii_uppercase(), test.trim()) {
        ("NONE", "") => return Ok(json!({ "Test": ["NONE"] })),
        ("CMD", "" | "[]") => bail!("CMD needs a command"),
        ("CMD", test) => match list(test) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None => vec!["CMD-SHELL".to_owned(), test.to_owned()],
        },
        _ => bail!("it is neither CMD and a command nor NONE"),
    };
    set(&mut check, "Test", json!(test));
    Ok(check.into())
}

fn nanoseconds(word: &str) -> Result<i64> {
    let span = match word {
        "0" => Some(0),
        word => crate::container::span(word),
    };
    match span.with_context(|| format!("'{word}' is no time as 30s or 1m30s"))? {
        1..1_000_000 => bail!("'{word}' is less than a millisecond"),
        span => Ok(span),
    }
}

/// A list as JSON is executed as it is; anything else by a shell.
fn command(text: &str) -> Value {
    match list(text) {
        Some(list) => json!(list),
        None if text.is_empty() => Value::Null,
        None => json!(["/bin/sh", "-c", text]),
    }
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `NAME=value NAME="a value"`, or `NAME and one value`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split(char::is_whitespace).next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .context("a name without a value")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| {
        let (name, value) = word.split_once('=').context("a name without a value")?;
        ensure!(!name.is_empty(), "a value without a name");
        Ok((name.to_owned(), value.to_owned()))
    };
    words(text)?.into_iter().map(pair).collect()
}

/// Words as a shell has them, with quotes and backslashes and nothing else.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                let next = rest.next().context("it ends in a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (end, Some(begin)) if end == begin => quote = None,
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    ensure!(quote.is_none(), "a quote without an end");
    words.extend(word);
    Ok(words)
}

/// `PORT/PROTOCOL`, of a port or a range.
fn exposed(word: &str) -> Result<String> {
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    ensure!(
        ports.splitn(2, '-').all(is_port) && matches!(protocol.as_str(), "tcp" | "udp" | "sctp"),
        "'{word}' is no port"
    );
    Ok(format!("{ports}/{protocol}"))
}

/// Without `.` and `..`, by the words alone, as Docker has a working directory.
pub(crate) fn joined(old: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{old}/{path}")
    };
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(before: Value, instructions: &[&str]) -> Value {
        let mut config = before.as_object().unwrap().clone();
        for instruction in instructions {
            apply(&mut config, instruction).unwrap();
        }
        config.into()
    }

    #[test]
    fn instructions_do_what_a_dockerfile_has_them_do() {
        let before = json!({"Env": ["A=0", "B=1"], "WorkingDir": "/srv", "Other": 1, "Cmd": ["x"]});
        let after = changed(
            before,
            &[
                r#"CMD ["a", "b c"]"#,
                "env A=1 C=\"two words\" D='x'",
                "ENV E one two",
                "LABEL x=y",
                "EXPOSE 80 53/UDP",
                r#"VOLUME ["/a", "/b"]"#,
                "VOLUME /c",
                "USER web",
                "WORKDIR ../sub",
                "STOPSIGNAL SIGINT",
                "HEALTHCHECK --interval=1m30s --retries=3 --timeout=0s CMD curl -f http://localhost/",
                "ONBUILD RUN make",
                "onbuild COPY . /srv",
            ],
        );
        assert_eq!(
            after,
            json!({
                "Cmd": ["a", "b c"], "Env": ["A=1", "B=1", "C=two words", "D=x", "E=one two"],
                "Labels": {"x": "y"}, "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/a": {}, "/b": {}, "/c": {}}, "User": "web", "WorkingDir": "/sub",
                "StopSignal": "SIGINT", "Other": 1, "OnBuild": ["RUN make", "COPY . /srv"],
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl -f http://localhost/"],
                    "Interval": 90_000_000_000_i64,
                    "Retries": 3,
                },
            })
        );
    }

    #[test]
    fn a_command_that_is_no_list_is_a_shells() {
        let after = changed(json!({}), &["CMD echo $HOME"]);
        assert_eq!(after["Cmd"], json!(["/bin/sh", "-c", "echo $HOME"]));
        let before = json!({"Entrypoint": ["old"], "Cmd": ["its"]});
        let after = changed(before, &[r#"ENTRYPOINT ["new"]"#]);
        assert_eq!(after, json!({"Entrypoint": ["new"]}));
        let after = changed(json!({"Cmd": ["its"]}), &["CMD []"]);
        assert_eq!(after, json!({"Cmd": []}));
    }

    #[test]
    fn a_health_check_is_a_list_a_line_of_a_shell_or_none() {
        let check = |line: &str| changed(json!({}), &[line])["Healthcheck"].take();
        let line = r#"HEALTHCHECK --start-period=1ms  --start-interval=2h CMD ["a", "b c"]"#;
        let said = json!({
            "Test": ["CMD", "a", "b c"], "StartPeriod": 1_000_000, "StartInterval": 7_200_000_000_000_i64,
        });
        assert_eq!(check(line), said);
        assert_eq!(check("HEALTHCHECK none"), json!({ "Test": ["NONE"] }));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for instruction in [
            "",
            "RUN x",
            "ENV",
            "ENV A",
            "ENV A=\"x",
            "EXPOSE http",
            "EXPOSE 0",
            "EXPOSE 80/x",
            "LABEL =x",
            "WORKDIR",
            "STOPSIGNAL nope",
            "HEALTHCHECK",
            "HEALTHCHECK CMD",
            "HEALTHCHECK curl",
            "HEALTHCHECK NONE x",
            "HEALTHCHECK --interval CMD x",
            "HEALTHCHECK --interval=1us CMD x",
            "HEALTHCHECK --retries=-1 CMD x",
            "HEALTHCHECK --often=1 CMD x",
            "ONBUILD",
            "ONBUILD ONBUILD RUN x",
            "ONBUILD from x",
            "ONBUILD nonsense",
            "USER",
        ] {
            let mut config = Map::new();
            assert!(apply(&mut config, instruction).is_err(), "{instruction}");
        }
    }
}
