//! `uraid service-stop`: what a service unit runs as its ExecStop. systemd runs the same command for a stop, a
//! restart and the machine's shutdown; only a restart is followed by a process that can go on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use uraid_config::Config;

use crate::cli::ServiceStopArgs;
use crate::commands::load;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{ErrorCode, Request};
use crate::failure::Failure;
use crate::{out, serve};

/// Between two looks at a configuration that has to be mended before a restart can go on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Asks the daemon to hand over if its unit is being restarted, and to stop otherwise.
///
/// A restart whose configuration cannot be served hands nothing over: whoever came after would fail, and with
/// it what was handed over. It is a stop if nobody uses the volume's device; else the volume is served until
/// the configuration can be used, the restart is no restart any more, or the device is let go of.
///
/// A daemon that does not answer has ended by itself, which is no failure of its stop. One that refuses a
/// stop, because its device is used, goes on when systemd tells it with SIGTERM: it waits until the device is
/// let go of.
///
/// # Errors
/// The daemon refused, or did not come to a good end.
pub fn run(args: &ServiceStopArgs) -> Result<(), Failure> {
    let stop = Request::Stop { force: false };
    let mut said = None;
    loop {
        let hindrance = match is_restarting(&args.unit).then(|| check(&args.file)) {
            Some(Ok(())) => return order(args, &Request::HandOver).map_err(Failure::from),
            Some(Err(why)) => why.to_string(),
            None => return order(args, &stop).map_err(Failure::from),
        };
        let news = said.as_ref() != Some(&hindrance);
        if news {
            let why = "nothing is handed over, because no daemon could start after this one";
            out::print(&format!("{why}: {hindrance}\n"))?;
        }
        said = Some(hindrance);
        match order(args, &stop) {
            Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::Refused => {
                if news {
                    let file = args.file.display();
                    out::print(&format!(
                        "{refusal}\nThe restart waits, and the volume is served: mend {file} and it goes on\n"
                    ))?;
                }
            }
            end => return end.map_err(Failure::from),
        }
        sleep(LOOK_AGAIN);
    }
}

/// Has the daemon do this, if there is one, and says what it says.
fn order(args: &ServiceStopArgs, request: &Request) -> Result<(), ClientError> {
    match Client::new(control_of(&args.file)).order(request) {
        // It is done, whether there is somebody to hear that or not.
        Ok(message) => {
            let _ = out::print(&format!("{message}\n"));
            Ok(())
        }
        Err(ClientError::Connect { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a daemon could start with this file, as far as the file says.
fn check(file: &Path) -> Result<(), Failure> {
    serve::check(&load(file)?)
}

/// The control socket of the daemon that serves `file`: as the file says, or by the name of the array, which is
/// that of the file unless the file has another one. A file that has become unreadable since does not matter
/// where the default does. The daemon warns at its start of an array that is found by neither.
fn control_of(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    match Config::load(file) {
        Ok(config) => {
            let name = config.name.as_ref().map_or(stem.into_owned(), ToString::to_string);
            config.control_socket(&name)
        }
        Err(_) => Config::with_members(Vec::new()).control_socket(&stem),
    }
}

/// Whether [`control_of`] finds the daemon of an array of this name.
pub(crate) fn is_found(file: &Path, config: &Config, array_name: &str) -> bool {
    control_of(file) == config.control_socket(array_name)
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
    fn a_daemon_is_found_by_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tank.toml");
        for (text, array, found) in [
            ("members = ['/m']", "tank", true),
            ("members = ['/m']", "host:tank", true),
            ("members = ['/m']", "pool", false),
            ("members = ['/m']\nname = 'pool'", "pool", true),
            ("members = ['/m']\ncontrol = '/run/c'", "pool", true),
        ] {
            std::fs::write(&file, text).unwrap();
            let config = Config::load(&file).unwrap();
            assert_eq!(is_found(&file, &config, array), found, "{text} {array}");
        }
        std::fs::write(&file, "what?").unwrap();
        assert_eq!(control_of(&file), Path::new("/run/uraid/tank.control"));
    }

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
