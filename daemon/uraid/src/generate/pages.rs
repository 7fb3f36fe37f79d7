//! uraid(1), and a page for each of its commands, from the definition of the command line.

use clap::Command;
use clap_mangen::Man;

use super::roff::Page;
use super::{File, Imprint, public_command};

const OPTIONS: &str = ".SH OPTIONS\n";
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n";

/// The page of the program, then those of its commands.
pub(super) fn of_commands(imprint: Imprint<'_>) -> Vec<File> {
    let mut program = public_command();
    program.build();
    let names: Vec<String> = program.get_subcommands().map(|sub| page_name(sub.get_name())).collect();
    let mut pages = vec![("uraid.1".to_owned(), of_program(&program, imprint))];
    for command in program.get_subcommands() {
        let file = format!("{}.1", page_name(command.get_name()));
        pages.push((file, of_command(command, &names, imprint)));
    }
    pages
}

fn page_name(command: &str) -> String {
    format!("uraid-{command}")
}

fn of_program(program: &Command, imprint: Imprint<'_>) -> String {
    let mut page = Page::new("uraid", "1", imprint.date, "uraid Manual");
    page.section("NAME");
    page.paragraph(&format!("uraid - {}", about(program)));
    page.section("SYNOPSIS");
    page.paragraph("`uraid` COMMAND [OPTIONS] ...");
    page.section("DESCRIPTION");
    for paragraph in [
        "uraid joins files or block devices to one volume that survives the loss of one member (RAID 4 and \
         5) or two (RAID 6). A member looks as Linux md has it, superblock 1.2: mdadm(8) describes it, and the \
         kernel can assemble an array that was stopped cleanly. The volume is served over NBD, to the kernel \
         of the same machine or to other clients.",
        "As a service a volume is described by `/etc/uraid/NAME.toml` and started by `systemctl start \
         uraid@NAME`; uraid@.service(8) has all of that, from the first volume to a failed disk.",
    ] {
        page.paragraph(paragraph);
    }
    page.section("COMMANDS");
    for command in program.get_subcommands() {
        page.term(&format!("{}(1)", page_name(command.get_name())), &about(command));
    }
    page.section("FILES");
    page.term("/etc/uraid/NAME.toml", "The configuration of the volume NAME, see uraid.toml(5).");
    page.term("/run/uraid/NAME.sock", "Where NBD clients connect, unless the configuration says otherwise.");
    page.term(
        "/run/uraid/NAME.control",
        "Where the commands talk to the daemon, likewise. The protocol is in /usr/share/doc/uraid/json.md.",
    );
    page.section("ENVIRONMENT");
    page.term(
        "URAID_LOG",
        "What is logged: `error`, `warn`, `info` (the default), `debug`, `trace`, or a filter such as \
         `info,uraid_shard=debug`. Without it RUST_LOG counts.",
    );
    page.term("NO_COLOR", "If it is set, the log is not coloured on a terminal.");
    page.section("EXIT STATUS");
    page.paragraph(
        "0 if it worked, 1 if it was tried and failed, 2 if the command line or a configuration is wrong.",
    );
    page.section("SEE ALSO");
    page.paragraph("`uraid.toml(5)`, `uraid@.service(8)`, `mdadm(8)`, `nbdinfo(1)`");
    page.into_text()
}

fn of_command(command: &Command, names: &[String], imprint: Imprint<'_>) -> String {
    let name = page_name(command.get_name());
    let mut page = Page::new(&name, "1", imprint.date, "uraid Manual");
    page.section("NAME");
    page.paragraph(&format!("{name} - {}", about(command)));
    page.section("SYNOPSIS");
    page.paragraph(&usage(command));
    page.section("DESCRIPTION");
    page.paragraph(&command.get_long_about().map_or_else(|| about(command), ToString::to_string));
    let options = options(command);
    if let Some(more) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        page.section("NOTES");
        page.verbatim(&more.to_string());
    }
    page.section("SEE ALSO");
    let others = names.iter().filter(|other| **other != name).map(|other| format!("`{other}(1)`"));
    let others: Vec<String> = ["`uraid(1)`".to_owned()].into_iter().chain(others).collect();
    page.paragraph(&format!("{}, `uraid.toml(5)`, `uraid@.service(8)`", others.join(", ")));
    page.into_text().replacen(SEE_ALSO, &format!("{options}{SEE_ALSO}"), 1)
}

/// The words after which the command is listed, without a full stop at their end.
fn about(command: &Command) -> String {
    let text = command.get_about().map(ToString::to_string).unwrap_or_default();
    text.trim_end_matches('.').to_owned()
}

/// How the command is written, as `--help` shows it.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage:").trim().to_owned();
    let rest = usage.strip_prefix("uraid ").unwrap_or(&usage);
    match rest.split_once(' ') {
        Some((word, rest)) => format!("`uraid {word}` {rest}"),
        None => format!("`uraid {rest}`"),
    }
}

/// The section OPTIONS, which clap_mangen makes; operands are in it, too. What stands between backticks
/// becomes bold, as on the rest of the page.
fn options(command: &Command) -> String {
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = Man::new(command.clone()).render_options_section(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    // What comes before the heading is the preamble that every page begins with.
    let Some((_, section)) = text.split_once(OPTIONS) else { return String::new() };
    // A paragraph within an item is a request of its own; two forced line breaks are not.
    let mut section = section.replace("\n.br\n\n.br\n", "\n.IP\n");
    while let Some((before, rest)) = section.split_once('`') {
        let Some((code, after)) = rest.split_once('`') else { break };
        section = format!("{before}\\fB{code}\\fR{after}");
    }
    format!("{OPTIONS}{section}")
}
