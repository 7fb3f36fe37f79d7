//! Generic netlink messages as bytes: built into a vector, taken apart from a slice.
//!
//! For: the sockets of this module. Everything here is pure, and nothing that the kernel (or anything
//! else) sends makes it panic: what does not fit ends the walk over it.
//!
//! Layouts, all in the byte order of the machine, from linux/netlink.h and linux/genetlink.h:
//!
//! ```text
//! message    u32 length of all, u16 type, u16 flags, u32 sequence, u32 port | body, padded to 4
//! body       u8 command, u8 version, u16 zero | attributes      (generic netlink)
//! attribute  u16 length of header and value, u16 type | value, padded to 4
//! error      i32 minus errno, 16 bytes: the header that it answers | its body unless CAPPED | attributes
//! ```

/// Bytes of a message's header.
const MESSAGE_HEADER: usize = 16;
/// Bytes of the header of generic netlink.
const GENERIC_HEADER: usize = 4;
/// Bytes of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;

/// Types of messages (u16) below those of the families.
pub(crate) mod kind {
    /// An error, or with number zero the acknowledgement.
    pub(crate) const ERROR: u16 = 2;
}

/// Flags of messages (u16).
pub(crate) mod flag {
    /// A request.
    pub(crate) const REQUEST: u16 = 1;
    /// It is to be acknowledged.
    pub(crate) const ACK: u16 = 4;
    /// In an error: the body of the request is left out.
    pub(crate) const CAPPED: u16 = 0x100;
    /// In an error: attributes follow.
    pub(crate) const ACK_TLVS: u16 = 0x200;
}

/// The low 14 bits of an attribute's type; the two above are marks (nested, network byte order).
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// The mark of an attribute that holds attributes. The nbd family does without it and does not mind it.
const NESTED: u16 = 0x8000;
/// The attribute of an error that holds a text for people.
const ERROR_TEXT: u16 = 1;

/// A request under construction.
#[derive(Debug)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// A request to `family` that asks for an acknowledgement.
    pub(crate) fn new(family: u16, command: u8, version: u8, sequence: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(family.to_ne_bytes());
        bytes.extend((flag::REQUEST | flag::ACK).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([command, version, 0, 0]);
        Builder { bytes }
    }

    /// An attribute with these bytes. A value that no attribute can hold is cut; none of ours comes near.
    pub(crate) fn bytes(mut self, number: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.bytes, number, value);
        self
    }

    /// An attribute that holds a number.
    pub(crate) fn u32(self, number: u16, value: u32) -> Self {
        self.bytes(number, &value.to_ne_bytes())
    }

    /// An attribute that holds a number.
    pub(crate) fn u64(self, number: u16, value: u64) -> Self {
        self.bytes(number, &value.to_ne_bytes())
    }

    /// An attribute that holds a number, if there is one.
    pub(crate) fn u64_if(self, number: u16, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.u64(number, value),
            None => self,
        }
    }

    /// An attribute that holds a text, with the zero at its end that the kernel wants.
    pub(crate) fn text(self, number: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(number, &bytes)
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(self, number: u16, inner: &[u8]) -> Self {
        self.bytes(number | NESTED, inner)
    }

    /// The whole message, its length filled in.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        for (at, byte) in self.bytes.iter_mut().zip(len) {
            *at = byte;
        }
        self.bytes
    }
}

/// Appends one attribute, padded.
pub(crate) fn push_attribute(to: &mut Vec<u8>, number: u16, value: &[u8]) {
    let room = usize::from(u16::MAX) - ATTRIBUTE_HEADER;
    let value = value.get(..room).unwrap_or(value);
    let len = u16::try_from(value.len() + ATTRIBUTE_HEADER).unwrap_or(u16::MAX);
    to.extend(len.to_ne_bytes());
    to.extend(number.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// One message that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Message<'a> {
    /// [`kind::ERROR`], another control message, or the family's number.
    pub(crate) kind: u16,
    /// [`flag`] bits.
    pub(crate) flags: u16,
    /// That of the request which it answers; zero for events.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acknowledgement {
    /// Zero if it succeeded.
    pub(crate) errno: i32,
    /// What the kernel has to say about it.
    pub(crate) text: Option<String>,
}

impl<'a> Message<'a> {
    /// Command and attributes, of a message of generic netlink.
    pub(crate) fn generic(&self) -> Option<(u8, Attributes<'a>)> {
        let command = *self.body.first()?;
        Some((command, Attributes(self.body.get(GENERIC_HEADER..)?)))
    }

    /// The acknowledgement or error, if it is one.
    pub(crate) fn acknowledgement(&self) -> Option<Acknowledgement> {
        if self.kind != kind::ERROR {
            return None;
        }
        let errno = i32::from_ne_bytes(array(self.body, 0)?).checked_neg()?;
        let text = self.error_text().map(|text| String::from_utf8_lossy(text).into_owned());
        Some(Acknowledgement { errno, text: text.filter(|text| !text.is_empty()) })
    }

    fn error_text(&self) -> Option<&'a [u8]> {
        if self.flags & flag::ACK_TLVS == 0 {
            return None;
        }
        let answered = u32::from_ne_bytes(array(self.body, 4)?);
        let echoed =
            if self.flags & flag::CAPPED == 0 { usize::try_from(answered).ok()? } else { MESSAGE_HEADER };
        let at = 4usize.checked_add(echoed.max(MESSAGE_HEADER))?.checked_next_multiple_of(4)?;
        let text = Attributes(self.body.get(at..)?).find(ERROR_TEXT)?;
        text.split(|byte| *byte == 0).next()
    }
}

/// The messages of one datagram.
#[derive(Clone, Debug)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = usize::try_from(u32::from_ne_bytes(array(self.0, 0)?)).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes(array(self.0, 4)?),
            flags: u16::from_ne_bytes(array(self.0, 6)?),
            sequence: u32::from_ne_bytes(array(self.0, 8)?),
            body: self.0.get(MESSAGE_HEADER..len)?,
        };
        self.0 = after(self.0, len);
        Some(message)
    }
}

/// Attributes one behind the other.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the last attribute of this type, as the kernel takes them, too.
    pub(crate) fn find(&self, number: u16) -> Option<&'a [u8]> {
        self.clone().filter(|(found, _)| *found == number).last().map(|(_, value)| value)
    }

    /// A number.
    pub(crate) fn u32(&self, number: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(array(self.find(number)?, 0)?))
    }

    /// A number.
    pub(crate) fn u16(&self, number: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(array(self.find(number)?, 0)?))
    }

    /// A number.
    pub(crate) fn u8(&self, number: u16) -> Option<u8> {
        self.find(number)?.first().copied()
    }

    /// A text up to its zero.
    pub(crate) fn text(&self, number: u16) -> Option<&'a [u8]> {
        self.find(number)?.split(|byte| *byte == 0).next()
    }

    /// The attributes in an attribute; none if it is not there.
    pub(crate) fn nest(&self, number: u16) -> Attributes<'a> {
        Attributes(self.find(number).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    /// Type and value.
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(array(self.0, 0)?));
        let number = u16::from_ne_bytes(array(self.0, 2)?) & ATTRIBUTE_TYPE;
        let value = self.0.get(ATTRIBUTE_HEADER..len)?;
        self.0 = after(self.0, len);
        Some((number, value))
    }
}

/// What follows `len` bytes and their padding. The padding behind the last one may be missing.
fn after(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(len.next_multiple_of(4)..).unwrap_or_default()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
