//! The hook: a program of the operator's that is run on events, one run after the other, on a thread of
//! its own that nothing waits for.
//!
//! The thread is made before the daemon declares itself a part of a block device (PR_SET_IO_FLUSHER), for
//! threads and programs inherit that: a hook must not allocate out of what is set aside for writing back,
//! nor be allowed to go without what others have to wait for. The thread also gives up the capabilities that
//! a service manager gave the daemon to hand on (ambient ones): a hook of an unprivileged daemon has none.
//! Memory that is locked is not inherited by programs, and neither are file descriptors. The program gets a clean environment, without the sockets of
//! the service manager, and a process group of its own, so that it can be ended with all that it started.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uraid_config::EventKind;

use super::kinds::may_flood;
use super::{Event, EventCounters, HookEnd, Subject, to_json};

/// Events that may wait for the hook.
const QUEUE: usize = 256;
/// The stack of the thread: it does little.
const STACK_BYTES: usize = 256 << 10;
/// How long the program is not run again for an event of a kind that may come in floods: what a client or a
/// dying disk can cause at will must not crowd out the rest.
const FLOOD_PAUSE: Duration = Duration::from_secs(10);
/// How long a program may take to end once it is told to.
const GRACE: Duration = Duration::from_secs(2);
/// What the program finds in its environment beside the event, as far as the daemon has it.
const KEPT: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// What is run on which events.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    program: PathBuf,
    on: Vec<EventKind>,
    limit: Duration,
}

/// A hook whose thread waits for the first event.
#[derive(Debug)]
pub struct Hook {
    plan: Plan,
    orders: oneshot::Sender<Orders>,
}

/// What the thread works with.
#[derive(Debug)]
struct Orders {
    events: mpsc::Receiver<Event>,
    subject: Subject,
    counters: Arc<EventCounters>,
    done: oneshot::Sender<()>,
}

impl Hook {
    /// Makes the hook's thread, if a hook is configured. To be called before the daemon sets anything of
    /// its process that programs should not inherit.
    ///
    /// # Errors
    /// The system has no thread, or no file descriptor, left.
    pub fn prepare(config: &uraid_config::Events) -> io::Result<Option<Self>> {
        let Some(program) = config.hook.clone() else { return Ok(None) };
        let plan = Plan { program, on: config.on.clone(), limit: config.hook_timeout };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (orders, ordered) = oneshot::channel();
        let ours = plan.clone();
        thread::Builder::new()
            .name("uraid hook".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || work(&runtime, &ours, ordered))?;
        Ok(Some(Hook { plan, orders }))
    }

    pub(super) fn start(self, subject: Subject, counters: Arc<EventCounters>) -> RunningHook {
        let (queue, events) = mpsc::channel(QUEUE);
        let (done, ended) = oneshot::channel();
        // If the thread is gone nobody runs the hook, and the queue says so.
        let _ = self.orders.send(Orders { events, subject, counters: Arc::clone(&counters), done });
        RunningHook { on: self.plan.on, queue, last: Vec::new(), ended, counters }
    }
}

/// A hook that takes events.
#[derive(Debug)]
pub(super) struct RunningHook {
    on: Vec<EventKind>,
    queue: mpsc::Sender<Event>,
    /// When the program was last run for each kind that may come in floods.
    last: Vec<(EventKind, Instant)>,
    ended: oneshot::Receiver<()>,
    counters: Arc<EventCounters>,
}

impl RunningHook {
    /// Has the program run for this event, if it is of a kind that was asked for; does not wait.
    pub(super) fn call(&mut self, event: Event) {
        if !self.on.contains(&event.kind) || self.is_flood(event.kind) {
            return;
        }
        let kind = event.kind;
        if self.queue.try_send(event).is_err() {
            self.counters.count_hook(HookEnd::Dropped);
            tracing::warn!("the hook is not run for {kind}: {QUEUE} events wait for it already");
        }
    }

    /// Whether the program was run for this kind a moment ago, and it is one that may come in floods.
    fn is_flood(&mut self, kind: EventKind) -> bool {
        if !may_flood(kind) {
            return false;
        }
        let now = Instant::now();
        match self.last.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, last)) if now.saturating_duration_since(*last) < FLOOD_PAUSE => return true,
            Some((_, last)) => *last = now,
            None => self.last.push((kind, now)),
        }
        false
    }

    /// Resolves when the program has run for everything that waits.
    pub(super) async fn finish(self) {
        drop(self.queue);
        let _ = self.ended.await;
    }
}

