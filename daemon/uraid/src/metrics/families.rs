//! The table of all metrics. Names follow the conventions of Prometheus
//! (<https://prometheus.io/docs/practices/naming/>): base units, `_total` for what only grows. Once given,
//! a name keeps its meaning.

use std::time::UNIX_EPOCH;

use uraid_config::EventKind;

use super::Source;
use super::page::{Family, Kind, Samples};
use crate::control::engines::{BackendStatus, EnginesStatus};
use crate::control::protocol::{ArrayState, MemberState, MemberStatus, SyncKind, SyncStatus};
use crate::events::HookEnd;

/// The words of an array's state.
const ARRAY_STATES: [ArrayState; 7] = [
    ArrayState::Clean,
    ArrayState::Active,
    ArrayState::Resyncing,
    ArrayState::Rebuilding,
    ArrayState::Degraded,
    ArrayState::Broken,
    ArrayState::Stopping,
];
/// The words of a member's state; a role without one is counted in `uraid_array_degraded_roles`.
const MEMBER_STATES: [MemberState; 4] =
    [MemberState::InSync, MemberState::Rebuilding, MemberState::Spare, MemberState::Failed];
/// The words of a backend's health.
const HEALTH: [&str; 3] = ["good", "quarantined", "leaving"];

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Source<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, help, labels, samples }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Source<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Gauge, help, labels, samples }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Source<'_>, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Histogram, help, labels, samples }
}

