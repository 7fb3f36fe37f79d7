//! `uraid service-stop`: what a service unit runs as its ExecStop. systemd runs the same command for a stop, a
//! restart and the machine's shutdown; only a restart is followed by a process that can go on.

use std::process::Command;

use crate::cli::ServiceStopArgs;
use crate::commands::client;
use crate::control::client::ClientError;
use crate::control::protocol::Request;
use crate::failure::Failure;
use crate::out;

/// Asks the daemon to hand over if its unit is being restarted, and to stop otherwise.
///
/// A daemon that does not answer has ended by itself, which is no failure of its stop. One that refuses,
/// because its device is used, goes on when systemd tells it with SIGTERM: it waits until the device is let
/// go of.
///
/// # Errors
/// The daemon refused, or did not come to a good end.
pub fn run(args: &ServiceStopArgs) -> Result<(), Failure> {
    let request = if is_restarting(&args.unit) { Request::HandOver } else { Request::Stop { force: false } };
    match client(&args.target, args.name.as_ref())?.order(&request) {
        Ok(message) => out::print(&format!("{message}\n")),
        Err(ClientError::Connect { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the job of this unit is a restart. When in doubt it is not: a stop does no harm to a restart, but
/// connections that are kept for a process that never comes keep whoever uses them waiting.
fn is_restarting(unit: &str) -> bool {
    let Some(job) = systemctl(&["show", "--property=Job", "--value", unit]) else { return false };
    let Ok(job) = job.trim().parse::<u32>() else { return false };
    let jobs = systemctl(&["list-jobs", "--no-legend", "--plain", "--full"]).unwrap_or_default();
    is_restart(&jobs, job)
}

/// Looks a job up in what `systemctl list-jobs` prints: number, unit, kind, state.
fn is_restart(jobs: &str, job: u32) -> bool {
    jobs.lines().any(|line| {
        let mut words = line.split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok());
        number == Some(job) && words.nth(1) == Some("restart")
    })
}

/// What systemctl prints, if it ends well.
fn systemctl(arguments: &[&str]) -> Option<String> {
    let done = Command::new("systemctl").args(arguments).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_from_a_stop_by_its_job() {
        let jobs = "\
 77 uraid@tank.service restart running
 78 uraid@pool.service stop    running
 79 uraid@dump.service start   waiting
";
        assert!(is_restart(jobs, 77));
        for other in [78, 79, 7, 0] {
            assert!(!is_restart(jobs, other), "{other}");
        }
        assert!(!is_restart("", 77));
        assert!(!is_restart("77\n77 restart\n", 77));
    }
}
