//! The file as a whole: the example, and every kind of problem with its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use uraid_config::{
    Account, Address, Config, ConfigError, Dsa, EXAMPLE, Engines, EventKind, Kernel, Problems, Size,
    Threshold, TlsAt, TlsMode, documented_keys,
};

fn parse(source: &str) -> Result<Config, String> {
    Config::parse(source, Path::new("/etc/uraid"))
        .map_err(|problems| Problems { file: "v.toml".into(), problems }.to_string())
}

/// `line:column message / help` of each problem; nothing if the text is taken.
fn problems(source: &str) -> Vec<String> {
    let found = Config::parse(source, Path::new("/etc/uraid")).err().unwrap_or_default();
    found.iter().map(|p| format!("{}:{} {} / {}", p.line, p.column, p.message, p.help)).collect()
}

/// The example with its optional settings switched on.
fn full_example() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_is_the_defaults() {
    let members = ["/dev/sda1", "/dev/sdb1", "/dev/sdc1", "/dev/sdd1"].map(PathBuf::from).to_vec();
    assert_eq!(parse(EXAMPLE), Ok(Config::with_members(members)));
}

#[test]
fn the_example_shows_every_key_under_its_section() {
    let mut section = String::new();
    let mut shown = Vec::new();
    for line in full_example().lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            shown.push((section.clone(), key.to_owned()));
        }
    }
    let mut known: Vec<_> =
        documented_keys().iter().map(|k| (k.section.to_owned(), k.name.to_owned())).collect();
    shown.sort();
    known.sort();
    assert_eq!(shown, known);
}

#[test]
fn every_key_of_the_example_has_a_comment_above_it() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for (before, line) in lines.iter().zip(lines.iter().skip(1)) {
        let is_setting = line.contains(" = ") && !line.starts_with("# ");
        assert!(!is_setting || before.starts_with("# "), "no comment above: {line}");
    }
}

#[test]
fn the_optional_settings_of_the_example_are_valid() {
    let config = parse(&full_example()).unwrap();
    assert_eq!(config.name.as_ref().map(|n| n.as_str()), Some("data"));
    assert_eq!(config.addresses("x").len(), 2);
    assert_eq!(config.control_socket("x"), Path::new("/run/uraid/data.control"));
}

#[test]
fn the_least_file_is_a_list_of_members() {
    let config = parse("members = ['a', '/b//c/./d']").unwrap();
    assert_eq!(config.members, ["/etc/uraid/a", "/b/c/d"].map(PathBuf::from));
    assert_eq!(config.addresses("host:data"), [Address::Unix("/run/uraid/data.sock".into())]);
    assert_eq!(config.control_socket("data"), Path::new("/run/uraid/data.control"));
    assert_eq!(config.safe_mode_delay, Duration::from_millis(200));
}

#[test]
fn a_hostile_array_name_stays_in_the_run_directory() {
    let config = parse("members = ['a']").unwrap();
    for name in ["../../etc/passwd", "x:../y", "", ".", "..", "a/b", "a b\n"] {
        let path = config.control_socket(name);
        assert_eq!(path.parent(), Some(Path::new("/run/uraid")), "{name:?} gives {path:?}");
    }
}

