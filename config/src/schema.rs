//! The keys of the file and the values they become.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::access::{self, Access};
use crate::address::{Address, check_socket_path};
use crate::attach::{self, Attach, DeviceName};
use crate::engines::{self, Engines};
use crate::keys::documented_keys;
use crate::limits::{self, Limits};
use crate::name::{ArrayUuid, VolumeName};
use crate::observe::{self, Events, Metrics};
use crate::problem::{ConfigError, Problem, Problems};
use crate::reader::{Reader, Section};
use crate::size::Size;
use crate::tls::{self, Tls, TlsAt};

/// Everything that `uraid serve` has to know about one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// If set, an array of another name is refused.
    pub name: Option<VolumeName>,
    /// If set, only devices of this array are members.
    pub uuid: Option<ArrayUuid>,
    /// The members' paths, absolute, at least one, none twice. Their order means nothing.
    pub members: Vec<PathBuf>,
    /// Where to listen; empty stands for the default, see [`Config::addresses`].
    pub listen: Vec<Address>,
    /// The control socket; `None` stands for the default, see [`Config::control_socket`].
    pub control: Option<PathBuf>,
    /// Whether addresses that other machines can reach are allowed although TLS is not required there.
    pub insecure: bool,
    /// Who may connect.
    pub access: Access,
    /// Encryption, and certificates of clients.
    pub tls: Tls,
    /// The block device that the volume is to be on this machine, if any.
    pub device: Option<DeviceName>,
    /// Serve without ever writing to a member.
    pub read_only: bool,
    /// Which parity kernels to use.
    pub kernel: Kernel,
    /// How long without writes until the array is marked clean.
    pub safe_mode_delay: Duration,
    /// How long a connection polls before it blocks.
    pub spin: Duration,
    /// How that device is attached.
    pub attach: Attach,
    /// How the array is put together.
    pub assemble: Assemble,
    /// How members are read and written.
    pub io: Io,
    /// Memory.
    pub cache: Cache,
    /// Resync and rebuild.
    pub sync: Sync,
    /// Accelerators.
    pub engines: Engines,
    /// What monitoring is told.
    pub metrics: Metrics,
    /// What a program of the operator's is told.
    pub events: Events,
    /// What clients may use up.
    pub limits: Limits,
}

/// `[assemble]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Assemble {
    /// Start although it may mean lost data (dirty and degraded).
    pub force: bool,
}

/// `[io]`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Io {
    /// By which means members are read and written.
    pub engine: IoEngine,
    /// Whether the page cache is bypassed.
    pub direct: Direct,
}

/// By which means members are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoEngine {
    /// io_uring where the kernel lets us, else pread and pwrite.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// pread and pwrite.
    Sync,
}

/// Whether the page cache is bypassed (`O_DIRECT`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direct {
    /// Where the member can do it.
    #[default]
    Auto,
    /// Never.
    Off,
    /// On every member; one that cannot is refused.
    Require,
}

/// Which parity kernels to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kernel {
    /// The best that this processor has.
    #[default]
    Auto,
    /// The fastest when timed for a few milliseconds at the start.
    Measured,
    /// A byte at a time; the reference, slow.
    Naive,
    /// Plain 64-bit arithmetic.
    Portable,
    /// SSE2.
    Sse2,
    /// SSSE3.
    Ssse3,
    /// AVX2.
    Avx2,
    /// AVX2 with GFNI.
    Avx2Gfni,
    /// AVX-512.
    Avx512,
    /// AVX-512 with GFNI.
    Avx512Gfni,
    /// Another one for each operation, to test them against each other.
    Cycle,
}

/// `[cache]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cache {
    /// Bytes of the stripe cache.
    pub stripes: Size,
    /// Bytes for the payload of requests in flight; at least the largest payload of the protocol.
    pub requests: Size,
    /// Keep both in memory (mlock), so that serving never waits for swap.
    pub lock_memory: bool,
}

