//! One fetch, from the first byte to the verified generation.

use std::sync::Arc;

use tokio::time::timeout;

use super::pack::{PackError, Unpacker};
use super::protocol::{self, Advertisement, Reference};
use super::remote::Progress;
use super::transport::Conversation;
use super::tree::TreeError;
use super::{FetchError, Fetched, Generation, Limits, ObjectId, Remote, Transfer};

/// Fetches what the remote's reference points at, on top of `known`.
///
/// A reference that still points at `known`'s commit costs one question. Otherwise only what `known` lacks is
/// transferred, where the server can tell; unchanged blobs are shared with it. `known` may be of another branch or even
/// another repository: then nothing is shared, and nothing is wrong.
///
/// # Errors
///
/// See [`FetchError`]; `known` is as good as before.
pub async fn fetch(
    remote: &Remote,
    known: Option<&Generation>,
    limits: &Limits,
) -> Result<Fetched, FetchError> {
    fetch_unless(remote, known, None, limits).await
}

/// As [`fetch`], but stops before anything is transferred where the reference points at `unwanted`: a commit or tag that
/// was refused before.
///
/// # Errors
///
/// As [`fetch`].
pub async fn fetch_unless(
    remote: &Remote,
    known: Option<&Generation>,
    unwanted: Option<ObjectId>,
    limits: &Limits,
) -> Result<Fetched, FetchError> {
    let fetched = async {
        match attempt(remote, known, unwanted, limits).await {
            // The server believes that we have something which we have not: ask as one who has nothing.
            Err(
                FetchError::Content(TreeError::Missing { .. })
                | FetchError::Pack(PackError::MissingBase(_)),
            ) if known.is_some() => attempt(remote, None, unwanted, limits).await,
            result => result,
        }
    };
    let late = |_| FetchError::TooLong(limits.total_time);
    timeout(limits.total_time, fetched).await.map_err(late)?
}

async fn attempt(
    remote: &Remote,
    known: Option<&Generation>,
    unwanted: Option<ObjectId>,
    limits: &Limits,
) -> Result<Fetched, FetchError> {
    let mut conversation = Conversation::open(remote, limits).await?;
    let advertisement = Advertisement::read(&mut conversation, limits).await?;
    let reference = advertisement.reference(&mut conversation, remote, limits).await?;
    let known = known.filter(|known| known.commit.id.kind() == advertisement.hash);
    if known.is_some_and(|known| known.commit.id == reference.tip()) {
        conversation.finish().await;
        return Ok(Fetched::Unchanged);
    }
    if unwanted == Some(reference.target()) {
        conversation.finish().await;
        return Ok(Fetched::Unwanted);
    }
    let have = known.map(|known| known.commit.id);
    let with_progress = remote.progress.is_some();
    advertisement.request_pack(&mut conversation, &reference, have, with_progress).await?;
    let mut unpacker = Unpacker::new(advertisement.hash, limits, known.map(|known| &known.objects));
    while let Some(bytes) = protocol::pack_bytes(&mut conversation, remote).await? {
        unpacker.push(&bytes).await.map_err(limited)?;
        if let Some(progress) = &remote.progress {
            let (done, total) = unpacker.progress();
            let (bytes, unpacked) = (unpacker.bytes(), unpacker.unpacked());
            progress(Progress::Objects { done, total, bytes, unpacked });
        }
    }
    conversation.finish().await;
    let (objects, _) = unpacker.progress();
    let transfer = Transfer { pack_bytes: unpacker.bytes(), objects };
    let objects = unpacker.finish().map_err(limited)?;
    let generation = assemble(&reference, &objects, known, limits).await?;
    Ok(Fetched::New { generation: Arc::new(generation), transfer })
}

async fn assemble(
    reference: &Reference,
    objects: &super::Objects,
    known: Option<&Generation>,
    limits: &Limits,
) -> Result<Generation, FetchError> {
    let commit = reference.tip();
    // A server that sends no tag object has it peeled for us.
    let target = reference.target();
    let tip = if objects.contains_key(&target) { target } else { commit };
    let known = known.map(|known| &known.objects);
    let name = reference.full_name().to_owned();
    match Generation::assemble(name.clone(), tip, objects, known, limits).await {
        Ok(generation) => Ok(generation),
        Err(TreeError::WrongKind { id, .. }) if id == commit => {
            Err(FetchError::NotACommit { reference: name, id })
        }
        Err(TreeError::Limit { name, limit }) => Err(FetchError::Limit { name, limit }),
        Err(error) => Err(error.into()),
    }
}

/// A limit is a limit, wherever it was met.
fn limited(error: PackError) -> FetchError {
    match error {
        PackError::Limit { name, limit } => FetchError::Limit { name, limit },
        error => error.into(),
    }
}
