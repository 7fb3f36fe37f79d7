//! What a server says about an export. Values of these types obey the protocol's rules once made, so
//! nothing later has to check them again.

use crate::error::ApiMisuse;
use crate::session::{Context, Contexts, Headers};
use crate::text;
use crate::wire::{limit, transmission_flag};

/// The block sizes of an export, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizes {
    minimum: u32,
    preferred: u32,
    max_payload: u32,
}

impl BlockSizes {
    /// Checks the protocol's rules: `minimum` is a power of two from 1 to 65536; `preferred` is a power of
    /// two, at least 512 and at least `minimum`; `max_payload` is at least `preferred`.
    ///
    /// # Errors
    /// The first rule that is broken, in this order.
    pub fn new(minimum: u32, preferred: u32, max_payload: u32) -> Result<Self, ApiMisuse> {
        if !minimum.is_power_of_two() || minimum > limit::MINIMUM_BLOCK {
            return Err(ApiMisuse::MinimumBlock(minimum));
        }
        if !preferred.is_power_of_two() || preferred < limit::PREFERRED_BLOCK.max(minimum) {
            return Err(ApiMisuse::PreferredBlock(preferred));
        }
        if max_payload < preferred {
            return Err(ApiMisuse::MaximumPayload(max_payload));
        }
        Ok(BlockSizes { minimum, preferred, max_payload })
    }

    /// Offsets and lengths of requests are multiples of this.
    pub fn minimum(self) -> u32 {
        self.minimum
    }

    /// Requests of this size and alignment are efficient.
    pub fn preferred(self) -> u32 {
        self.preferred
    }

    /// The largest payload that the server advertises. It accepts up to [`limit::PAYLOAD`] all the same.
    pub fn max_payload(self) -> u32 {
        self.max_payload
    }
}

impl Default for BlockSizes {
    /// What the protocol lets a client assume of a server that says nothing: 1, 4096, 32 MiB.
    fn default() -> Self {
        BlockSizes { minimum: 1, preferred: 4096, max_payload: limit::PAYLOAD_ADVERTISED }
    }
}

/// What an export can do. A feature that is off is not advertised, and a request that uses it is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Commands that write are refused with `EPERM`.
    pub read_only: bool,
    /// `FLUSH` is served. Leave it on unless no write is ever cached anywhere.
    pub flush: bool,
    /// The `FUA` flag is honoured.
    pub fua: bool,
    /// The export seeks like a spinning disk.
    pub rotational: bool,
    /// `TRIM` is served.
    pub trim: bool,
    /// `WRITE_ZEROES` is served.
    pub write_zeroes: bool,
    /// `FAST_ZERO` is served, if only with `ENOTSUP`. Means nothing without `write_zeroes`.
    pub fast_zero: bool,
    /// `CACHE` is served.
    pub cache: bool,
    /// A flush on one connection covers the writes that were answered on all of them.
    pub multi_conn: bool,
    /// Reads that start and end at any byte are served to clients that cannot know the block sizes:
    /// `EXPORT_NAME` has no place for them. See [`crate::Session::read_span`]. Off, such a read is refused
    /// with `EINVAL`, which some of those clients take for the end of the world, or for data.
    pub unaligned_reads: bool,
    /// `RESIZE` is served (draft extension). Leave it off unless the server carries
    /// [`crate::Command::Resize`] out and tells the sessions with [`crate::Session::resized`].
    pub resize: bool,
}

