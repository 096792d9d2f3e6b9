//! Caisson's low-level OCI runtime.

mod cgroup;
mod check;
mod cli;
mod commands;
mod console;
mod criu;
mod foreground;
mod hooks;
mod host;
mod inherited;
mod init;
mod listener;
mod log;
mod network;
mod notify_socket;
mod output;
mod plan;
pub mod report;
mod resctrl;
mod seal;
mod spawn;
mod spec;
pub mod state;
mod sync;
mod sys;
mod timestamp;
mod trace;

use std::process::ExitCode;

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    // A caller that ignores SIGCHLD passes that on, and the kernel would reap the container's process before we have its status.
    if let Err(errno) = sys::signal::set_default(libc::SIGCHLD) {
        return refuse(
            &log::Settings::default(),
            &report::Error::os("reset SIGCHLD", errno),
            1,
        );
    }
    let here = match surroundings() {
        Ok(here) => here,
        Err(error) => return refuse(&log::Settings::default(), &error, 1),
    };
    match cli::parse(std::env::args_os(), &here) {
        Ok(cli::Invocation { global, command }) => run(&global, command),
        Err(rejected) => refuse(&rejected.log, &rejected.error, rejected.exit_code),
    }
}

fn surroundings() -> report::Result<cli::Surroundings> {
    Ok(cli::Surroundings {
        euid: nix::unistd::geteuid().as_raw(),
        in_userns: !host::is_initial_user_namespace()?,
        user: std::env::var_os("USER"),
        xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
    })
}

/// Carries the command out and reports how it went: the one place where errors become text and exit codes.
fn run(global: &cli::Global, command: cli::Command) -> ExitCode {
    // An exec that fails before its process runs must not look like a process that exited with 1.
    let failure = if matches!(command, cli::Command::Exec(_)) {
        255
    } else {
        1
    };
    let inherited = inherited::Inherited::count();
    let log = match log::Log::open(&global.log) {
        Ok(log) => log,
        Err(error) => return refuse(&log::Settings::default(), &error, failure),
    };
    let trace = match trace::Trace::open(global.trace.as_deref()) {
        Ok(trace) => trace,
        Err(error) => return refuse(&global.log, &error, failure),
    };
    let enters_container = matches!(
        command,
        cli::Command::Create(_)
            | cli::Command::Run(_)
            | cli::Command::Exec(_)
            | cli::Command::Restore(_)
            | cli::Command::Mounts { .. }
    );
    let sealed = if enters_container {
        trace.begin("seal");
        // It may execute this program again, which does not come back.
        write(&trace, &log);
        seal::seal()
    } else {
        Ok(())
    };
    let begun = sealed.and_then(|()| inherited::Inherited::keep_from_hooks());
    let done = begun.and_then(|()| commands::execute(global, command, inherited, &log, &trace));
    trace.begin("end");
    write(&trace, &log);
    match done {
        Ok(code) => {
            log.succeed();
            ExitCode::from(code)
        }
        Err(error) => {
            log.fail(&error);
            ExitCode::from(failure)
        }
    }
}

fn write(trace: &trace::Trace, log: &log::Log) {
    if let Err(error) = trace.write() {
        log.warn(format!("{error}, ignoring"));
    }
}

fn refuse(settings: &log::Settings, error: &report::Error, code: u8) -> ExitCode {
    if let Ok(log) = log::Log::open(settings).or_else(|_| log::Log::open(&log::Settings::default()))
    {
        log.fail(error);
    }
    ExitCode::from(code)
}
