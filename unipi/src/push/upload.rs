//! `git clone` and `git fetch` from the site server (gitprotocol-v2): the one commit that is held, and no history.
//!
//! What is sent is a shallow repository, as `git clone --depth 1` makes it. One can work in it and push from it. Older
//! clients, which do not speak version 2, are told so.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::{git_answer, open};
use crate::git::pkt_line::{self, DELIMITER, FLUSH, MAX_LINE, Packet};
use crate::git::{Generation as Tree, HashKind, Object, ObjectId, pack};
use crate::serve::{Chunks, plain};
use crate::sites::Hosted;

/// Bytes that a request may have: a want, and some thousands of haves.
const MAX_REQUEST: usize = 1 << 20;
/// How long a pack is at hand for the next who clones.
const PACK_TIME: Duration = Duration::from_secs(60);

/// The pack that was sent last.
pub(crate) type Cache = tokio::sync::Mutex<Option<(ObjectId, Bytes)>>;

/// The answer to `GET …/info/refs?service=git-upload-pack`.
pub(super) fn advertisement(
    parts: &Parts,
    site: &Hosted,
    hash: HashKind,
    tree: Option<&Arc<Tree>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let version = parts.headers.get("git-protocol").map(|value| value.as_bytes());
    if !version.is_some_and(|text| text.split(|b| *b == b':').any(|v| v == b"version=2")) {
        pkt_line::line(&mut out, b"# service=git-upload-pack\n");
        out.extend_from_slice(FLUSH);
        refuse(
            &mut out,
            "this server speaks version 2 of git's protocol: git -c protocol.version=2",
        );
        return out;
    }
    tracing::debug!(site = site.name, empty = tree.is_none(), "a clone or fetch begins");
    let mut say = |text: &str| pkt_line::line(&mut out, text.as_bytes());
    say("version 2\n");
    say(&format!("agent=unipi/{}\n", env!("CARGO_PKG_VERSION")));
    say("ls-refs=unborn\n");
    say("fetch=shallow\n");
    say(&format!("object-format={hash}\n"));
    out.extend_from_slice(FLUSH);
    out
}

/// The answer to `POST …/git-upload-pack`.
pub(super) async fn answer(site: &Arc<Hosted>, parts: &Parts, body: Incoming) -> Response<Chunks> {
    const REQUEST: &str = "application/x-git-upload-pack-request";
    const RESULT: &str = "application/x-git-upload-pack-result";
    let mut pieces = match open(parts, body, REQUEST) {
        Ok(pieces) => pieces,
        Err(response) => return *response,
    };
    let read = async {
        let mut request = BytesMut::new();
        while let Some(piece) = pieces.next().await? {
            request.extend_from_slice(&piece);
            if request.len() > MAX_REQUEST {
                return Err("it is too long".to_owned());
            }
        }
        Request::read(request)
    };
    let request = match tokio::time::timeout(site.limits.total_time, read).await {
        Ok(Ok(request)) => request,
        Ok(Err(why)) => {
            tracing::debug!(site = site.name, why, "a request of git is not understood");
            return plain(StatusCode::BAD_REQUEST, "This is no request of git's version 2.\n");
        }
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "The request took too long.\n"),
    };
    let tree = site.deploying.lock().await.newest().cloned();
    match request {
        Request::List { unborn } => {
            git_answer(RESULT, list(&site.config.branch, tree.as_deref(), unborn))
        }
        Request::Fetch(fetch) => match tree {
            Some(tree) => {
                let work = Arc::clone(site);
                let sent = async move { send(&work, &tree, &fetch).await };
                git_answer(RESULT, site.work.run(sent).await)
            }
            None => git_answer(RESULT, refusal("there is nothing here yet")),
        },
    }
}

/// What a client asks for.
enum Request {
    List { unborn: bool },
    Fetch(Fetch),
}

#[derive(Default)]
struct Fetch {
    wants: Vec<ObjectId>,
    haves: HashSet<ObjectId>,
    done: bool,
}

