//! What is said to `git-upload-pack`: protocol version 2 (gitprotocol-v2), and version 0 (gitprotocol-pack) with servers
//! that know nothing else, such as SSH servers that do not pass the version on.

use std::collections::HashMap;

use bytes::Bytes;

use super::pkt_line::{self, DELIMITER, FLUSH, Packet};
use super::remote::Progress;
use super::transport::Conversation;
use super::{FetchError, HashKind, Limits, ObjectId, Remote};

const AGENT: &str = concat!("agent=unipi/", env!("CARGO_PKG_VERSION"));

/// Lines of capabilities that a version 2 server may send.
const MAX_CAPABILITIES: usize = 256;

/// What the server said first.
pub(super) struct Advertisement {
    version: Version,
    pub(super) hash: HashKind,
    /// Version 2: by command. Version 0: by name, with what follows `=`.
    capabilities: HashMap<String, String>,
    /// Version 0 lists the references at once.
    references: Vec<Reference>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V0,
    V2,
}

/// A branch or tag of the remote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Its full name.
    name: String,
    /// The branch that `HEAD` stands for, when the server says so.
    symref: Option<String>,
    /// What it points at, possibly a tag object.
    id: ObjectId,
    /// The commit that the tag object stands for.
    peeled: Option<ObjectId>,
}

impl Reference {
    /// The commit.
    pub(super) fn tip(&self) -> ObjectId {
        self.peeled.unwrap_or(self.id)
    }

    /// What it points at: the tag, or else the commit.
    pub(super) fn target(&self) -> ObjectId {
        self.id
    }

    /// The full name of the branch or tag.
    pub(super) fn full_name(&self) -> &str {
        self.symref.as_deref().unwrap_or(&self.name)
    }
}

impl Advertisement {
    /// Reads the advertisement.
    pub(super) async fn read(
        conversation: &mut Conversation,
        limits: &Limits,
    ) -> Result<Self, FetchError> {
        let mut first = line(conversation.expect().await?)?;
        // Over HTTP the service's name and a flush may stand before everything else.
        if first.as_ref().is_some_and(|line| line.starts_with(b"# service=")) {
            if conversation.expect().await? != Packet::Flush {
                return Err(violation("the service's name is not followed by a flush"));
            }
            first = line(conversation.expect().await?)?;
        }
        match first {
            Some(first) if pkt_line::text(&first) == "version 2" => Self::v2(conversation).await,
            Some(first) if pkt_line::text(&first) == "version 1" => {
                let first = line(conversation.expect().await?)?;
                Self::v0(conversation, first, limits).await
            }
            first => Self::v0(conversation, first, limits).await,
        }
    }

    async fn v2(conversation: &mut Conversation) -> Result<Self, FetchError> {
        let mut capabilities = HashMap::new();
        while let Some(line) = line(conversation.expect().await?)? {
            let text = pkt_line::text(&line);
            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
            capabilities.insert(name.to_owned(), value.to_owned());
            if capabilities.len() > MAX_CAPABILITIES {
                return Err(violation("too many capabilities"));
            }
        }
        for command in ["ls-refs", "fetch"] {
            if !capabilities.contains_key(command) {
                return Err(violation(&format!("it does not offer the command {command}")));
            }
        }
        let hash = hash_kind(&capabilities)?;
        Ok(Self { version: Version::V2, hash, capabilities, references: Vec::new() })
    }

    async fn v0(
        conversation: &mut Conversation,
        first: Option<Bytes>,
        limits: &Limits,
    ) -> Result<Self, FetchError> {
        let mut this = Self {
            version: Version::V0,
            hash: HashKind::Sha1,
            capabilities: HashMap::new(),
            references: Vec::new(),
        };
        let Some(first) = first else {
            // An empty repository with nothing to say.
            return Ok(this);
        };
        let text = pkt_line::text(&first);
        let (text, capabilities) = text.split_once('\0').unwrap_or((&text, ""));
        let mut text = text.to_owned();
        for capability in capabilities.split(' ').filter(|name| !name.is_empty()) {
            let (name, value) = capability.split_once('=').unwrap_or((capability, ""));
            // `symref` may come more than once; that of HEAD is what counts.
            let is_other_symref = name == "symref" && !value.starts_with("HEAD:");
            if !is_other_symref {
                this.capabilities.insert(name.to_owned(), value.to_owned());
            }
        }
        this.hash = hash_kind(&this.capabilities)?;
        loop {
            if !text.starts_with("shallow ") {
                this.add_v0(&text, limits)?;
            }
            match line(conversation.expect().await?)? {
                Some(line) => text = pkt_line::text(&line),
                None => return Ok(this),
            }
        }
    }

