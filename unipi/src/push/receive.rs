//! One push, from its first byte to the last word about it.
//!
//! The answer begins as soon as it is clear that this is a push, while the pack is still on its way: git shows what it is
//! told in between. Whether the client listens has no influence on what becomes of the push.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval_at, timeout_at};

use super::body::Pieces;
use super::{git_answer, hash, open};
use crate::git::receive::{Command, Push, Receiver, Voice};
use crate::git::{Generation as Tree, TreeError};
use crate::serve::{Chunks, plain};
use crate::site::generations::Generation;
use crate::sites::{Hosted, Room};

/// Problems of a site that whoever pushed it is told.
const MAX_PROBLEMS: usize = 20;
/// Between two signs of life: proxies and clients give up connections on which nothing moves.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

const REQUEST: &str = "application/x-git-receive-pack-request";
const RESULT: &str = "application/x-git-receive-pack-result";

/// Takes a push.
pub(super) async fn answer(
    site: Arc<Hosted>,
    by: String,
    parts: &Parts,
    body: Incoming,
) -> Response<Chunks> {
    let pieces = match open(parts, body, REQUEST) {
        Ok(pieces) => pieces,
        Err(response) => return *response,
    };
    let (begin, begun) = oneshot::channel();
    let (words, answer) = mpsc::unbounded_channel();
    // A client that hangs up must not leave a deploy half done.
    let work = site.work.clone();
    work.handle().spawn(take(site, by, pieces, begin, words));
    match begun.await {
        Ok(Start::Push) => git_answer_in_pieces(answer),
        // What git sends first to find out whether it will be let in.
        Ok(Start::Probe) => git_answer(RESULT, Vec::new()),
        Ok(Start::Nonsense) => {
            plain(StatusCode::BAD_REQUEST, "This is no push, or it did not arrive.\n")
        }
        Ok(Start::Late) => plain(StatusCode::REQUEST_TIMEOUT, "The push took too long.\n"),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "The push could not be taken.\n"),
    }
}

fn git_answer_in_pieces(pieces: mpsc::UnboundedReceiver<Bytes>) -> Response<Chunks> {
    let mut response = git_answer(RESULT, Vec::new());
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    *response.body_mut() = Chunks::in_pieces(pieces);
    response
}

/// What a request turns out to be once its commands are there.
enum Start {
    Push,
    Probe,
    Nonsense,
    Late,
}

/// Why a push ends before anything was decided.
enum Broken {
    Late,
    Off(String),
}

/// Whoever pushes, and hears what becomes of it.
struct Client {
    voice: Voice,
    words: mpsc::UnboundedSender<Bytes>,
}

impl Client {
    /// Says what must be known.
    fn say(&self, text: &str) {
        self.send(self.voice.message(text));
    }

    /// Says what passes the time, unless the client wants quiet.
    fn hint(&self, text: &str) {
        if !self.voice.is_quiet() {
            self.say(text);
        }
    }

    /// Shows that this side is there.
    fn sign_of_life(&self) {
        self.send(self.voice.keep_alive());
    }

    fn send(&self, line: Vec<u8>) {
        if !line.is_empty() {
            // One that has left does not hear it.
            let _ = self.words.send(line.into());
        }
    }
}