/// The thread.
///
/// Without ambient capabilities a program that is run by a user other than root has none; a kernel that does
/// not know them has none to give.
fn work(runtime: &Runtime, plan: &Plan, ordered: oneshot::Receiver<Orders>) {
    if let Err(error) = rustix::thread::clear_ambient_capability_set() {
        tracing::info!("the hook keeps the daemon's ambient capabilities: {error}");
    }
    runtime.block_on(async {
        let Ok(Orders { mut events, subject, counters, done }) = ordered.await else { return };
        while let Some(event) = events.recv().await {
            let end = run(plan, &event, &subject).await;
            counters.count_hook(end);
        }
        let _ = done.send(());
    });
}

/// Runs the program once, and logs how it ended unless that was well.
async fn run(plan: &Plan, event: &Event, subject: &Subject) -> HookEnd {
    let (program, kind) = (plan.program.display(), event.kind);
    let mut child = match command(&plan.program, event, subject).spawn() {
        Ok(child) => child,
        Err(error) => {
            tracing::warn!("the hook cannot be run for {kind}: {program}: {error}");
            return HookEnd::Failed;
        }
    };
    spare_no_memory(&child);
    let document = to_json(event, subject);
    let input = child.stdin.take();
    let feed = async {
        if let Some(mut input) = input {
            // A program may close its input unread.
            let _ = input.write_all(document.as_bytes()).await;
        }
    };
    match timeout(plan.limit, async { tokio::join!(child.wait(), feed).0 }).await {
        Ok(Ok(status)) if status.success() => {
            tracing::debug!("the hook ended well for {kind}");
            HookEnd::Ok
        }
        Ok(ended) => {
            tracing::warn!("the hook failed for {kind}: {program} {}", ending(ended));
            HookEnd::Failed
        }
        Err(_) => {
            tracing::warn!("the hook is killed: {program} took longer than {:?} for {kind}", plan.limit);
            kill(&mut child).await;
            HookEnd::TimedOut
        }
    }
}

fn ending(ended: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match ended {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => status.to_string(),
        },
        Err(error) => format!("cannot be waited for: {error}"),
    }
}

fn command(program: &Path, event: &Event, subject: &Subject) -> Command {
    let mut command = Command::new(program);
    let kept = KEPT.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    command
        .arg(event.kind.word())
        .arg(&subject.array)
        .env_clear()
        .envs(kept)
        .env("URAID_EVENT", event.kind.word())
        .env("URAID_SEVERITY", event.severity.word())
        .env("URAID_ARRAY", &subject.array)
        .env("URAID_ARRAY_UUID", &subject.uuid)
        .env("URAID_TEXT", &event.text)
        .envs(event.fields().into_iter().map(|(name, value)| (format!("URAID_{name}"), clean(&value))))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        // What it says goes where the daemon's log goes.
        .stdout(Stdio::from(io::stderr()))
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    command
}

/// A value as the environment can hold it.
fn clean(value: &str) -> String {
    value.replace('\0', " ")
}

/// A daemon that serves disks may be the last one to be killed when memory runs out; its hook is not.
fn spare_no_memory(child: &Child) {
    let Some(pid) = child.id() else { return };
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    if own.is_ok_and(|own| own.trim().parse::<i32>().is_ok_and(|adjustment| adjustment < 0)) {
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    }
}

