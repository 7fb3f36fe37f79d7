//! From the parsed command line to the module that does the work.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use uraid_config::{Address, Config, ConfigError, RUN_DIR, Tls, VolumeName};

use crate::cli::{
    AddArgs, Cli, Command, FailArgs, ScrubArgs, ServeArgs, StatusArgs, StopArgs, TargetArgs, TlsArgs,
    control_socket_of,
};
use crate::control::client::Client;
use crate::control::protocol::Request;
use crate::failure::Failure;
use crate::{
    assemble, check_config, create, engines, examine, generate, kernels, out, serve, service_stop, status,
    udev, watch,
};

/// Does what the command line says.
///
/// # Errors
/// See [`Failure`].
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Create(args) => create::run(&args),
        Command::Assemble(args) => assemble::run(&args),
        Command::Serve(args) => serve::run(serve_config(&args)?, config_file(&args).map(Path::to_owned)),
        Command::Examine(args) => examine::run(&args),
        Command::CheckConfig(args) => check_config::run(&args.file, args.strict),
        Command::Kernels(args) => kernels::run(&args),
        Command::Engines(args) => engines::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Udev(args) => udev::run(&args),
        Command::Status(args) => run_status(&args),
        Command::Fail(args) => run_fail(&args),
        Command::Add(args) => run_add(&args),
        Command::Scrub(args) => run_scrub(&args),
        Command::Stop(args) => run_stop(&args),
        Command::ServiceStop(args) => service_stop::run(&args),
    }
}

/// The configuration file that the command line of `serve` names, if it does.
fn config_file(args: &ServeArgs) -> Option<&Path> {
    match args.operands.as_slice() {
        [file] if file.extension() == Some(OsStr::new("toml")) => Some(file),
        _ => None,
    }
}

/// The configuration that the command line of `serve` names or is.
///
/// # Errors
/// Options beside a file, options that contradict each other, or a file with problems.
pub fn serve_config(args: &ServeArgs) -> Result<Config, Failure> {
    if let Some(file) = config_file(args) {
        refuse_options_beside_file(args)?;
        return load(file);
    }
    if let Some(file) = args.operands.iter().find(|path| path.extension() == Some(OsStr::new("toml"))) {
        let text =
            format!("{}: a configuration file stands alone, without members beside it", file.display());
        return Err(Failure::Usage(text));
    }
    let control = args.control.as_deref().map(absolute).transpose()?;
    let shared = |address: &Address| matches!(address, Address::Unix(path) if Some(path) == control.as_ref());
    if args.listen.iter().any(shared) {
        return Err(Failure::Usage("--control and --listen name the same socket".to_owned()));
    }
    let mut config = Config::with_members(absolute_members(&args.operands)?);
    config.name.clone_from(&args.name);
    config.listen.clone_from(&args.listen);
    config.control = control;
    config.insecure = args.insecure;
    config.tls = tls(&args.tls)?;
    if let Some(address) = args.listen.iter().find(|address| config.is_exposed(address)) {
        return Err(Failure::Usage(format!(
            "{address} can be reached by other machines, without encryption or a password; use 127.0.0.1 or \
             [::1], require TLS (--tls-certificate), or add --insecure if the network is trusted"
        )));
    }
    config.read_only = args.read_only;
    config.device = args.device;
    config.assemble.force = args.force;
    Ok(config)
}

fn tls(args: &TlsArgs) -> Result<Tls, Failure> {
    let path = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
    let tls = Tls {
        certificate: path(&args.certificate)?,
        key: path(&args.key)?,
        client_ca: path(&args.client_ca)?,
        clients: args.clients.clone(),
        mode: args.mode.unwrap_or_default(),
    };
    match tls.contradiction() {
        Some((_, wrong, _)) => Err(Failure::Usage(format!("{wrong}: see --tls-certificate and --tls-key"))),
        None => Ok(tls),
    }
}

fn refuse_options_beside_file(args: &ServeArgs) -> Result<(), Failure> {
    let given = [
        ("--listen", !args.listen.is_empty()),
        ("--insecure", args.insecure),
        ("--tls-certificate", args.tls.certificate.is_some()),
        ("--tls-mode", args.tls.mode.is_some()),
        ("--control", args.control.is_some()),
        ("--name", args.name.is_some()),
        ("--read-only", args.read_only),
        ("--device", args.device.is_some()),
        ("--force", args.force),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            Err(Failure::Usage(format!("{option} goes into the configuration file when there is one")))
        }
        None => Ok(()),
    }
}

