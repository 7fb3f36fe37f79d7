//! The work queues of devices while an array is served: how the configuration wants them used, the look
//! now and then at what came and went, and what operators are told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_tx::{Alert, BackendStats, Health, OpKind, Policies, Policy, Reason, Thresholds};
use uraid_config::{Config, Dsa, Threshold};
use uraid_shard::{
    AlertRecord, DsaUse, Offload, OffloadConfig, QueueInfo, ShardHandle, ShardStatus, Standing, paths,
};

use crate::control::engines::{
    AlertStatus, BackendOperation, BackendStatus, CpuOperation, EnginesStatus, ReasonCount, UnusedQueue,
};

/// How often is looked what came and went.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// The queues as they were at the last look; clones are the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues(Arc<Mutex<Vec<QueueInfo>>>);

impl Queues {
    pub(super) fn set(&self, queues: &[QueueInfo]) {
        // A list is sound whatever happened to who held it.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = queues.to_vec();
    }

    fn get(&self) -> Vec<QueueInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What does not change about the engines of an array, and the list of queues.
#[derive(Clone, Debug, Default)]
pub(super) struct EngineFacts {
    /// How devices are used.
    pub(super) config: OffloadConfig,
    /// The queues.
    pub(super) queues: Queues,
}

/// From the words of a configuration to those of the shard.
pub(super) fn offload_config(config: &Config) -> OffloadConfig {
    let engines = &config.engines;
    OffloadConfig {
        dsa: match engines.dsa {
            Dsa::Auto => DsaUse::Auto,
            Dsa::Off => DsaUse::Off,
            Dsa::Require => DsaUse::Require,
        },
        queues: engines.queues.iter().map(ToString::to_string).collect(),
        paths: paths(engines.dsa_sysfs.clone(), engines.dsa_dev.clone()),
        cross_check: engines.cross_check,
        timeout: engines.timeout,
        retry: engines.retry,
        policies: policies(config),
    }
}

fn policies(config: &Config) -> Policies {
    let offload = config.engines.offload;
    let kinds = [
        (OpKind::Copy, offload.copy),
        (OpKind::Fill, offload.fill),
        (OpKind::Compare, offload.compare),
        (OpKind::Dualcast, offload.dualcast),
        (OpKind::Crc32c, offload.crc32c),
        (OpKind::CopyCrc32c, offload.copy_crc32c),
    ];
    let policy = |threshold| match threshold {
        Threshold::Auto => Policy::Auto,
        Threshold::Never => Policy::Never,
        Threshold::From(size) => Policy::From(usize::try_from(size.bytes()).unwrap_or(Thresholds::OFF)),
    };
    kinds
        .into_iter()
        .fold(Policies::default(), |policies, (kind, threshold)| policies.with(kind, policy(threshold)))
}

/// Looks now and then for queues that came or went, and has the shard change its engine. Ends with the
/// shard. The looks block, so they are taken on a thread for that.
pub(super) async fn keep_looking(mut offload: Offload, shard: ShardHandle, queues: Queues) {
    if !offload.is_on() {
        return;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            let change = offload.look();
            (offload, change)
        });
        let Ok((back, change)) = looked.await else {
            tracing::error!("looking for DSA work queues panicked, a defect; it is not done any more");
            return;
        };
        offload = back;
        queues.set(offload.queues());
        if !change.is_empty() && shard.change_engine(change).is_err() {
            return;
        }
    }
}

/// What operators are told about the engines.
pub(super) fn status(facts: &EngineFacts, shard: &ShardStatus) -> EnginesStatus {
    let stats = &shard.engine;
    let queues = facts.queues.get();
    let unused = queues.iter().filter_map(|queue| match &queue.standing {
        Standing::Unused(why) => Some(UnusedQueue { name: queue.name.clone(), reason: why.clone() }),
        Standing::Used { .. } => None,
    });
    EnginesStatus {
        dsa: facts.config.dsa.word().to_owned(),
        cpu: stats.cpu.clone(),
        cross_check: facts.config.cross_check,
        timeout_ms: u64::try_from(facts.config.timeout.as_millis()).unwrap_or(u64::MAX),
        chains: stats.chains,
        chains_failed: stats.chains_failed,
        stray_completions: stats.stray_completions,
        operations: OpKind::ALL.into_iter().filter_map(|kind| cpu_operation(shard, kind)).collect(),
        backends: stats.backends.iter().map(|backend| backend_status(backend, &queues, shard)).collect(),
        unused: unused.collect(),
        alerts: shard.alerts.iter().map(alert_status).collect(),
    }
}

