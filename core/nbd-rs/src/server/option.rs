//! What each option means: its data is parsed from a slice that holds exactly that data, and its replies
//! go to the output.

use super::handshake::{Close, TlsPolicy};
use crate::codec::{Output, Reader};
use crate::error::ClientMisbehaved;
use crate::export::ExportInfo;
use crate::session::{Context, Contexts, Headers, Negotiated};
use crate::text::{self, BadString};
use crate::wire::{EXPORT_NAME_PADDING, OPTION_REPLY_MAGIC, info, opt, rep};

/// Longest name that an error text repeats, in bytes.
const ECHO_MAX: usize = 200;

/// What the options so far settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Agreement {
    pub(super) no_zeroes: bool,
    headers: Headers,
    /// The last selection of contexts that succeeded, and the export that it was made for.
    selection: Option<(usize, Contexts)>,
}

impl Agreement {
    /// What is left of it when TLS starts: what the client said before any option.
    pub(super) fn without_options(&self) -> Agreement {
        Agreement { no_zeroes: self.no_zeroes, ..Agreement::default() }
    }

    /// The agreement for the chosen export. Contexts that were selected for another one are void.
    pub(super) fn negotiated(&self, export: usize, sizes_untold: bool) -> Negotiated {
        let contexts = self.contexts_of(export);
        Negotiated { export, headers: self.headers, contexts, sizes_untold, no_zeroes: self.no_zeroes }
    }

    fn contexts_of(&self, export: usize) -> Contexts {
        match self.selection {
            Some((of, contexts)) if of == export => contexts,
            _ => Contexts::NONE,
        }
    }

    /// What `INFO`, `GO` and `EXPORT_NAME` say about an export.
    fn flags_of(&self, index: usize, export: &ExportInfo) -> u16 {
        export.features().transmission_flags(self.headers, self.contexts_of(index))
    }
}

/// What follows an option.
pub(super) enum Next {
    Option,
    Transmission(usize),
    Close(Close),
}

/// Whether the data of an option matters, beyond its length.
pub(super) fn needs_data(option: u32) -> bool {
    matches!(option, opt::EXPORT_NAME | opt::INFO | opt::GO | opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT)
}

/// Why an option fails while the handshake goes on: a [`rep`] error and its text.
struct Refusal {
    reply: u32,
    text: String,
}

impl Refusal {
    fn new(reply: u32, text: impl Into<String>) -> Self {
        Refusal { reply, text: text.into() }
    }

    fn malformed() -> Self {
        Refusal::new(rep::ERR_INVALID, "the data of the option is malformed")
    }

    fn string(what: &str, bad: BadString) -> Self {
        match bad {
            BadString::TooLong => Refusal::new(rep::ERR_TOO_BIG, format!("{what} is longer than 4096 bytes")),
            BadString::NotText => Refusal::new(rep::ERR_INVALID, format!("{what} is not UTF-8 without NUL")),
        }
    }
}

/// Answers `LIST` where the operator does not allow it.
pub(super) fn refuse_list(len: u32, output: &mut Output) {
    let refusal = no_data(len).err().unwrap_or_else(|| {
        Refusal::new(rep::ERR_POLICY, "this server does not list its exports; ask for one by name")
    });
    reply_error(output, opt::LIST, &refusal);
}

/// Answers any option but `STARTTLS` and `ABORT` where TLS is required and not there yet.
pub(super) fn refuse_in_the_clear(option: u32, output: &mut Output) {
    let refusal = Refusal::new(rep::ERR_TLS_REQD, "this server serves nothing without TLS; start TLS first");
    reply_error(output, option, &refusal);
}

/// Answers `STARTTLS`; whether TLS is to start, the answer being the last bytes in the clear.
pub(super) fn start_tls(len: u32, policy: TlsPolicy, secure: bool, output: &mut Output) -> bool {
    let result = match policy {
        TlsPolicy::Unsupported => Err(Refusal::new(rep::ERR_UNSUP, "this server has no TLS")),
        TlsPolicy::Refused => no_data(len)
            .and(Err(Refusal::new(rep::ERR_POLICY, "TLS is not configured on this server; connect without"))),
        TlsPolicy::Offered | TlsPolicy::Required if secure => {
            Err(Refusal::new(rep::ERR_INVALID, "TLS was started already"))
        }
        TlsPolicy::Offered | TlsPolicy::Required => no_data(len),
    };
    match &result {
        Ok(()) => reply(output, opt::STARTTLS, rep::ACK, &[]),
        Err(refusal) => reply_error(output, opt::STARTTLS, refusal),
    }
    result.is_ok()
}