    fn add_v0(&mut self, text: &str, limits: &Limits) -> Result<(), FetchError> {
        let (id, name) =
            text.split_once(' ').ok_or_else(|| violation("a reference without a name"))?;
        let id = object_id(id, self.hash)?;
        if name == "capabilities^{}" {
            return Ok(());
        }
        if let Some(name) = name.strip_suffix("^{}") {
            if let Some(tag) = self.references.last_mut().filter(|tag| tag.name == name) {
                tag.peeled = Some(id);
            }
            return Ok(());
        }
        allow_another(self.references.len(), limits)?;
        let symref = self.capabilities.get("symref").filter(|_| name == "HEAD");
        let symref = symref.and_then(|symref| symref.strip_prefix("HEAD:")).map(str::to_owned);
        self.references.push(Reference { name: name.to_owned(), symref, id, peeled: None });
        Ok(())
    }

    /// Finds what the remote's configuration asks for.
    pub(super) async fn reference(
        &self,
        conversation: &mut Conversation,
        remote: &Remote,
        limits: &Limits,
    ) -> Result<Reference, FetchError> {
        let candidates = candidates(remote.reference.as_deref());
        let listed = match self.version {
            Version::V0 => self.references.clone(),
            Version::V2 => self.list(conversation, &candidates, limits).await?,
        };
        for name in &candidates {
            if let Some(found) = listed.iter().find(|reference| reference.name == *name) {
                return Ok(found.clone());
            }
        }
        // Only now it matters whether there is anything at all.
        let any = match self.version {
            Version::V0 => !listed.is_empty(),
            Version::V2 => {
                let prefixes = ["refs/heads/".to_owned(), "refs/tags/".to_owned()];
                !self.list(conversation, &prefixes, limits).await?.is_empty()
            }
        };
        match any {
            true => Err(FetchError::MissingReference(
                remote.reference.clone().unwrap_or_else(|| "HEAD".to_owned()),
            )),
            false => Err(FetchError::Empty),
        }
    }

    async fn list(
        &self,
        conversation: &mut Conversation,
        prefixes: &[String],
        limits: &Limits,
    ) -> Result<Vec<Reference>, FetchError> {
        let mut request = Vec::new();
        self.command(&mut request, "ls-refs");
        pkt_line::line(&mut request, b"peel\n");
        pkt_line::line(&mut request, b"symrefs\n");
        for prefix in prefixes {
            pkt_line::line(&mut request, format!("ref-prefix {prefix}\n").as_bytes());
        }
        request.extend_from_slice(FLUSH);
        conversation.send(request).await?;
        let mut listed = Vec::new();
        while let Some(line) = line(conversation.expect().await?)? {
            allow_another(listed.len(), limits)?;
            let text = pkt_line::text(&line);
            let mut words = text.split(' ');
            let (Some(id), Some(name)) = (words.next(), words.next()) else {
                return Err(violation("a reference without a name"));
            };
            if id == "unborn" {
                continue;
            }
            let mut reference = Reference {
                name: name.to_owned(),
                symref: None,
                id: object_id(id, self.hash)?,
                peeled: None,
            };
            for word in words {
                if let Some(id) = word.strip_prefix("peeled:") {
                    reference.peeled = Some(object_id(id, self.hash)?);
                } else if let Some(target) = word.strip_prefix("symref-target:") {
                    reference.symref = Some(target.to_owned());
                }
            }
            listed.push(reference);
        }
        Ok(listed)
    }

