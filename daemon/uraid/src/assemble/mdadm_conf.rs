//! mdadm.conf, as far as it says which arrays there are (mdadm.conf(5)): ARRAY, DEVICE and HOMEHOST. The other lines
//! are about what mdadm itself does, and are passed over.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use md_format::{Superblock, Uuid};

use super::patterns;

/// Where mdadm looks, the first that is there; beside it a directory of the same name with `.d`.
const PLACES: [&str; 2] = ["/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"];
/// A file that is longer is none.
const BYTES_MAX: u64 = 1 << 20;
/// The words that a line can begin with; three letters of one are enough.
const KEYWORDS: [&str; 14] = [
    "array",
    "device",
    "homehost",
    "homecluster",
    "auto",
    "create",
    "mailaddr",
    "mailfrom",
    "program",
    "policy",
    "part-policy",
    "sysfs",
    "monitordelay",
    "encryption_no_verify",
];

/// What the files say.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct MdadmConf {
    /// Arrays, in the order of the lines.
    pub(super) arrays: Vec<ArrayLine>,
    /// The words of DEVICE lines: patterns, `partitions`, `containers`.
    pub(super) devices: Vec<String>,
    /// The first word of HOMEHOST lines that is not `<ignore>`; mdadm passes over those behind it.
    pub(super) homehost: Option<String>,
    /// They say `<ignore>`: the arrays of other hosts are as good.
    pub(super) any_host: bool,
    /// Files that were read.
    pub(super) files: Vec<PathBuf>,
    /// Lines that were not understood, for people.
    pub(super) notes: Vec<String>,
}

/// An ARRAY line.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct ArrayLine {
    /// `FILE:LINE`
    pub(super) place: String,
    /// The device it is to be, as it stands there.
    pub(super) device: Option<String>,
    /// It is `<ignore>`: mdadm is never to assemble it by itself.
    pub(super) ignored: bool,
    pub(super) uuid: Option<Uuid>,
    pub(super) name: Option<String>,
    pub(super) level: Option<String>,
    pub(super) metadata: Option<String>,
    pub(super) num_devices: Option<u32>,
    pub(super) spares: Option<u32>,
    /// Patterns of which every member's path fits one.
    pub(super) devices: Vec<String>,
    /// It is identified by what only other formats have: a container, a minor number.
    foreign: bool,
    /// Some word was not understood, and that was said.
    pub(super) passed_over: bool,
}

impl MdadmConf {
    /// Reads `file`, or where mdadm looks if there is none, with the files of the directory beside it.
    ///
    /// # Errors
    /// A file that was named cannot be read. Those that were not named need not be there.
    pub(super) fn read(file: Option<&Path>) -> Result<Self, String> {
        let mut conf = MdadmConf::default();
        if let Some(file) = file {
            if file != Path::new("none") {
                conf.add_file(file).map_err(|error| format!("{}: {error}", file.display()))?;
            }
            return Ok(conf);
        }
        for place in PLACES.map(Path::new).into_iter().filter(|place| place.exists()).take(1) {
            conf.add_file(place).map_err(|error| format!("{}: {error}", place.display()))?;
        }
        for file in PLACES.iter().flat_map(|place| patterns::paths(&format!("{place}.d/*.conf"))) {
            conf.add_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(conf)
    }

    fn add_file(&mut self, file: &Path) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let read = fs::File::open(file)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if read as u64 > BYTES_MAX {
            return Err(std::io::Error::other("it is larger than 1 MiB"));
        }
        self.files.push(file.to_owned());
        self.add(&file.display().to_string(), &String::from_utf8_lossy(&bytes));
        Ok(())
    }

    /// Adds the lines of a text.
    fn add(&mut self, file: &str, text: &str) {
        for (number, words) in lines(text) {
            let Some((first, rest)) = words.split_first() else { continue };
            let place = format!("{file}:{number}");
            match keyword(first) {
                Some("array") => self.arrays.push(array_line(place, rest, &mut self.notes)),
                Some("device") => self.devices.extend(rest.iter().cloned()),
                Some("homehost") => {
                    for word in rest {
                        if word.eq_ignore_ascii_case("<ignore>") {
                            self.any_host = true;
                        } else if self.homehost.is_none() {
                            self.homehost = Some(word.clone());
                        }
                    }
                }
                Some(_) => {}
                None => {
                    self.notes.push(format!("{place}: the line begins with {first:?}, which is not known"))
                }
            }
        }
    }

