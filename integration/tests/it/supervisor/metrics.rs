//! What `caissond --metrics` serves.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use integration::require;
use integration::supervisor::{IMAGE, Supervisor};

/// Asks, and returns the status line and the body.
fn get(mut stream: impl Read + Write, method: &str, path: &str) -> (String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    if method == "GET" {
        assert_eq!(length.unwrap(), body.len().to_string());
    }
    let status = head.lines().next().unwrap().to_owned();
    (status, body.to_owned())
}

/// Sample → value, of a page that keeps to the format: each sample is of the family that was announced last, and named as its type wants.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let (mut family, mut kind) = (String::new(), String::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(text.ends_with('.'), "{line}");
            family = name.to_owned();
        } else if let Some(announced) = line.strip_prefix("# TYPE ") {
            let (name, of) = announced.split_once(' ').unwrap();
            assert_eq!(name, family);
            of.clone_into(&mut kind);
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(sample.split('{').next().unwrap(), family);
            let old = samples.insert(sample.to_owned(), value.parse().unwrap());
            assert!(old.is_none(), "twice: {line}");
        }
    }
    samples
}

#[test]
fn metrics_tell_of_the_daemon_of_images_and_of_each_container() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "idle", IMAGE, "true"]);
    supervisor.crash();
    let socket = supervisor.state.join("metrics");
    let address = format!("unix:{}", socket.display());
    let daemon = supervisor.daemon(&["--metrics", &address]);
    let id = supervisor.detached(&["--name", "web"], "sleep 1000");
    let frozen = supervisor.detached(&["--name", "frozen"], "sleep 1000");
    supervisor.says(&["pause", &frozen]);
    let scrape = || {
        let (status, page) = get(UnixStream::connect(&socket).unwrap(), "GET", "/metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        samples(&page)
    };
    let first = scrape();
    let value = |name: &str| first.get(name).copied();
    for (state, count) in [
        ("created", 1.0),
        ("running", 1.0),
        ("paused", 1.0),
        ("restarting", 0.0),
        ("exited", 0.0),
    ] {
        let name = format!("caisson_containers{{state=\"{state}\"}}");
        assert_eq!(value(&name), Some(count), "{name}");
    }
    assert_eq!(value("caisson_images"), Some(1.0));
    assert_eq!(value("caisson_containers_silent"), Some(0.0));
    // The first has imported the image, and was killed.
    assert_eq!(value("caisson_daemon_starts_total"), Some(2.0));
    let layers = value("caisson_store_bytes{kind=\"layers\"}").unwrap();
    let usage = supervisor.says(&["system", "df", "-v", "--format", "json"]);
    let layer = usage
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|row| row["Kind"] == "layer");
    assert!(layer.is_some() && layers > 500_000.0, "{layers}");
    let event = |action: &str| {
        value(&format!(
            "caisson_events_total{{type=\"container\",action=\"{action}\"}}"
        ))
    };
    assert_eq!(
        (event("start"), event("pause"), event("die")),
        (Some(2.0), Some(1.0), None)
    );
    let labels = format!("{{id=\"{id}\",name=\"web\"}}");
    let used = |name: &str| value(&format!("caisson_container_{name}{labels}"));
    assert!(used("cpu_seconds_total").unwrap() > 0.0);
    assert!(used("start_time_seconds").unwrap() > value("process_start_time_seconds").unwrap());
    assert_eq!(used("restarts_total"), Some(0.0));
    let info = format!("caisson_container_info{{id=\"{id}\",name=\"web\",image=\"{IMAGE}\"}}");
    assert_eq!(value(&info), Some(1.0));
    supervisor.says(&["rm", "-f", "web"]);
    let second = scrape();
    assert!(second.keys().all(|sample| !sample.contains(&id)));
    assert_eq!(second["caisson_containers{state=\"running\"}"], 0.0);
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait().success();
    assert!(!socket.exists());
}

#[test]
fn metrics_have_limits_and_memory_where_the_group_has() {
    require!(
        containers,
        busybox,
        controller("memory"),
        controller("pids")
    );
    let supervisor = Supervisor::new();
    supervisor.crash();
    let socket = supervisor.state.join("metrics");
    let address = format!("unix:{}", socket.display());
    let _daemon = supervisor.daemon(&["--metrics", &address]);
    let flags = ["--memory", "64m", "--pids-limit", "20", "--name", "web"];
    let id = supervisor.detached(&flags, "sleep 1000");
    let (_, page) = get(UnixStream::connect(&socket).unwrap(), "GET", "/metrics");
    let samples = samples(&page);
    let used =
        |name: &str| samples[&format!("caisson_container_{name}{{id=\"{id}\",name=\"web\"}}")];
    assert_eq!(used("memory_limit_bytes"), 67_108_864.0);
    assert!(used("memory_bytes") > 0.0 && used("memory_bytes") < 67_108_864.0);
    assert_eq!(
        (used("processes_limit"), used("oom_kills_total")),
        (20.0, 0.0)
    );
    assert!(used("processes") >= 1.0);
}

#[test]
fn metrics_are_served_on_this_machine_only_and_nothing_else_is() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    supervisor
        .refused(&["--metrics", "0.0.0.0:9999"])
        .says("being on this machine");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    supervisor
        .refused(&["--metrics", &address])
        .says(&format!("listen on {address}: Address already in use"));
    drop(taken);
    let _daemon = supervisor.daemon(&["--metrics", &address]);
    let ask = |method, path| get(TcpStream::connect(&address).unwrap(), method, path);
    let (status, page) = ask("GET", "/metrics?x=y");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert_eq!(samples(&page)["caisson_images"], 1.0);
    assert_eq!(ask("HEAD", "/metrics"), (status, String::new()));
    assert_eq!(ask("GET", "/").0, "HTTP/1.1 404 Not Found");
    assert_eq!(ask("POST", "/metrics").0, "HTTP/1.1 405 Method Not Allowed");
    // One that sends too much, and many that say nothing, keep nobody from the page.
    let mut endless = TcpStream::connect(&address).unwrap();
    endless.write_all(&[b'x'; 10_000]).unwrap();
    let mut rest = vec![];
    assert!(
        endless
            .read_to_end(&mut rest)
            .map_or(true, |read| read == 0)
    );
    let silent = (0..100).map(|_| TcpStream::connect(&address).unwrap());
    let mut silent: Vec<_> = silent.collect();
    assert_eq!(ask("GET", "/metrics").0, "HTTP/1.1 200 OK");
    // The first have been replaced. Of the last ones, the time that each has is not over: nobody has waited for it.
    assert_eq!(silent[0].read(&mut [0]).unwrap_or(0), 0);
    let later = silent.swap_remove(80);
    assert_eq!(get(later, "GET", "/metrics").0, "HTTP/1.1 200 OK");
}
