//! The words of the command line. What they mean is in the module of each command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use raid6_simd::Selection;
use uraid_config::{Address, ArrayUuid, DeviceName, DeviceNameError, RUN_DIR, Size, TlsMode, VolumeName};

/// Userspace software RAID 4/5/6: on disk it is Linux md, to clients it is NBD.
#[derive(Parser, Debug)]
#[command(name = "uraid", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What uraid can be asked to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a new array out of files and block devices.
    Create(CreateArgs),
    /// Find arrays and say whether they can be started; with --write, make the configurations that start them.
    Assemble(AssembleArgs),
    /// Serve an array over NBD, in the foreground, until SIGTERM or `uraid stop`.
    Serve(ServeArgs),
    /// Show the state of a running array.
    Status(StatusArgs),
    /// Show what members say of themselves, and whether their array can be started.
    Examine(ExamineArgs),
    /// Declare a member of a running array failed.
    Fail(FailArgs),
    /// Add a device to a running array; a rebuild starts if a member is missing.
    Add(AddArgs),
    /// Compare parity with the data on all stripes of a running array, and count what does not match.
    Scrub(ScrubArgs),
    /// Stop a running array cleanly.
    Stop(StopArgs),
    /// What a service unit runs to stop: a restart leaves clients and the block device to the next process.
    #[command(hide = true)]
    ServiceStop(ServiceStopArgs),
    /// Check a configuration file. Its members are not looked at; `uraid examine` does that.
    CheckConfig(CheckConfigArgs),
    /// Show the parity kernels: which run here, which are taken and why, and how fast they are.
    Kernels(KernelsArgs),
    /// Show the accelerators: the DSA work queues of this machine, usable or why not, and from what size
    /// on they pay; or, of a running array, what they and the CPU did.
    Engines(EnginesArgs),
    /// Write the manual pages and completions that a package holds.
    #[command(hide = true)]
    Generate(GenerateArgs),
    /// Tell udev about a device.
    #[command(hide = true)]
    Udev(UdevArgs),
}

/// RAID levels.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LevelArg {
    /// Parity on the last member.
    #[value(name = "4", alias = "raid4")]
    Raid4,
    /// Parity rotates; one member may be lost.
    #[value(name = "5", alias = "raid5")]
    Raid5,
    /// Two parities rotate; two members may be lost.
    #[value(name = "6", alias = "raid6")]
    Raid6,
}

/// Versions of the superblock.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetadataArg {
    /// At the end of each member.
    #[value(name = "1.0")]
    V0,
    /// At the start of each member.
    #[value(name = "1.1")]
    V1,
    /// 4 KiB behind the start of each member.
    #[value(name = "1.2", alias = "1", alias = "default")]
    V2,
}

/// Places for a write-intent bitmap.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitmapArg {
    /// There is none.
    None,
    /// Beside the superblock of each member.
    Internal,
}

/// mdadm's words for what makes parity match after a crash.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyArg {
    /// All of it is made anew.
    Resync,
    /// What the write-intent bitmap names.
    Bitmap,
    /// What the partial parity log names.
    Ppl,
}

/// `uraid create`
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// RAID level.
    #[arg(long, value_name = "LEVEL")]
    pub level: LevelArg,
    /// Bytes of consecutive data on one member: a power of two, 4K to 16M.
    #[arg(long, default_value = "64K")]
    pub chunk: Size,
    /// Name of the array: at most 32 letters, digits and . _ - + :
    #[arg(long)]
    pub name: VolumeName,
    /// Order of data and parity over the members [default: left-symmetric].
    #[arg(long)]
    pub layout: Option<String>,
    /// Host to which the array belongs: it stands before the name in the superblock where both have room, so that
    /// mdadm tells arrays of this machine from those of others; `none` for no host [default: this machine's name].
    #[arg(long, value_name = "HOST")]
    pub homehost: Option<String>,
    /// Version of the superblock: 1.0 lies at the end of members, 1.1 at their start, 1.2 4 KiB behind that.
    #[arg(long, value_name = "VERSION", default_value = "1.2")]
    pub metadata: MetadataArg,
    /// Write-intent bitmap, so that after a crash only what was being written is resynced: internal or none
    /// [default: internal if more than 100 GiB of each member are used].
    #[arg(long, value_name = "WHERE")]
    pub bitmap: Option<BitmapArg>,
    /// Bytes of each member that a bit of the bitmap stands for: a power of two from 4K
    /// [default: 64M, or more if the bits would not fit].
    #[arg(long, value_name = "SIZE")]
    pub bitmap_chunk: Option<Size>,
    /// What makes parity match after a crash: resync (all of it), bitmap (what was being written) or ppl (RAID 5, a
    /// partial parity log, which also closes the write hole) [default: as --bitmap says].
    #[arg(long, value_name = "POLICY")]
    pub consistency_policy: Option<PolicyArg>,
    /// Size of each member file that does not exist yet.
    #[arg(long)]
    pub size: Option<Size>,
    /// Say that parity already matches the data, so that no resync runs. If that is wrong, a lost
    /// member means lost data.
    #[arg(long)]
    pub assume_clean: bool,
    /// Overwrite members that hold a file system, a partition table, another array or other data.
    #[arg(long)]
    pub force: bool,
    /// Members in the order of their roles. One that does not exist is made, as a sparse file of --size.
    #[arg(required = true, value_name = "MEMBER")]
    pub members: Vec<PathBuf>,
}

