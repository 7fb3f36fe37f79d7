//! Enough file descriptors for what the configuration allows.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use uraid_config::Config;

/// For members, their claims, rings, sockets of operators and whatever a process has open.
const OWN: u64 = 256;
/// A client with TLS: its socket, and both ends of the pair to the shard, one of them twice.
const PER_CONNECTION: u64 = 4;

/// Raises the soft limit, which is low for the sake of programs that call select(2), to what may be needed.
/// It is no reason not to serve if that is more than the hard limit: further clients wait then.
pub(super) fn raise_limit(config: &Config, addresses: usize) {
    let wanted = wanted(config, addresses);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < wanted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)
    {
        tracing::warn!("the limit of open files stays {soft}: {error}");
    }
    if hard < wanted {
        tracing::warn!(
            "only {hard} files may be open at once, and `connections` and `handshakes` in [limits] may come to \
             {wanted}; raise LimitNOFILE of the service"
        );
    }
}

fn wanted(config: &Config, addresses: usize) -> u64 {
    let limits = &config.limits;
    let handshakes = u64::from(limits.handshakes).saturating_mul(addresses as u64);
    let members = config.members.len() as u64 * 2;
    OWN + members + PER_CONNECTION * u64::from(limits.connections) + handshakes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_the_hard_one() {
        let mut config = Config::with_members(vec!["/m".into()]);
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256.min(hard), hard).unwrap();
        raise_limit(&config, 2);
        let (soft, same) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, same), ((256 + 2 + 4 * 128 + 2 * 128).min(hard), hard));
        config.limits.connections = 65_536;
        raise_limit(&config, 1);
        assert!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0 <= hard);
        // What is more than enough stays.
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        config.limits.connections = 1;
        raise_limit(&config, 1);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), before);
    }
}
