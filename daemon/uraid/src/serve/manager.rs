//! What a service manager is told (sd_notify(3)); nothing, when there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// How often the status is told.
const EVERY: Duration = Duration::from_secs(5);

/// The array is being served; `status` says how it is.
pub(super) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How the array is. That it can be asked proves that the array's thread lives, so it feeds the watchdog.
pub(super) fn alive(status: &str) {
    notify(&[NotifyState::Status(status), NotifyState::Watchdog]);
}

/// The configuration is being read again. The time lets the service manager match it with its order.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("the time of a reload is not known: {error}"),
    }
}

/// It has been read, whatever came of it; the log says what.
pub(super) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// What there is to be known beside how the array is.
pub(super) fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The daemon is stopping.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing what is in flight")]);
}

/// How often [`alive`] is to be called: twice in the watchdog's time at least.
pub(super) fn interval() -> Duration {
    sd_notify::watchdog_enabled().map_or(EVERY, |limit| EVERY.min(limit / 2)).max(Duration::from_millis(10))
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}
