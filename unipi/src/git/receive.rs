//! The server's side of `git push` (gitprotocol-pack, "Pushing Data To a Server"): what is sent here becomes a generation.
//!
//! HTTP, authentication and the decision what goes live are the caller's. Its way: [`advertisement`] answers
//! `GET …/info/refs?service=git-receive-pack`; the body of `POST …/git-receive-pack` goes through a [`Receiver`] as it
//! arrives, and its [`Voice`] tells the client how it goes; of the [`Push`] that comes out it makes a generation ([`Push::generation`]), and answers with
//! [`Push::report`]. Nothing changes until the caller takes that generation.
//!
//! Only the current generation is held, not its history, so packs must be complete in themselves or build on that
//! (`no-thin` is advertised). A client leaves out what it believes to be here: a push back to an older commit brings
//! nothing, and is for the caller to find among the generations that it keeps.

use bytes::BytesMut;

use super::pack::{PackError, Unpacker};
use super::pkt_line::{self, FLUSH, Packet};
use super::{Generation, HashKind, Limits, ObjectId, Objects, TreeError, remote};

/// References that one push may change.
const MAX_COMMANDS: usize = 64;

/// A request that a git client does not send. Answer with status 400.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PushError {
    /// It is not framed as packet lines.
    #[error(transparent)]
    Framing(#[from] pkt_line::BadLength),
    /// A line that has no place there.
    #[error("the push has a malformed command")]
    Command,
    /// More references than one push may change.
    #[error("a push may change {MAX_COMMANDS} references at most")]
    TooManyCommands,
    /// The request ended early.
    #[error("the push ended early")]
    Truncated,
}

/// What the client wants to happen to one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The full name.
    pub reference: String,
    /// What the client believes it to be. `None`: it is to be created.
    pub old: Option<ObjectId>,
    /// What it is to be. `None`: it is to be deleted.
    pub new: Option<ObjectId>,
}

/// The answer to `GET …/info/refs?service=git-receive-pack`, of type
/// `application/x-git-receive-pack-advertisement`.
#[must_use]
pub fn advertisement(hash: HashKind, references: &[(&str, ObjectId)]) -> Vec<u8> {
    let capabilities = format!(
        "report-status delete-refs side-band-64k quiet ofs-delta no-thin object-format={hash} \
         agent=unipi/{}",
        env!("CARGO_PKG_VERSION")
    );
    let mut out = Vec::new();
    pkt_line::line(&mut out, b"# service=git-receive-pack\n");
    out.extend_from_slice(FLUSH);
    if references.is_empty() {
        let none = format!("{} capabilities^{{}}\0{capabilities}\n", hash.null());
        pkt_line::line(&mut out, none.as_bytes());
    }
    for (index, (name, id)) in references.iter().enumerate() {
        let line = match index {
            0 => format!("{id} {name}\0{capabilities}\n"),
            _ => format!("{id} {name}\n"),
        };
        pkt_line::line(&mut out, line.as_bytes());
    }
    out.extend_from_slice(FLUSH);
    out
}

/// Takes one push apart while it arrives.
pub struct Receiver<'known> {
    hash: HashKind,
    buffer: BytesMut,
    commands: Vec<Command>,
    side_band: bool,
    quiet: bool,
    report: bool,
    in_pack: bool,
    unpacker: Unpacker<'known>,
    failure: Option<PackError>,
}

/// A push that has arrived.
pub struct Push {
    /// What the client wants. Empty: the probe that git sends before a large push; answer 200 with an empty body.
    pub commands: Vec<Command>,
    /// The objects, verified; or why the pack is refused.
    pub objects: Result<Objects, PackError>,
    side_band: bool,
    report: bool,
}

impl<'known> Receiver<'known> {
    /// A receiver on top of the generation that was advertised.
    #[must_use]
    pub fn new(hash: HashKind, limits: &Limits, known: Option<&'known Generation>) -> Self {
        Self {
            hash,
            buffer: BytesMut::new(),
            commands: Vec::new(),
            side_band: false,
            quiet: false,
            report: false,
            in_pack: false,
            unpacker: Unpacker::new(hash, limits, known.map(|known| &known.objects)),
            failure: None,
        }
    }

