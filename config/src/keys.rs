//! The table of keys: what the file may hold, how a value is shown, and whether a running daemon can take
//! a new one.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use crate::access::Access;
use crate::limits::Limits;
use crate::schema::Config;

/// One key that the file may hold.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The section, without brackets, `a.b` for a section within one; empty above the first section.
    pub section: &'static str,
    /// The key.
    pub name: &'static str,
    /// Whether a running daemon takes a new value when it reads its file again.
    pub live: bool,
    /// The value in a configuration, as text for people. Equal texts stand for equal values.
    pub value: fn(&Config) -> String,
}

impl Key {
    /// The key with its section, as people write it: `limits.idle_s`.
    pub fn full_name(&self) -> String {
        match self.section {
            "" => self.name.to_owned(),
            section => format!("{section}.{}", self.name),
        }
    }
}

/// A key that is read at the start and never again.
const fn fixed(section: &'static str, name: &'static str, value: fn(&Config) -> String) -> Key {
    Key { section, name, live: false, value }
}

/// A key that a running daemon takes a new value of.
const fn live(section: &'static str, name: &'static str, value: fn(&Config) -> String) -> Key {
    Key { section, name, live: true, value }
}

const KEYS: &[Key] = &[
    fixed("", "name", |c| optional(c.name.as_ref())),
    fixed("", "uuid", |c| optional(c.uuid.as_ref())),
    fixed("", "members", |c| show(&c.members)),
    fixed("", "listen", |c| texts(&c.listen)),
    fixed("", "insecure", |c| c.insecure.to_string()),
    fixed("", "control", |c| path(c.control.as_deref())),
    live("", "list", |c| c.access.list.to_string()),
    fixed("", "socket_mode", |c| format!("{:04o}", c.access.socket_mode)),
    fixed("", "socket_group", |c| optional(c.access.socket_group.as_ref())),
    live("", "allow_users", |c| texts(&c.access.allow_users)),
    live("", "allow_groups", |c| texts(&c.access.allow_groups)),
    fixed("", "device", |c| optional(c.device.as_ref())),
    fixed("", "read_only", |c| c.read_only.to_string()),
    fixed("", "kernel", |c| c.kernel.word().to_owned()),
    fixed("", "safe_mode_delay_ms", |c| ms(c.safe_mode_delay)),
    fixed("", "spin_us", |c| c.spin.as_micros().to_string()),
    live("tls", "certificate", |c| path(c.tls.certificate.as_deref())),
    live("tls", "key", |c| path(c.tls.key.as_deref())),
    live("tls", "client_ca", |c| path(c.tls.client_ca.as_deref())),
    live("tls", "clients", |c| show(&c.tls.clients)),
    live("tls", "mode", |c| c.tls.mode.word().to_owned()),
    fixed("attach", "connections", |c| optional(c.attach.connections.as_ref())),
    fixed("attach", "timeout_s", |c| c.attach.timeout.as_secs().to_string()),
    fixed("attach", "dead_conn_timeout_s", |c| c.attach.dead_conn_timeout.as_secs().to_string()),
    fixed("assemble", "force", |c| c.assemble.force.to_string()),
    fixed("io", "engine", |c| show(&c.io.engine)),
    fixed("io", "direct", |c| show(&c.io.direct)),
    fixed("cache", "stripes_bytes", |c| c.cache.stripes.to_string()),
    fixed("cache", "request_bytes", |c| c.cache.requests.to_string()),
    fixed("cache", "lock_memory", |c| c.cache.lock_memory.to_string()),
    fixed("sync", "stripes_in_flight", |c| c.sync.stripes_in_flight.to_string()),
    fixed("limits", "connections", |c| c.limits.connections.to_string()),
    live("limits", "connections_per_peer", |c| c.limits.connections_per_peer.to_string()),
    live("limits", "requests_per_connection", |c| c.limits.requests_per_connection.to_string()),
    live("limits", "bytes_per_connection", |c| c.limits.bytes_per_connection.to_string()),
    live("limits", "handshakes", |c| c.limits.handshakes.to_string()),
    live("limits", "handshake_s", |c| c.limits.handshake.as_secs().to_string()),
    live("limits", "idle_s", |c| c.limits.idle.as_secs().to_string()),
    fixed("limits", "stall_s", |c| c.limits.stall.as_secs().to_string()),
    fixed("engines", "dsa", |c| show(&c.engines.dsa)),
    fixed("engines", "queues", |c| show(&c.engines.queues)),
    fixed("engines", "cross_check", |c| c.engines.cross_check.to_string()),
    fixed("engines", "timeout_ms", |c| ms(c.engines.timeout)),
    fixed("engines", "retry_ms", |c| ms(c.engines.retry)),
    fixed("engines", "dsa_sysfs", |c| path(c.engines.dsa_sysfs.as_deref())),
    fixed("engines", "dsa_dev", |c| path(c.engines.dsa_dev.as_deref())),
    fixed("engines.offload", "copy", |c| show(&c.engines.offload.copy)),
    fixed("engines.offload", "fill", |c| show(&c.engines.offload.fill)),
    fixed("engines.offload", "compare", |c| show(&c.engines.offload.compare)),
    fixed("engines.offload", "dualcast", |c| show(&c.engines.offload.dualcast)),
    fixed("engines.offload", "crc32c", |c| show(&c.engines.offload.crc32c)),
    fixed("engines.offload", "copy_crc32c", |c| show(&c.engines.offload.copy_crc32c)),
    fixed("metrics", "listen", |c| optional(c.metrics.listen.as_ref())),
    fixed("events", "hook", |c| path(c.events.hook.as_deref())),
    fixed("events", "on", |c| texts(&c.events.on)),
    fixed("events", "hook_timeout_s", |c| c.events.hook_timeout.as_secs().to_string()),
];

/// Every key that a configuration may hold, in the order of the example.
pub fn documented_keys() -> &'static [Key] {
    KEYS
}

impl Config {
    /// The keys whose values differ between this configuration and another one.
    pub fn differences(&self, other: &Config) -> Vec<&'static Key> {
        KEYS.iter().filter(|key| (key.value)(self) != (key.value)(other)).collect()
    }
}

impl Config {
    /// This configuration with the values that `fresh` has of live keys: what holds in a daemon that was
    /// started with this one and has read that one since.
    pub fn with_live_keys_of(&self, fresh: &Config) -> Config {
        let Access { list, socket_mode: _, socket_group: _, allow_users, allow_groups } =
            fresh.access.clone();
        let access = Access { list, allow_users, allow_groups, ..self.access.clone() };
        let Limits { connections, stall, .. } = self.limits;
        let limits = Limits { connections, stall, ..fresh.limits };
        Config { access, limits, tls: fresh.tls.clone(), ..self.clone() }
    }
}

fn show(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn texts<T: ToString>(values: &[T]) -> String {
    show(&values.iter().map(T::to_string).collect::<Vec<_>>())
}

fn optional<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(unset, T::to_string)
}

fn path(value: Option<&Path>) -> String {
    value.map_or_else(unset, |path| path.display().to_string())
}

fn unset() -> String {
    "(unset)".to_owned()
}

fn ms(value: Duration) -> String {
    value.as_millis().to_string()
}
