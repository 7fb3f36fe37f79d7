//! Serves memory as an nbd device, and does to it what a test tells it to over a unix socket.
//!
//! ```text
//! attach serve CONTROL [--index N] [--size MIB] [--block BYTES] [--sockets N] [--timeout S]
//!              [--dead-conn-timeout S] [--backend NAME] [--image FILE] [--read-only] [--partition]
//!              [--one-connection] [--destroy] [--ioctl] [--adopt]
//! attach tell CONTROL WORD ...     what words there are: control.rs
//! attach status [N] | attached N | holders N | tune N STRIPE_KIB | resize N MIB | free N
//! ```
//!
//! The end-to-end tests run it in a kernel that has the driver (tests/e2e/test_attach.py).

mod control;
mod memory;
mod server;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nbd_rs::wire::transmission_flag::{CAN_MULTI_CONN, READ_ONLY};
use uraid_attach::{Connect, DeviceChoice, Host, Netlink, QueueLimits, Reconfigure};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", control, options @ ..] => serve(control, options),
        ["tell", control, command @ ..] => control::tell(control, &command.join(" ")),
        ["status"] => {
            for status in Netlink::open()?.status()? {
                println!("nbd{} {}", status.index, if status.in_use { "in use" } else { "free" });
            }
            Ok(())
        }
        ["status", index] => {
            println!("{:?}", Netlink::open()?.status_of(index.parse()?)?.map(|status| status.in_use));
            Ok(())
        }
        ["attached", index] => {
            println!("{:?}", Host::here().attached(index.parse()?));
            Ok(())
        }
        ["holders", index] => {
            println!("{}", Host::here().holders(index.parse()?));
            Ok(())
        }
        ["resize", index, mib] => {
            let change = Reconfigure { size: Some(mib.parse::<u64>()? << 20), ..Reconfigure::default() };
            Ok(Netlink::open()?.reconfigure(index.parse()?, &change, &[])?)
        }
        ["free", index] => {
            let holders = Host::here().wait_until_free(index.parse()?, Duration::from_secs(5));
            println!("{}", holders.is_free());
            Ok(())
        }
        ["tune", index, stripe_kib] => {
            let limits = QueueLimits { stripe_bytes: stripe_kib.parse::<u64>()? << 10, rotational: false };
            let tuned = Host::here().tune(index.parse()?, &limits);
            for refusal in &tuned.refused {
                println!("refused {} {}: {}", refusal.file, refusal.value, refusal.error);
            }
            println!("{:?}", tuned.state);
            Ok(())
        }
        _ => bail!("unknown words; they are listed at the top of examples/attach/main.rs"),
    }
}

fn serve(control: &str, options: &[&str]) -> Result<()> {
    let value = |name: &str| {
        let at = options.iter().position(|option| *option == name)?;
        options.get(at + 1).copied()
    };
    let number = |name: &str, otherwise: u64| -> Result<u64> {
        value(name).map_or(Ok(otherwise), str::parse).with_context(|| format!("{name} wants a number"))
    };
    let has = |name: &str| options.contains(&name);
    let mut wanted = Connect::new(number("--size", 64)? << 20, u32::try_from(number("--block", 4096)?)?);
    if let Some(index) = value("--index") {
        wanted.device = DeviceChoice::Index(index.parse()?);
    }
    if has("--read-only") {
        wanted.server_flags |= READ_ONLY;
    }
    if has("--one-connection") {
        wanted.server_flags &= !CAN_MULTI_CONN;
    }
    wanted.client_flags.destroy_on_disconnect = has("--destroy");
    wanted.timeout = Duration::from_secs(number("--timeout", 30)?);
    wanted.dead_conn_timeout = Duration::from_secs(number("--dead-conn-timeout", 60)?);
    wanted.backend = value("--backend").map(str::to_owned);
    let memory = memory::Memory::open(value("--image").unwrap_or("/run/attach.image"), wanted.size)?;
    if has("--partition") {
        memory.partition(wanted.size)?;
    }
    let sockets = usize::try_from(number("--sockets", 1)?)?;
    let attached = if has("--adopt") {
        control::Controlled::adopt(wanted, sockets, memory)?
    } else {
        control::Controlled::attach(wanted, sockets, memory, has("--ioctl"))?
    };
    attached.listen(control)
}
