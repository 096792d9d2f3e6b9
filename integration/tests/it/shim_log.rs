//! The log that a shim writes itself, `log://`: one record per line, as whoever ships such logs expects.

use integration::shim::Shim;
use integration::{Bundle, require};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs the script in a container that writes to such a log, which is the path that comes back.
fn logging(script: &str, limits: &str) -> (Shim, std::path::PathBuf) {
    let mut bundle = Bundle::with_busybox();
    bundle.config.args(&["sh", "-c", script]);
    let log = bundle.scratch.dir("logs").join("log");
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let mut request = shim.request(&id);
    request.stdout = format!("log://{}?{limits}", log.display());
    request.stderr = request.stdout.clone();
    let made = shim.call(async |client, ctx| client.create(ctx, &request).await);
    made.unwrap();
    shim.start_process(&id, "").unwrap();
    (shim, log)
}

/// What the records of a file say, each.
fn records(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let records = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["log"].as_str().unwrap().to_owned()
    });
    records.collect()
}

#[test]
fn a_line_of_a_container_is_one_record_and_no_file_begins_within_one() {
    require!(containers, busybox);
    // In blocks that end anywhere within a line.
    let (shim, log) = logging("seq 1 20000", "max-size=200000&max-files=100");
    let id = shim.id();
    assert_eq!(shim.wait(id, ""), Ok(0));
    shim.delete(id, "").unwrap();
    let older = (1..).map(|number| log.with_extension(number.to_string()));
    let mut files: Vec<_> = older.take_while(|file| file.exists()).collect();
    assert!(files.len() > 5, "{files:?}");
    files.reverse();
    files.push(log);
    let seen: Vec<String> = files.iter().flat_map(|file| records(file)).collect();
    let expected: Vec<String> = (1..=20000).map(|number| format!("{number}\n")).collect();
    let differs = seen.iter().zip(&expected).find(|(seen, line)| seen != line);
    assert_eq!(differs, None);
    assert_eq!(seen.len(), expected.len());
}

#[test]
fn a_question_is_in_the_log_before_it_is_answered() {
    require!(containers, busybox);
    let (shim, log) = logging("printf 'name? '; sleep 1000", "");
    let before = Instant::now();
    while !records(&log).iter().any(|record| record == "name? ") {
        assert!(before.elapsed() < Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let id = shim.id();
    shim.kill(id, "", 9).unwrap();
    assert_eq!(shim.wait(id, ""), Ok(137));
    shim.delete(id, "").unwrap();
    assert_eq!(records(&log), ["name? "]);
}
