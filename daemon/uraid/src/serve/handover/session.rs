//! What was agreed with a client, in words that do not change from version to version.

use nbd_rs::{Contexts, ExportInfo, Headers, Negotiated, Session};
use serde::{Deserialize, Serialize};

/// The outcome of a handshake.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Agreement {
    /// One of [`HEADERS`].
    headers: String,
    /// Names of the metadata contexts that were selected.
    contexts: Vec<String>,
    /// It was told no block sizes, and may read at any byte.
    #[serde(default)]
    unaligned_reads: bool,
}

const HEADERS: [(&str, Headers); 3] =
    [("simple", Headers::Simple), ("structured", Headers::Structured), ("extended", Headers::Extended)];

impl Agreement {
    /// `export` is the one that the session is of.
    pub(super) fn of(session: &Session, export: &ExportInfo) -> Self {
        let word = HEADERS.iter().find(|(_, headers)| *headers == session.headers());
        let name = |context: nbd_rs::Context| export.contexts().get(context.place()).cloned();
        Agreement {
            headers: word.map_or_else(String::new, |(word, _)| (*word).to_owned()),
            // A context without a name would not be found again, and its client is not gone on with.
            contexts: session.contexts().iter().map(|context| name(context).unwrap_or_default()).collect(),
            unaligned_reads: session.unaligned_reads(),
        }
    }

    /// The session that this was; none if it is not offered any more.
    pub(super) fn session(&self, export: &ExportInfo) -> Option<Session> {
        let (_, headers) = HEADERS.into_iter().find(|(word, _)| *word == self.headers)?;
        let mut contexts = Contexts::NONE;
        for name in &self.contexts {
            contexts = contexts.with(export.context(name)?);
        }
        let sizes_untold = self.unaligned_reads;
        Some(Session::new(export, &Negotiated { headers, contexts, sizes_untold, ..Negotiated::default() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_rs::{BlockSizes, Context, Features};

    #[test]
    fn a_session_comes_back_as_it_was() {
        let export = ExportInfo::new("v", 1 << 20, BlockSizes::default(), Features::default()).unwrap();
        let export = export.with_context("x-uraid:a").unwrap().with_context("x-uraid:b").unwrap();
        let second = Context::nth(2).unwrap();
        let some = Contexts::NONE.with(Context::BASE_ALLOCATION).with(second);
        for (_, headers) in HEADERS {
            for contexts in [Contexts::NONE, some] {
                let session =
                    Session::new(&export, &Negotiated { headers, contexts, ..Negotiated::default() });
                assert_eq!(Agreement::of(&session, &export).session(&export), Some(session));
            }
        }
        let odd = Features { unaligned_reads: true, ..Features::default() };
        let odd = ExportInfo::new("v", 1 << 20, BlockSizes::default(), odd).unwrap();
        for sizes_untold in [false, true] {
            let session = Session::new(&odd, &Negotiated { sizes_untold, ..Negotiated::default() });
            assert_eq!(session.unaligned_reads(), sizes_untold);
            assert_eq!(Agreement::of(&session, &odd).session(&odd), Some(session));
        }
        // What a version before that wrote.
        let old: Agreement = serde_json::from_str(r#"{"headers":"simple","contexts":[]}"#).unwrap();
        assert!(!old.session(&odd).unwrap().unaligned_reads());
        // Where the contexts stand in another order, it is the name that counts.
        let other = ExportInfo::new("v", 1 << 20, BlockSizes::default(), Features::default()).unwrap();
        let other = other.with_context("x-uraid:b").unwrap();
        let headers = Headers::Structured;
        let contexts = Contexts::NONE.with(second);
        let session = Session::new(&export, &Negotiated { headers, contexts, ..Negotiated::default() });
        let moved = Agreement::of(&session, &export).session(&other).unwrap();
        assert_eq!(moved.contexts(), Contexts::NONE.with(Context::nth(1).unwrap()));

        let agreement = |headers: &str, contexts| Agreement {
            headers: headers.to_owned(),
            contexts,
            unaligned_reads: false,
        };
        let unknown = agreement("telepathic", vec![]);
        assert_eq!(unknown.session(&export), None);
        for name in ["x:y", ""] {
            let unknown = agreement("structured", vec![name.to_owned()]);
            assert_eq!(unknown.session(&export), None);
        }
    }
}