/// Reads a configuration. One with problems is a wrong question, so it counts as usage.
pub(crate) fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|error| match error {
        ConfigError::Invalid(problems) => {
            Failure::Usage(format!("the configuration cannot be used\n{problems}"))
        }
        ConfigError::Read { .. } => Failure::operating(error),
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn absolute_members(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut members: Vec<PathBuf> = Vec::new();
    for path in paths {
        let path = absolute(path)?;
        if members.contains(&path) {
            return Err(Failure::Usage(format!("{} is named twice", path.display())));
        }
        members.push(path);
    }
    Ok(members)
}

fn run_status(args: &StatusArgs) -> Result<(), Failure> {
    let client = client(&args.target, args.name.as_ref())?;
    if args.watch {
        return watch::run(client, args.interval);
    }
    let status = client.status()?;
    status::print(&status, args.json)
}

fn run_stop(args: &StopArgs) -> Result<(), Failure> {
    say(&client(&args.target, args.name.as_ref())?, &Request::Stop { force: args.force })
}

fn run_scrub(args: &ScrubArgs) -> Result<(), Failure> {
    let request = Request::Scrub { repair: args.repair, wait: args.wait };
    say(&client(&args.target, args.name.as_ref())?, &request)
}

fn run_fail(args: &FailArgs) -> Result<(), Failure> {
    let (name, member) = name_and_member(&args.target, &args.operands)?;
    say(&client(&args.target, name.as_ref())?, &Request::Fail { member: named_member(&member)? })
}

/// The path of a member as an operator names it: also by the short name that a status shows, as the kernel's
/// tools do, which is that of a device unless there is such a file here.
fn named_member(member: &Path) -> Result<PathBuf, Failure> {
    let device = Path::new("/dev").join(member);
    let is_short = member.components().count() == 1 && !member.exists() && device.exists();
    if is_short { Ok(device) } else { absolute(member) }
}

fn run_add(args: &AddArgs) -> Result<(), Failure> {
    let (name, member) = name_and_member(&args.target, &args.operands)?;
    let request = Request::Add { member: absolute(&member)?, force: args.force };
    say(&client(&args.target, name.as_ref())?, &request)
}

fn say(client: &Client, request: &Request) -> Result<(), Failure> {
    let message = client.order(request)?;
    out::print(&format!("{message}\n"))
}

/// `[NAME] MEMBER`
fn name_and_member(
    target: &TargetArgs,
    operands: &[PathBuf],
) -> Result<(Option<VolumeName>, PathBuf), Failure> {
    match operands {
        [member] => Ok((None, member.clone())),
        [_, _] if target.control.is_some() => {
            Err(Failure::Usage("with --control name one MEMBER and nothing else".to_owned()))
        }
        [name, member] => {
            let name = name.to_string_lossy().parse().map_err(|error| Failure::Usage(format!("{error}")))?;
            Ok((Some(name), member.clone()))
        }
        _ => Err(Failure::Usage("name one MEMBER".to_owned())),
    }
}

/// The daemon that is meant: by its control socket, by the name of its array, or the only one.
pub(crate) fn client(target: &TargetArgs, name: Option<&VolumeName>) -> Result<Client, Failure> {
    let path = match (&target.control, name) {
        (Some(_), Some(_)) => return Err(Failure::Usage("give a name or --control, not both".to_owned())),
        (Some(path), None) => path.clone(),
        (None, Some(name)) => control_socket_of(name),
        (None, None) => only_control_socket(Path::new(RUN_DIR))?,
    };
    Ok(Client::new(path))
}

/// The one control socket in `directory`, if there is exactly one.
fn only_control_socket(directory: &Path) -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut sockets: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("control")))
        .collect();
    sockets.sort();
    match sockets.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::operating(format!(
            "no array runs here (no control socket in {}); name one, or give --control PATH",
            directory.display()
        ))),
        several => {
            let names = several.iter().filter_map(|path| path.file_stem()).map(|stem| stem.to_string_lossy());
            let names = names.collect::<Vec<_>>().join(", ");
            Err(Failure::Usage(format!("several arrays run here ({names}): name one of them")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_socket_is_found_and_several_are_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_control_socket(directory.path()).unwrap_err().to_string().contains("no array runs"));
        std::fs::write(directory.path().join("a.control"), "").unwrap();
        std::fs::write(directory.path().join("a.sock"), "").unwrap();
        assert_eq!(only_control_socket(directory.path()).unwrap(), directory.path().join("a.control"));
        std::fs::write(directory.path().join("b.control"), "").unwrap();
        let error = only_control_socket(directory.path()).unwrap_err();
        assert!(error.to_string().contains("(a, b)"), "{error}");
    }
}
