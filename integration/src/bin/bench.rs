//! `bench [OPTION]... NAME=PROGRAM...`: what it costs to start containers, with several runtimes in turn. See `scripts/bench`.
//!
//! Every round runs every runtime once, each time in another order, so that what disturbs the machine disturbs all alike. A program is started
//! by posix_spawn and timed until it is reaped; this process has one thread and does nothing meanwhile. The name `floor` is for the
//! program of that name, which has no command line of a runtime.
//!
//! * `run`: `run` of the bundle.
//! * `exec`: `exec` of `true` in a container that has been running since before.
//! * `cycle`: `create`, `start`, the end of the container's process, `delete`.

use integration::sys::{self, launch};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((word, rest)) if word == SEQUENCE => run_sequence(rest),
        _ => parse(args.into_iter()).and_then(|options| bench(&options)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "bench: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

const SEQUENCE: &str = "--sequence";
const END_OF_COMMAND: &str = ";";
const PID_FILE: &str = "/run/bench.pid";

struct Options {
    rounds: usize,
    scenarios: Vec<String>,
    /// Bundles of `true`, and of something that does not end.
    bundle: PathBuf,
    lasting: PathBuf,
    runtimes: Vec<Runtime>,
}

struct Runtime {
    name: String,
    program: PathBuf,
}

/// What one round of one runtime has cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall_us: f64,
    cpu_us: f64,
    faults: f64,
}

/// What a runtime asks of the kernel, as strace counts it.
#[derive(Default)]
struct Calls {
    calls: usize,
    forks: usize,
    threads: usize,
    execs: usize,
}

const USAGE: &str =
    "usage: bench [--rounds N] [--only SCENARIO] --bundle DIR --lasting DIR NAME=PROGRAM...";

fn parse(mut args: impl Iterator<Item = String>) -> io::Result<Options> {
    let mut options = Options {
        rounds: 200,
        scenarios: ["run", "exec", "cycle"].map(str::to_owned).to_vec(),
        bundle: PathBuf::new(),
        lasting: PathBuf::new(),
        runtimes: Vec::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| io::Error::other(USAGE));
        match arg.as_str() {
            "--rounds" => options.rounds = value()?.parse().map_err(io::Error::other)?,
            "--only" => options.scenarios = vec![value()?],
            "--bundle" => options.bundle = value()?.into(),
            "--lasting" => options.lasting = value()?.into(),
            word => {
                let (name, program) = word
                    .split_once('=')
                    .ok_or_else(|| io::Error::other(USAGE))?;
                options.runtimes.push(Runtime {
                    name: name.to_owned(),
                    program: program.into(),
                });
            }
        }
    }
    if options.runtimes.is_empty() || options.rounds == 0 {
        return Err(io::Error::other(USAGE));
    }
    Ok(options)
}

fn bench(options: &Options) -> io::Result<()> {
    // The processes of created containers come to us when the command that created them ends.
    sys::become_subreaper()?;
    for scenario in &options.scenarios {
        match scenario.as_str() {
            "run" => measure(options, "run", |runtime| vec![runtime.run(&options.bundle)])?,
            "exec" => exec(options)?,
            "cycle" => cycle(options)?,
            other => return Err(io::Error::other(format!("no scenario '{other}'"))),
        }
    }
    Ok(())
}

fn exec(options: &Options) -> io::Result<()> {
    let mut pids = Vec::new();
    let runtimes: Vec<_> = options
        .runtimes
        .iter()
        .filter(|runtime| !runtime.is_floor())
        .collect();
    let begun = runtimes.iter().try_for_each(|runtime| {
        let pid_file = Path::new("/run").join(format!("{}.pid", runtime.name));
        let mut run = runtime.command(&["run", "--detach", "--pid-file"]);
        run.arg(&pid_file)
            .arg("--bundle")
            .arg(&options.lasting)
            .arg(runtime.id());
        time(&mut run)?;
        pids.push(std::fs::read_to_string(&pid_file)?);
        Ok(())
    });
    let measured = begun.and_then(|()| measure_exec(options, &pids));
    // All that were begun end, so that a failure leaves none behind.
    for (runtime, pid) in runtimes.iter().zip(&pids) {
        time(&mut runtime.command(&["kill", &runtime.id(), "KILL"]))?;
        launch::reap_with_usage(pid.parse().map_err(io::Error::other)?)?;
        time(&mut runtime.command(&["delete", &runtime.id()]))?;
    }
    measured
}