/// `uraid assemble`
#[derive(Args, Debug)]
#[command(
    override_usage = "uraid assemble [OPTIONS] NAME MEMBER...\n       uraid assemble [OPTIONS] --scan [NAME]...",
    after_help = ASSEMBLE_EXAMPLES
)]
pub struct AssembleArgs {
    /// Look for arrays on all block devices, or on those that DEVICE lines of mdadm.conf name.
    #[arg(long)]
    pub scan: bool,
    /// Write /etc/uraid/NAME.toml for each array that can be started and has no configuration yet; a file that
    /// exists is never replaced. Disks are not written to.
    #[arg(long)]
    pub write: bool,
    /// Print JSON (see docs/json.md, in the package /usr/share/doc/uraid/json.md).
    #[arg(long)]
    pub json: bool,
    /// Take mdadm's configuration from here; `none` for no file
    /// [default: /etc/mdadm/mdadm.conf or /etc/mdadm.conf, and mdadm.conf.d].
    #[arg(long, value_name = "FILE", requires = "scan")]
    pub config: Option<PathBuf>,
    /// Only the array with this UUID.
    #[arg(long, value_name = "UUID")]
    pub uuid: Option<ArrayUuid>,
    /// What the configuration says of the volume's block device on this machine: auto, /dev/nbdN or none.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device_or_none)]
    pub device: DeviceChoice,
    /// Where configurations are.
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/uraid")]
    pub directory: PathBuf,
    /// Name of the volume, then its members in any order; with --scan, the names of arrays to look for.
    #[arg(value_name = "NAME | MEMBER", required_unless_present = "scan")]
    pub operands: Vec<PathBuf>,
}

/// A block device for a volume, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceChoice(pub Option<DeviceName>);

fn device_or_none(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "none" => Ok(DeviceChoice(None)),
        text => text
            .parse()
            .map(|name| DeviceChoice(Some(name)))
            .map_err(|error: DeviceNameError| error.to_string()),
    }
}

const ASSEMBLE_EXAMPLES: &str = "\
Examples:
  uraid assemble --scan            what arrays there are, and what can be done with each
  uraid assemble --scan --write    a configuration for each of them that can be started
  uraid assemble --write tank /dev/sd[b-e]1
  systemctl enable --now uraid@tank

Lines of mdadm.conf are understood as mdadm understands them: an array is named by its ARRAY line, and one that
`ARRAY <ignore>` keeps mdadm from is left alone unless it is named with its members. AUTO and POLICY lines, which say
what mdadm starts by itself, are not asked.";

/// `uraid serve`
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where clients connect: unix:/PATH or tcp:IP:PORT; may be repeated
    /// [default: unix:/run/uraid/NAME.sock].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<Address>,
    /// Allow addresses that other machines can reach although TLS is not required there.
    #[arg(long)]
    pub insecure: bool,
    /// Encryption.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Socket for status, fail, add and stop [default: /run/uraid/NAME.control].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Refuse members of an array of another name.
    #[arg(long)]
    pub name: Option<VolumeName>,
    /// Be a block device of this machine: /dev/nbdN, or auto for the first that is free.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Never write to a member.
    #[arg(long)]
    pub read_only: bool,
    /// Start an array that is both dirty and degraded, at the risk of wrong data.
    #[arg(long)]
    pub force: bool,
    /// One file ending in .toml, or the members in any order.
    #[arg(required = true, value_name = "CONFIG.toml | MEMBER")]
    pub operands: Vec<PathBuf>,
}

