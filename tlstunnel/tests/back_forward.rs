//! Forwarding over real sockets: every order of half-close, cut streams, limits, and many bytes both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use config_proto::model::{Route, RouteName};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256};
use tlstunnel::backend::{BackendConnection, ClientInfo, Resolver};
use tlstunnel::counters::{Counter, RouteCounters};
use tlstunnel::forward::{ClientStream, Ended, Meters, Outcome, Socket, forward};
use tlstunnel::gateway::Phase;
use tlstunnel::limits::Limits;
use tlstunnel::route::ActiveRoute;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Both ends of a TCP connection over the loopback.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// The gateway's connection to a backend, and the backend's end of it.
async fn backend() -> (BackendConnection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let route = Route::new(RouteName::Default, vec![address.into()]);
    let limits = Limits::default();
    let route = ActiveRoute::new(&route, &limits, Arc::<RouteCounters>::default(), None).unwrap();
    let client = ClientInfo { peer: address, local: address, server_name: None, tls: None };
    let connection = route.backends.connect(&Resolver::default(), &client, &limits).await.unwrap();
    (connection, listener.accept().await.unwrap().0)
}

struct Gateway {
    outcome: JoinHandle<Outcome>,
    phase: watch::Sender<Phase>,
    bytes_in: Arc<Counter>,
    bytes_out: Arc<Counter>,
}

impl Gateway {
    fn start<C: ClientStream + Send + 'static>(
        client: C,
        backend: BackendConnection,
        limits: Limits,
    ) -> Self {
        let phase = watch::Sender::new(Phase::Serving);
        let (bytes_in, bytes_out) = (Arc::<Counter>::default(), Arc::<Counter>::default());
        let (counter_in, counter_out) = (Arc::clone(&bytes_in), Arc::clone(&bytes_out));
        let receiver = phase.subscribe();
        let outcome = tokio::spawn(async move {
            let meters = Meters { bytes_in: &[&counter_in], bytes_out: &[&counter_out] };
            forward(client, backend, &limits, meters, receiver).await
        });
        Self { outcome, phase, bytes_in, bytes_out }
    }

    async fn ended(self) -> Ended {
        let outcome = self.outcome.await.unwrap();
        assert_eq!(outcome.bytes_in, self.bytes_in.value());
        assert_eq!(outcome.bytes_out, self.bytes_out.value());
        outcome.ended
    }
}

/// A client in the clear (as in passthrough), the gateway, and the backend's end.
async fn plain(limits: Limits) -> (TcpStream, Gateway, TcpStream) {
    let (client, accepted) = pair().await;
    let (connection, backend) = backend().await;
    (client, Gateway::start(Socket::new(accepted, Vec::new()), connection, limits), backend)
}

type TlsClient = tokio_rustls::client::TlsStream<TcpStream>;

/// A TLS client, the gateway that terminates its TLS, and the backend's end.
async fn terminated(limits: Limits) -> (TlsClient, Gateway, TcpStream) {
    let (connector, acceptor) = tls();
    let (client, accepted) = pair().await;
    let name = ServerName::try_from("a.example").unwrap();
    let (client, accepted) = tokio::join!(
        connector.connect(name, client),
        acceptor.accept(Socket::new(accepted, Vec::new()))
    );
    let (connection, backend) = backend().await;
    (client.unwrap(), Gateway::start(accepted.unwrap(), connection, limits), backend)
}

fn tls() -> (TlsConnector, TlsAcceptor) {
    let issued = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(issued.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)))
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn client_ends_first<C>(mut client: C, gateway: Gateway, mut backend: TcpStream)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"question");
    backend.write_all(b"answer").await.unwrap();
    drop(backend);
    assert_eq!(read_all(&mut client).await, b"answer");
    assert_eq!(gateway.ended().await, Ended::ClosedByClient);
}

async fn backend_ends_first<C>(mut client: C, gateway: Gateway, mut backend: TcpStream)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    backend.write_all(b"banner").await.unwrap();
    backend.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"banner");
    client.write_all(b"late words").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"late words");
    assert_eq!(gateway.ended().await, Ended::ClosedByBackend);
}

#[tokio::test]
async fn half_close_is_kept_in_every_order() {
    let (client, gateway, backend) = plain(Limits::default()).await;
    client_ends_first(client, gateway, backend).await;
    let (client, gateway, backend) = terminated(Limits::default()).await;
    client_ends_first(client, gateway, backend).await;
    let (client, gateway, backend) = plain(Limits::default()).await;
    backend_ends_first(client, gateway, backend).await;
    let (client, gateway, backend) = terminated(Limits::default()).await;
    backend_ends_first(client, gateway, backend).await;
}

#[tokio::test]
async fn replayed_bytes_go_first() {
    let (mut client, accepted) = pair().await;
    let (connection, mut backend) = backend().await;
    let socket = Socket::new(accepted, b"hello, ".to_vec());
    let gateway = Gateway::start(socket, connection, Limits::default());
    client.write_all(b"world").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"hello, world");
    drop(backend);
    assert_eq!(gateway.ended().await, Ended::ClosedByClient);
}