/// The floor enters the first container.
fn measure_exec(options: &Options, pids: &[String]) -> io::Result<()> {
    let Some(first) = pids.first() else {
        return Ok(());
    };
    let groups = std::fs::read_to_string(format!("/proc/{first}/cgroup"))?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let group = format!("/sys/fs/cgroup{}", group.unwrap_or_default());
    measure(options, "exec", |runtime| {
        vec![match runtime.is_floor() {
            true => runtime.command(&["exec", first, &group]),
            false => runtime.command(&["exec", &runtime.id(), "true"]),
        }]
    })
}

fn cycle(options: &Options) -> io::Result<()> {
    measure(options, "cycle", |runtime| {
        if runtime.is_floor() {
            return vec![runtime.run(&options.bundle)];
        }
        let mut create = runtime.command(&["create", "--pid-file", PID_FILE, "--bundle"]);
        create.arg(&options.bundle).arg(runtime.id());
        let start = runtime.command(&["start", &runtime.id()]);
        let delete = runtime.command(&["delete", &runtime.id()]);
        vec![create, start, delete]
    })
}

impl Runtime {
    fn is_floor(&self) -> bool {
        self.name == "floor"
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .env_clear();
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        if !self.is_floor() {
            command
                .arg("--root")
                .arg(Path::new("/run").join(&self.name));
        }
        command.args(words);
        command
    }

    /// The container's. Different ones, because they are cgroups too.
    fn id(&self) -> String {
        format!("bench-{}", self.name)
    }

    fn run(&self, bundle: &Path) -> Command {
        if self.is_floor() {
            let mut command = self.command(&["run"]);
            command.arg(bundle.join("../rootfs")).arg(self.id());
            return command;
        }
        let mut command = self.command(&["run", "--bundle"]);
        command.arg(bundle).arg(self.id());
        command
    }
}

/// Measures one scenario and prints its table.
fn measure(
    options: &Options,
    title: &str,
    commands: impl Fn(&Runtime) -> Vec<Command>,
) -> io::Result<()> {
    const WARM_UP: usize = 5;
    let runtimes = &options.runtimes;
    let mut costs = vec![Vec::new(); runtimes.len()];
    let mut order: Vec<usize> = (0..runtimes.len()).collect();
    let mut random = 1u64;
    for round in 0..WARM_UP + options.rounds {
        shuffle(&mut order, &mut random);
        for &at in &order {
            let cost = sequence(commands(&runtimes[at]))?;
            if round >= WARM_UP {
                costs[at].push(cost);
            }
        }
    }
    let calls = runtimes
        .iter()
        .map(|runtime| count(commands(runtime)))
        .collect::<io::Result<Vec<_>>>()?;
    print(options, title, &costs, &calls)
}

/// Fisher and Yates, with Knuth's linear congruential generator: every order is as likely, and every run of this program the same.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (*random >> 33) as usize % (last + 1));
    }
}

/// Runs commands one after the other. Before the last of several, the process of the container that the first has created ends.
fn sequence(mut commands: Vec<Command>) -> io::Result<Cost> {
    let mut sum = Cost::default();
    let begin = Instant::now();
    let count = commands.len();
    for (number, command) in commands.iter_mut().enumerate() {
        if number > 0 && number + 1 == count {
            sum.add(reap_container()?);
        }
        sum.add(time(command)?);
    }
    sum.wall_us = begin.elapsed().as_secs_f64() * 1e6;
    Ok(sum)
}

/// Created containers belong to us when the command that created them has ended.
fn reap_container() -> io::Result<Cost> {
    let pid = std::fs::read_to_string(PID_FILE)?;
    let usage = launch::reap_with_usage(pid.parse().map_err(io::Error::other)?)?;
    Ok(Cost::of(&usage))
}

impl Cost {
    fn of(usage: &launch::Usage) -> Self {
        Cost {
            wall_us: 0.0,
            cpu_us: usage.cpu_us as f64,
            faults: usage.faults as f64,
        }
    }

    fn add(&mut self, other: Cost) {
        self.wall_us += other.wall_us;
        self.cpu_us += other.cpu_us;
        self.faults += other.faults;
    }
}

fn time(command: &mut Command) -> io::Result<Cost> {
    let begin = Instant::now();
    let child = command.spawn()?;
    let usage = launch::reap_with_usage(child.id() as i32)?;
    let wall_us = begin.elapsed().as_secs_f64() * 1e6;
    if usage.status != 0 {
        let text = format!("{command:?} ended with wait status {}", usage.status);
        return Err(io::Error::other(text));
    }
    Ok(Cost {
        wall_us,
        ..Cost::of(&usage)
    })
}

