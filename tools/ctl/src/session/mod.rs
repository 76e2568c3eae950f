//! One connection to a gateway: the socket under the protocol's state machine, with every wait bounded.
//!
//! A session asks one thing after the other. Each answer has its own time limit as a whole, so that a peer which drips
//! bytes is given up as surely as one that is silent.

use std::net::TcpStream;

use config_proto::access;
use config_proto::message::{Reply, Request, Role};
use config_proto::v2::client::{Client, ClientError, Event, ReceivedReply, RequestError};
use config_proto::v2::{GATEWAY_FRAME_BYTES, NONCE_LEN};
use serde::de::DeserializeOwned;

use crate::context::Target;
use crate::failure::Failure;
use crate::key::{self, Credential};

pub(crate) mod wire;

use wire::Deadline;

/// An authenticated connection.
#[derive(Debug)]
pub(crate) struct Session {
    target: Target,
    credential: Credential,
    stream: TcpStream,
    client: Client,
}

impl Session {
    /// Connects, and proves the key both ways.
    ///
    /// # Errors
    /// There is no key, no gateway, or they do not fit.
    pub(crate) fn open(target: &Target) -> Result<Self, Failure> {
        Self::open_with(target.clone(), key::load(target)?)
    }

    /// Replaces the connection by a new one to the same gateway with the same key.
    ///
    /// # Errors
    /// As [`Session::open`]; the session is then as it was.
    pub(crate) fn reopen(&mut self) -> Result<(), Failure> {
        *self = Self::open_with(self.target.clone(), self.credential.clone())?;
        Ok(())
    }

    fn open_with(target: Target, credential: Credential) -> Result<Self, Failure> {
        let deadline = Deadline::after(target.timeout);
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(key::no_randomness)?;
        let stream = wire::connect(&target.remote, deadline)?;
        let (client, hello) = Client::with_max_frame(&credential.key, nonce, GATEWAY_FRAME_BYTES);
        let mut session = Self { target, credential, stream, client };
        session.write(&hello, deadline)?;
        while !session.client.is_ready() {
            for event in session.receive(deadline)? {
                if let Event::Send(bytes) = event {
                    session.write(&bytes, deadline)?;
                }
            }
        }
        Ok(session)
    }

    /// `HOST:PORT` of the gateway.
    pub(crate) fn remote(&self) -> &str {
        &self.target.remote
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The gateway refuses, goes away, is silent for too long, or answers what cannot be understood.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        let deadline = Deadline::after(self.target.timeout);
        let (_, bytes) = self.client.request(request).map_err(|error| match error {
            RequestError::TooLong { bytes, max } => Failure::usage(
                format!("this is too much for one request: {bytes} bytes, and {max} are possible"),
                Some("routes can also be added one by one: tlstunnel-ctl add"),
            ),
            error => Failure::Unreachable { message: error.to_string(), hint: None },
        })?;
        let reply = self
            .write(&bytes, deadline)
            .and_then(|()| self.reply(deadline))
            .map_err(|failure| in_doubt(failure, request))?;
        let reply: Reply<T> = reply.into_reply().map_err(|error| Failure::Unreachable {
            message: format!("the answer is not understood: {error}"),
            hint: Some("gateway and tlstunnel-ctl may be of different versions".to_owned()),
        })?;
        match reply {
            Reply::Ok(answer) => Ok(answer),
            Reply::Error(refusal) => Err(Failure::Refused(refusal)),
        }
    }

    fn reply(&mut self, deadline: Deadline) -> Result<ReceivedReply, Failure> {
        loop {
            for event in self.receive(deadline)? {
                if let Event::Reply(reply) = event {
                    return Ok(reply);
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Failure> {
        wire::write(&mut self.stream, bytes, &self.target.remote, deadline)
    }

    /// The events of the next bytes that come.
    fn receive(&mut self, deadline: Deadline) -> Result<Vec<Event>, Failure> {
        let mut buffer = [0; 16 * 1024];
        let length = wire::read(&mut self.stream, &mut buffer, &self.target.remote, deadline)?;
        let events = match buffer.get(..length) {
            None | Some([]) => self.client.end().and(Err(ClientError::Truncated)),
            Some(bytes) => self.client.feed(bytes),
        };
        events.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &ClientError) -> Failure {
        let remote = &self.target.remote;
        let hint = match error {
            ClientError::NotAuthenticated => {
                let Credential { key, file } = &self.credential;
                let (id, file) = (key.id(), file.display());
                return Failure::NotAuthenticated {
                    message: format!("{remote} does not accept the key {id} from {file}"),
                    hint: Some(
                        "check the id (--key-id) and the file (--key-file). The gateway names its key file when it \
                         starts, further keys come from `tlstunnel-ctl key add`; clocks play no part in this"
                            .to_owned(),
                    ),
                };
            }
            ClientError::BadMagic | ClientError::BadVersion(_) => Some(
                "is this the control port, and not that of the web? An original gateway needs --v1",
            ),
            ClientError::Truncated => {
                Some("it may have stopped just now, or this is not the control port; try again")
            }
            _ => None,
        };
        Failure::Unreachable {
            message: format!("{remote}: {error}"),
            hint: hint.map(str::to_owned),
        }
    }
}

/// A change whose answer was lost may have been made: say so, since trying again blindly could be wrong.
fn in_doubt(failure: Failure, request: &Request) -> Failure {
    let only_reads = access::permits(&Role::Viewer, request, None).is_ok();
    match failure {
        Failure::Unreachable { message, .. } if !only_reads => Failure::Unreachable {
            message: format!("{message}; whether the change was made is not known"),
            hint: Some("see tlstunnel-ctl history before you try again".to_owned()),
        },
        failure => failure,
    }
}