/// `--tls-...` of `uraid serve`
#[derive(Args, Debug)]
pub struct TlsArgs {
    /// The server's certificate and intermediate ones, PEM; TLS is required then where other machines can
    /// connect, and offered elsewhere.
    #[arg(long = "tls-certificate", value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Authorities, PEM, of which clients must have a certificate.
    #[arg(long = "tls-client-ca", value_name = "FILE", requires = "certificate")]
    pub client_ca: Option<PathBuf>,
    /// The only client that is let in, by a name in its certificate; may be repeated.
    #[arg(long = "tls-client", value_name = "NAME", requires = "client_ca")]
    pub clients: Vec<String>,
    /// Where TLS is used: auto, off, offered or required [default: auto].
    #[arg(long = "tls-mode", value_name = "MODE", value_parser = TlsMode::from_word)]
    pub mode: Option<TlsMode>,
}

/// Which daemon to talk to.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// The control socket of the daemon.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
}

/// `uraid status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The daemon.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON (see docs/json.md, in the package /usr/share/doc/uraid/json.md).
    #[arg(long)]
    pub json: bool,
    /// Show it again and again: on a terminal as a live view that q ends, otherwise one block after the
    /// other.
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Seconds between two looks of --watch, from 0.1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value = "1", requires = "watch", value_parser = interval)]
    pub interval: Duration,
    /// Name of the array; without name and --control, the only one that runs here.
    pub name: Option<VolumeName>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is a number of seconds".to_owned())?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("it is from 0.1 to 3600 seconds".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `uraid examine`
#[derive(Args, Debug)]
pub struct ExamineArgs {
    /// Print JSON (see docs/json.md, in the package /usr/share/doc/uraid/json.md).
    #[arg(long)]
    pub json: bool,
    /// Files or block devices.
    #[arg(required = true, value_name = "MEMBER")]
    pub members: Vec<PathBuf>,
}

/// `uraid fail`
#[derive(Args, Debug)]
#[command(override_usage = "uraid fail [--control PATH] [NAME] MEMBER")]
pub struct FailArgs {
    /// The daemon.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Name of the array (may be left out), then the member's path as `uraid status` shows it.
    #[arg(required = true, num_args = 1..=2, value_name = "[NAME] MEMBER")]
    pub operands: Vec<PathBuf>,
}

/// `uraid add`
#[derive(Args, Debug)]
#[command(override_usage = "uraid add [--control PATH] [--force] [NAME] MEMBER")]
pub struct AddArgs {
    /// The daemon.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Take the device although it holds a file system, a partition table, another array or other data.
    #[arg(long)]
    pub force: bool,
    /// Name of the array (may be left out), then the file or block device to add.
    #[arg(required = true, num_args = 1..=2, value_name = "[NAME] MEMBER")]
    pub operands: Vec<PathBuf>,
}

/// `uraid scrub`
#[derive(Args, Debug)]
pub struct ScrubArgs {
    /// The daemon.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Rewrite parity that does not match, which takes the data for right. What cannot be read is recovered
    /// and rewritten in either case.
    #[arg(long)]
    pub repair: bool,
    /// Wait for the end; fail if parity does not match and is not rewritten.
    #[arg(long)]
    pub wait: bool,
    /// Name of the array; without name and --control, the only one that runs here.
    pub name: Option<VolumeName>,
}

/// `uraid stop`
#[derive(Args, Debug)]
pub struct StopArgs {
    /// The daemon.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Stop although the volume's block device is mounted or open; whoever uses it loses his disk.
    #[arg(long)]
    pub force: bool,
    /// Name of the array; without name and --control, the only one that runs here.
    pub name: Option<VolumeName>,
}

/// `uraid service-stop`
#[derive(Args, Debug)]
pub struct ServiceStopArgs {
    /// The unit that is being stopped.
    #[arg(long, value_name = "UNIT")]
    pub unit: String,
    /// The file that its daemon was started with.
    #[arg(value_name = "CONFIG.toml")]
    pub file: PathBuf,
}

/// `uraid check-config`
#[derive(Args, Debug)]
pub struct CheckConfigArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Fail also if a daemon of this user on this machine could not use certificates, lists and groups
    /// that the file names; without it these are notes.
    #[arg(long)]
    pub strict: bool,
}

/// `uraid kernels`
#[derive(Args, Debug)]
pub struct KernelsArgs {
    /// Print JSON (see docs/json.md, in the package /usr/share/doc/uraid/json.md).
    #[arg(long)]
    pub json: bool,
    /// Measure for less than a second, instead of about four, at the price of precision.
    #[arg(long)]
    pub quick: bool,
    /// Show what this word, after `kernel =` in a configuration, would take
    /// [default: both auto and measured].
    #[arg(long, value_name = "WORD")]
    pub kernel: Option<Selection>,
}