fn cpu_operation(shard: &ShardStatus, kind: OpKind) -> Option<CpuOperation> {
    let counts = shard.engine.cpu_kinds.get(kind as usize).filter(|counts| counts.ops() > 0)?;
    let count = |reason: Reason| counts.reasons.get(reason as usize).copied().filter(|count| *count > 0);
    let reasons = Reason::ALL
        .into_iter()
        .filter_map(|reason| Some(ReasonCount { reason: reason.word().to_owned(), count: count(reason)? }));
    Some(CpuOperation {
        operation: kind.word().to_owned(),
        count: counts.ops(),
        retries: counts.retries,
        reasons: reasons.collect(),
    })
}

fn backend_status(stats: &BackendStats, queues: &[QueueInfo], shard: &ShardStatus) -> BackendStatus {
    let used = queues.iter().find_map(|queue| match &queue.standing {
        Standing::Used { backend, method, thresholds } if *backend == stats.name => {
            Some((method, thresholds))
        }
        _ => None,
    });
    let last_fault = shard.alerts.iter().rev().find_map(|record| match &record.alert {
        Alert::Quarantined { backend, kind, fault } if **backend == *stats.name => {
            Some(format!("{}: {fault}", kind.word()))
        }
        _ => None,
    });
    let operation = |kind: OpKind| {
        let counts = stats.kinds.get(kind as usize)?;
        // Those that a volume asks for, and whatever else was done.
        let shown = matches!(kind, OpKind::Copy | OpKind::Fill) || counts.submitted > 0;
        let from = used.and_then(|(_, thresholds)| thresholds.get(kind));
        shown.then(|| BackendOperation {
            operation: kind.word().to_owned(),
            from_bytes: from.filter(|bytes| *bytes != Thresholds::OFF).map(|bytes| bytes as u64),
            submitted: counts.submitted,
            completed: counts.completed,
            failed: counts.failed,
            bytes: counts.bytes,
        })
    };
    BackendStatus {
        name: stats.name.clone(),
        health: match stats.health {
            Health::Good => "good",
            Health::Quarantined => "quarantined",
            Health::Leaving => "leaving",
        }
        .to_owned(),
        last_fault,
        method: used.map(|(method, _)| (*method).to_owned()),
        submitted: stats.submitted,
        completed: stats.completed,
        failed: stats.failed,
        in_hand: stats.in_hand,
        pending: stats.pending,
        queue_full: stats.queue_full,
        batches: stats.batches,
        fences: stats.fences,
        timeouts: stats.timeouts,
        aborted: stats.aborted,
        abandoned: stats.abandoned,
        declined: stats.declined,
        quarantines: stats.quarantines,
        revived: stats.revived,
        cross_checks: stats.cross_checks,
        mismatches: stats.mismatches,
        operations: OpKind::ALL.into_iter().filter_map(operation).collect(),
    }
}

fn alert_status(record: &AlertRecord) -> AlertStatus {
    let kind = match &record.alert {
        Alert::Quarantined { .. } => "quarantined",
        Alert::Mismatch { .. } => "mismatch",
        Alert::GivingUpLate { .. } => "giving_up_late",
        Alert::Revived { .. } => "revived",
        Alert::Removed { .. } => "removed",
        _ => "other",
    };
    AlertStatus {
        at: record.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        backend: record.alert.backend().to_owned(),
        kind: kind.to_owned(),
        message: record.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_both_sides_are_the_same() {
        let config = Config::with_members(vec!["/m".into()]);
        let expected = OffloadConfig { paths: paths(None, None), ..OffloadConfig::default() };
        assert_eq!(offload_config(&config), expected);
    }

    #[test]
    fn thresholds_arrive() {
        let text = "members = ['/m']\n[engines.offload]\ncopy = 4096\nfill = 'never'\ncrc32c = 'auto'\n";
        let config = Config::parse(text, std::path::Path::new("/")).unwrap();
        let policies = offload_config(&config).policies;
        assert_eq!(policies.get(OpKind::Copy), Policy::From(4096));
        assert_eq!(policies.get(OpKind::Fill), Policy::Never);
        assert_eq!(policies.get(OpKind::Crc32c), Policy::Auto);
        assert_eq!(policies.get(OpKind::Xor), Policy::Auto);
    }
}