/// `[sync]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sync {
    /// Stripes of a resync or rebuild that are worked on at once while no client asks for anything. While
    /// clients do, it is one.
    pub stripes_in_flight: u32,
}

/// A configuration larger than this is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;
const STRIPES_DEFAULT: Size = Size::from_mib(64);
const STRIPES_MIN: Size = Size::from_mib(4);
const REQUESTS_DEFAULT: Size = Size::from_mib(128);
/// The longest payload of the protocol must fit.
const REQUESTS_MIN: Size = Size::from_mib(64);
pub(crate) const MEMORY_MAX: Size = Size::from_bytes(1 << 40);
const SAFE_MODE_MS_DEFAULT: u32 = 200;
const SPIN_US_DEFAULT: u32 = 60;
const STRIPES_IN_FLIGHT_DEFAULT: u32 = 8;

/// The words of `[io] engine`.
const ENGINES: &[(&str, IoEngine)] =
    &[("auto", IoEngine::Auto), ("uring", IoEngine::Uring), ("sync", IoEngine::Sync)];
/// The words of `[io] direct`.
const DIRECT: &[(&str, Direct)] =
    &[("auto", Direct::Auto), ("off", Direct::Off), ("require", Direct::Require)];
/// The words of `kernel`.
const KERNELS: &[(&str, Kernel)] = &[
    ("auto", Kernel::Auto),
    ("measured", Kernel::Measured),
    ("naive", Kernel::Naive),
    ("portable", Kernel::Portable),
    ("sse2", Kernel::Sse2),
    ("ssse3", Kernel::Ssse3),
    ("avx2", Kernel::Avx2),
    ("avx2_gfni", Kernel::Avx2Gfni),
    ("avx512", Kernel::Avx512),
    ("avx512_gfni", Kernel::Avx512Gfni),
    ("cycle", Kernel::Cycle),
];

impl Default for Cache {
    fn default() -> Self {
        Cache { stripes: STRIPES_DEFAULT, requests: REQUESTS_DEFAULT, lock_memory: false }
    }
}

impl Default for Sync {
    fn default() -> Self {
        Sync { stripes_in_flight: STRIPES_IN_FLIGHT_DEFAULT }
    }
}

impl Kernel {
    /// The word that selects it in the file.
    pub fn word(self) -> &'static str {
        KERNELS.iter().find(|(_, kernel)| *kernel == self).map_or("auto", |(word, _)| word)
    }
}

impl Config {
    /// These members, and the default for everything else.
    pub fn with_members(members: Vec<PathBuf>) -> Self {
        Config {
            name: None,
            uuid: None,
            members,
            listen: Vec::new(),
            control: None,
            insecure: false,
            access: Access::default(),
            tls: Tls::default(),
            device: None,
            read_only: false,
            kernel: Kernel::Auto,
            safe_mode_delay: Duration::from_millis(SAFE_MODE_MS_DEFAULT.into()),
            spin: Duration::from_micros(SPIN_US_DEFAULT.into()),
            attach: Attach::default(),
            assemble: Assemble::default(),
            io: Io::default(),
            cache: Cache::default(),
            sync: Sync::default(),
            engines: Engines::default(),
            metrics: Metrics::default(),
            events: Events::default(),
            limits: Limits::default(),
        }
    }