/// Carries out one option other than `STARTTLS`. `len` is the length of its data; `data` is that data if [`needs_data`].
pub(super) fn handle(
    option: u32,
    len: u32,
    data: &[u8],
    exports: &[ExportInfo],
    agreed: &mut Agreement,
    output: &mut Output,
) -> Next {
    let result = match option {
        opt::EXPORT_NAME => return export_name(data, exports, agreed, output),
        opt::ABORT => {
            reply(output, option, rep::ACK, &[]);
            return Next::Close(Close::Aborted);
        }
        opt::INFO | opt::GO => match describe(option, data, exports, agreed, output) {
            Ok(export) if option == opt::GO => return Next::Transmission(export),
            other => other.map(|_| ()),
        },
        opt::LIST => no_data(len).map(|()| list(exports, output)),
        opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS => {
            agree_on_headers(option, len, agreed).map(|()| reply(output, option, rep::ACK, &[]))
        }
        opt::LIST_META_CONTEXT => list_contexts(data, exports, agreed, output),
        opt::SET_META_CONTEXT => select_contexts(data, exports, agreed, output),
        _ => Err(Refusal::new(rep::ERR_UNSUP, "this server does not know the option")),
    };
    if let Err(refusal) = result {
        reply_error(output, option, &refusal);
    }
    Next::Option
}

/// Extended headers hold from then on: there is no way back to structured replies, except by TLS.
fn agree_on_headers(option: u32, len: u32, agreed: &mut Agreement) -> Result<(), Refusal> {
    no_data(len)?;
    agreed.headers = match option {
        opt::EXTENDED_HEADERS => Headers::Extended,
        _ if agreed.headers.is_extended() => {
            let text = "extended headers were negotiated already, and take the place of structured replies";
            return Err(Refusal::new(rep::ERR_EXT_HEADER_REQD, text));
        }
        _ => Headers::Structured,
    };
    Ok(())
}

fn no_data(len: u32) -> Result<(), Refusal> {
    if len == 0 { Ok(()) } else { Err(Refusal::new(rep::ERR_INVALID, "the option takes no data")) }
}

fn find(exports: &[ExportInfo], name: &str) -> Option<usize> {
    if name.is_empty() && !exports.is_empty() {
        return Some(0);
    }
    exports.iter().position(|export| export.name() == name)
}

fn find_or_refuse<'e>(exports: &'e [ExportInfo], name: &[u8]) -> Result<(usize, &'e ExportInfo), Refusal> {
    let name = text::parse(name).map_err(|bad| Refusal::string("the export's name", bad))?;
    find(exports, name).and_then(|index| Some((index, exports.get(index)?))).ok_or_else(|| {
        Refusal::new(rep::ERR_UNKNOWN, format!("no export is named \"{}\"", text::sanitise(name, ECHO_MAX)))
    })
}

fn export_name(data: &[u8], exports: &[ExportInfo], agreed: &Agreement, output: &mut Output) -> Next {
    if agreed.headers.is_extended() {
        return Next::Close(Close::Misbehaved(ClientMisbehaved::ExportNameExtended));
    }
    let Ok(name) = text::parse(data) else {
        return Next::Close(Close::Misbehaved(ClientMisbehaved::ExportName));
    };
    let Some((index, export)) = find(exports, name).and_then(|index| Some((index, exports.get(index)?)))
    else {
        return Next::Close(Close::UnknownExport);
    };
    output.put_u64(export.size());
    output.put_u16(agreed.flags_of(index, export));
    if !agreed.no_zeroes {
        output.put(&[0; EXPORT_NAME_PADDING]);
    }
    Next::Transmission(index)
}

/// `INFO` and `GO`: the same answer, byte for byte but for the option's number. The block sizes are told
/// unasked, because a client that ignores them is only refused, never served wrong.
fn describe(
    option: u32,
    data: &[u8],
    exports: &[ExportInfo],
    agreed: &Agreement,
    output: &mut Output,
) -> Result<usize, Refusal> {
    let (name, asked) = parse_info(data).ok_or_else(Refusal::malformed)?;
    let (index, export) = find_or_refuse(exports, name)?;
    let asks = |kind: u16| asked.chunks_exact(2).any(|pair| pair == kind.to_be_bytes());

    let flags = agreed.flags_of(index, export);
    let size = export.size().to_be_bytes();
    reply(output, option, rep::INFO, &[&info::EXPORT.to_be_bytes(), &size, &flags.to_be_bytes()]);
    if asks(info::NAME) {
        reply(output, option, rep::INFO, &[&info::NAME.to_be_bytes(), export.name().as_bytes()]);
    }
    if asks(info::DESCRIPTION) && !export.description().is_empty() {
        let description = export.description().as_bytes();
        reply(output, option, rep::INFO, &[&info::DESCRIPTION.to_be_bytes(), description]);
    }
    let block = export.block_sizes();
    let sizes = [block.minimum(), block.preferred(), block.max_payload()].map(u32::to_be_bytes);
    reply(output, option, rep::INFO, &[&info::BLOCK_SIZE.to_be_bytes(), sizes.as_flattened()]);
    reply(output, option, rep::ACK, &[]);
    Ok(index)
}