#[test]
fn all_values_arrive() {
    let config = parse(
        "members = ['/a']\nread_only = true\nkernel = 'avx512_gfni'\nspin_us = 0\nsafe_mode_delay_ms = 0x10\n\
         [assemble]\nforce = true\n[cache]\nstripes_bytes = 8388608\nrequest_bytes = '256M'\n\
         lock_memory = true\n[sync]\nstripes_in_flight = 4\n[limits]\nconnections = 3\nbytes_per_connection = '64MiB'\nhandshake_s = 2\n",
    )
    .unwrap();
    assert!(config.read_only && config.assemble.force && config.cache.lock_memory);
    assert_eq!(config.sync.stripes_in_flight, 4);
    assert_eq!(config.kernel, Kernel::Avx512Gfni);
    assert_eq!(config.kernel.word(), "avx512_gfni");
    assert_eq!(config.spin, Duration::ZERO);
    assert_eq!(config.safe_mode_delay, Duration::from_millis(16));
    assert_eq!(config.cache.stripes, Size::from_mib(8));
    assert_eq!(config.cache.requests, Size::from_mib(256));
    assert_eq!(config.limits.connections, 3);
    assert_eq!(config.limits.bytes_per_connection, Size::from_mib(64));
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_text() {
    let found = problems(
        "nmae = 'x'\nmembers = ['/a', 7, '/a', '']\nlisten = ['tcp:0.0.0.0:10809', 'ftp:x']\n\
         read_only = 'yes'\nkernel = 'avx3'\nspin_us = -1\nforce = true\n\n\
         [io]\nengine = 'threads'\ndirect = 1\nspin_us = 5\n\n[cache]\nstripes_bytes = '64MB'\n",
    );
    let expected = [
        "1:1 unknown key `nmae` / did you mean `name`?",
        "2:18 an entry of `members` is an integer / it must be a text in double quotes",
        "2:21 \"/a\" is in `members` twice / remove one of them",
        "2:27 `members` cannot hold \"\" / a member is the path of a file or block device",
        "3:11 tcp:0.0.0.0:10809 can be reached by other machines, without encryption or a password / use 127.0.0.1 or [::1], require TLS with a certificate in [tls], or write insecure = true above the first [section] if the network is trusted",
        "3:32 `listen` cannot hold \"ftp:x\" / an address is unix:/PATH or tcp:IP:PORT",
        "4:13 `read_only` is a string / it must be true or false",
        "5:10 `kernel` cannot be \"avx3\" / did you mean \"avx2\"?",
        "6:11 `spin_us` is out of range / it must be a whole number of microseconds from 0 to 10000",
        "7:1 unknown key `force` / `force` belongs in [assemble]",
        "10:10 `engine` cannot be \"threads\" / it must be one of auto, uring, sync",
        "11:10 `direct` is an integer / it must be one of auto, off, require",
        "12:1 unknown key `spin_us` in [io] / `spin_us` belongs above the first [section]",
        "15:17 `stripes_bytes` is not a size / KB, MB, GB and TB are ambiguous; write KiB, MiB, GiB or TiB for powers of 1024",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_problem_points_at_the_text() {
    let shown = parse("members = ['/a']\nkernel = 'fast'\n").unwrap_err();
    assert_eq!(
        shown,
        "v.toml:2:10: `kernel` cannot be \"fast\"\n  2 | kernel = 'fast'\n    |          ^^^^^^\n    \
         = it must be one of auto, measured, naive, portable, sse2, ssse3, avx2, avx2_gfni, avx512, avx512_gfni, cycle\n1 problem in v.toml"
    );
}

#[test]
fn every_key_checks_its_type() {
    for key in documented_keys() {
        let source = match key.section {
            "" => format!("{} = 1979-05-27\n", key.name),
            section => format!("[{section}]\n{} = 1979-05-27\n", key.name),
        };
        let found = problems(&source);
        let wanted = format!("`{}` is a datetime", key.name);
        assert!(found.iter().any(|p| p.contains(&wanted)), "{source} gave {found:?}");
    }
    for section in ["assemble", "io", "cache", "sync", "limits", "engines", "engines.offload"] {
        let found = problems(&format!("{section} = 3\n"));
        assert!(found.iter().any(|p| p.contains("it must be a section")), "{section}: {found:?}");
    }
}

#[test]
fn numbers_outside_their_range_are_refused() {
    for (section, line) in [
        ("", "safe_mode_delay_ms = 0"),
        ("", "safe_mode_delay_ms = 60001"),
        ("", "spin_us = 99999999999999999999999"),
        ("limits", "connections = 0"),
        ("limits", "requests_per_connection = 65537"),
        ("limits", "bytes_per_connection = '1K'"),
        ("limits", "stall_s = 0"),
        ("cache", "stripes_bytes = '1MiB'"),
        ("cache", "request_bytes = '16MiB'"),
        ("cache", "request_bytes = 67108865"),
        ("sync", "stripes_in_flight = 0"),
        ("cache", "stripes_bytes = -5"),
        ("engines", "cross_check = 1000001"),
        ("engines", "timeout_ms = 0"),
        ("engines", "retry_ms = 9"),
        ("engines.offload", "copy = -1"),
        ("engines.offload", "fill = '2T'"),
    ] {
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let found = problems(&format!("members = ['/a']\n{header}{line}\n"));
        assert_eq!(found.len(), 1, "{line}: {found:?}");
    }
}

#[test]
fn engines_arrive() {
    let config = parse(
        "members = ['/a']\n[engines]\ndsa = 'require'\nqueues = ['wq0.1', 'wq3.0']\ncross_check = 7\n\
         timeout_ms = 20\nretry_ms = 50\ndsa_sysfs = 'fake/sysfs'\ndsa_dev = '/fake//dev'\n[engines.offload]\n\
         copy = 4096\nfill = '64KiB'\ncompare = 'never'\ndualcast = 0\ncrc32c = 'auto'\n",
    )
    .unwrap();
    let Engines { dsa, queues, cross_check, timeout, retry, dsa_sysfs, dsa_dev, offload } = config.engines;
    assert_eq!((dsa, cross_check, timeout), (Dsa::Require, 7, Duration::from_millis(20)));
    assert_eq!(retry, Duration::from_millis(50));
    assert_eq!(queues.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["wq0.1", "wq3.0"]);
    assert_eq!(dsa_sysfs, Some("/etc/uraid/fake/sysfs".into()));
    assert_eq!(dsa_dev, Some("/fake/dev".into()));
    let size = |bytes| Threshold::From(Size::from_bytes(bytes));
    let expected = [
        ("copy", size(4096)),
        ("fill", size(65536)),
        ("compare", Threshold::Never),
        ("dualcast", size(0)),
        ("crc32c", Threshold::Auto),
        ("copy_crc32c", Threshold::Auto),
    ];
    assert_eq!(offload.entries(), expected);
}

#[test]
fn what_no_dsa_can_do_is_refused_with_the_reason() {
    let help =
        "remove it: parity is always computed on the CPU, by what `kernel` above the first [section] says";
    let found = problems(
        "members = ['/a']\ncross_check = 1\n[engines]\ndsa = 'on'\nqueues = ['wq0', 'wq0.0', 'wq0.0']\n\
         copy = 'auto'\nofload = 1\n[engines.offload]\ncoppy = 'auto'\nxor = 'auto'\npq = 4096\n\
         fill = 'nevr'\ncompare = 'sometimes'\ncrc32c = true\ndualcast = '4KB'\n",
    );
    let expected = [
        "2:1 unknown key `cross_check` / `cross_check` belongs in [engines]".to_owned(),
        "4:7 `dsa` cannot be \"on\" / it must be one of auto, off, require".to_owned(),
        "5:11 `queues` cannot hold \"wq0\" / a work queue is named wqD.Q, as in wq0.0; `uraid engines` shows those of this machine".to_owned(),
        "5:27 \"wq0.0\" is in `queues` twice / remove one of them".to_owned(),
        "6:1 unknown key `copy` in [engines] / `copy` belongs in [engines.offload]".to_owned(),
        "7:1 unknown key `ofload` in [engines] / did you mean `offload`?".to_owned(),
        "9:1 unknown key `coppy` in [engines.offload] / did you mean `copy`?".to_owned(),
        format!("10:1 `xor` cannot be offloaded: DSA has no such operation / {help}"),
        format!("11:1 `pq` cannot be offloaded: DSA has no such operation / {help}"),
        "12:8 `fill` cannot be \"nevr\" / did you mean \"never\"?".to_owned(),
        "13:11 `compare` cannot be \"sometimes\" / it must be \"auto\", \"never\" or a size such as \"64KiB\"".to_owned(),
        "14:10 `crc32c` is a boolean / it must be \"auto\", \"never\" or a size such as \"64KiB\"".to_owned(),
        "15:12 `dualcast` is not a size / KB, MB, GB and TB are ambiguous; write KiB, MiB, GiB or TiB for powers of 1024".to_owned(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn sockets_may_not_be_shared() {
    let found = problems("members = ['/a']\nlisten = ['unix:/s']\ncontrol = '/s'\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("3:11 `control` and `listen` name the same socket"), "{found:?}");
}

#[test]
fn other_machines_need_an_explicit_word() {
    assert!(parse("members = ['/a']\ninsecure = true\nlisten = ['tcp:[::]:10809']\n").is_ok());
    assert!(parse("members = ['/a']\nlisten = ['tcp:[::1]:10809']\n").is_ok());
    assert!(parse("members = ['/a']\nlisten = ['tcp:[::]:10809']\n").is_err());
}

#[test]
fn broken_syntax_does_not_hide_other_problems() {
    let found = problems("members = ['/a'\nname = \nkernel = 'fast'\n\n[io]\nengine = 'x'\n");
    assert!(found.iter().any(|p| p.contains("not TOML")), "{found:?}");
    let twice = problems("members = ['/a']\nspin_us = 1\nspin_us = 2\n[io]\nengine = 'x'\n");
    assert!(twice.iter().any(|p| p.starts_with("3:1 not TOML: duplicate key")), "{twice:?}");
    assert!(twice.iter().any(|p| p.starts_with("5:10 `engine`")), "{twice:?}");
}

#[test]
fn empty_and_missing_members_are_refused() {
    assert!(problems("")[0].starts_with("1:1 `members` is missing"));
    assert!(problems("members = []\n")[0].starts_with("1:11 `members` is empty"));
}

/// Cuts and changes the example at random places: whatever comes out, reading it must not panic, and
/// problems must lie within the text.
#[test]
fn damaged_text_never_panics() {
    let seed = 0x75_72_61_69_64_u64;
    println!("seed {seed}");
    let mut state = seed;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let full: Vec<char> = full_example().chars().filter(|c| *c != '#').collect();
    let odd = ['"', '[', ']', '=', '\n', '\u{0}', 'ß', '9', '-', '.', '{', '\''];
    for _ in 0..400 {
        let mut text = full.clone();
        for _ in 0..=next(5) {
            let at = next(text.len());
            match next(3) {
                0 => text.truncate(at.max(1)),
                1 => text.insert(at, odd[next(odd.len())]),
                _ => text[at] = odd[next(odd.len())],
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = Config::parse(&text, Path::new("/")) {
            assert!(!problems.is_empty());
            let lines = text.matches('\n').count() + 1;
            assert!(problems.iter().all(|p| p.line <= lines && p.column >= 1));
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Config::load(Path::new("/nonexistent/v.toml"));
    assert!(matches!(&missing, Err(ConfigError::Read { .. })));
    let shown = missing.unwrap_err().to_string();
    assert!(shown.contains("/nonexistent/v.toml"), "{shown}");
}

#[test]
fn tls_is_where_the_mode_says() {
    use TlsAt::{Off, Offered, Required};
    let addresses = ["unix:/s", "tcp:127.0.0.1:1", "tcp:192.0.2.1:1"].map(|a| a.parse::<Address>().unwrap());
    let pair = "certificate = 'c.pem'\nkey = 'k.pem'\n";
    for (text, wanted) in [
        ("", [Off, Off, Off]),
        (pair, [Offered, Offered, Required]),
        (&format!("{pair}mode = 'auto'"), [Offered, Offered, Required]),
        (&format!("{pair}mode = 'off'"), [Off, Off, Off]),
        (&format!("{pair}mode = 'offered'"), [Offered; 3]),
        (&format!("{pair}mode = 'required'"), [Required; 3]),
    ] {
        let config = parse(&format!("members = ['/a']\n[tls]\n{text}")).unwrap();
        assert_eq!(addresses.each_ref().map(|address| config.tls.at(address)), wanted, "{text}");
    }
    let config = parse(&format!("members = ['/a']\n[tls]\n{pair}")).unwrap();
    assert_eq!(config.tls.certificate.as_deref(), Some(Path::new("/etc/uraid/c.pem")));
    assert_eq!(TlsMode::from_word("required"), Ok(TlsMode::Required));
    assert!(TlsMode::from_word("on").is_err());
}

#[test]
fn the_network_needs_required_tls_or_insecure() {
    let pair = "certificate = 'c'\nkey = 'k'\n";
    for (insecure, tls, fine) in [
        (false, "", false),
        (true, "", true),
        (false, pair, true),
        (false, &format!("{pair}mode = 'required'"), true),
        (false, &format!("{pair}mode = 'offered'"), false),
        (true, &format!("{pair}mode = 'offered'"), true),
        (false, &format!("{pair}mode = 'off'"), false),
    ] {
        let text =
            format!("members = ['/a']\nlisten = ['tcp:0.0.0.0:1']\ninsecure = {insecure}\n[tls]\n{tls}\n");
        assert_eq!(problems(&text).is_empty(), fine, "{text}");
    }
}

#[test]
fn tls_keys_need_each_other() {
    for (tls, problem) in [
        ("certificate = 'c'", "3:15 `certificate` in [tls]: a certificate without its private key"),
        ("key = 'k'", "3:7 `key` in [tls]: a private key without its certificate"),
        ("mode = 'required'", "3:8 `mode` in [tls]: TLS without a certificate"),
        ("client_ca = 'a'", "3:13 `client_ca` in [tls]: TLS without a certificate of the server"),
        ("clients = ['x']\ncertificate = 'c'\nkey = 'k'", "3:11 `clients` in [tls]: names of clients"),
        ("mode = 'on'", "3:8 `mode` cannot be \"on\""),
        ("certificate = 3\nkey = 'k'", "3:15 `certificate` is an integer"),
    ] {
        let found = problems(&format!("members = ['/a']\n[tls]\n{tls}\n"));
        assert!(found.len() == 1 && found[0].starts_with(problem), "{tls}: {found:?}");
    }
    assert!(parse("members = ['/a']\n[tls]\nmode = 'off'\n").is_ok());
}

#[test]
fn access_and_limits_arrive() {
    let config = parse(
        "members = ['/a']\nlist = false\nsocket_mode = '0600'\nsocket_group = 'kvm'\nallow_users = ['root', '1000']\n\
         allow_groups = ['disk']\n[limits]\nconnections_per_peer = 4\nhandshakes = 8\nidle_s = 60\n",
    )
    .unwrap();
    assert!(!config.access.list);
    assert_eq!(config.access.socket_mode, 0o600);
    assert_eq!(config.access.socket_group.map(|group| group.to_string()), Some("kvm".to_owned()));
    assert_eq!(config.access.allow_users, [Account::Name("root".to_owned()), Account::Id(1000)]);
    assert_eq!(config.access.allow_groups, [Account::Name("disk".to_owned())]);
    let limits = config.limits;
    assert_eq!((limits.connections_per_peer, limits.handshakes), (4, 8));
    assert_eq!(limits.idle, Duration::from_secs(60));
}

#[test]
fn differences_are_named_by_key() {
    let (old, new) = (parse("members = ['/a']").unwrap(), parse(&full_example()).unwrap());
    assert!(old.differences(&old).is_empty() && new.differences(&new).is_empty());
    let text = "members = ['/a']\nspin_us = 1\n[limits]\nidle_s = 5\n[tls]\ncertificate = 'c'\nkey = 'k'\n";
    let found: Vec<_> =
        old.differences(&parse(text).unwrap()).into_iter().map(|k| (k.full_name(), k.live)).collect();
    let expected =
        [("spin_us", false), ("tls.certificate", true), ("tls.key", true), ("limits.idle_s", true)];
    assert_eq!(found, expected.map(|(name, live)| (name.to_owned(), live)));
}

/// What a reload makes of two configurations that differ in every key, as far as the example goes.
#[test]
fn a_reload_takes_live_keys_and_no_others() {
    let fresh = full_example()
        .replace("list = true", "list = false")
        .replace("mode = \"auto\"", "mode = \"required\"")
        .replace("connections = 128", "connections = 7")
        .replace("connections_per_peer = 0", "connections_per_peer = 5")
        .replace("requests_per_connection = 256", "requests_per_connection = 6")
        .replace("bytes_per_connection = \"128MiB\"", "bytes_per_connection = \"4MiB\"")
        .replace("handshakes = 128", "handshakes = 8")
        .replace("handshake_s = 10", "handshake_s = 11")
        .replace("idle_s = 0", "idle_s = 12")
        .replace("stall_s = 30", "stall_s = 31")
        .replace("socket_mode = \"0660\"", "socket_mode = \"0600\"");
    let (old, fresh) = (parse(EXAMPLE).unwrap(), parse(&fresh).unwrap());
    let now = old.with_live_keys_of(&fresh);
    let changed = old.differences(&now);
    assert!(changed.iter().all(|key| key.live), "{changed:?}");
    assert!(now.differences(&fresh).iter().all(|key| !key.live), "{:?}", now.differences(&fresh));
    assert_eq!(changed.len(), documented_keys().iter().filter(|key| key.live).count());
}

/// Every setting that the example shows without a default is one whose value the table of keys reads from
/// the right place.
#[test]
fn every_optional_setting_is_a_difference() {
    let (least, full) = (parse(EXAMPLE).unwrap(), parse(&full_example()).unwrap());
    let found: Vec<_> = least.differences(&full).into_iter().map(|key| key.full_name()).collect();
    let mut section = String::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) = line.strip_prefix('#').and_then(|rest| rest.split_once(" = "))
            && key.starts_with(|c: char| c.is_ascii_lowercase())
        {
            let name = format!("{section}{key}");
            assert!(found.contains(&name), "{name} is not among {found:?}");
        }
    }
}

#[test]
fn metrics_and_events_arrive() {
    let config = parse("members = ['/a']\n").unwrap();
    assert_eq!((config.metrics.listen, config.events.hook), (None, None));
    assert_eq!(config.events.on, EventKind::ALL);
    let config = parse(
        "members = ['/a']\n[metrics]\nlisten = 'unix:/run/m'\n[events]\nhook = '/usr/bin/mail-me'\n\
         on = ['degraded', 'rebuild-ended']\nhook_timeout_s = 5\n",
    )
    .unwrap();
    assert_eq!(config.metrics.listen, Some("unix:/run/m".parse().unwrap()));
    assert_eq!(config.events.hook, Some("/usr/bin/mail-me".into()));
    assert_eq!(config.events.on, [EventKind::Degraded, EventKind::RebuildEnded]);
    assert_eq!(config.events.hook_timeout, Duration::from_secs(5));
    let found = problems(
        "members = ['/a']\n[metrics]\nlisten = 'tcp:0.0.0.0:9810'\n[events]\nhook = 'mail-me'\n\
         on = ['degraded', 'rebuild-end', 'degraded']\n",
    );
    for (problem, words) in
        found.iter().zip(["other machines", "absolute path", "did you mean \"rebuild-ended\"", "twice"])
    {
        assert!(problem.contains(words), "{problem}");
    }
    assert_eq!(found.len(), 4);
}
