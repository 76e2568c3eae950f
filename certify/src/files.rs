//! Certificates in PEM files that somebody else renews: read at start, and again whenever they change.
//!
//! Files are looked at every few seconds, through symbolic links, so a file that is written in place, one that is renamed
//! over it (certbot) and a folder that is swapped behind a link (Kubernetes) are all noticed. Polling needs nothing of the
//! system but `stat`, and works on every file system. SIGHUP looks at once.
//!
//! A pair is used when the key belongs to the certificate, the chain is in order, and the dates are right; until then the
//! old one goes on being shown. So a pair that is half written replaces nothing.

use std::fs::{File, Metadata};
use std::future::Future;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use crate::certificate::{Certificate, CertificateError, MAX_PEM_BYTES, Source};
use crate::keeper::Clock;
use crate::report::Reports;

/// A certificate's file and its key's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate and its intermediates.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Certificates and keys are not pairs.
    #[error(
        "there are {certs} --cert{form} and {keys} --cert-key{form}: each certificate needs its key, in the same order"
    )]
    Unpaired {
        /// What the options' names end with.
        form: &'static str,
        /// Certificates given.
        certs: usize,
        /// Keys given.
        keys: usize,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A certificate cannot be used.
    #[error("{}: {error}", path.display())]
    Unusable {
        /// The file of the certificate.
        path: PathBuf,
        /// Why.
        error: CertificateError,
    },
    /// The same of one that is given as it is.
    #[error("--cert-pem: {error}")]
    Given {
        /// Why.
        error: CertificateError,
    },
}

/// A certificate that was read again.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// What was shown so far.
    pub old: Arc<Certificate>,
    /// What is to be shown from now on.
    pub new: Arc<Certificate>,
}

/// The pairs and what was last read from them.
#[derive(Debug)]
pub struct Files(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    pair: Pair,
    shown: Arc<Certificate>,
    /// What the files looked like when `shown` was read.
    stamps: Option<Stamps>,
    /// Why they cannot be used now.
    error: Option<String>,
}

/// Two looks at an unchanged pair give the same.
type Stamps = [Stamp; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// Reads every pair. One that has expired is used, with a warning: nobody is helped by a program that does not start.
    ///
    /// # Errors
    /// When certificates and keys are not pairs, or a file cannot be read or used.
    pub fn load(chains: &[PathBuf], keys: &[PathBuf], now: i64) -> Result<Self, FileError> {
        if chains.len() != keys.len() {
            let (certs, keys) = (chains.len(), keys.len());
            return Err(FileError::Unpaired { form: "", certs, keys });
        }
        let pairs = chains.iter().zip(keys);
        let entry = |(chain, key): (&PathBuf, &PathBuf)| {
            let pair = Pair { chain: chain.clone(), key: key.clone() };
            let stamps = pair.stamps().ok();
            let shown = pair.read()?;
            if let Err(error) = shown.check_dates(now) {
                let file = pair.chain.display();
                tracing::warn!(%file, %error, "clients will refuse the certificate");
            }
            Ok(Entry { pair, shown: Arc::new(shown), stamps, error: None })
        };
        pairs.map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// The certificates, in the order of the files.
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        self.0.iter().map(|entry| Arc::clone(&entry.shown)).collect()
    }

    /// Looks at the files for ever, every `every` and at SIGHUP, and has `replace` show what has changed. What it refuses is
    /// given to it again later. Problems are in `reports`. Drop the future to stop.
    pub async fn watch<F>(
        mut self,
        every: Duration,
        clock: Clock,
        reports: Reports,
        mut replace: impl FnMut(Replacement) -> F,
    ) where
        F: Future<Output = Result<(), String>>,
    {
        let mut hangups = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::debug!(%error, "SIGHUP cannot be listened to"))
            .ok();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(every) => false,
                () = received(&mut hangups) => true,
            };
            if asked {
                tracing::info!(pairs = self.0.len(), "certificate files are read again, as asked");
            }
            for entry in &mut self.0 {
                let found = entry.look(asked, clock());
                let new = match found {
                    Ok(None) => continue,
                    Ok(Some((new, stamps))) => {
                        let new = Arc::new(new);
                        let replacement =
                            Replacement { old: Arc::clone(&entry.shown), new: Arc::clone(&new) };
                        match replace(replacement).await {
                            Ok(()) => {
                                tracing::info!(file = %entry.pair.chain.display(), "certificate read again and in use");
                                (entry.shown, entry.stamps) = (new, Some(stamps));
                                Ok(())
                            }
                            Err(error) => Err(error),
                        }
                    }
                    Err(error) => Err(error.to_string()),
                };
                entry.note(new.err(), &reports);
            }
        }
    }
}

impl Entry {
    /// What is in the files, if it is not what is shown.
    fn look(&mut self, asked: bool, now: i64) -> Result<Option<(Certificate, Stamps)>, FileError> {
        let stamps = self.pair.stamps()?;
        let unchanged = self.stamps == Some(stamps) && self.error.is_none();
        if unchanged && !asked {
            return Ok(None);
        }
        let new = self.pair.read()?;
        // Somebody is writing: the next look finds it finished.
        if self.pair.stamps()? != stamps {
            return Ok(None);
        }
        let path = || self.pair.chain.clone();
        new.check_dates(now).map_err(|error| FileError::Unusable { path: path(), error })?;
        if new.certified_key().cert == self.shown.certified_key().cert {
            self.stamps = Some(stamps);
            if let Some(error) = self.error.take() {
                tracing::info!(file = %path().display(), was = error, "the certificate files are as they were");
            }
            return Ok(None);
        }
        Ok(Some((new, stamps)))
    }

    fn note(&mut self, error: Option<String>, reports: &Reports) {
        let file = self.pair.chain.display().to_string();
        if let Some(error) = &error
            && self.error.as_ref() != Some(error)
        {
            tracing::warn!(
                file,
                error,
                "the changed certificate is not used; the one before it is"
            );
        }
        reports.edit(|report| match &error {
            Some(error) => {
                report.files.insert(file, error.clone());
            }
            None => {
                report.files.remove(&file);
            }
        });
        self.error = error;
    }
}

impl Pair {
    fn stamps(&self) -> Result<Stamps, FileError> {
        let of = |path: &Path| {
            std::fs::metadata(path)
                .map(|metadata| Stamp::of(&metadata))
                .map_err(|error| FileError::Read { path: path.to_owned(), error })
        };
        Ok([of(&self.chain)?, of(&self.key)?])
    }

    fn read(&self) -> Result<Certificate, FileError> {
        let (chain, key) = (text(&self.chain)?, text(&self.key)?);
        Certificate::from_pem(&chain, &key, Source::File)
            .map_err(|error| FileError::Unusable { path: self.chain.clone(), error })
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The text of a file, read a little further than anything that is used.
fn text(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let limit = u64::try_from(MAX_PEM_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|error| FileError::Read { path: path.to_owned(), error })?;
    Ok(text)
}

async fn received(signals: &mut Option<Signal>) {
    let received = match signals {
        Some(signals) => signals.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
}