    /// Reads `file`. Relative member paths are taken from the directory of the file.
    ///
    /// # Errors
    /// The file cannot be read (or is larger than 1 MiB), or it has problems, all of which are given.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let source = read_limited(file).map_err(|source| ConfigError::Read { file: file.into(), source })?;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.into());
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse(&source, base)
            .map_err(|problems| ConfigError::Invalid(Problems { file: file.into(), problems }))
    }

    /// Reads the text of a file that stands in the directory `base`, an absolute path.
    ///
    /// # Errors
    /// All the problems of the text.
    pub fn parse(source: &str, base: &Path) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(source);
        let (document, errors) = DeTable::parse_recoverable(source);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            reader.problem(span, format!("not TOML: {}", error.message()), "");
        }
        let top = Section::top(document.get_ref());
        let config = read_all(&mut reader, top, base, errors.is_empty());
        if reader.is_clean() {
            return Ok(config);
        }
        let line_of =
            |at: usize| source.get(..at.min(source.len())).map_or(1, |s| s.matches('\n').count() + 1);
        let broken: Vec<usize> =
            errors.iter().filter_map(|e| e.span()).map(|span| line_of(span.start)).collect();
        Err(reader.into_problems(&broken))
    }

    /// Where to listen for an array of this name: what the file says, else
    /// `unix:/run/uraid/NAME.sock`.
    pub fn addresses(&self, array_name: &str) -> Vec<Address> {
        if self.listen.is_empty() {
            return vec![Address::Unix(run_file(array_name, "sock"))];
        }
        self.listen.clone()
    }

    /// Whether an address can be reached by other machines although TLS is not required there, which nobody
    /// has called `insecure`. Such an address is not to be served.
    pub fn is_exposed(&self, address: &Address) -> bool {
        is_exposed(address, self.insecure, &self.tls)
    }

    /// The control socket for an array of this name: what the file says, else
    /// `/run/uraid/NAME.control`.
    pub fn control_socket(&self, array_name: &str) -> PathBuf {
        self.control.clone().unwrap_or_else(|| run_file(array_name, "control"))
    }
}

/// `/run/uraid/NAME.SUFFIX`. Names that come from a superblock may hold anything: what could leave the
/// directory or hide in it becomes `_`. The host part of `host:name` is left off.
fn run_file(array_name: &str, suffix: &str) -> PathBuf {
    let short = array_name.split_once(':').map_or(array_name, |(_, short)| short);
    let harmless = |c: char| if c == '/' || c.is_control() || c.is_whitespace() { '_' } else { c };
    let mut stem: String = short.chars().map(harmless).collect();
    if stem.is_empty() || stem.starts_with('.') {
        stem.insert(0, '_');
    }
    Path::new(crate::RUN_DIR).join(format!("{stem}.{suffix}"))
}

fn read_limited(file: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut source = String::new();
    let read = std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut source)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 MiB, so it is not a configuration"));
    }
    Ok(source)
}

fn read_all(reader: &mut Reader<'_>, top: Section<'_>, base: &Path, syntax_ok: bool) -> Config {
    let assemble = reader.section(top, "assemble");
    let io = reader.section(top, "io");
    let cache = reader.section(top, "cache");
    let sync = reader.section(top, "sync");
    let tls = reader.section(top, "tls");
    let attach = reader.section(top, "attach");
    let limits = reader.section(top, "limits");
    let engines = reader.section(top, "engines");
    let offload = reader.section(engines, "engines.offload");
    let metrics = reader.section(top, "metrics");
    let events = reader.section(top, "events");
    for section in [top, tls, attach, assemble, io, cache, sync, limits, engines, metrics, events] {
        reader.unknown_keys(section, documented_keys(), &[]);
    }
    reader.unknown_keys(offload, documented_keys(), engines::refused_offloads());
    let insecure = reader.flag(top, "insecure", false);
    let tls = tls::read(reader, tls, base);
    let (listen, control) = read_sockets(reader, top, insecure, &tls);
    let safe_mode_ms =
        reader.number(top, "safe_mode_delay_ms", SAFE_MODE_MS_DEFAULT, 1..=60_000, "milliseconds");
    let spin_us = reader.number(top, "spin_us", SPIN_US_DEFAULT, 0..=10_000, "microseconds");
    Config {
        name: reader.text(top, "name", |text| text.parse::<VolumeName>().map_err(|e| e.to_string())),
        uuid: reader.text(top, "uuid", |text| text.parse::<ArrayUuid>().map_err(|e| e.to_string())),
        members: read_members(reader, top, base, syntax_ok),
        listen,
        control,
        insecure,
        access: access::read(reader, top),
        tls,
        device: attach::read_device(reader, top),
        read_only: reader.flag(top, "read_only", false),
        kernel: reader.word(top, "kernel", Kernel::Auto, KERNELS),
        safe_mode_delay: Duration::from_millis(safe_mode_ms.into()),
        spin: Duration::from_micros(spin_us.into()),
        attach: attach::read(reader, attach),
        assemble: Assemble { force: reader.flag(assemble, "force", false) },
        io: Io {
            engine: reader.word(io, "engine", IoEngine::Auto, ENGINES),
            direct: reader.word(io, "direct", Direct::Auto, DIRECT),
        },
        cache: read_cache(reader, cache),
        sync: read_sync(reader, sync),
        engines: engines::read(reader, engines, offload, base),
        metrics: observe::read_metrics(reader, metrics),
        events: observe::read_events(reader, events),
        limits: limits::read(reader, limits),
    }
}