/// Ends the program and whatever it started that did not leave its process group.
async fn kill(child: &mut Child) {
    // As long as it was not waited for, its number is nobody else's.
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let Some(group) = group else { return };
    let _ = killpg(group, Signal::SIGTERM);
    let went = timeout(GRACE, child.wait()).await.is_ok();
    // Those that it started may still be there; the group keeps its number until they are gone.
    let _ = killpg(group, Signal::SIGKILL);
    if !went {
        let _ = child.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory with a program of this text, and its hook.
    fn hook(script: &str, limit: Duration) -> (tempfile::TempDir, Hook) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("hook");
        std::fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display()))
            .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let on = vec![EventKind::Degraded, EventKind::RebuildEnded];
        let config = uraid_config::Events { hook: Some(program), on, hook_timeout: limit };
        let hook = Hook::prepare(&config).unwrap().unwrap();
        (directory, hook)
    }

    /// Runs the hook for these events; gives what the counters say.
    fn call(hook: Hook, events: Vec<Event>) -> Vec<u64> {
        let counters = Arc::new(EventCounters::default());
        let subject = Subject { array: "tank".into(), uuid: "0:1:2:3".into() };
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut running = hook.start(subject, Arc::clone(&counters));
            events.into_iter().for_each(|event| running.call(event));
            running.finish().await;
        });
        HookEnd::ALL.into_iter().map(|end| counters.hook(end)).collect()
    }

    fn read(directory: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(directory.path().join(name)).unwrap()
    }

    #[test]
    fn it_is_told_by_arguments_environment_and_input_in_order() {
        let script = "echo \"$1 $2 $URAID_TEXT $URAID_MEMBER $URAID_ROLE $#\" >>told; env >env; cat >>json";
        let (directory, hook) = hook(script, Duration::from_secs(30));
        let degraded = Event {
            member: Some("/dev/x".into()),
            role: Some(2),
            ..Event::new(EventKind::Degraded, "a role is free")
        };
        let other = Event::new(EventKind::Started, "nobody asked for this");
        let ended = Event::new(EventKind::RebuildEnded, "done");
        assert_eq!(call(hook, vec![degraded, other, ended]), [2, 0, 0, 0]);
        let told = read(&directory, "told");
        assert_eq!(told, "degraded tank a role is free /dev/x 2 2\nrebuild-ended tank done   2\n");
        let json: Vec<serde_json::Value> =
            read(&directory, "json").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&json[0]["event"], &json[0]["role"]), (&"degraded".into(), &2.into()));
        assert_eq!(
            (&json[1]["event"], &json[1]["member"]),
            (&"rebuild-ended".into(), &serde_json::Value::Null)
        );
        let environment = read(&directory, "env");
        let known = |line: &str| {
            let name = line.split('=').next().unwrap_or_default();
            name.starts_with("URAID_")
                || KEPT.contains(&name)
                || ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name)
        };
        assert!(environment.lines().all(known), "{environment}");
    }

    #[test]
    fn it_is_killed_with_its_children_when_it_takes_too_long() {
        // The child ignores the request to end, and so does its parent.
        let script = "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >child; while :; do sleep 0.1; done'";
        let (directory, hook) = hook(script, Duration::from_millis(300));
        let started = Instant::now();
        assert_eq!(call(hook, vec![Event::new(EventKind::Degraded, "x")]), [0, 0, 1, 0]);
        assert!(started.elapsed() < Duration::from_secs(20));
        let child = read(&directory, "child");
        let gone = || {
            // A zombie that nobody waits for, in a container without an init, has no command line.
            std::fs::read(format!("/proc/{}/cmdline", child.trim())).map_or(true, |line| line.is_empty())
        };
        while !gone() {
            assert!(started.elapsed() < Duration::from_secs(20), "its child lives on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn failures_are_counted_and_the_next_event_is_told_all_the_same() {
        let (directory, hook) = hook("echo x >>ran; exit 3", Duration::from_secs(30));
        let events = vec![Event::new(EventKind::Degraded, "a"), Event::new(EventKind::RebuildEnded, "b")];
        assert_eq!(call(hook, events.clone()), [0, 2, 0, 0]);
        assert_eq!(read(&directory, "ran"), "x\nx\n");
        let config = uraid_config::Events { hook: Some("/nonexistent/hook".into()), ..Default::default() };
        assert_eq!(call(Hook::prepare(&config).unwrap().unwrap(), events), [0, 2, 0, 0]);
        assert!(Hook::prepare(&uraid_config::Events::default()).unwrap().is_none());
    }

    #[test]
    fn what_may_come_in_floods_does_not_crowd_out_the_rest() {
        let (directory, mut hook) = hook("echo $1 >>ran", Duration::from_secs(30));
        hook.plan.on = EventKind::ALL.to_vec();
        let mut events: Vec<_> =
            (0..2 * QUEUE).map(|_| Event::new(EventKind::ReadErrorCorrected, "x")).collect();
        events.push(Event::new(EventKind::Degraded, "a"));
        events.push(Event::new(EventKind::Degraded, "b"));
        assert_eq!(call(hook, events), [3, 0, 0, 0]);
        assert_eq!(read(&directory, "ran"), "read-error-corrected\ndegraded\ndegraded\n");
    }

    #[test]
    fn what_does_not_fit_the_queue_is_dropped_and_counted() {
        let (_directory, hook) = hook("exit 0", Duration::from_secs(30));
        let counters = Arc::new(EventCounters::default());
        // The thread is not given its orders, so nothing is taken out.
        let (queue, _events) = mpsc::channel(QUEUE);
        let (_done, ended) = oneshot::channel();
        let on = hook.plan.on.clone();
        let last = Vec::new();
        let mut running = RunningHook { on, queue, last, ended, counters: Arc::clone(&counters) };
        (0..QUEUE + 3).for_each(|_| running.call(Event::new(EventKind::Degraded, "x")));
        assert_eq!(counters.hook(HookEnd::Dropped), 3);
    }
}