/// All metrics, in the order in which they are written.
pub(super) const FAMILIES: &[Family] = &[
    gauge("uraid_build_info", &["version"], "The version of the daemon; always 1.", |_, out| {
        out.add(&[env!("CARGO_PKG_VERSION")], 1);
    }),
    gauge(
        "uraid_start_time_seconds",
        &[],
        "When the daemon was started, in seconds since 1970; each change is a restart.",
        |source, out| {
            out.add(&[], source.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
        },
    ),
    gauge("uraid_array_state", &["state"], "1 for the state that the array is in.", |source, out| {
        out.one_of(&[], &ARRAY_STATES.map(ArrayState::word), source.status.state.word());
    }),
    gauge("uraid_array_size_bytes", &[], "Size of the volume that clients see.", |source, out| {
        out.add(&[], source.status.size_bytes);
    }),
    gauge("uraid_array_roles", &[], "Roles of the array.", |source, out| {
        out.add(&[], source.status.raid_disks);
    }),
    gauge("uraid_array_degraded_roles", &[], "Roles without a member in sync.", |source, out| {
        out.add(&[], source.status.degraded);
    }),
    gauge(
        "uraid_array_dirty",
        &[],
        "1 if the superblocks say that writes may be in flight.",
        |source, out| {
            out.add(&[], u8::from(source.status.dirty));
        },
    ),
    gauge("uraid_array_read_only", &[], "1 if no member is ever written to.", |source, out| {
        out.add(&[], u8::from(source.status.read_only));
    }),
    gauge("uraid_sync_active", &["kind"], "1 while a resync, a rebuild or a scrub runs.", |source, out| {
        let running = source.status.sync.as_ref().map_or("", |sync| sync_word(sync.kind));
        out.one_of(&[], &["resync", "rebuild", "scrub"], running);
    }),
    gauge("uraid_sync_done_bytes", &["kind"], "Done of each member, while one runs.", |source, out| {
        sync(source, out, |sync| Some(sync.done_bytes));
    }),
    gauge(
        "uraid_sync_total_bytes",
        &["kind"],
        "To do in all of each member, while one runs.",
        |source, out| {
            sync(source, out, |sync| Some(sync.total_bytes));
        },
    ),
    gauge(
        "uraid_sync_speed_bytes_per_second",
        &["kind"],
        "Recent speed, of each member, while one runs.",
        |source, out| sync(source, out, |sync| Some(sync.speed_bytes_per_second)),
    ),
    gauge(
        "uraid_sync_remaining_seconds",
        &["kind"],
        "Time left at that speed, while one runs and it is known.",
        |source, out| sync(source, out, |sync| sync.eta_seconds),
    ),
    gauge(
        "uraid_member_state",
        &["member", "state"],
        "1 for the state that the member is in.",
        |source, out| {
            for (path, member) in members(source) {
                out.one_of(&[&path], &MEMBER_STATES.map(MemberState::word), member.state.word());
            }
        },
    ),
    gauge("uraid_member_role", &["member"], "The role of the member; none of a spare.", |source, out| {
        for (path, member) in members(source) {
            if let Some(role) = member.role {
                out.add(&[&path], role);
            }
        }
    }),
    counter(
        "uraid_member_errors_total",
        &["member"],
        "Read and write errors of the member.",
        |source, out| {
            for (path, member) in members(source) {
                out.add(&[&path], member.errors);
            }
        },
    ),
    gauge(
        "uraid_member_bad_bytes",
        &["member"],
        "Bytes of the member that its bad-block log tells of: they count as lost until they are written.",
        |source, out| {
            for (path, member) in members(source) {
                out.add(&[&path], member.bad_bytes);
            }
        },
    ),
    counter(
        "uraid_member_corrected_bytes_total",
        &["member"],
        "Bytes of the member that could not be read, and were recovered and rewritten.",
        |source, out| {
            for (path, member) in members(source) {
                out.add(&[&path], member.corrected_sectors.saturating_mul(512));
            }
        },
    ),
    counter(
        "uraid_member_operation_bytes_total",
        &["member", "op"],
        "Bytes that the member read or wrote, or was to.",
        |source, out| {
            for (path, member) in members(source) {
                for operation in member.operations.iter().filter(|one| one.operation != "flush") {
                    out.add(&[&path, &operation.operation], operation.bytes);
                }
            }
        },
    ),
    histogram(
        "uraid_member_operation_duration_seconds",
        &["member", "op"],
        "From when an operation was handed to the member until its end was seen.",
        |source, out| {
            for (path, member) in members(source) {
                for operation in &member.operations {
                    let labels = [path.as_ref(), operation.operation.as_str()];
                    out.histogram(&labels, operation, &source.status.latency_bounds_us);
                }
            }
        },
    ),
    counter(
        "uraid_client_operation_bytes_total",
        &["op"],
        "Bytes that requests of clients were about, those that failed included.",
        |source, out| {
            for operation in source.status.operations.iter().filter(|one| one.operation != "flush") {
                out.add(&[&operation.operation], operation.bytes);
            }
        },
    ),
    histogram(
        "uraid_client_operation_duration_seconds",
        &["op"],
        "From when a request of a client was complete until its reply was made.",
        |source, out| {
            for operation in &source.status.operations {
                out.histogram(&[&operation.operation], operation, &source.status.latency_bounds_us);
            }
        },
    ),
    counter(
        "uraid_client_requests_failed_total",
        &[],
        "Requests of clients that were answered with an error.",
        |source, out| out.add(&[], source.status.counters.requests_failed),
    ),
    gauge(
        "uraid_client_requests_in_flight",
        &[],
        "Requests of clients that are worked on.",
        |source, out| {
            out.add(&[], source.status.memory.requests_in_flight);
        },
    ),
    gauge("uraid_client_connections_open", &[], "Connections of clients.", |source, out| {
        out.add(&[], source.status.counters.connections);
    }),
    counter(
        "uraid_client_connections_accepted_total",
        &[],
        "Connections of clients, ever.",
        |source, out| {
            out.add(&[], source.status.counters.connections_total);
        },
    ),
    counter(
        "uraid_client_connections_broken_total",
        &[],
        "Connections that ended because of the client or its socket, other than by its word.",
        |source, out| out.add(&[], source.status.counters.connections_broken),
    ),
    counter(
        "uraid_read_errors_corrected_total",
        &[],
        "Blocks that could not be read, and were recovered and rewritten.",
        |source, out| out.add(&[], source.status.counters.read_errors_corrected),
    ),
    counter(
        "uraid_read_errors_unrecovered_total",
        &[],
        "Times that data could neither be read nor recovered.",
        |source, out| out.add(&[], source.status.counters.read_errors_unrecovered),
    ),
    counter(
        "uraid_resync_mismatched_stripes_total",
        &[],
        "Stripes whose parity did not match the data, and was rewritten.",
        |source, out| out.add(&[], source.status.counters.resync_mismatches),
    ),
    gauge("uraid_request_memory_bytes", &[], "Memory for the data of requests.", |source, out| {
        out.add(&[], source.status.memory.request_bytes);
    }),
    gauge("uraid_request_memory_used_bytes", &[], "How much of it is in use.", |source, out| {
        out.add(&[], source.status.memory.request_bytes_used);
    }),
    gauge("uraid_stripe_cache_bytes", &[], "Memory for stripes that are worked on.", |source, out| {
        out.add(&[], source.status.memory.stripe_bytes);
    }),
    gauge("uraid_stripe_cache_stripes", &[], "Stripes that fit it.", |source, out| {
        out.add(&[], source.status.memory.stripes);
    }),
    gauge("uraid_stripe_cache_waiting_stripes", &[], "Stripes that wait for room in it.", |source, out| {
        out.add(&[], source.status.memory.stripes_waiting);
    }),
    counter("uraid_compute_plans_total", &[], "Computations of parity and the like.", |source, out| {
        if let Some(engines) = engines(source) {
            out.add(&[], engines.chains);
        }
    }),
    counter(
        "uraid_compute_failures_total",
        &[],
        "Those of them that failed; their requests were retried or refused.",
        |source, out| out.add(&[], source.status.counters.compute_failures),
    ),
    counter(
        "uraid_cpu_operations_total",
        &["op"],
        "Memory operations that ran on the CPU.",
        |source, out| {
            for operation in engines(source).into_iter().flat_map(|engines| &engines.operations) {
                out.add(&[&operation.operation], operation.count);
            }
        },
    ),
    gauge(
        "uraid_engine_state",
        &["engine", "state"],
        "1 for the health of the work queue.",
        |source, out| {
            for backend in backends(source) {
                out.one_of(&[&backend.name], &HEALTH, &backend.health);
            }
        },
    ),
    gauge(
        "uraid_engine_in_hand",
        &["engine"],
        "Operations in the hands of the work queue.",
        |source, out| {
            each_backend(source, out, |backend| backend.in_hand);
        },
    ),
    counter(
        "uraid_engine_operations_total",
        &["engine", "op", "result"],
        "Memory operations that ended on the work queue; those that failed were done again on the CPU.",
        |source, out| {
            for backend in backends(source) {
                for one in &backend.operations {
                    out.add(&[&backend.name, &one.operation, "completed"], one.completed);
                    out.add(&[&backend.name, &one.operation, "failed"], one.failed);
                }
            }
        },
    ),
    counter(
        "uraid_engine_operation_bytes_total",
        &["engine", "op"],
        "Bytes of the operations that the work queue took.",
        |source, out| {
            for backend in backends(source) {
                for one in &backend.operations {
                    out.add(&[&backend.name, &one.operation], one.bytes);
                }
            }
        },
    ),
    counter(
        "uraid_engine_quarantines_total",
        &["engine"],
        "Times that it was quarantined.",
        |source, out| {
            each_backend(source, out, |backend| backend.quarantines);
        },
    ),
    counter(
        "uraid_engine_revivals_total",
        &["engine"],
        "Times that it came back from that.",
        |source, out| {
            each_backend(source, out, |backend| backend.revived);
        },
    ),
    counter(
        "uraid_engine_timeouts_total",
        &["engine"],
        "Operations that did not end in time.",
        |source, out| {
            each_backend(source, out, |backend| backend.timeouts);
        },
    ),
    counter(
        "uraid_engine_queue_full_total",
        &["engine"],
        "Operations that it had no room for.",
        |source, out| {
            each_backend(source, out, |backend| backend.queue_full);
        },
    ),
    counter(
        "uraid_engine_cross_checks_total",
        &["engine"],
        "Results compared with the CPU's.",
        |source, out| {
            each_backend(source, out, |backend| backend.cross_checks);
        },
    ),
    counter("uraid_engine_mismatches_total", &["engine"], "Those of them that differed.", |source, out| {
        each_backend(source, out, |backend| backend.mismatches);
    }),
    counter("uraid_events_total", &["event"], "Events by kind; docs/events.md lists them.", |source, out| {
        for kind in EventKind::ALL {
            out.add(&[kind.word()], source.events.told(kind));
        }
    }),
    counter("uraid_events_dropped_total", &[], "Events that came too fast to be told.", |source, out| {
        out.add(&[], source.events.dropped());
    }),
    counter("uraid_hook_runs_total", &["result"], "Runs of the hook by how they ended.", |source, out| {
        for end in HookEnd::ALL {
            out.add(&[end.word()], source.events.hook(end));
        }
    }),
];

fn sync_word(kind: SyncKind) -> &'static str {
    match kind {
        SyncKind::Resync => "resync",
        SyncKind::Rebuild => "rebuild",
        SyncKind::Scrub => "scrub",
        SyncKind::Unknown => "unknown",
    }
}

