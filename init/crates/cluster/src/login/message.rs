//! D-Bus messages, as far as they are needed: calls with strings come in, replies and one signal go out.
//!
//! The wire format is the D-Bus specification's "Message Protocol": a fixed part, an array of header fields, padding to eight bytes, the body.
//! What we send is little-endian.

/// The specification allows 128 MiB; our calls have five short strings.
pub(super) const MESSAGE_MAX: usize = 64 * 1024;
/// Everything before the header fields' own bytes.
pub(super) const FIXED_BYTES: usize = 16;

const LITTLE_ENDIAN: u8 = b'l';
const PROTOCOL_VERSION: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is not a well-formed D-Bus message")]
pub(super) struct Malformed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Reply,
    Error,
    Signal,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Call => 1,
            Self::Reply => 2,
            Self::Error => 3,
            Self::Signal => 4,
        }
    }
}

/// A call, with the strings of its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) serial: u32,
    pub(super) reply_expected: bool,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) arguments: Vec<String>,
}

/// How long the whole message is, told by its first [`FIXED_BYTES`].
pub(super) fn length(fixed: &[u8]) -> Result<usize, Malformed> {
    let big = is_big_endian(fixed)?;
    let mut reader = Reader { bytes: fixed, at: 4, big };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    let total =
        fields.checked_add(FIXED_BYTES).map(|end| end.next_multiple_of(8)).and_then(|end| end.checked_add(body));
    total.filter(|total| *total <= MESSAGE_MAX).ok_or(Malformed)
}

/// Reads a message; `None` for anything that is not a call.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Call>, Malformed> {
    let big = is_big_endian(bytes)?;
    let (kind, flags) = (*bytes.get(1).ok_or(Malformed)?, *bytes.get(2).ok_or(Malformed)?);
    let mut reader = Reader { bytes, at: 8, big };
    let mut call = Call { serial: reader.u32()?, reply_expected: flags & 1 == 0, ..Call::default() };
    let fields_end = reader.u32()? as usize + FIXED_BYTES;
    let mut signature = String::new();
    while reader.at < fields_end {
        reader.align(8)?;
        let code = reader.u8()?;
        let value = reader.variant()?;
        match (code, value) {
            (2, Some(value)) => call.interface = value,
            (3, Some(value)) => call.member = value,
            (8, Some(value)) => signature = value,
            _ => {}
        }
    }
    reader.align(8)?;
    for kind in signature.chars() {
        // No call that we answer has anything but strings.
        if kind != 's' {
            break;
        }
        call.arguments.push(reader.string()?);
    }
    Ok((kind == Kind::Call.code()).then_some(call))
}

fn is_big_endian(bytes: &[u8]) -> Result<bool, Malformed> {
    match (bytes.first(), bytes.get(3)) {
        (Some(&LITTLE_ENDIAN), Some(&PROTOCOL_VERSION)) => Ok(false),
        (Some(b'B'), Some(&PROTOCOL_VERSION)) => Ok(true),
        _ => Err(Malformed),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        self.at = self.at.next_multiple_of(to);
        if self.at > self.bytes.len() { Err(Malformed) } else { Ok(()) }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let big = self.big;
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u8()?);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<String, Malformed> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?.to_owned();
        if self.u8()? == 0 { Ok(text) } else { Err(Malformed) }
    }

    /// A header field's value, if it is text; numbers are skipped.
    fn variant(&mut self) -> Result<Option<String>, Malformed> {
        match self.signature()?.as_str() {
            "s" | "o" => self.string().map(Some),
            "g" => self.signature().map(Some),
            "u" => self.u32().map(|_| None),
            _ => Err(Malformed),
        }
    }
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    kind: Kind,
    reply_to: Option<u32>,
    path: Option<&'static str>,
    interface: Option<&'static str>,
    member: Option<&'static str>,
    error: Option<&'static str>,
    descriptors: u32,
    signature: &'static str,
    body: Vec<u8>,
}

