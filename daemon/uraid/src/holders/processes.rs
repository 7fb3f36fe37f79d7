//! Processes that hold a device or a lock, and which of them are uraids.

use std::fs;
use std::path::Path;

use uraid_attach::{Part, openers};

use super::{Held, View, names_in, text, word};

/// More processes than these are not named.
const NAMED_MAX: usize = 4;
/// As the kernel calls a process of ours.
pub(super) const URAID: &str = "uraid";

impl View {
    /// Adds the processes that have a device open, if their name is wanted.
    pub(super) fn opened(&self, part: &Part, wanted: impl Fn(&str) -> bool, held: &mut Held) {
        let (found, _) = openers(&self.path("proc"), std::slice::from_ref(part), std::process::id());
        for (pid, name) in found.into_iter().filter(|(_, name)| wanted(name)).take(NAMED_MAX) {
            self.process(pid, &name, "open by", held);
        }
    }

    /// The processes that have a record lock on a file, as `fdinfo` shows those of open files (proc(5)); the
    /// kernel itself does not say whose such a lock is.
    pub(super) fn locked(&self, (major, minor): (u64, u64), inode: u64) -> Held {
        let mut held = Held::default();
        let file = format!(" {major:02x}:{minor:02x}:{inode} ");
        let mut pids: Vec<u32> =
            names_in(&self.path("proc")).iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids.into_iter().filter(|pid| *pid != std::process::id()) {
            let process = self.path(&format!("proc/{pid}"));
            if held.by.len() < NAMED_MAX && has_lock(&process, &file) {
                let name = text(&process.join("comm")).unwrap_or_default();
                self.process(pid, &name, "locked by", &mut held);
            }
        }
        held
    }

    fn process(&self, pid: u32, name: &str, how: &str, held: &mut Held) {
        let process = self.path(&format!("proc/{pid}"));
        if name != URAID {
            return held.add(format!("{how} {name} (pid {pid})"), []);
        }
        if let Some(volume) = service_of(&process) {
            return held.add(
                format!("a member of the volume that uraid@{volume}.service serves (pid {pid})"),
                [format!("systemctl stop uraid@{volume}")],
            );
        }
        let stop = match control_of(&process) {
            Some(control) => format!("uraid stop --control {}", word(&control)),
            // A clean stop, too.
            None => format!("kill {pid}"),
        };
        held.add(format!("{how} a running uraid (pid {pid})"), [stop]);
    }
}

/// Whether a process has a lock on the file, which stands in the line as major and minor number in hexadecimal
/// digits and inode.
fn has_lock(process: &Path, file: &str) -> bool {
    let infos = process.join("fdinfo");
    let mentions = |name: &String| {
        let info = fs::read_to_string(infos.join(name)).unwrap_or_default();
        info.lines().any(|line| line.starts_with("lock:") && line.contains(file) && !line.contains("FLOCK"))
    };
    names_in(&infos).iter().any(mentions)
}

/// The volume of the unit that a process belongs to.
fn service_of(process: &Path) -> Option<String> {
    let groups = text(&process.join("cgroup"))?;
    let unit =
        groups.split(['/', '\n']).find(|part| part.starts_with("uraid@") && part.ends_with(".service"))?;
    Some(unit.strip_prefix("uraid@")?.strip_suffix(".service")?.to_owned())
}

/// The control socket that a daemon was started with, if its command line has it.
fn control_of(process: &Path) -> Option<String> {
    let line = text(&process.join("cmdline"))?;
    let words: Vec<&str> = line.split('\0').collect();
    let at = words.iter().position(|word| *word == "--control");
    let apart = at.and_then(|at| words.get(at + 1)).copied();
    apart.or_else(|| words.iter().find_map(|word| word.strip_prefix("--control="))).map(str::to_owned)
}