/// Counts under strace, where time means nothing. What is traced is this program, which runs the commands as it does when it
/// measures; its own calls are left out.
fn count(commands: Vec<Command>) -> io::Result<Calls> {
    const LOG: &str = "/run/strace";
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", LOG, "-s", "0"]);
    traced.arg(std::env::current_exe()?).arg(SEQUENCE);
    for command in &commands {
        traced
            .arg(command.get_program())
            .args(command.get_args())
            .arg(END_OF_COMMAND);
    }
    let status = traced.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{traced:?}: {status}")));
    }
    let mut sum = Calls::default();
    add_up(&std::fs::read_to_string(LOG)?, &mut sum);
    Ok(sum)
}

/// What [`count`] has strace execute.
fn run_sequence(words: &[String]) -> io::Result<()> {
    sys::become_subreaper()?;
    let commands = words
        .split(|word| word == END_OF_COMMAND)
        .filter_map(|words| {
            let mut command = Command::new(words.first()?);
            command
                .args(&words[1..])
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            Some(command)
        });
    sequence(commands.collect()).map(drop)
}

/// Each line: pid, spaces, call. The first process is this program. When it clones, what follows until the next execve is posix_spawn's.
fn add_up(log: &str, sum: &mut Calls) {
    let mut own = None;
    let mut spawning = false;
    for line in log.lines() {
        let Some((pid, call)) = line.split_once(' ') else {
            continue;
        };
        let (call, is_own) = (call.trim_start(), pid == *own.get_or_insert(pid));
        let name = call.split('(').next().unwrap_or_default();
        let clones = matches!(name, "clone" | "clone3" | "fork" | "vfork");
        spawning |= is_own && clones;
        let executes = matches!(name, "execve" | "execveat");
        spawning &= is_own || !executes;
        // The end of a call, a signal, the end of a process.
        if is_own || spawning || call.starts_with(['<', '-', '+']) {
            continue;
        }
        sum.calls += 1;
        sum.execs += usize::from(executes);
        let thread = clones && call.contains("CLONE_THREAD");
        sum.threads += usize::from(thread);
        sum.forks += usize::from(clones && !thread);
    }
}

fn print(options: &Options, title: &str, costs: &[Vec<Cost>], calls: &[Calls]) -> io::Result<()> {
    let rows: Vec<Row> = options
        .runtimes
        .iter()
        .zip(costs)
        .zip(calls)
        .map(|((runtime, costs), calls)| Row::new(&runtime.name, costs, calls))
        .collect();
    let mut out = io::stdout().lock();
    writeln!(out, "{title}, {} rounds, milliseconds", options.rounds)?;
    write!(
        out,
        "{:8}{:>8}{:>8}{:>8}{:>8}",
        "", "min", "median", "p90", "cpu"
    )?;
    write!(
        out,
        "{:>8}{:>7}{:>7}{:>9}{:>7}",
        "faults", "calls", "forks", "threads", "execs"
    )?;
    writeln!(out, "  ÷ floor: min median cpu  ÷ caisson: min median cpu")?;
    for row in &rows {
        let Calls {
            calls,
            forks,
            threads,
            execs,
        } = row.calls;
        write!(out, "{:8}", row.name)?;
        for time in [row.min, row.median, row.p90, row.cpu] {
            write!(out, "{time:8.2}")?;
        }
        write!(
            out,
            "{:>8}{calls:>7}{forks:>7}{threads:>9}{execs:>7}",
            row.faults
        )?;
        for (base, width) in [("floor", 14), ("caisson", 17)] {
            let Some(base) = rows.iter().find(|row| row.name == base) else {
                continue;
            };
            write!(out, "{:width$.2}", row.min / base.min)?;
            write!(
                out,
                "{:7.2}{:5.2}",
                row.median / base.median,
                row.cpu / base.cpu
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// One runtime in one scenario. Times are in milliseconds.
struct Row<'a> {
    name: &'a str,
    min: f64,
    median: f64,
    p90: f64,
    /// User and system time of the commands and the container's process, in the median.
    cpu: f64,
    faults: f64,
    calls: &'a Calls,
}

impl<'a> Row<'a> {
    fn new(name: &'a str, costs: &[Cost], calls: &'a Calls) -> Self {
        let sorted = |of: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = costs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = costs.len() / 2;
        let wall = sorted(|cost| cost.wall_us / 1e3);
        Row {
            name,
            min: wall[0],
            median: wall[median],
            p90: wall[costs.len() * 9 / 10],
            cpu: sorted(|cost| cost.cpu_us / 1e3)[median],
            faults: sorted(|cost| cost.faults)[median],
            calls,
        }
    }
}