/// `uraid engines`
#[derive(Args, Debug)]
#[command(after_help = ENGINES_EXAMPLES)]
pub struct EnginesArgs {
    /// The daemon.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON (see docs/json.md, in the package /usr/share/doc/uraid/json.md).
    #[arg(long)]
    pub json: bool,
    /// Measure each work queue for less than a tenth of a second, instead of half of one, at the price of
    /// precision.
    #[arg(long)]
    pub quick: bool,
    /// Name of a running array, to be shown what its engines did; without name and --control, this machine.
    pub name: Option<VolumeName>,
}

/// `uraid generate`
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Directory for the manual pages.
    #[arg(long, value_name = "DIRECTORY", requires = "date")]
    pub man: Option<PathBuf>,
    /// The date on the manual pages.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: Option<String>,
    /// Directory for the completions of bash, zsh and fish.
    #[arg(long, value_name = "DIRECTORY")]
    pub completions: Option<PathBuf>,
}

/// `uraid udev`
#[derive(Args, Debug)]
pub struct UdevArgs {
    /// What is asked.
    #[command(subcommand)]
    pub question: UdevQuestion,
}

/// What a udev rule can ask.
#[derive(Subcommand, Debug)]
pub enum UdevQuestion {
    /// Which volume is behind an nbd device?
    Volume {
        /// The kernel's attribute `backend` of the device.
        backend: String,
    },
    /// Which service has this device as a member?
    Member {
        /// The device node; its links are in the environment, in DEVLINKS.
        node: PathBuf,
    },
}

const ENGINES_EXAMPLES: &str = "\
Examples:
  uraid engines         the work queues of this machine; usable ones are opened and measured
  uraid engines data    what the engines of the running array `data` did, and why not more
  uraid engines --json --control /run/uraid/data.control

A dedicated work queue that a daemon has is not usable for anybody else meanwhile.
URAID_DSA_SYSFS_PATH and URAID_DSA_DEV_PATH replace /sys/bus/dsa/devices and /dev/dsa.";

/// The control socket of the array of this name.
pub fn control_socket_of(name: &VolumeName) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{name}.control"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_words_that_others_build_on_are_understood() {
        for line in [
            "uraid create --level 6 --chunk 64K --name v --layout left-symmetric --size 1G --assume-clean --force a b c d",
            "uraid create --level raid5 --name v a b c",
            "uraid create --level 5 --name v --metadata 1.0 --homehost h --bitmap internal --bitmap-chunk 64M a b c",
            "uraid create --level 5 --name v --metadata default --consistency-policy ppl a b c",
            "uraid assemble --scan",
            "uraid assemble --scan --json --write --config none --uuid 3aaa0122:29827cfa:5331ad66:ca767371 v",
            "uraid assemble --write --device none --directory /d v a b c",
            "uraid serve v.toml",
            "uraid serve --listen unix:/s --listen tcp:127.0.0.1:10809 --control /c a b c",
            "uraid status --json",
            "uraid status --control /c",
            "uraid status v",
            "uraid status --watch v",
            "uraid status --watch --interval 0.5",
            "uraid examine --json a b",
            "uraid fail --control /c a",
            "uraid fail v a",
            "uraid add v a --force",
            "uraid scrub --wait --repair v",
            "uraid stop v",
            "uraid stop --force v",
            "uraid service-stop --unit uraid@v.service /etc/uraid/v.toml",
            "uraid serve --device auto a b c",
            "uraid serve --device /dev/nbd3 a b c",
            "uraid check-config v.toml",
            "uraid check-config --strict v.toml",
            "uraid kernels",
            "uraid kernels --json --quick --kernel measured",
            "uraid engines",
            "uraid engines --json --quick",
            "uraid engines v",
            "uraid engines --json --control /c",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for line in [
            "uraid",
            "uraid create --level 5 --name v",
            "uraid create --level 1 --name v a b",
            "uraid create --level 5 --name a/b a b c",
            "uraid create --level 5 --name v --chunk 64KB a b c",
            "uraid create --level 5 --name v --metadata 0.90 a b c",
            "uraid create --level 5 --name v --bitmap /file a b c",
            "uraid assemble",
            "uraid assemble --config f v a",
            "uraid assemble --uuid 1 --scan",
            "uraid assemble --device /dev/sda v a",
            "uraid serve",
            "uraid serve --listen ftp:x a",
            "uraid serve --device /dev/sda a",
            "uraid status --watch --json",
            "uraid status --interval 2",
            "uraid status --watch --interval 0",
            "uraid status --watch --interval nan",
            "uraid fail",
            "uraid fail a b c",
            "uraid kernels --kernel fastest",
            "uraid kernels a",
            "uraid engines a b",
            "uraid engines a/b",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).err().map(|error| error.exit_code());
            assert_eq!(error, Some(2), "{line}");
        }
    }
}
