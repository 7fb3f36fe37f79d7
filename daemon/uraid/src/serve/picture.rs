//! What the daemon says about its array: the shard's picture and the facts that do not change, in the
//! words of the control protocol.

use std::collections::BTreeMap;

use md_format::Superblock;
use uraid_core::{ArrayState as CoreState, MemberStanding, Role, SyncKind as CoreSync};
use uraid_shard::{
    ClientOp, ClientOps, LATENCY_BOUNDS, MemberInfo, MemberOp, OpStats, ShardStatus, SyncInfo,
    latency_bound_us,
};

use super::engines::{self, EngineFacts};
use crate::control::latency::OperationStatus;
use crate::control::protocol::{
    ArrayState, BitmapStatus, Counters, MemberState, MemberStatus, MemoryStatus, StateFacts, Status,
    SyncKind, SyncStatus, mkfs_hint,
};
use crate::events::Subject;

/// The operations whose kernels are named.
const KERNEL_OPERATIONS: [&str; 3] = ["pq", "recover", "xor"];
const SECTOR: u64 = 512;

/// What does not change while the array is served.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Name without a host, which is also that of the export.
    pub(super) name: String,
    /// The array-wide fields.
    pub(super) superblock: Superblock,
    /// No member is ever written to.
    pub(super) read_only: bool,
    /// NBD URIs.
    pub(super) exports: Vec<String>,
    /// Who computes.
    pub(super) engines: EngineFacts,
}

impl Facts {
    /// Which array events are about.
    pub(super) fn subject(&self) -> Subject {
        Subject { array: self.name.clone(), uuid: self.superblock.set_uuid().to_string() }
    }
}

/// The status that operators get.
pub(super) fn status(facts: &Facts, shard: &ShardStatus) -> Status {
    let geometry = &shard.geometry;
    let sync = shard.sync.as_ref().map(|sync| sync_status(sync, geometry.strip_bytes()));
    Status {
        name: facts.name.clone(),
        uuid: facts.superblock.set_uuid().to_string(),
        level: u32::try_from(geometry.level().number()).unwrap_or_default(),
        layout: geometry.layout().name().to_owned(),
        chunk_bytes: geometry.chunk_bytes(),
        size_bytes: geometry.array_bytes(),
        state: state(shard, sync.as_ref()),
        read_only: facts.read_only,
        dirty: is_dirty(shard),
        degraded: shard.array.missing.into(),
        raid_disks: geometry.members().into(),
        members: members(shard),
        sync,
        bitmap: shard.array.bitmap.map(|bitmap| BitmapStatus {
            dirty_regions: bitmap.set_regions,
            regions: bitmap.regions,
            region_bytes: bitmap.region_bytes,
        }),
        counters: counters(shard),
        operations: client_operations(&shard.client_ops),
        latency_bounds_us: bounds_us(),
        memory: memory(shard),
        uptime_seconds: shard.uptime.as_secs(),
        recent: None,
        exports: facts.exports.clone(),
        device: None,
        kernels: kernels(shard),
        engines: Some(engines::status(&facts.engines, shard)),
        mkfs_hint: mkfs_hint(geometry.chunk_bytes(), geometry.data().into()),
    }
}

/// One line for the service manager and the log: `raid6, degraded, 5 of 6 members in sync`.
pub(super) fn one_line(facts: &Facts, shard: &ShardStatus) -> String {
    let status = status(facts, shard);
    let in_sync = status.raid_disks.saturating_sub(status.degraded);
    let progress = status.sync.as_ref().map_or(String::new(), |sync| {
        let percent = sync.done_bytes.saturating_mul(100).checked_div(sync.total_bytes).unwrap_or(100);
        format!(", {percent}% done")
    });
    format!(
        "{} (raid{}) is {}{progress}, {in_sync} of {} members in sync, {} clients",
        status.name,
        status.level,
        status.state.word(),
        status.raid_disks,
        status.counters.connections,
    )
}

fn state(shard: &ShardStatus, sync: Option<&SyncStatus>) -> ArrayState {
    let parity = u32::from(shard.geometry.parity());
    // The core also counts a member that is not filled yet as gone when it decides that too many are.
    let lost = match shard.array.state {
        CoreState::Broken => parity.saturating_add(1),
        CoreState::Clean | CoreState::Active => lost_roles(shard),
    };
    ArrayState::judge(StateFacts {
        stopping: shard.stopping,
        parity,
        lost,
        degraded: shard.array.missing.into(),
        sync: sync.map(|sync| sync.kind),
        dirty: is_dirty(shard),
    })
}

fn is_dirty(shard: &ShardStatus) -> bool {
    shard.array.state == CoreState::Active || shard.array.resync_due
}

fn lost_roles(shard: &ShardStatus) -> u32 {
    (0..shard.geometry.members()).map(|role| u32::from(player(shard, role).is_none())).sum()
}

/// The member that plays a role now.
fn player(shard: &ShardStatus, role: u16) -> Option<&MemberInfo> {
    shard.members.iter().find(|member| member.report.role == Some(Role(role)) && is_live(member))
}

fn is_live(member: &MemberInfo) -> bool {
    matches!(member.report.standing, MemberStanding::InSync | MemberStanding::Rebuilding)
}