    /// The first line that an array fits.
    pub(super) fn line_of(&self, array: &Superblock, paths: &[&Path], host: &str) -> Option<&ArrayLine> {
        self.arrays.iter().find(|line| line.fits(array, paths, host))
    }
}

impl ArrayLine {
    /// Whether everything that the line says of an array is so, and it says enough to tell it from others.
    pub(super) fn fits(&self, array: &Superblock, paths: &[&Path], host: &str) -> bool {
        let full = array.name();
        let short = full.strip_prefix(host).and_then(|rest| rest.strip_prefix(':'));
        let named = |name: &String| *name == full || short == Some(name.as_str());
        let among =
            |path: &&Path| self.devices.iter().any(|one| patterns::fits(one, &path.to_string_lossy()));
        self.tells_which()
            && !self.foreign
            && self.uuid.is_none_or(|uuid| uuid == array.set_uuid())
            && self.name.as_ref().is_none_or(named)
            && self.level.as_ref().is_none_or(|level| is_level(level, array))
            && self.num_devices.is_none_or(|count| count == u32::from(array.raid_disks()))
            && self.metadata.as_ref().is_none_or(|version| is_version(version, array))
            && (self.devices.is_empty() || paths.iter().all(among))
    }

    /// Whether it says anything by which an array is told from others.
    pub(super) fn tells_which(&self) -> bool {
        self.uuid.is_some() || self.name.is_some() || !self.devices.is_empty() || self.foreign
    }

    /// The name that the array is to have by this line: that of `/dev/md/NAME`. A number is none.
    pub(super) fn wanted_name(&self) -> Option<&str> {
        let device = self.device.as_deref()?;
        let name = device.rsplit('/').next().unwrap_or(device);
        let number = name.trim_start_matches("md").trim_start_matches("_d");
        (!number.is_empty() && !number.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
    }

    /// The line as people call it.
    pub(super) fn title(&self) -> String {
        let device =
            self.device.as_deref().unwrap_or(if self.ignored { "<ignore>" } else { "without a device" });
        match (self.uuid, &self.name) {
            (Some(uuid), _) => format!("ARRAY {device} ({uuid})"),
            (None, Some(name)) => format!("ARRAY {device} ({name})"),
            (None, None) => format!("ARRAY {device}"),
        }
    }
}

/// `raid6` or `6`, in any case.
fn is_level(word: &str, array: &Superblock) -> bool {
    word.to_ascii_lowercase().trim_start_matches("raid").parse() == Ok(array.level().number())
}

/// `1.2`, or what stands for all minor versions.
fn is_version(word: &str, array: &Superblock) -> bool {
    matches!(word, "1" | "1.x" | "default") || word == array.minor().to_string()
}

fn keyword(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    KEYWORDS.into_iter().find(|known| word.len() >= 3 && known.starts_with(&word))
}

fn array_line(place: String, words: &[String], notes: &mut Vec<String>) -> ArrayLine {
    let mut line = ArrayLine { place, ..ArrayLine::default() };
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            match word.to_ascii_lowercase().as_str() {
                "<ignore>" => line.ignored = true,
                _ if line.device.is_none() => line.device = Some(word.clone()),
                _ => notes.push(format!("{}: {word:?} is one device too many", line.place)),
            }
            continue;
        };
        if !set(&mut line, &key.to_ascii_lowercase(), value) {
            notes.push(format!("{}: {word:?} is not understood; the line is passed over", line.place));
            (line.foreign, line.passed_over) = (true, true);
        }
    }
    line
}