impl Features {
    /// The export's [`transmission_flag`] bits for a session with these `headers`, in which these `contexts`
    /// were selected. `DF` is there only when replies come in chunks; a read-only export offers no command
    /// that writes.
    pub fn transmission_flags(self, headers: Headers, contexts: Contexts) -> u16 {
        use transmission_flag as bit;
        let writes = !self.read_only;
        let bits = [
            (true, bit::HAS_FLAGS),
            (self.read_only, bit::READ_ONLY),
            (self.flush, bit::SEND_FLUSH),
            (self.fua, bit::SEND_FUA),
            (self.rotational, bit::ROTATIONAL),
            (self.trim && writes, bit::SEND_TRIM),
            (self.write_zeroes && writes, bit::SEND_WRITE_ZEROES),
            (headers.has_chunks(), bit::SEND_DF),
            (self.multi_conn, bit::CAN_MULTI_CONN),
            (self.resize && writes, bit::SEND_RESIZE),
            (self.cache, bit::SEND_CACHE),
            (self.offers_fast_zero(), bit::SEND_FAST_ZERO),
            (headers.is_extended() && !contexts.is_empty(), bit::BLOCK_STATUS_PAYLOAD),
        ];
        bits.into_iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit)
    }

    /// Whether `FAST_ZERO` may be used: it needs `WRITE_ZEROES`, and an export that can be written.
    pub(crate) fn offers_fast_zero(self) -> bool {
        self.fast_zero && self.write_zeroes && !self.read_only
    }
}

/// One export as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    name: String,
    description: String,
    size: u64,
    block: BlockSizes,
    features: Features,
    contexts: Vec<String>,
}

impl ExportInfo {
    /// An export of `size` bytes (rounded down to the minimum block size, as the rest could not be
    /// addressed), with `base:allocation` as its only metadata context.
    ///
    /// # Errors
    /// [`ApiMisuse::BadString`] for a name over 4096 bytes or with NUL, [`ApiMisuse::Size`] above 2^63 - 1.
    pub fn new(
        name: impl Into<String>,
        size: u64,
        block: BlockSizes,
        features: Features,
    ) -> Result<Self, ApiMisuse> {
        let name = checked_string("name", name.into())?;
        if size > i64::MAX as u64 {
            return Err(ApiMisuse::Size(size));
        }
        let size = size - size % u64::from(block.minimum);
        let contexts = vec![Context::BASE_ALLOCATION_NAME.to_owned()];
        Ok(ExportInfo { name, description: String::new(), size, block, features, contexts })
    }

    /// The same export with one more metadata context, `namespace:leaf`; namespaces that are not registered
    /// with the protocol begin with `x-`. The place among [`ExportInfo::contexts`] is its [`Context`].
    ///
    /// # Errors
    /// [`ApiMisuse::Context`] for a name without a namespace or a leaf, over 4096 bytes, with NUL, or that
    /// the export has already; and for the 33rd context.
    pub fn with_context(mut self, name: impl Into<String>) -> Result<Self, ApiMisuse> {
        let name = name.into();
        let parts = name.split_once(':').is_some_and(|(space, leaf)| !space.is_empty() && !leaf.is_empty());
        let fits = parts && text::parse(name.as_bytes()).is_ok() && self.contexts.len() < limit::CONTEXTS;
        if !fits || self.contexts.contains(&name) {
            return Err(ApiMisuse::Context(text::sanitise(&name, 80)));
        }
        self.contexts.push(name);
        Ok(self)
    }

    /// The same export with a text for people, shown by clients that list exports.
    ///
    /// # Errors
    /// [`ApiMisuse::BadString`] for a text over 4096 bytes or with NUL.
    pub fn with_description(self, description: impl Into<String>) -> Result<Self, ApiMisuse> {
        Ok(ExportInfo { description: checked_string("description", description.into())?, ..self })
    }

    /// The name by which clients choose it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text for people; empty if there is none.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Size in bytes, a multiple of the minimum block size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its block sizes.
    pub fn block_sizes(&self) -> BlockSizes {
        self.block
    }

    /// What it can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The names of its metadata contexts, in the order of [`Context::place`].
    pub fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// The context of exactly this name.
    pub fn context(&self, name: &str) -> Option<Context> {
        self.contexts.iter().position(|known| known == name).and_then(Context::nth)
    }
}