impl Request {
    fn read(mut text: BytesMut) -> Result<Self, String> {
        let mut lines = Vec::new();
        loop {
            match pkt_line::decode(&mut text).map_err(|error| error.to_string())? {
                Some(Packet::Data(line)) => lines.push(pkt_line::text(&line)),
                Some(Packet::Delimiter) => {}
                Some(Packet::Flush) => break,
                Some(Packet::ResponseEnd) | None => return Err("it ends early".to_owned()),
            }
        }
        let command = lines.iter().find_map(|line| line.strip_prefix("command="));
        match command {
            Some("ls-refs") => Ok(Self::List { unborn: lines.iter().any(|line| line == "unborn") }),
            Some("fetch") => {
                let mut fetch = Fetch::default();
                for line in &lines {
                    let id = |text: &str| {
                        ObjectId::from_hex(text.as_bytes()).map_err(|error| error.to_string())
                    };
                    match line.split_once(' ') {
                        Some(("want", text)) => fetch.wants.push(id(text)?),
                        Some(("have", text)) => {
                            fetch.haves.insert(id(text)?);
                        }
                        None if line == "done" => fetch.done = true,
                        // How a pack may look, which depth: there is only one answer.
                        _ => {}
                    }
                }
                Ok(Self::Fetch(fetch))
            }
            _ => Err("the command is not known".to_owned()),
        }
    }
}

fn list(branch: &str, tree: Option<&Tree>, unborn: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut say = |text: String| pkt_line::line(&mut out, text.as_bytes());
    match tree {
        Some(tree) => {
            let peeled = match &tree.tag {
                Some(_) => format!(" peeled:{}", tree.commit.id),
                None => String::new(),
            };
            if tree.tag.is_none() {
                say(format!("{} HEAD symref-target:{branch}\n", tree.commit.id));
            }
            say(format!("{} {branch}{peeled}\n", tree.tip()));
        }
        None if unborn => say(format!("unborn HEAD symref-target:{branch}\n")),
        None => {}
    }
    out.extend_from_slice(FLUSH);
    out
}

/// The pack, or as much of it as the client lacks: all or nothing.
async fn send(site: &Hosted, tree: &Tree, fetch: &Fetch) -> Chunks {
    let tip = tree.tip();
    if fetch.wants.iter().any(|want| *want != tip && *want != tree.commit.id) {
        return refusal("what is asked for was replaced just now: fetch again").into();
    }
    let hash = tree.commit.id.kind();
    let has_all = fetch.haves.contains(&tip);
    let pack = match has_all {
        true => pack::write(hash, &[]).await.map(Bytes::from),
        false => whole(site, tree, hash).await,
    };
    let pack = match pack {
        Ok(pack) => pack,
        Err(error) => return refusal(&error.to_string()).into(),
    };
    let mut head = Vec::new();
    let mut say = |text: &str| pkt_line::line(&mut head, text.as_bytes());
    if !fetch.done {
        say("acknowledgments\n");
        match has_all {
            true => say(&format!("ACK {tip}\n")),
            false => say("NAK\n"),
        }
        say("ready\n");
        head.extend_from_slice(DELIMITER);
    }
    // Whoever has the parents needs no border here.
    if !tree.commit.parents.iter().all(|parent| fetch.haves.contains(parent)) {
        pkt_line::line(&mut head, b"shallow-info\n");
        pkt_line::line(&mut head, format!("shallow {}\n", tree.commit.id).as_bytes());
        head.extend_from_slice(DELIMITER);
    }
    pkt_line::line(&mut head, b"packfile\n");
    let mut chunks = vec![Bytes::from(head)];
    const PIECE: usize = MAX_LINE - 5;
    for start in (0..pack.len()).step_by(PIECE) {
        let piece = pack.slice(start..pack.len().min(start + PIECE));
        let header = format!("{:04x}\x01", piece.len() + 5);
        chunks.extend([Bytes::from(header), piece]);
    }
    chunks.push(Bytes::from_static(FLUSH));
    Chunks::new(chunks)
}

/// All objects in one pack. It is shared by those who clone within a short time.
async fn whole(site: &Hosted, tree: &Tree, hash: HashKind) -> Result<Bytes, pack::PackError> {
    let mut cache = site.packed.lock().await;
    if let Some((tip, pack)) = &*cache
        && *tip == tree.tip()
    {
        return Ok(pack.clone());
    }
    let objects: Vec<&Object> = tree.objects.values().collect();
    let pack = Bytes::from(pack::write(hash, &objects).await?);
    *cache = Some((tree.tip(), pack.clone()));
    drop(cache);
    let packed = Arc::downgrade(&site.packed);
    tokio::spawn(async move {
        tokio::time::sleep(PACK_TIME).await;
        if let Some(packed) = packed.upgrade() {
            *packed.lock().await = None;
        }
    });
    Ok(pack)
}

fn refusal(why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    refuse(&mut out, why);
    out
}

/// An error that git shows as `fatal: remote error: …`.
fn refuse(out: &mut Vec<u8>, why: &str) {
    pkt_line::line(out, format!("ERR {why}\n").as_bytes());
}