    /// Asks for the commit of `reference` alone, on top of `have`. The pack's side-band lines follow.
    pub(super) async fn request_pack(
        &self,
        conversation: &mut Conversation,
        reference: &Reference,
        have: Option<ObjectId>,
        with_progress: bool,
    ) -> Result<(), FetchError> {
        match self.version {
            Version::V0 => self.request_v0(conversation, reference, have, with_progress).await,
            Version::V2 => self.request_v2(conversation, reference, have, with_progress).await,
        }
    }

    async fn request_v2(
        &self,
        conversation: &mut Conversation,
        reference: &Reference,
        have: Option<ObjectId>,
        with_progress: bool,
    ) -> Result<(), FetchError> {
        let mut request = Vec::new();
        self.command(&mut request, "fetch");
        let mut say = |text: &str| pkt_line::line(&mut request, text.as_bytes());
        say("thin-pack\n");
        say("ofs-delta\n");
        if !with_progress {
            say("no-progress\n");
        }
        say(&format!("want {}\n", reference.id));
        let features = self.capabilities.get("fetch").map(String::as_str).unwrap_or_default();
        if features.split(' ').any(|feature| feature == "shallow") {
            if let Some(have) = have {
                say(&format!("shallow {have}\n"));
            }
            say("deepen 1\n");
        }
        if let Some(have) = have {
            say(&format!("have {have}\n"));
        }
        say("done\n");
        request.extend_from_slice(FLUSH);
        conversation.send(request).await?;
        // Sections before the pack say which commits are shallow now: all of them.
        let mut seen = 0;
        loop {
            match conversation.expect().await? {
                Packet::Data(line) if pkt_line::text(&line) == "packfile" => return Ok(()),
                Packet::Data(line) => fail_on_error(&line)?,
                Packet::Delimiter => {}
                Packet::Flush | Packet::ResponseEnd => {
                    return Err(violation("the answer has no pack"));
                }
            }
            seen += 1;
            if seen > MAX_CAPABILITIES {
                return Err(violation("the answer has too many lines before the pack"));
            }
        }
    }

    async fn request_v0(
        &self,
        conversation: &mut Conversation,
        reference: &Reference,
        have: Option<ObjectId>,
        with_progress: bool,
    ) -> Result<(), FetchError> {
        let offers = |name: &str| self.capabilities.contains_key(name);
        if !offers("side-band-64k") {
            return Err(violation("it knows neither version 2 nor side-bands"));
        }
        let mut features = format!("{AGENT} side-band-64k");
        let wanted = ["thin-pack", "ofs-delta"].into_iter();
        for feature in wanted.chain((!with_progress).then_some("no-progress")) {
            if offers(feature) {
                features.push(' ');
                features.push_str(feature);
            }
        }
        if offers("object-format") {
            features.push_str(&format!(" object-format={}", self.hash));
        }
        let is_shallow = offers("shallow");
        let mut request = Vec::new();
        let mut say = |text: String| pkt_line::line(&mut request, text.as_bytes());
        say(format!("want {} {features}\n", reference.id));
        if is_shallow {
            if let Some(have) = have {
                say(format!("shallow {have}\n"));
            }
            say("deepen 1\n".into());
        }
        request.extend_from_slice(FLUSH);
        let mut say = |text: String| pkt_line::line(&mut request, text.as_bytes());
        if let Some(have) = have {
            say(format!("have {have}\n"));
        }
        say("done\n".into());
        conversation.send(request).await?;
        // Which commits are shallow now, then one acknowledgement or none, then the pack.
        let mut seen = 0;
        let mut shallow_done = !is_shallow;
        loop {
            match conversation.expect().await? {
                Packet::Flush if !shallow_done => shallow_done = true,
                Packet::Data(line) => {
                    let text = pkt_line::text(&line);
                    fail_on_error(&line)?;
                    if text == "NAK" || text.starts_with("ACK ") {
                        return Ok(());
                    }
                    if !(text.starts_with("shallow ") || text.starts_with("unshallow ")) {
                        return Err(violation("an unknown line before the pack"));
                    }
                }
                _ => return Err(violation("the answer has no pack")),
            }
            seen += 1;
            if seen > MAX_CAPABILITIES {
                return Err(violation("the answer has too many lines before the pack"));
            }
        }
    }

