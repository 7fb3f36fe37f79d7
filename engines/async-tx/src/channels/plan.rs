//! Which channels a shard should hold: a pure function of what there is.

use std::cmp::Reverse;

use super::{ChannelId, ChannelInfo, Distances, Usage};
use crate::OpKind;
use crate::backend::Caps;

/// What a shard should change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelPlan {
    /// Channels that it holds and should drop, in the order in which it holds them.
    pub drop: Vec<ChannelId>,
    /// Channels that it should attach.
    pub attach: Vec<ChannelId>,
}

/// A channel as one shard sees it.
struct Seen {
    id: ChannelId,
    caps: Caps,
    distance: u32,
    /// Public users that are not this shard.
    others: usize,
    held: bool,
}

/// What a shard on `node` that wants `caps` and holds `held` as a public user should change.
///
/// A channel is open to it if it is not private, leaving, broken or exclusive, and, when dedicated, has no
/// other user. The kinds that the shard wants are gone through in their order:
///
/// - A channel chosen for an earlier kind serves this one, too, unless there is a nearer one.
/// - Else the nearest is chosen; of several as near that with the fewest other users; then one that the
///   shard holds already; then that which takes the most kinds not served yet; then the oldest.
///
/// Each channel is chosen once. What is held but not chosen is to be dropped. A shard gives up a channel
/// that still serves only for a nearer one or one with fewer users, so repeated rebalancing comes to rest.
pub fn plan_channels(
    channels: &[ChannelInfo],
    distances: &Distances,
    caps: Caps,
    node: Option<u32>,
    held: &[ChannelId],
) -> ChannelPlan {
    let open: Vec<Seen> = channels.iter().filter_map(|channel| see(channel, distances, node, held)).collect();
    let mut chosen: Vec<&Seen> = Vec::new();
    let wanted = |kind: &OpKind| *kind != OpKind::Notify && caps.has(*kind);
    for kind in OpKind::ALL.into_iter().filter(wanted) {
        let Some(nearest) = open.iter().filter(|seen| seen.caps.has(kind)).map(|seen| seen.distance).min()
        else {
            continue;
        };
        let serves = |seen: &&Seen| seen.caps.has(kind) && seen.distance == nearest;
        if chosen.iter().any(serves) {
            continue;
        }
        let unserved = |seen: &Seen| {
            let unserved = |kind: &OpKind| {
                wanted(kind) && seen.caps.has(*kind) && !chosen.iter().any(|other| other.caps.has(*kind))
            };
            OpKind::ALL.into_iter().filter(unserved).count()
        };
        let best = open.iter().filter(serves);
        let best = best.min_by_key(|seen| (seen.others, !seen.held, Reverse(unserved(seen)), seen.id));
        chosen.extend(best);
    }
    let drop = held.iter().copied().filter(|id| !chosen.iter().any(|seen| seen.id == *id)).collect();
    let attach = chosen.iter().filter(|seen| !seen.held).map(|seen| seen.id).collect();
    ChannelPlan { drop, attach }
}

/// The channel as the shard sees it, if it is open to it.
fn see(channel: &ChannelInfo, distances: &Distances, node: Option<u32>, held: &[ChannelId]) -> Option<Seen> {
    let Usage::Public(users) = channel.usage else { return None };
    let held = held.contains(&channel.id);
    let others = users.saturating_sub(usize::from(held));
    let taken = channel.dedicated && others > 0;
    // A channel in use has been opened, so what broke was another's attempt.
    let broken = channel.broken.is_some() && !held;
    if channel.private || channel.leaving || broken || taken {
        return None;
    }
    let distance = distances.between(node, channel.node);
    Some(Seen { id: channel.id, caps: channel.caps, distance, others, held })
}
