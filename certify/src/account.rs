//! Our account with the authority: found again, or made, exactly once.
//!
//! The key is stored before the authority hears of it. Asking for an account with a key that has one gives that account
//! (RFC 8555, section 7.3.1), so after a crash at any place the same account is found. With an external account binding
//! the library makes the key itself: there a crash between the authority's answer and our storing it leaves an account
//! that is never used.
//!
//! The same holds for a change of the key: the new one is stored first, and when a change was interrupted, the authority is
//! asked whether it knows the new one already.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{Account, ExternalAccountKey, Key, NewAccount};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::failure::{ACCOUNT_DOES_NOT_EXIST, BAD_NONCE, Failure};
use crate::host::Host;
use crate::http::Client;
use crate::record::{AccountRecord, account_key, encode};
use crate::schedule::Pace;
use crate::settings::Settings;
use crate::signed::Signer;

/// Gives the account of `record`, making what is missing and storing every step.
pub(crate) async fn open<H: Host>(
    host: &H,
    settings: &Settings,
    client: &Client,
    record: &mut Option<AccountRecord>,
) -> Result<Account, Failure> {
    let failed = |error: instant_acme::Error| Failure::from_acme(&error, client.last_retry_after());
    let builder = || Account::builder_with_http(Box::new(client.clone()));
    let directory = &settings.directory;
    if record.as_ref().is_some_and(|known| known.next_key.is_some())
        && let Err(failure) = finish_roll_over(host, settings, client, record).await
    {
        match record.as_ref().is_some_and(|known| known.next_key.is_some()) {
            true => return Err(failure),
            false => tracing::warn!(error = failure.message, "the account keeps its key"),
        }
    }
    let account = match (&*record, &settings.external_account) {
        (Some(AccountRecord { key, id: Some(id), .. }), _) => {
            let key = key_der(key)?;
            builder().from_parts(id.clone(), key, directory.clone()).await.map_err(failed)?
        }
        (_, Some(external)) => {
            let binding = ExternalAccountKey::new(external.key_id.clone(), &external.key);
            let contacts = mailto(&settings.contacts);
            let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
            let new = NewAccount {
                contact: &contacts,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let (account, credentials) =
                builder().create(&new, directory.clone(), Some(&binding)).await.map_err(failed)?;
            let made = AccountRecord {
                key: STANDARD.encode(credentials.private_key().secret_pkcs8_der()),
                id: Some(account.id().to_owned()),
                next_key: None,
                contacts: settings.contacts.clone(),
            };
            save(host, directory, &made).await?;
            *record = Some(made);
            tracing::info!(account = account.id(), "account made with the authority");
            account
        }
        (known, None) => {
            let mut made = match known {
                Some(known) => known.clone(),
                None => {
                    let (_, der) = Key::generate_pkcs8().map_err(failed)?;
                    let key = STANDARD.encode(der.secret_pkcs8_der());
                    let fresh =
                        AccountRecord { key, id: None, next_key: None, contacts: Vec::new() };
                    save(host, directory, &fresh).await?;
                    fresh
                }
            };
            let der = key_der(&made.key)?;
            let key = Key::from_pkcs8_der(der.clone_key()).map_err(failed)?;
            let (account, _) = builder()
                .create_from_key((key, PrivateKeyDer::Pkcs8(der)), directory.clone())
                .await
                .map_err(failed)?;
            made.id = Some(account.id().to_owned());
            made.contacts = Vec::new();
            save(host, directory, &made).await?;
            *record = Some(made);
            tracing::info!(account = account.id(), "account with the authority is ready");
            account
        }
    };
    if let Some(known) = record
        && known.contacts != settings.contacts
    {
        let contacts = mailto(&settings.contacts);
        let contacts: Vec<&str> = contacts.iter().map(String::as_str).collect();
        match account.update_contacts(&contacts).await {
            Ok(()) => {
                known.contacts.clone_from(&settings.contacts);
                save(host, directory, known).await?;
            }
            // Certificates matter more than the address for mail about them.
            Err(error) => tracing::warn!(%error, "the authority does not take the contacts"),
        }
    }
    Ok(account)
}

/// Gives the account a new key (RFC 8555, section 7.3.5). The account must have been opened.
pub(crate) async fn roll_over<H: Host>(
    host: &H,
    settings: &Settings,
    client: &Client,
    record: &mut Option<AccountRecord>,
) -> Result<(), Failure> {
    let known = record.as_mut().ok_or_else(|| Failure::local("there is no account yet"))?;
    if known.next_key.is_none() {
        let failed = |error| Failure::from_acme(&error, client.last_retry_after());
        let (_, der) = Key::generate_pkcs8().map_err(failed)?;
        let mut next = known.clone();
        next.next_key = Some(STANDARD.encode(der.secret_pkcs8_der()));
        save(host, &settings.directory, &next).await?;
        *known = next;
    }
    finish_roll_over(host, settings, client, record).await
}

async fn finish_roll_over<H: Host>(
    host: &H,
    settings: &Settings,
    client: &Client,
    record: &mut Option<AccountRecord>,
) -> Result<(), Failure> {
    let Some((known, next)) =
        record.as_mut().and_then(|known| Some((known.clone(), known.next_key.clone()?)))
    else {
        return Ok(());
    };
    if !knows(settings, client, &next).await? {
        let signer = Signer::new(client, &settings.directory, &known).await?;
        match signer.change_key(&next).await {
            // It stays as it was, and must not be asked about at every start.
            Err(failure) if failure.pace == Pace::Refused && !failure.is(BAD_NONCE) => {
                let kept = AccountRecord { next_key: None, ..known };
                save(host, &settings.directory, &kept).await?;
                *record = Some(kept);
                return Err(failure);
            }
            other => other?,
        }
    }
    let changed = AccountRecord { key: next, next_key: None, ..known };
    save(host, &settings.directory, &changed).await?;
    tracing::info!(account = changed.id, "the account has a new key");
    *record = Some(changed);
    Ok(())
}

/// Whether an account has this key.
async fn knows(settings: &Settings, client: &Client, key: &str) -> Result<bool, Failure> {
    let failed = |error: instant_acme::Error| Failure::from_acme(&error, client.last_retry_after());
    let der = key_der(key)?;
    let key = Key::from_pkcs8_der(der.clone_key()).map_err(failed)?;
    let asked = Account::builder_with_http(Box::new(client.clone()))
        .from_key((key, PrivateKeyDer::Pkcs8(der)), settings.directory.clone())
        .await;
    match asked.map_err(failed) {
        Ok(_) => Ok(true),
        Err(failure) if failure.is(ACCOUNT_DOES_NOT_EXIST) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The authority does not know the account any more: the next attempt makes it again, with the same key.
pub(crate) async fn forget<H: Host>(
    host: &H,
    settings: &Settings,
    record: &mut Option<AccountRecord>,
) -> Result<(), Failure> {
    if let Some(known) = record {
        (known.id, known.next_key) = (None, None);
        save(host, &settings.directory, known).await?;
    }
    Ok(())
}

async fn save<H: Host>(host: &H, directory: &str, record: &AccountRecord) -> Result<(), Failure> {
    Ok(host.save(account_key(directory), Some(encode(record)?)).await?)
}

fn key_der(base64: &str) -> Result<PrivatePkcs8KeyDer<'static>, Failure> {
    let der = STANDARD
        .decode(base64)
        .map(Zeroizing::new)
        .map_err(|error| Failure::local(format!("the stored account key is damaged: {error}")))?;
    Ok(PrivatePkcs8KeyDer::from(der.to_vec()))
}

fn mailto(contacts: &[String]) -> Vec<String> {
    contacts.iter().map(|mail| format!("mailto:{mail}")).collect()
}