    fn command(&self, request: &mut Vec<u8>, command: &str) {
        pkt_line::line(request, format!("command={command}\n").as_bytes());
        pkt_line::line(request, AGENT.as_bytes());
        if self.capabilities.contains_key("object-format") {
            pkt_line::line(request, format!("object-format={}\n", self.hash).as_bytes());
        }
        request.extend_from_slice(DELIMITER);
    }
}

/// The next bytes of the pack. `None`: the server says that it is complete.
pub(super) async fn pack_bytes(
    conversation: &mut Conversation,
    remote: &Remote,
) -> Result<Option<Bytes>, FetchError> {
    loop {
        let mut line = match conversation.packet().await? {
            Some(Packet::Data(line)) => line,
            Some(Packet::Flush | Packet::ResponseEnd) => return Ok(None),
            Some(Packet::Delimiter) => return Err(violation("a section begins within the pack")),
            None => return Err(conversation.ended()),
        };
        if line.is_empty() {
            return Err(violation("a line without a side-band"));
        }
        match line.split_to(1)[0] {
            1 if line.is_empty() => {}
            1 => return Ok(Some(line)),
            2 => {
                if let Some(progress) = &remote.progress {
                    progress(Progress::Remote(&String::from_utf8_lossy(&line)));
                }
            }
            3 => return Err(FetchError::Remote(printable(&pkt_line::text(&line)))),
            _ => return Err(violation("an unknown side-band")),
        }
    }
}

/// Names under which a short or full name may be found, best first.
fn candidates(reference: Option<&str>) -> Vec<String> {
    match reference {
        None | Some("HEAD") => vec!["HEAD".into()],
        Some(full) if full.starts_with("refs/") => vec![full.to_owned()],
        Some(short) => vec![format!("refs/heads/{short}"), format!("refs/tags/{short}")],
    }
}

fn hash_kind(capabilities: &HashMap<String, String>) -> Result<HashKind, FetchError> {
    match capabilities.get("object-format").map(String::as_str) {
        None | Some("sha1") => Ok(HashKind::Sha1),
        Some("sha256") => Ok(HashKind::Sha256),
        Some(other) => Err(violation(&format!("unknown object format {other:?}"))),
    }
}

fn object_id(text: &str, hash: HashKind) -> Result<ObjectId, FetchError> {
    ObjectId::from_hex(text.as_bytes())
        .ok()
        .filter(|id| id.kind() == hash)
        .ok_or_else(|| violation("an object id is malformed"))
}

fn allow_another(count: usize, limits: &Limits) -> Result<(), FetchError> {
    if count < limits.references {
        return Ok(());
    }
    Err(FetchError::Limit { name: "references", limit: limits.references as u64 })
}

/// The line of a packet; `None` at the end of the message. A line in which the server reports an error is one.
fn line(packet: Packet) -> Result<Option<Bytes>, FetchError> {
    match packet {
        Packet::Data(line) => {
            fail_on_error(&line)?;
            Ok(Some(line))
        }
        Packet::Flush | Packet::ResponseEnd => Ok(None),
        Packet::Delimiter => Err(violation("a section where none is expected")),
    }
}

fn fail_on_error(line: &[u8]) -> Result<(), FetchError> {
    let Some(message) = line.strip_prefix(b"ERR ") else {
        return Ok(());
    };
    let message = printable(&pkt_line::text(message));
    let lower = message.to_ascii_lowercase();
    let denied = ["access denied", "not exported", "not found", "does not appear to be"];
    Err(match denied.iter().any(|text| lower.contains(text)) {
        true => FetchError::NoRepository(message),
        false => FetchError::Remote(message),
    })
}

/// Text of the remote's that goes into a message: short, without control characters.
fn printable(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn violation(text: &str) -> FetchError {
    FetchError::Protocol(text.to_owned())
}