fn read_members(reader: &mut Reader<'_>, top: Section<'_>, base: &Path, syntax_ok: bool) -> Vec<PathBuf> {
    if !top.has("members") && syntax_ok {
        reader.problem(
            0..0,
            "`members` is missing",
            "add members = [\"/dev/sda1\", \"/dev/sdb1\", ...] at the top",
        );
    }
    let parse = |text: &str| {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("a member is the path of a file or block device".to_owned());
        }
        Ok(tidy_path(&base.join(text)))
    };
    let members = reader.texts(top, "members", parse).unwrap_or_default();
    members.into_iter().map(|(path, _)| path).collect()
}

/// Without `.` and doubled slashes, so that equal paths compare equal. `..` stays: what it means
/// depends on links.
pub(crate) fn tidy_path(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn is_exposed(address: &Address, insecure: bool, tls: &Tls) -> bool {
    !address.is_local() && !insecure && tls.at(address) != TlsAt::Required
}

type Sockets = (Vec<Address>, Option<PathBuf>);

fn read_sockets(reader: &mut Reader<'_>, top: Section<'_>, insecure: bool, tls: &Tls) -> Sockets {
    let listen: Vec<(Address, Range<usize>)> = reader
        .texts(top, "listen", |text| text.parse::<Address>().map_err(|e| e.to_string()))
        .unwrap_or_default();
    for (address, span) in &listen {
        if is_exposed(address, insecure, tls) {
            reader.problem(
                span.clone(),
                format!("{address} can be reached by other machines, without encryption or a password"),
                "use 127.0.0.1 or [::1], require TLS with a certificate in [tls], or write insecure = true above \
                 the first [section] if the network is trusted",
            );
        }
    }
    let control = reader.text(top, "control", |text| check_socket_path(text).map_err(|e| e.to_string()));
    let taken =
        |path: &PathBuf| listen.iter().any(|(address, _)| matches!(address, Address::Unix(p) if p == path));
    if control.as_ref().is_some_and(taken) {
        reader.problem(
            Reader::span(top, "control"),
            "`control` and `listen` name the same socket",
            "give the control socket a path of its own",
        );
    }
    (listen.into_iter().map(|(address, _)| address).collect(), control)
}

fn read_cache(reader: &mut Reader<'_>, cache: Section<'_>) -> Cache {
    Cache {
        stripes: reader
            .size(cache, "stripes_bytes", STRIPES_MIN..=MEMORY_MAX, 4096)
            .unwrap_or(STRIPES_DEFAULT),
        requests: reader
            .size(cache, "request_bytes", REQUESTS_MIN..=MEMORY_MAX, 4096)
            .unwrap_or(REQUESTS_DEFAULT),
        lock_memory: reader.flag(cache, "lock_memory", false),
    }
}

fn read_sync(reader: &mut Reader<'_>, sync: Section<'_>) -> Sync {
    let default = STRIPES_IN_FLIGHT_DEFAULT;
    Sync { stripes_in_flight: reader.number(sync, "stripes_in_flight", default, 1..=1024, "stripes") }
}