/// The name, and the requested information types as pairs of bytes.
fn parse_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(data);
    let name_len = usize::try_from(reader.u32()?).ok()?;
    let name = reader.take(name_len)?;
    let count = usize::from(reader.u16()?);
    let asked = reader.take(count * 2)?;
    (reader.remaining() == 0).then_some((name, asked))
}

fn list(exports: &[ExportInfo], output: &mut Output) {
    for export in exports {
        let name = export.name().as_bytes();
        // A name has at most 4096 bytes.
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
        reply(output, opt::LIST, rep::SERVER, &[&name_len, name, export.description().as_bytes()]);
    }
    reply(output, opt::LIST, rep::ACK, &[]);
}

/// An exact name lists its context, a namespace with its colon all contexts in it, and no query all.
fn list_contexts(
    data: &[u8],
    exports: &[ExportInfo],
    agreed: &Agreement,
    output: &mut Output,
) -> Result<(), Refusal> {
    let (_, export, queries) = parse_contexts(data, exports, agreed)?;
    let matches = |query: &[u8], name: &str| {
        query == name.as_bytes() || (query.ends_with(b":") && name.as_bytes().starts_with(query))
    };
    for name in export.contexts() {
        if queries.is_empty() || queries.iter().any(|query| matches(query, name)) {
            // The protocol reserves the id here: zero.
            let id = 0u32.to_be_bytes();
            reply(output, opt::LIST_META_CONTEXT, rep::META_CONTEXT, &[&id, name.as_bytes()]);
        }
    }
    reply(output, opt::LIST_META_CONTEXT, rep::ACK, &[]);
    Ok(())
}

/// Queries of unknown namespaces and leaves select nothing, and neither does a namespace alone. Whatever
/// was selected before is gone, even if this one fails.
fn select_contexts(
    data: &[u8],
    exports: &[ExportInfo],
    agreed: &mut Agreement,
    output: &mut Output,
) -> Result<(), Refusal> {
    agreed.selection = None;
    let (index, export, queries) = parse_contexts(data, exports, agreed)?;
    let mut selected = Contexts::NONE;
    for (place, name) in export.contexts().iter().enumerate() {
        let Some(context) = Context::nth(place).filter(|_| queries.contains(&name.as_bytes())) else {
            continue;
        };
        selected = selected.with(context);
        let id = context.id().to_be_bytes();
        reply(output, opt::SET_META_CONTEXT, rep::META_CONTEXT, &[&id, name.as_bytes()]);
    }
    reply(output, opt::SET_META_CONTEXT, rep::ACK, &[]);
    agreed.selection = Some((index, selected));
    Ok(())
}

/// The index of the export, the export, and the queries. Both options need structured replies or extended
/// headers first.
fn parse_contexts<'d, 'e>(
    data: &'d [u8],
    exports: &'e [ExportInfo],
    agreed: &Agreement,
) -> Result<(usize, &'e ExportInfo, Vec<&'d [u8]>), Refusal> {
    if !agreed.headers.has_chunks() {
        return Err(Refusal::new(rep::ERR_INVALID, "metadata contexts need structured replies first"));
    }
    let (name, queries) = split_contexts(data).ok_or_else(Refusal::malformed)?;
    if queries.iter().any(|query| query.len() > crate::wire::limit::STRING) {
        return Err(Refusal::string("a query", BadString::TooLong));
    }
    let (index, export) = find_or_refuse(exports, name)?;
    Ok((index, export, queries))
}

fn split_contexts(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut reader = Reader::new(data);
    let name_len = usize::try_from(reader.u32()?).ok()?;
    let name = reader.take(name_len)?;
    let count = reader.u32()?;
    // The count is the client's word; the list grows with queries that are there.
    let mut queries = Vec::new();
    for _ in 0..count {
        let len = usize::try_from(reader.u32()?).ok()?;
        queries.push(reader.take(len)?);
    }
    (reader.remaining() == 0).then_some((name, queries))
}

fn reply_error(output: &mut Output, option: u32, refusal: &Refusal) {
    reply(output, option, refusal.reply, &[refusal.text.as_bytes()]);
}

/// One option reply whose data is the concatenation of `parts`.
fn reply(output: &mut Output, option: u32, kind: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    output.put_u64(OPTION_REPLY_MAGIC);
    output.put_u32(option);
    output.put_u32(kind);
    // The parts are strings of at most 4096 bytes and a few integers.
    output.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    for part in parts {
        output.put(part);
    }
}