    /// Takes the next piece of the request's body, of any length. A bad pack is no error here: the client hears of it
    /// in the report.
    ///
    /// # Errors
    ///
    /// When this is no push at all.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), PushError> {
        if self.in_pack {
            self.unpack(piece).await;
            return Ok(());
        }
        self.buffer.extend_from_slice(piece);
        while let Some(packet) = pkt_line::decode(&mut self.buffer)? {
            match packet {
                Packet::Data(line) => self.command(&line)?,
                Packet::Flush => {
                    self.in_pack = true;
                    let rest = std::mem::take(&mut self.buffer);
                    self.unpack(&rest).await;
                    break;
                }
                _ => return Err(PushError::Command),
            }
        }
        Ok(())
    }

    /// Whether all commands are there, and the pack comes next.
    #[must_use]
    pub fn has_commands(&self) -> bool {
        self.in_pack
    }

    /// The commands, as far as they are there.
    #[must_use]
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// How the client is spoken to. It is known when all commands are there.
    #[must_use]
    pub fn voice(&self) -> Voice {
        Voice { side_band: self.side_band, quiet: self.quiet }
    }

    /// Objects that have arrived, and how many there will be.
    #[must_use]
    pub fn progress(&self) -> (u32, u32) {
        self.unpacker.progress()
    }

    /// Bytes of the pack that have arrived.
    #[must_use]
    pub fn pack_bytes(&self) -> u64 {
        self.unpacker.bytes()
    }

    /// Bytes of memory that they have become.
    #[must_use]
    pub fn unpacked(&self) -> u64 {
        self.unpacker.unpacked()
    }

    async fn unpack(&mut self, piece: &[u8]) {
        if self.failure.is_none() && !piece.is_empty() {
            self.failure = self.unpacker.push(piece).await.err();
        }
    }

    fn command(&mut self, line: &[u8]) -> Result<(), PushError> {
        let (command, capabilities) = match line.iter().position(|byte| *byte == 0) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        for capability in pkt_line::text(capabilities).split(' ') {
            self.side_band |= capability == "side-band-64k";
            self.quiet |= capability == "quiet";
            self.report |= capability == "report-status";
        }
        let text = std::str::from_utf8(command).map_err(|_| PushError::Command)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        // A shallow clone says where it ends, which is of no interest for the files of its tip.
        if text.starts_with("shallow ") {
            return Ok(());
        }
        let mut words = text.splitn(3, ' ');
        let (Some(old), Some(new), Some(reference)) = (words.next(), words.next(), words.next())
        else {
            return Err(PushError::Command);
        };
        if self.commands.len() == MAX_COMMANDS {
            return Err(PushError::TooManyCommands);
        }
        if !reference.starts_with("refs/") || !remote::is_reference(reference) {
            return Err(PushError::Command);
        }
        let (old, new) = (self.id(old)?, self.id(new)?);
        self.commands.push(Command { reference: reference.to_owned(), old, new });
        Ok(())
    }

    fn id(&self, text: &str) -> Result<Option<ObjectId>, PushError> {
        let id = ObjectId::from_hex(text.as_bytes()).map_err(|_| PushError::Command)?;
        if id.kind() != self.hash {
            return Err(PushError::Command);
        }
        Ok(Some(id).filter(|id| !id.is_null()))
    }

    /// The push, when the request has ended.
    ///
    /// # Errors
    ///
    /// When it ended within the commands.
    pub fn finish(self) -> Result<Push, PushError> {
        if !self.in_pack {
            return Err(PushError::Truncated);
        }
        let has_pack = self.commands.iter().any(|command| command.new.is_some());
        let objects = match self.failure {
            Some(failure) => Err(failure),
            None if has_pack => self.unpacker.finish(),
            None => Ok(Objects::new()),
        };
        let Self { commands, side_band, report, .. } = self;
        Ok(Push { commands, objects, side_band, report })
    }
}

impl Push {
    /// The generation that `command` asks for, from the push and what was there.
    ///
    /// # Errors
    ///
    /// When objects are missing, a name is unsafe, or the tree exceeds `limits`; also when the pack itself was refused.
    pub async fn generation(
        &self,
        reference: &str,
        tip: ObjectId,
        known: Option<&Generation>,
        limits: &Limits,
    ) -> Result<Generation, TreeError> {
        let none = Objects::new();
        let objects = self.objects.as_ref().unwrap_or(&none);
        let known = known.map(|known| &known.objects);
        Generation::assemble(reference.to_owned(), tip, objects, known, limits).await
    }

    /// The end of the answer to the push, which is of type `application/x-git-receive-pack-result`: what became of each
    /// reference (`Err`: why not).
    #[must_use]
    pub fn report(&self, results: &[(&str, Result<(), String>)]) -> Vec<u8> {
        let mut status = Vec::new();
        let unpacked = match &self.objects {
            Ok(_) => "unpack ok\n".to_owned(),
            Err(error) => format!("unpack {}\n", one_line(&error.to_string())),
        };
        pkt_line::line(&mut status, unpacked.as_bytes());
        for (reference, result) in results {
            let line = match result {
                Ok(()) => format!("ok {reference}\n"),
                Err(reason) => format!("ng {reference} {}\n", one_line(reason)),
            };
            pkt_line::line(&mut status, line.as_bytes());
        }
        status.extend_from_slice(FLUSH);
        if !self.report {
            status.clear();
        }
        if !self.side_band {
            return status;
        }
        let mut out = Vec::new();
        pkt_line::band(&mut out, 1, &status);
        out.extend_from_slice(FLUSH);
        out
    }
}

/// What a client can be told before the end of the answer. Nothing, if it does not know side-bands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    side_band: bool,
    quiet: bool,
}

impl Voice {
    /// Whether the client wants to hear of problems alone.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// A line that the client shows as `remote:`.
    #[must_use]
    pub fn message(self, text: &str) -> Vec<u8> {
        self.on_band(2, format!("{}\n", one_line(text)).as_bytes())
    }

    /// The last word of an answer without a report.
    #[must_use]
    pub fn fatal(self, text: &str) -> Vec<u8> {
        self.on_band(3, format!("{}\n", one_line(text)).as_bytes())
    }

    /// Nothing, but something that moves: an empty packet, as git's own server sends it (receive.keepAlive).
    #[must_use]
    pub fn keep_alive(self) -> Vec<u8> {
        match self.side_band {
            true => b"0005\x01".to_vec(),
            false => Vec::new(),
        }
    }

    fn on_band(self, band: u8, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.side_band {
            pkt_line::band(&mut out, band, text);
        }
        out
    }
}

fn one_line(text: &str) -> String {
    text.chars().take(1000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