/// One entry a role, then spares, then failed members. A device that failed and was added again is one
/// device, so only what it is now is told.
fn members(shard: &ShardStatus) -> Vec<MemberStatus> {
    let roles = (0..shard.geometry.members()).map(|role| match player(shard, role) {
        Some(member) => member_status(shard, member, Some(role.into())),
        None => missing(role.into()),
    });
    let with = |standing| shard.members.iter().filter(move |member| member.report.standing == standing);
    let again = |member: &&MemberInfo| {
        shard
            .members
            .iter()
            .any(|other| other.report.standing != MemberStanding::Failed && other.path == member.path)
    };
    let failed = with(MemberStanding::Failed).filter(|member| !again(member));
    let others = with(MemberStanding::Spare).chain(failed);
    roles.chain(others.map(|member| member_status(shard, member, None))).collect()
}

fn missing(role: u32) -> MemberStatus {
    MemberStatus {
        path: None,
        role: Some(role),
        state: MemberState::Missing,
        events: None,
        errors: 0,
        corrected_sectors: 0,
        bad_bytes: 0,
        io: None,
        direct: None,
        operations: Vec::new(),
    }
}

fn member_status(shard: &ShardStatus, member: &MemberInfo, role: Option<u32>) -> MemberStatus {
    MemberStatus {
        path: Some(member.path.clone()),
        role,
        state: match member.report.standing {
            MemberStanding::InSync => MemberState::InSync,
            MemberStanding::Rebuilding => MemberState::Rebuilding,
            MemberStanding::Spare => MemberState::Spare,
            MemberStanding::Failed => MemberState::Failed,
        },
        events: Some(member.report.events),
        errors: member.report.errors,
        corrected_sectors: shard.totals.corrected_of(member.report.member) / SECTOR,
        bad_bytes: member.report.bad_bytes,
        io: member.backend.as_ref().map(|backend| match backend.engine {
            uraid_blockio::Engine::Uring => "uring".to_owned(),
            uraid_blockio::Engine::Sync => "sync".to_owned(),
        }),
        direct: member.backend.as_ref().map(|backend| backend.direct),
        operations: MemberOp::ALL
            .iter()
            .zip(&member.ops)
            .map(|(op, stats)| operation(op.word(), stats, &bounds_us()))
            .collect(),
    }
}

fn sync_status(sync: &SyncInfo, strip_bytes: u32) -> SyncStatus {
    let bytes = |stripes: u64| stripes.saturating_mul(strip_bytes.into());
    let speed = sync.member_bytes_per_second.unwrap_or(0);
    SyncStatus::new(sync_kind(sync.kind), bytes(sync.done_stripes), bytes(sync.total_stripes), speed)
}

fn sync_kind(kind: CoreSync) -> SyncKind {
    match kind {
        CoreSync::Resync => SyncKind::Resync,
        CoreSync::Rebuild => SyncKind::Rebuild,
        CoreSync::Scrub => SyncKind::Scrub,
    }
}

fn counters(shard: &ShardStatus) -> Counters {
    let clients = &shard.clients;
    let resyncing =
        shard.sync.as_ref().filter(|sync| sync.kind == CoreSync::Resync).map_or(0, |sync| sync.mismatches);
    Counters {
        connections: shard.connections as u64,
        connections_total: clients.connections,
        connections_broken: clients.broken_connections,
        reads: clients.reads,
        read_bytes: clients.read_bytes,
        writes: clients.writes.saturating_add(clients.zeroes),
        written_bytes: clients.write_bytes.saturating_add(clients.zero_bytes),
        flushes: clients.flushes,
        requests_failed: clients.errors,
        read_errors_corrected: shard.array.corrected_blocks,
        read_errors_unrecovered: shard.totals.unrecovered,
        resync_mismatches: shard.totals.mismatches.saturating_add(resyncing),
        compute_failures: shard.io.chain_errors,
    }
}

/// The bounds of all buckets.
pub(super) fn bounds_us() -> Vec<u64> {
    (0..LATENCY_BOUNDS).filter_map(latency_bound_us).collect()
}

fn operation(word: &str, stats: &OpStats, bounds_us: &[u64]) -> OperationStatus {
    let latency = &stats.latency;
    OperationStatus::new(word, stats.bytes, latency.sum_ns / 1000, latency.counts.to_vec(), bounds_us)
}

/// What clients asked for, in the words of the protocol.
pub(super) fn client_operations(ops: &ClientOps) -> Vec<OperationStatus> {
    let bounds_us = bounds_us();
    ClientOp::ALL.iter().zip(ops).map(|(op, stats)| operation(op.word(), stats, &bounds_us)).collect()
}

fn memory(shard: &ShardStatus) -> MemoryStatus {
    let geometry = &shard.geometry;
    let stripe = u64::from(geometry.strip_bytes()).saturating_mul(shard.slot_strips.into());
    MemoryStatus {
        requests_in_flight: shard.requests_in_flight as u64,
        request_bytes: shard.pool_bytes as u64,
        request_bytes_used: shard.pool_in_use as u64,
        stripe_bytes: stripe.saturating_mul(shard.cache_slots.into()),
        stripes: shard.cache_slots.into(),
        stripes_waiting: shard.array.slot_waiters as u64,
    }
}

/// One table of kernels does all operations.
fn kernels(shard: &ShardStatus) -> BTreeMap<String, String> {
    KERNEL_OPERATIONS.into_iter().map(|name| (name.to_owned(), shard.engine.cpu.clone())).collect()
}
