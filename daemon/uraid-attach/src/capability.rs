//! Whether this process may do what it is about to do.

use std::fmt;
use std::fs;

/// What the kernel asks of a process before it lets it attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// To attach, change and detach devices, and to write queue limits as somebody else than root.
    SysAdmin,
    /// To make socket buffers larger than `net.core.wmem_max`. Without it attaching works, with smaller
    /// buffers.
    NetAdmin,
}

impl Capability {
    /// Its number in linux/capability.h.
    fn bit(self) -> u32 {
        match self {
            Capability::SysAdmin => 21,
            Capability::NetAdmin => 12,
        }
    }

    /// Whether this process has it in effect; false when /proc does not tell. A process in a user namespace
    /// of its own may have it there and be refused all the same.
    pub fn is_effective(self) -> bool {
        fs::read_to_string("/proc/self/status").is_ok_and(|status| self.is_in(&status))
    }

    fn is_in(self, status: &str) -> bool {
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        set.is_some_and(|set| set >> self.bit() & 1 == 1)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::SysAdmin => "CAP_SYS_ADMIN",
            Capability::NetAdmin => "CAP_NET_ADMIN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_read_from_the_status_of_a_process() {
        let status =
            "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000000000200000\nCapBnd:\t000001ffffffffff\n";
        assert!(Capability::SysAdmin.is_in(status));
        assert!(!Capability::NetAdmin.is_in(status));
        for odd in ["", "CapEff:", "CapEff:\tzz"] {
            assert!(!Capability::SysAdmin.is_in(odd));
        }
    }
}
