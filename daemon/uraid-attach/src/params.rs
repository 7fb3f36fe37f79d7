//! What a device is to be like, checked before the kernel is asked: much of what it refuses it refuses with
//! `EINVAL` alone, and some of what it takes does harm.

use std::time::Duration;

use nbd_rs::wire::transmission_flag;

use crate::AttachError;

/// As many sockets as make sense and some more: a kernel uses one for each of its hardware queues.
const SOCKETS_MAX: usize = 64;
/// Timeouts are multiplied with the kernel's ticks a second.
const SECONDS_MAX: u64 = u32::MAX as u64;
/// Bytes of a backend's name: it is shown in sysfs on one page.
const BACKEND_LEN_MAX: usize = 255;

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceChoice {
    /// The first that nobody uses; one more is made if there is none.
    Auto,
    /// /dev/nbdN; it is made if it does not exist.
    Index(u32),
}

impl DeviceChoice {
    pub(crate) fn index(self) -> Option<u32> {
        match self {
            DeviceChoice::Auto => None,
            DeviceChoice::Index(index) => Some(index),
        }
    }
}

/// What the kernel does with the device by itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ClientFlags {
    /// The device goes when it is detached. Its number is free for others then, and udev's links go for
    /// certain. Wanted for devices that `Auto` made; harmless for others.
    pub destroy_on_disconnect: bool,
    /// It is detached when the last process closes it. Whoever looks at it (udev, `blkid`,
    /// [`Host::holders`](crate::Host::holders)) detaches it: for tools that use a device themselves.
    pub disconnect_on_close: bool,
}

impl ClientFlags {
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.destroy_on_disconnect) | u64::from(self.disconnect_on_close) << 1
    }
}

/// A device to attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    /// Which.
    pub device: DeviceChoice,
    /// Bytes; a multiple of the block size and not zero.
    pub size: u64,
    /// The logical block size in bytes: a power of two from 512 to the page size; see [`block_size_for`].
    pub block_size: u32,
    /// The export's transmission flags (`nbd_rs::wire::transmission_flag`), as a handshake would give them.
    ///
    /// Without `SEND_FLUSH` the kernel takes the device for one without a cache, and `fsync` sends nothing:
    /// a device that can be written is not attached without it. Without `CAN_MULTI_CONN` one socket is all
    /// that the kernel takes. Offer `SEND_WRITE_ZEROES` always: 6.12 sends it to a server that did not
    /// offer it, when an earlier one on the same device did.
    pub server_flags: u16,
    /// See there.
    pub client_flags: ClientFlags,
    /// Whole seconds until a request that is not answered is sent again on another socket, and its socket
    /// declared dead. Zero is **not** "never" with more than one socket: then it is 30 s; with one socket
    /// it is never, with a line in the kernel's log every 30 s. After a socket died, its requests are sent
    /// again when this has passed since they were sent, not sooner.
    pub timeout: Duration,
    /// Whole seconds for which requests wait for a new socket when the last one died. Zero: they fail at
    /// once.
    pub dead_conn_timeout: Duration,
    /// A name that says whose device this is, shown as /sys/block/nbdN/backend and asked for again by
    /// [`Netlink::reconfigure`](crate::Netlink::reconfigure). Kernels before 5.14 pass over it: then the
    /// device cannot be found by it and nothing guards the device against somebody else's sockets.
    pub backend: Option<String>,
}

impl Connect {
    /// Any free device of this size, with what uraid promises as a server: flushes, FUA, trim, zeroes, several
    /// connections; requests wait a minute for an answer and ten for a server.
    pub fn new(size: u64, block_size: u32) -> Self {
        Connect {
            device: DeviceChoice::Auto,
            size,
            block_size,
            server_flags: transmission_flag::SEND_FLUSH
                | transmission_flag::SEND_FUA
                | transmission_flag::SEND_TRIM
                | transmission_flag::SEND_WRITE_ZEROES
                | transmission_flag::CAN_MULTI_CONN,
            client_flags: ClientFlags::default(),
            timeout: Duration::from_secs(60),
            dead_conn_timeout: Duration::from_secs(600),
            backend: None,
        }
    }

    pub(crate) fn kernel_flags(&self) -> u16 {
        self.server_flags | transmission_flag::HAS_FLAGS
    }

    pub(crate) fn check(&self, sockets: usize) -> Result<(), AttachError> {
        if sockets == 0 {
            return refuse("it takes at least one socket");
        }
        check_sockets(sockets)?;
        let offers = |bit: u16| self.server_flags & bit != 0;
        if sockets > 1 && !offers(transmission_flag::CAN_MULTI_CONN) {
            return refuse(format!("{sockets} sockets need an export that offers CAN_MULTI_CONN"));
        }
        if !offers(transmission_flag::SEND_FLUSH | transmission_flag::READ_ONLY) {
            return refuse("without FLUSH the kernel would answer fsync without asking");
        }
        check_block_size(self.block_size)?;
        check_size(self.size, self.block_size)?;
        check_timeouts([self.timeout, self.dead_conn_timeout])?;
        check_backend(self.backend.as_deref())
    }
}

/// A change of an attached device. What is left out stays as it is.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Reconfigure {
    /// The name with which it was attached; the kernel refuses a change without it.
    pub backend: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// As [`Connect::timeout`].
    pub timeout: Option<Duration>,
    /// As [`Connect::dead_conn_timeout`].
    pub dead_conn_timeout: Option<Duration>,
    /// As [`Connect::client_flags`].
    pub client_flags: Option<ClientFlags>,
}

