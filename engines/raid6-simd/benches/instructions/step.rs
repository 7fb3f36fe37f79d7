//! Counting by single steps of a traced child.

use std::collections::BTreeMap;
use std::io::{Error, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr::null_mut;

use libc::{c_int, c_uint, c_void, pid_t};

use crate::Result;
use crate::cases::Case;
use crate::child::{Kind, MARK};

/// Instructions by the names of the cases, all of which this CPU can run.
pub(crate) fn count(cases: &[Case]) -> Result<BTreeMap<String, u64>> {
    if cases.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut child = start(cases)?;
    let traced = trace(child.id() as pid_t);
    if traced.is_err() {
        // The error says what went wrong. A child that has ended already cannot be killed, which is fine.
        let _ = child.kill();
        let _ = child.wait();
    }
    let counts = traced?;
    let mut said = String::new();
    let read = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
    match counts.split_first() {
        Some((empty, rest)) if rest.len() == cases.len() => {
            let ids = cases.iter().map(Case::id);
            Ok(ids.zip(rest).map(|(id, all)| (id, all.saturating_sub(*empty))).collect())
        }
        _ => Err(format!("the child made {} calls of {} ({read:?}): {said}", counts.len(), cases.len() + 1)),
    }
}

/// Starts a child that asks to be traced by this thread.
fn start(cases: &[Case]) -> Result<Child> {
    let program = std::env::current_exe().map_err(|error| format!("this program's file: {error}"))?;
    let mut command = Command::new(program);
    command.arg(Kind::Traced.arg()).args(cases.iter().map(Case::id));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec a system call is made and nothing else.
    unsafe { command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0)) };
    command.spawn().map_err(|error| {
        format!("the system does not allow to trace a child ({error}); a container may need CAP_SYS_PTRACE")
    })
}

/// The steps of every marked call of a child that is to stop at its exec.
fn trace(pid: pid_t) -> Result<Vec<u64>> {
    wait_for(pid, libc::SIGTRAP)?;
    let with_us = libc::PTRACE_O_EXITKILL as usize;
    request(libc::PTRACE_SETOPTIONS, pid, with_us)?;
    let mut counts = Vec::new();
    loop {
        request(libc::PTRACE_CONT, pid, 0)?;
        match wait(pid)? {
            Event::Stopped(MARK) => counts.push(step_to_mark(pid)?),
            Event::Ended => return Ok(counts),
            Event::Stopped(signal) => return Err(format!("the child got signal {signal}")),
        }
    }
}

/// From one mark to the next. Both are signals that are never delivered.
fn step_to_mark(pid: pid_t) -> Result<u64> {
    let mut steps = 0;
    loop {
        request(libc::PTRACE_SINGLESTEP, pid, 0)?;
        match wait(pid)? {
            Event::Stopped(libc::SIGTRAP) => steps += 1,
            Event::Stopped(MARK) => return Ok(steps),
            other => return Err(format!("the child, after {steps} steps: {other:?}")),
        }
    }
}

#[derive(Debug)]
enum Event {
    Stopped(c_int),
    Ended,
}

fn wait_for(pid: pid_t, signal: c_int) -> Result<()> {
    match wait(pid)? {
        Event::Stopped(found) if found == signal => Ok(()),
        other => Err(format!("the child did not stop at its start: {other:?}")),
    }
}

fn wait(pid: pid_t) -> Result<Event> {
    let mut status = 0;
    // SAFETY: `status` is written by the call.
    while unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } < 0 {
        let error = Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(format!("waiting for the child: {error}"));
        }
    }
    if libc::WIFSTOPPED(status) { Ok(Event::Stopped(libc::WSTOPSIG(status))) } else { Ok(Event::Ended) }
}

fn request(request: c_uint, pid: pid_t, data: usize) -> Result<()> {
    ptrace(request, pid, data).map_err(|error| format!("tracing the child (request {request}): {error}"))
}

/// A request without an address. None of those made here goes by one.
fn ptrace(request: c_uint, pid: pid_t, data: usize) -> std::io::Result<()> {
    // SAFETY: the requests made here read and write no memory of this process.
    let done = unsafe { libc::ptrace(request, pid, null_mut::<c_void>(), data) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