impl Outgoing {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            reply_to: None,
            path: None,
            interface: None,
            member: None,
            error: None,
            descriptors: 0,
            signature: "",
            body: Vec::new(),
        }
    }

    pub(super) fn reply(to: u32) -> Self {
        Self { reply_to: Some(to), ..Self::new(Kind::Reply) }
    }

    pub(super) fn error(to: u32, name: &'static str, text: &str) -> Self {
        Self { reply_to: Some(to), error: Some(name), ..Self::new(Kind::Error) }.string(text)
    }

    pub(super) fn signal(path: &'static str, interface: &'static str, member: &'static str) -> Self {
        Self { path: Some(path), interface: Some(interface), member: Some(member), ..Self::new(Kind::Signal) }
    }

    pub(super) fn string(mut self, text: &str) -> Self {
        self.signature = "s";
        put_string(&mut self.body, text);
        self
    }

    pub(super) fn boolean(mut self, value: bool) -> Self {
        self.signature = "b";
        put_u32(&mut self.body, u32::from(value));
        self
    }

    /// A variant that holds a number of 64 bits.
    pub(super) fn variant_u64(mut self, value: u64) -> Self {
        self.signature = "v";
        put_signature(&mut self.body, "t");
        pad(&mut self.body, 8);
        self.body.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// The index of the one descriptor that travels beside the message.
    pub(super) fn descriptor(mut self) -> Self {
        self.signature = "h";
        self.descriptors = 1;
        put_u32(&mut self.body, 0);
        self
    }

    pub(super) fn encode(&self, serial: u32, sender: &str, destination: &str) -> Vec<u8> {
        let mut fields = Vec::new();
        let texts = [(1, "o", self.path), (2, "s", self.interface), (3, "s", self.member), (4, "s", self.error)];
        for (code, signature, text) in texts {
            if let Some(text) = text {
                put_field(&mut fields, code, signature);
                put_string(&mut fields, text);
            }
        }
        if let Some(reply_to) = self.reply_to {
            put_field(&mut fields, 5, "u");
            put_u32(&mut fields, reply_to);
        }
        for (code, text) in [(6, destination), (7, sender)] {
            put_field(&mut fields, code, "s");
            put_string(&mut fields, text);
        }
        if !self.signature.is_empty() {
            put_field(&mut fields, 8, "g");
            put_signature(&mut fields, self.signature);
        }
        if self.descriptors > 0 {
            put_field(&mut fields, 9, "u");
            put_u32(&mut fields, self.descriptors);
        }
        let mut bytes = vec![LITTLE_ENDIAN, self.kind.code(), 0, PROTOCOL_VERSION];
        for length in [self.body.len(), serial as usize, fields.len()] {
            put_u32(&mut bytes, u32::try_from(length).unwrap_or(u32::MAX));
        }
        bytes.extend_from_slice(&fields);
        pad(&mut bytes, 8);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Header fields are structures, which begin at a multiple of eight; the array itself begins at sixteen.
fn put_field(fields: &mut Vec<u8>, code: u8, signature: &str) {
    pad(fields, 8);
    fields.push(code);
    put_signature(fields, signature);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(signature.as_bytes());
    bytes.push(0);
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, u32::try_from(text.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    pad(bytes, 4);
    bytes.extend_from_slice(&value.to_le_bytes());
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A call as a client encodes it.
    pub(in crate::login) fn call(
        serial: u32,
        interface: &'static str,
        member: &'static str,
        arguments: &[&str],
    ) -> Vec<u8> {
        let mut outgoing = Outgoing::new(Kind::Call);
        outgoing.path = Some("/org/freedesktop/login1");
        outgoing.interface = Some(interface);
        outgoing.member = Some(member);
        outgoing.signature = match arguments.len() {
            0 => "",
            1 => "s",
            2 => "ss",
            4 => "ssss",
            count => panic!("no signature for {count} strings"),
        };
        for argument in arguments {
            put_string(&mut outgoing.body, argument);
        }
        outgoing.encode(serial, ":1.9", "org.freedesktop.login1")
    }

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let bytes = call(7, "org.freedesktop.login1.Manager", "Inhibit", &["shutdown", "kubelet", "why", "delay"]);
        assert_eq!(length(&bytes[..FIXED_BYTES]).unwrap(), bytes.len());
        let call = parse(&bytes).unwrap().unwrap();
        assert_eq!((call.serial, call.member.as_str()), (7, "Inhibit"));
        assert_eq!(call.arguments, ["shutdown", "kubelet", "why", "delay"]);
        assert!(call.reply_expected);
    }

    #[test]
    fn a_reply_is_no_call() {
        assert_eq!(parse(&Outgoing::reply(1).encode(1, ":1.1", ":1.2")).unwrap(), None);
    }

    #[test]
    fn a_cut_message_is_malformed_and_never_more() {
        let bytes = call(7, "a.b", "C", &["x"]);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn flipped_bytes_do_no_harm() {
        let bytes = call(7, "a.b", "C", &["x", "y"]);
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let _ = parse(&damaged);
                let _ = length(&damaged[..FIXED_BYTES]);
            }
        }
    }

    #[test]
    fn an_enormous_length_is_refused() {
        let mut bytes = call(7, "a.b", "C", &[]);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(length(&bytes[..FIXED_BYTES]).is_err());
    }
}