#[tokio::test]
async fn a_client_without_close_notify_is_cut_towards_the_backend() {
    let (mut client, gateway, mut backend) = terminated(Limits::default()).await;
    client.write_all(b"half a message").await.unwrap();
    let mut received = [0; 14];
    backend.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"half a message");
    // Below TLS: FIN without close_notify.
    let mut tcp = client.into_inner().0;
    tcp.shutdown().await.unwrap();
    let error = backend.read(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(gateway.ended().await, Ended::ClientError(ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn a_reset_of_the_client_resets_the_backend() {
    let (client, gateway, mut backend) = plain(Limits::default()).await;
    client.set_zero_linger().unwrap();
    drop(client);
    let error = backend.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(gateway.ended().await, Ended::ClientError(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_of_the_backend_is_no_orderly_end_for_the_client() {
    let (mut client, gateway, mut backend) = terminated(Limits::default()).await;
    backend.write_all(b"part").await.unwrap();
    let mut received = [0; 4];
    client.read_exact(&mut received).await.unwrap();
    backend.set_zero_linger().unwrap();
    drop(backend);
    let error = client.read(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "no close_notify was sent");
    drop(client);
    assert_eq!(gateway.ended().await, Ended::BackendError(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (client, gateway, mut backend) = terminated(Limits::default()).await;
    let (mut reading, mut writing) = tokio::io::split(client);
    let upload = tokio::spawn(async move {
        let piece = vec![7; 64 * 1024];
        for _ in 0..64 {
            writing.write_all(&piece).await?;
        }
        std::io::Result::Ok(())
    });
    backend.read_exact(&mut [0; 1000]).await.unwrap();
    backend.write_all(b"413 too large").await.unwrap();
    // Closed with unread bytes: the kernel sends RST.
    drop(backend);
    let mut answer = [0; 13];
    reading.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"413 too large");
    upload.await.unwrap().unwrap();
    drop(reading);
    assert!(matches!(gateway.ended().await, Ended::BackendError(_)));
}

#[tokio::test]
async fn the_limits_end_what_stands_still() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let (mut client, gateway, mut backend) = plain(limits).await;
    assert_eq!(gateway.ended().await, Ended::IdleLimit);
    assert_eq!(backend.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

    let limits = Limits {
        idle: Duration::ZERO,
        half_closed: Duration::from_millis(50),
        ..Limits::default()
    };
    let (mut client, gateway, mut backend) = plain(limits).await;
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut backend).await, b"");
    assert_eq!(gateway.ended().await, Ended::HalfClosedLimit);
}

#[tokio::test]
async fn draining_goes_on_and_the_end_ends() {
    let (mut client, gateway, mut backend) = plain(Limits::default()).await;
    gateway.phase.send_replace(Phase::Draining);
    client.write_all(b"still here").await.unwrap();
    backend.read_exact(&mut [0; 10]).await.unwrap();
    gateway.phase.send_replace(Phase::Ended);
    assert_eq!(gateway.ended().await, Ended::Drained);
    assert_eq!(backend.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn megabytes() -> usize {
    std::env::var("TLSTUNNEL_TEST_MEGABYTES").map_or(20, |text| text.parse().unwrap())
}

/// Sends pseudo-random bytes in pieces of many sizes, and their checksum.
async fn send(stream: &mut (impl AsyncWrite + Unpin), seed: u32) -> Vec<u8> {
    let (mut digest, mut state, mut left) = (Sha256::new(), seed, megabytes() << 20);
    let mut piece = vec![0; 100_000];
    while left > 0 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let n = (1 + usize::try_from(state >> 8).unwrap() % piece.len()).min(left);
        piece[..n].fill(state.to_be_bytes()[0]);
        piece[n / 2] ^= 0x55;
        digest.update(&piece[..n]);
        stream.write_all(&piece[..n]).await.unwrap();
        left -= n;
    }
    stream.shutdown().await.unwrap();
    digest.finalize().to_vec()
}

async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let (mut digest, mut piece) = (Sha256::new(), vec![0; 70_001]);
    loop {
        match stream.read(&mut piece).await.unwrap() {
            0 => return digest.finalize().to_vec(),
            n => digest.update(&piece[..n]),
        }
    }
}

async fn many_bytes<C>(client: C, gateway: Gateway, backend: TcpStream)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    let (mut backend_reads, mut backend_writes) = backend.into_split();
    let (up, down, at_backend, at_client) = tokio::join!(
        send(&mut client_writes, 1),
        send(&mut backend_writes, 2),
        receive(&mut backend_reads),
        receive(&mut client_reads)
    );
    assert_eq!((up, down), (at_backend, at_client));
    let total = u64::try_from(megabytes() << 20).unwrap();
    assert_eq!((gateway.bytes_in.value(), gateway.bytes_out.value()), (total, total));
    assert!(matches!(gateway.ended().await, Ended::ClosedByClient | Ended::ClosedByBackend));
}

#[tokio::test]
async fn many_bytes_both_ways_at_once() {
    let (client, gateway, backend) = plain(Limits::default()).await;
    many_bytes(client, gateway, backend).await;
    let (client, gateway, backend) = terminated(Limits::default()).await;
    many_bytes(client, gateway, backend).await;
}

#[tokio::test]
async fn a_small_buffer_and_a_slow_reader_lose_nothing() {
    let limits = Limits { copy_buffer_bytes: 100, ..Limits::default() };
    let (mut client, gateway, mut backend) = terminated(limits).await;
    let sent: Vec<u8> = (0..200_000_u32).map(|i| i.to_be_bytes()[3]).collect();
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        backend.write_all(&sent).await.unwrap();
        backend
    });
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let mut piece = [0; 997];
        let n = client.read(&mut piece).await.unwrap();
        received.extend_from_slice(&piece[..n]);
        tokio::task::yield_now().await;
    }
    assert_eq!(received, expected);
    drop(sender.await.unwrap());
    assert_eq!(read_all(&mut client).await, b"");
    client.shutdown().await.unwrap();
    assert_eq!(gateway.ended().await, Ended::ClosedByBackend);
}