fn sync(source: &Source<'_>, out: &mut Samples<'_>, value: fn(&SyncStatus) -> Option<u64>) {
    if let Some(sync) = &source.status.sync
        && let Some(value) = value(sync)
    {
        out.add(&[sync_word(sync.kind)], value);
    }
}

/// The members with their paths. Of several that had the same path, as one that failed and was added
/// again, there is one: the one that is in use.
fn members<'a>(source: &Source<'a>) -> Vec<(std::borrow::Cow<'a, str>, &'a MemberStatus)> {
    let mut members: Vec<(std::borrow::Cow<'a, str>, &MemberStatus)> = Vec::new();
    for member in &source.status.members {
        let Some(path) = member.path.as_ref().map(|path| path.to_string_lossy()) else { continue };
        match members.iter_mut().find(|(known, _)| *known == path) {
            Some(known) if known.1.state == MemberState::Failed => known.1 = member,
            Some(_) => {}
            None => members.push((path, member)),
        }
    }
    members
}

fn engines<'a>(source: &Source<'a>) -> Option<&'a EnginesStatus> {
    source.status.engines.as_ref()
}

fn backends<'a>(source: &Source<'a>) -> &'a [BackendStatus] {
    engines(source).map_or(&[], |engines| &engines.backends)
}

fn each_backend(source: &Source<'_>, out: &mut Samples<'_>, value: fn(&BackendStatus) -> u64) {
    for backend in backends(source) {
        out.add(&[&backend.name], value(backend));
    }
}