fn checked_string(what: &'static str, string: String) -> Result<String, ApiMisuse> {
    match text::parse(string.as_bytes()) {
        Ok(_) => Ok(string),
        Err(_) => Err(ApiMisuse::BadString { what, len: string.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_obey_the_protocol() {
        assert!(BlockSizes::new(512, 65536, 32 << 20).is_ok());
        for (minimum, preferred, max, error) in [
            (0, 4096, 1 << 20, ApiMisuse::MinimumBlock(0)),
            (3, 4096, 1 << 20, ApiMisuse::MinimumBlock(3)),
            (131_072, 131_072, 1 << 20, ApiMisuse::MinimumBlock(131_072)),
            (1, 256, 1 << 20, ApiMisuse::PreferredBlock(256)),
            (4096, 512, 1 << 20, ApiMisuse::PreferredBlock(512)),
            (512, 3 * 4096, 1 << 20, ApiMisuse::PreferredBlock(3 * 4096)),
            (512, 4096, 2048, ApiMisuse::MaximumPayload(2048)),
        ] {
            assert_eq!(BlockSizes::new(minimum, preferred, max), Err(error));
        }
        let d = BlockSizes::default();
        assert_eq!(BlockSizes::new(d.minimum, d.preferred, d.max_payload), Ok(d));
    }

    #[test]
    fn size_is_rounded_down_to_the_minimum_block() {
        let block = BlockSizes::new(4096, 65536, 32 << 20).unwrap();
        let info = ExportInfo::new("v", 10_000, block, Features::default()).unwrap();
        assert_eq!(info.size(), 8192);
        assert!(ExportInfo::new("v", u64::MAX, block, Features::default()).is_err());
        assert!(ExportInfo::new("a\0", 1, block, Features::default()).is_err());
        assert!(info.with_description("x".repeat(5000)).is_err());
    }

    #[test]
    fn flags_depend_on_each_other() {
        let all = Features {
            read_only: false,
            flush: true,
            fua: true,
            rotational: true,
            trim: true,
            write_zeroes: true,
            fast_zero: true,
            cache: true,
            multi_conn: true,
            unaligned_reads: true,
            resize: false,
        };
        let one = Contexts::NONE.with(Context::BASE_ALLOCATION);
        let flags =
            |features: Features, headers: Headers| features.transmission_flags(headers, Contexts::NONE);
        assert_eq!(flags(all, Headers::Structured), 0xdfd);
        assert_eq!(flags(all, Headers::Simple), 0xd7d);
        assert_eq!(flags(Features { rotational: false, ..all }, Headers::Simple), 0xd6d);
        assert_eq!(flags(all, Headers::Extended), 0xdfd);
        assert_eq!(all.transmission_flags(Headers::Extended, one), 0x1dfd);
        assert_eq!(all.transmission_flags(Headers::Structured, one), 0xdfd);
        assert_eq!(flags(Features { resize: true, ..all }, Headers::Simple), 0xf7d);
        let read_only = Features { read_only: true, resize: true, ..all };
        assert_eq!(flags(read_only, Headers::Simple), 0x51f);
        assert_eq!(flags(Features { write_zeroes: false, ..all }, Headers::Simple), 0x53d);
        assert_eq!(flags(Features::default(), Headers::Simple), 1);
    }

    #[test]
    fn contexts_have_a_namespace_and_a_leaf() {
        let info = ExportInfo::new("v", 4096, BlockSizes::default(), Features::default()).unwrap();
        let two = info.clone().with_context("x-own:thing").unwrap();
        assert_eq!(two.contexts(), ["base:allocation", "x-own:thing"]);
        assert_eq!(two.context("x-own:thing").map(Context::id), Some(2));
        assert_eq!(two.context("base:allocation"), Some(Context::BASE_ALLOCATION));
        assert_eq!(two.context("x-own:"), None);
        let long = format!("x-own:{}", "y".repeat(5000));
        for bad in ["", "x-own", "x-own:", ":thing", "x-own:thing", "base:allocation", "x\0:y", long.as_str()]
        {
            assert!(two.clone().with_context(bad).is_err(), "{bad:?}");
        }
        let mut many = info;
        for i in 1..limit::CONTEXTS {
            many = many.with_context(format!("x-own:{i}")).unwrap();
        }
        assert!(many.with_context("x-own:more").is_err());
    }
}