/// Reads the push, judges it, and tells the client.
async fn take(
    site: Arc<Hosted>,
    by: String,
    mut pieces: Pieces,
    begin: oneshot::Sender<Start>,
    words: mpsc::UnboundedSender<Bytes>,
) {
    let (known, hash) = {
        let trees = site.deploying.lock().await;
        (trees.newest().cloned(), hash(&site, &trees))
    };
    let deadline = Instant::now() + site.limits.total_time;
    let mut receiver = Receiver::new(hash, &site.limits, known.as_deref());
    let commands = async {
        while !receiver.has_commands() {
            let Some(piece) = pieces.next().await? else { break };
            receiver.push(&piece).await.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(())
    };
    let start = match timeout_at(deadline, commands).await {
        Err(_) => Start::Late,
        Ok(Ok(())) if receiver.has_commands() && receiver.commands().is_empty() => Start::Probe,
        Ok(Ok(())) if receiver.has_commands() => Start::Push,
        Ok(_) => Start::Nonsense,
    };
    let goes_on = matches!(start, Start::Push);
    let _ = begin.send(start);
    if !goes_on {
        return;
    }
    let client = Client { voice: receiver.voice(), words };
    let room = Room::new(&site);
    let push = match timeout_at(deadline, read(&mut receiver, &mut pieces, &client, &room)).await {
        Ok(Ok(())) => receiver.finish().map_err(|error| Broken::Off(error.to_string())),
        Ok(Err(why)) => Err(Broken::Off(why)),
        Err(_) => Err(Broken::Late),
    };
    let push = match push {
        Ok(push) => push,
        Err(broken) => {
            let why = match broken {
                Broken::Off(why) => why,
                Broken::Late => "it took too long".to_owned(),
            };
            tracing::warn!(site = site.name, by, why, "a push was broken off");
            return client.send(client.voice.fatal("the push did not arrive whole"));
        }
    };
    let judged = async {
        let mut results = Vec::new();
        for command in &push.commands {
            let result = judge(&site, &push, command, known.as_deref(), &by, &client).await;
            results.push((command.reference.as_str(), result));
        }
        push.report(&results)
    };
    tokio::pin!(judged);
    let mut clock = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    let report = loop {
        tokio::select! {
            report = &mut judged => break report,
            _ = clock.tick() => client.sign_of_life(),
        }
    };
    client.send(report);
}

/// Reads the rest of the push: the pack.
async fn read(
    receiver: &mut Receiver<'_>,
    pieces: &mut Pieces,
    client: &Client,
    room: &Room,
) -> Result<(), String> {
    let mut clock = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    loop {
        // A piece that was not taken is still there for the next turn.
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            _ = clock.tick() => {
                match client.voice.is_quiet() {
                    true => client.sign_of_life(),
                    false => client.say(&progress(receiver)),
                }
                continue;
            }
        };
        let Some(piece) = piece else { break };
        receiver.push(&piece).await.map_err(|error| error.to_string())?;
        room.for_bytes(receiver.unpacked());
    }
    client.hint(&progress(receiver));
    Ok(())
}

fn progress(receiver: &Receiver<'_>) -> String {
    let ((done, total), bytes) = (receiver.progress(), receiver.pack_bytes());
    format!("received {done} of {total} objects, {bytes} bytes")
}

/// Does what a command of a push asks for, or says why not.
async fn judge(
    site: &Arc<Hosted>,
    push: &Push,
    command: &Command,
    known: Option<&Tree>,
    by: &str,
    client: &Client,
) -> Result<(), String> {
    let branch = &site.config.branch;
    if command.reference != *branch {
        let short = branch.strip_prefix("refs/heads/").unwrap_or(branch);
        return Err(format!("this site shows {branch} alone: git push REMOTE HEAD:{short}"));
    }
    let Some(tip) = command.new else {
        return Err("the site's branch stays: push another commit in its place".to_owned());
    };
    if let Err(error) = &push.objects {
        let why = format!("the push is refused: {error}");
        site.failed(why.clone(), by).await;
        return Err(why);
    }
    client.hint("checking the files");
    let tree = match push.generation(branch, tip, known, &site.limits).await {
        Ok(tree) => Ok(Arc::new(tree)),
        Err(error @ TreeError::Missing { .. }) => {
            // Back to what is kept, of which git sent nothing because it knows that it was here.
            let kept = site.deploying.lock().await.get(&tip);
            kept.ok_or_else(|| {
                format!("{error}; it was here before and is not kept: push a new commit on top")
            })
        }
        Err(error) => Err(error.to_string()),
    };
    let tree = match tree {
        Ok(tree) => tree,
        Err(why) => {
            site.failed(why.clone(), by).await;
            return Err(why);
        }
    };
    let mut trees = site.deploying.lock().await;
    if command.old != trees.newest().map(|newest| newest.tip()) {
        return Err("somebody else was faster: fetch first".to_owned());
    }
    client.hint(&format!("going live: {} files", tree.entries.len()));
    match site.deploy(&mut trees, tree, by).await {
        Ok(generation) => {
            tell(site, &generation, client);
            Ok(())
        }
        Err(error) => {
            drop(trees);
            let why = error.to_string();
            site.failed(why.clone(), by).await;
            Err(why)
        }
    }
}

/// What whoever pushed hears of the new site.
fn tell(site: &Hosted, generation: &Generation, client: &Client) {
    let built = &generation.site;
    let short: String = built.commit().id.chars().take(12).collect();
    let live = site.generations.current().is_some_and(|live| live.number == generation.number);
    let what = if live { "is live" } else { "waits, because another one is pinned" };
    client.say(&format!(
        "{short} {what} as generation {}: {} files, {} bytes",
        generation.number,
        built.len(),
        built.size()
    ));
    let problems = built.problems();
    for problem in problems.iter().take(MAX_PROBLEMS) {
        client.say(&format!("problem: {problem}"));
    }
    if let Some(more) = problems.len().checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
        client.say(&format!("and {more} problems more, see the deploy log"));
    }
}