/// False if the value cannot be what it should.
fn set(line: &mut ArrayLine, key: &str, value: &str) -> bool {
    let number = || value.parse::<u32>().ok();
    match key {
        "uuid" => line.uuid = value.parse().ok(),
        "name" => line.name = Some(value.to_owned()),
        "level" => line.level = Some(value.to_owned()),
        "metadata" => line.metadata = Some(value.to_owned()),
        "num-devices" => line.num_devices = number(),
        "spares" => line.spares = number(),
        "devices" => line.devices.extend(value.split(',').filter(|one| !one.is_empty()).map(str::to_owned)),
        "container" | "member" | "super-minor" => line.foreign = true,
        // What the monitor and older versions of mdadm need.
        _ => {}
    }
    match key {
        "uuid" => line.uuid.is_some(),
        "num-devices" => line.num_devices.is_some(),
        "spares" => line.spares.is_some(),
        _ => true,
    }
}

/// The lines of a text with the number of each; a line that begins with blanks goes on with the one before.
fn lines(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut lines: Vec<(usize, Vec<String>)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = words(line);
        if words.is_empty() {
            continue;
        }
        match lines.last_mut() {
            Some((_, last)) if line.starts_with([' ', '\t']) => last.extend(words),
            _ => lines.push((at + 1, words)),
        }
    }
    lines
}

/// The words of a line up to a `#` that begins one; quotes of either kind keep blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> MdadmConf {
        let mut conf = MdadmConf::default();
        conf.add("f", text);
        conf
    }

    #[test]
    fn what_debian_writes_is_understood() {
        let conf = conf(
            "# mdadm.conf\n#DEVICE partitions containers\nHOMEHOST <system>\nMAILADDR root\n\
             CREATE owner=root group=disk mode=0660 auto=yes\n\
             ARRAY /dev/md/tank  metadata=1.2 UUID=3aaa0122:29827cfa:5331ad66:ca767371 name=here:tank\n   spares=1\n\
             array /dev/md0 level=RAID5 num-devices=3 devices=/dev/sd[a-c]1,/dev/sdx # the old one\n\
             ARRAY <ignore> UUID=00000000:00000000:00000000:00000001\nDEV /dev/sd* 'a b'\n",
        );
        assert!(conf.notes.is_empty(), "{:?}", conf.notes);
        assert_eq!(conf.homehost.as_deref(), Some("<system>"));
        assert_eq!(conf.devices, ["/dev/sd*", "a b"]);
        let [tank, old, ignored] = &conf.arrays[..] else { panic!("{:?}", conf.arrays) };
        assert_eq!((tank.place.as_str(), tank.spares, tank.wanted_name()), ("f:6", Some(1), Some("tank")));
        assert_eq!(tank.uuid.unwrap().to_string(), "3aaa0122:29827cfa:5331ad66:ca767371");
        assert_eq!((old.num_devices, old.wanted_name(), old.devices.len()), (Some(3), None, 2));
        assert!(ignored.ignored && ignored.device.is_none());
    }

    #[test]
    fn the_first_host_counts_and_ignore_is_a_word_beside_it() {
        let of = |text: &str| (conf(text).homehost, conf(text).any_host);
        assert_eq!(of("HOMEHOST one two\nHOMEHOST three\n"), (Some("one".to_owned()), false));
        assert_eq!(of("HOMEHOST <ignore> one\n"), (Some("one".to_owned()), true));
        assert_eq!(of("homehost <Ignore>\n"), (None, true));
    }

    #[test]
    fn names_of_devices_that_are_numbers_are_none() {
        for (device, name) in [
            ("/dev/md/tank", Some("tank")),
            ("tank", Some("tank")),
            ("/dev/md0", None),
            ("/dev/md/0", None),
            ("md_d7", None),
            ("/dev/md/", None),
        ] {
            let line = ArrayLine { device: Some(device.to_owned()), ..ArrayLine::default() };
            assert_eq!(line.wanted_name(), name, "{device}");
        }
    }

    #[test]
    fn nonsense_is_noted_and_no_line_of_it_is_used() {
        let conf = conf("NONSENSE x\nARRAY /dev/md1 UUID=12\nARRAY a b name=x\n  ARRAY\n\"open");
        assert_eq!(conf.notes.len(), 5, "{:?}", conf.notes);
        assert!(conf.arrays[0].foreign);
        for text in ["", "   ", "#", "=", "ARRAY =", "ARRAY \"", "ARRAY devices=,,", "\u{0}"] {
            self::conf(text);
        }
    }
}