impl Reconfigure {
    pub(crate) fn check(&self, sockets: usize) -> Result<(), AttachError> {
        check_sockets(sockets)?;
        if let Some(size) = self.size {
            check_size(size, BLOCK_SIZE_MIN)?;
        }
        check_timeouts([self.timeout, self.dead_conn_timeout].into_iter().flatten())?;
        check_backend(self.backend.as_deref())
    }
}

/// The smallest block size of a Linux block device.
const BLOCK_SIZE_MIN: u32 = 512;

/// The block size of a device for an export whose smallest request is `minimum` bytes: that, or 512.
///
/// # Errors
/// [`AttachError::Parameter`]: it is no power of two, or larger than a page, which no kernel takes.
pub fn block_size_for(minimum: u32) -> Result<u32, AttachError> {
    let size = minimum.max(BLOCK_SIZE_MIN);
    check_block_size(size).map(|()| size)
}

fn check_block_size(bytes: u32) -> Result<(), AttachError> {
    let page = page_size();
    if bytes.is_power_of_two() && bytes >= BLOCK_SIZE_MIN && bytes <= page {
        return Ok(());
    }
    refuse(format!("a block size of {bytes} bytes; the kernel takes powers of two from 512 to {page}"))
}

fn page_size() -> u32 {
    let told = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    told.ok().flatten().and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(4096)
}

fn check_size(size: u64, block: u32) -> Result<(), AttachError> {
    if size == 0 || size > i64::MAX as u64 {
        return refuse(format!("a device of {size} bytes"));
    }
    if !size.is_multiple_of(u64::from(block)) {
        return refuse(format!("a size of {size} bytes, which is no multiple of the block size, {block}"));
    }
    Ok(())
}

fn check_sockets(sockets: usize) -> Result<(), AttachError> {
    if sockets > SOCKETS_MAX {
        return refuse(format!("{sockets} sockets; more than {SOCKETS_MAX} serve nothing"));
    }
    Ok(())
}

fn check_timeouts(timeouts: impl IntoIterator<Item = Duration>) -> Result<(), AttachError> {
    for timeout in timeouts {
        if timeout.subsec_nanos() != 0 || timeout.as_secs() > SECONDS_MAX {
            return refuse(format!(
                "a timeout of {timeout:?}; the kernel counts in whole seconds, up to 2^32"
            ));
        }
    }
    Ok(())
}

fn check_backend(backend: Option<&str>) -> Result<(), AttachError> {
    let fits = |name: &str| (1..=BACKEND_LEN_MAX).contains(&name.len()) && !name.contains(char::is_control);
    match backend {
        Some(name) if !fits(name) => refuse(format!(
            "the backend's name {name:?}; it has 1 to {BACKEND_LEN_MAX} bytes, none of them a control character"
        )),
        _ => Ok(()),
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, AttachError> {
    Err(AttachError::Parameter(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(change: impl FnOnce(&mut Connect), sockets: usize) -> String {
        let mut connect = Connect::new(1 << 20, 4096);
        change(&mut connect);
        connect.check(sockets).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn what_the_kernel_takes_badly_is_refused_before_it_is_asked() {
        use transmission_flag::{CAN_MULTI_CONN, READ_ONLY, SEND_FLUSH};
        assert_eq!(told(|_| {}, 4), "fine");
        assert_eq!(told(|c| c.server_flags &= !CAN_MULTI_CONN, 1), "fine");
        assert!(told(|c| c.server_flags &= !CAN_MULTI_CONN, 2).contains("CAN_MULTI_CONN"));
        assert!(told(|c| c.server_flags &= !SEND_FLUSH, 1).contains("fsync"));
        assert_eq!(told(|c| c.server_flags = READ_ONLY, 1), "fine");
        assert!(told(|_| {}, 0).contains("at least one"));
        assert!(told(|_| {}, 65).contains("65 sockets"));
        assert!(told(|c| c.size = 0, 1).contains("0 bytes"));
        assert!(told(|c| c.size = 1 << 63, 1).contains("bytes"));
        assert!(told(|c| c.size += 512, 1).contains("no multiple"));
        assert!(told(|c| c.timeout = Duration::from_millis(1500), 1).contains("whole seconds"));
        assert!(told(|c| c.dead_conn_timeout = Duration::from_secs(1 << 33), 1).contains("whole seconds"));
        for name in ["", "a\nb", &"x".repeat(256)] {
            assert!(told(|c| c.backend = Some(name.to_owned()), 1).contains("backend"));
        }
        assert_eq!(told(|c| c.backend = Some("uraid:tank".to_owned()), 1), "fine");
    }

    #[test]
    fn block_sizes_are_powers_of_two_from_512_to_a_page() {
        assert_eq!(block_size_for(1).unwrap(), 512);
        assert_eq!(block_size_for(512).unwrap(), 512);
        assert_eq!(block_size_for(4096).unwrap(), 4096);
        for odd in [513, 3 * 512, 1 << 20, u32::MAX] {
            assert!(block_size_for(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_change_is_checked_too() {
        let fine = Reconfigure { size: Some(1 << 20), ..Reconfigure::default() };
        assert!(fine.check(0).is_ok());
        for odd in [
            Reconfigure { size: Some(1), ..Reconfigure::default() },
            Reconfigure { timeout: Some(Duration::from_millis(1)), ..Reconfigure::default() },
            Reconfigure { backend: Some(String::new()), ..Reconfigure::default() },
        ] {
            assert!(odd.check(1).is_err(), "{odd:?}");
        }
    }
}
