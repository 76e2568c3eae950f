//! The near side: blocking calls as `std` makes them, and those that only `socket2` offers.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::shown;

/// How long anything may take before the script gives up.
const LIMIT: Duration = Duration::from_secs(20);
/// Time for what is on its way to arrive.
const MOMENT: Duration = Duration::from_millis(150);

/// Who talks to whom.
pub(crate) struct Sides {
    /// The near side's address.
    pub(crate) near: IpAddr,
    /// Where the far side listens.
    pub(crate) far: SocketAddr,
}

impl Sides {
    /// A connection on which the far side does what the line says.
    pub(crate) fn open(&self, line: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.far).context("connect to the far side")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        writeln!(stream, "{line}")?;
        Ok(stream)
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.near, port)
    }

    fn socket(&self, kind: Type) -> Result<Socket> {
        Ok(Socket::new(Domain::for_address(self.far), kind, None)?)
    }
}

/// All of it.
pub(crate) fn script(sides: &Sides) -> Result<()> {
    streams(sides)?;
    ends(sides)?;
    resets(sides)?;
    refusals(sides)?;
    names(sides)?;
    options(sides)?;
    listeners(sides)?;
    time_limits(sides)?;
    datagrams(sides)?;
    wrong_kinds(sides)?;
    Ok(())
}

fn streams(sides: &Sides) -> Result<()> {
    let mut stream = sides.open("echo")?;
    stream.write_all(b"hello")?;
    let mut buffer = [0; 16];
    stream.read_exact(&mut buffer[..5])?;
    println!("stream: {:?}", String::from_utf8_lossy(&buffer[..5]));
    println!("stream: peer is the far side: {}", stream.peer_addr()? == sides.far);
    println!("stream: own address is the near one: {}", stream.local_addr()?.ip() == sides.near);

    stream.write_all(b"peeked")?;
    thread::sleep(MOMENT);
    println!("stream: peek {}", shown(&stream.peek(&mut buffer)));
    println!("stream: peek again {}", shown(&stream.peek(&mut buffer[..3])));
    println!("stream: read {}", shown(&stream.read(&mut buffer)));
    println!("stream: empty write {}", shown(&stream.write(&[])));

    stream.write_all(b"abcdefgh")?;
    thread::sleep(MOMENT);
    let (mut a, mut b) = ([0; 3], [0; 9]);
    let pieces = &mut [std::io::IoSliceMut::new(&mut a), std::io::IoSliceMut::new(&mut b)];
    println!("stream: two pieces {}", shown(&stream.read_vectored(pieces)));
    println!("stream: they are {:?}", String::from_utf8_lossy(&[&a[..], &b[..5]].concat()));
    let pieces = [std::io::IoSlice::new(b"12"), std::io::IoSlice::new(b"345")];
    println!("stream: write two pieces {}", shown(&stream.write_vectored(&pieces)));
    let socket = SockRef::from(&stream);
    let mut room = [MaybeUninit::uninit(); 5];
    println!("stream: wait for all {}", shown(&socket.recv_with_flags(&mut room, 0x100)));
    println!("stream: urgent data {}", shown(&socket.recv_with_flags(&mut room, 1)));

    stream.set_nonblocking(true)?;
    println!("stream: nothing there {}", shown(&stream.read(&mut buffer)));
    stream.set_nonblocking(false)?;
    stream.shutdown(Shutdown::Write)?;
    println!("stream: end {}", shown(&stream.read(&mut buffer)));
    println!("stream: end again {}", shown(&stream.read(&mut buffer)));

    let mut stream = sides.open("flood 5000000")?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let digest: String = Sha256::digest(&all).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("stream: {} octets with digest {digest}", all.len());
    let mut stream = sides.open("count")?;
    stream.write_all(&all)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("stream: the far side has received {answer}");

    let mut streams = Vec::new();
    for number in 0..50_u8 {
        let mut stream = sides.open("echo")?;
        stream.write_all(&[number])?;
        streams.push(stream);
    }
    let mut sum = 0;
    for stream in &mut streams {
        stream.read_exact(&mut buffer[..1])?;
        sum += u32::from(buffer[0]);
    }
    println!("stream: fifty at once, sum {sum}");
    Ok(())
}

fn ends(sides: &Sides) -> Result<()> {
    let mut buffer = [0; 16];
    let mut stream = sides.open("end")?;
    println!("end: read {}", shown(&stream.read(&mut buffer)));
    println!("end: the other direction goes on {}", shown(&stream.write(b"data")));
    println!("end: shut {}", shown(&stream.shutdown(Shutdown::Write)));
    thread::sleep(MOMENT);
    println!("end: shut again {}", shown(&stream.shutdown(Shutdown::Write)));
    println!("end: write {}", shown(&stream.write(b"data")));

    // The far side is silent for a while: what comes for a socket that is shut both ways resets it (RFC 1122, 4.2.2.13), and
    // the error of the last write would depend on who is first.
    let stream = sides.open("stuck")?;
    println!("end: shut reading {}", shown(&stream.shutdown(Shutdown::Read)));
    println!("end: read {}", shown(&(&stream).read(&mut buffer)));
    println!("end: write {}", shown(&(&stream).write(b"data")));
    println!("end: shut both {}", shown(&stream.shutdown(Shutdown::Both)));
    println!("end: write {}", shown(&(&stream).write(b"data")));

    let mut stream = sides.open("close")?;
    println!("end: closed by the peer, read {}", shown(&stream.read(&mut buffer)));
    println!("end: write {}", shown(&stream.write(b"data")));
    thread::sleep(MOMENT);
    println!("end: write again {}", shown(&stream.write(b"data")));
    println!("end: error {}", shown(&stream.take_error().map(|e| e.map(|e| e.kind()))));
    println!("end: read {}", shown(&stream.read(&mut buffer)));
    println!("end: shut {}", shown(&stream.shutdown(Shutdown::Both)));

    let stream = sides.open("echo")?;
    let second = stream.try_clone()?;
    drop(stream);
    println!("end: a second handle goes on {}", shown(&(&second).write(b"data")));
    (&second).read_exact(&mut buffer[..4])?;

    // A read that waits while another thread shuts the socket down.
    let stream = sides.open("echo")?;
    let waiting = stream.try_clone()?;
    let thread = thread::spawn(move || shown(&(&waiting).read(&mut [0; 1])));
    thread::sleep(MOMENT);
    stream.shutdown(Shutdown::Both)?;
    println!("end: a read that waited {}", thread.join().unwrap_or_default());
    Ok(())
}

fn resets(sides: &Sides) -> Result<()> {
    let mut buffer = [0; 16];
    let mut stream = sides.open("reset")?;
    println!("reset: read {}", shown(&stream.read(&mut buffer)));
    println!("reset: read again {}", shown(&stream.read(&mut buffer)));
    println!("reset: write {}", shown(&stream.write(b"data")));
    println!("reset: peer {}", shown(&stream.peer_addr().map(|_| ())));
    println!("reset: shut {}", shown(&stream.shutdown(Shutdown::Both)));

    let mut stream = sides.open("reset")?;
    thread::sleep(MOMENT);
    println!("reset: error {}", shown(&stream.take_error().map(|e| e.map(|e| e.kind()))));
    println!("reset: error again {}", shown(&stream.take_error().map(|e| e.map(|e| e.kind()))));
    println!("reset: read {}", shown(&stream.read(&mut buffer)));

    let mut stream = sides.open("unread")?;
    stream.write_all(&[1; 1000])?;
    println!("reset: by unread data {}", shown(&stream.read(&mut buffer)));

    // Data that came before the reset is lost with it, as on Linux.
    let listener = TcpListener::bind(sides.at(0))?;
    println!("reset: listener {}", shown(&listener.take_error().map(|_| ())));
    Ok(())
}

fn refusals(sides: &Sides) -> Result<()> {
    // A port that was free a moment ago.
    let listener = TcpListener::bind(sides.at(0))?;
    let closed = SocketAddr::new(sides.near, listener.local_addr()?.port());
    drop(listener);
    println!("refusal: {}", shown(&TcpStream::connect(closed).map(|_| ())));
    println!("refusal: {}", shown(&TcpStream::connect_timeout(&closed, LIMIT).map(|_| ())));
    let port_1 = SocketAddr::new(sides.far.ip(), 1);
    println!("refusal: far {}", shown(&TcpStream::connect(port_1).map(|_| ())));

    let socket = sides.socket(Type::STREAM)?;
    socket.set_nonblocking(true)?;
    let begun = socket.connect(&port_1.into());
    // Over the loopback Linux may know at once.
    let known = begun.as_ref().err().and_then(std::io::Error::raw_os_error) == Some(111);
    thread::sleep(MOMENT);
    let error = if known { begun.err() } else { socket.take_error()? };
    println!("refusal: error {:?}", error.map(|error| error.kind()));
    println!("refusal: error again {}", shown(&socket.take_error().map(|e| e.map(|e| e.kind()))));
    println!(
        "refusal: then connected {}",
        match socket.connect(&sides.far.into()) {
            Ok(()) => "or begun".to_owned(),
            Err(error) if error.raw_os_error() == Some(115) => "or begun".to_owned(),
            Err(error) => shown::<()>(&Err(error)),
        }
    );
    thread::sleep(MOMENT);
    println!("refusal: then {}", shown(&socket.take_error().map(|e| e.map(|e| e.kind()))));
    println!("refusal: again {}", shown(&socket.connect(&sides.far.into())));
    thread::sleep(MOMENT);
    println!("refusal: and again {}", shown(&socket.connect(&sides.far.into())));

    let nowhere: SocketAddr = match sides.far {
        SocketAddr::V4(_) => "203.0.113.1:9",
        SocketAddr::V6(_) => "[2001:db8::1]:9",
    }
    .parse()?;
    println!("refusal: no route {}", shown(&TcpStream::connect(nowhere).map(|_| ())));
    Ok(())
}

fn names(sides: &Sides) -> Result<()> {
    let socket = sides.socket(Type::STREAM)?;
    let name = |socket: &Socket| socket.local_addr().map(|a| a.as_socket().map(|a| a.port() != 0));
    println!("name: own of a new one {}", shown(&name(&socket)));
    println!("name: peer of a new one {}", shown(&socket.peer_addr().map(|_| ())));
    println!("name: bind {}", shown(&socket.bind(&sides.at(0).into())));
    println!("name: own {}", shown(&name(&socket)));
    println!("name: bind again {}", shown(&socket.bind(&sides.at(0).into())));
    let bound = socket.local_addr()?;
    println!("name: taken {}", shown(&sides.socket(Type::STREAM)?.bind(&bound)));
    println!("name: connect from it {}", shown(&socket.connect(&sides.far.into())));
    let same = socket.local_addr()?.as_socket() == bound.as_socket();
    println!("name: it stayed {same}");
    let elsewhere: SocketAddr = match sides.near {
        IpAddr::V4(_) => "203.0.113.1:0",
        IpAddr::V6(_) => "[2001:db8::1]:0",
    }
    .parse()?;
    println!("name: of nobody {}", shown(&TcpListener::bind(elsewhere).map(|_| ())));
    let other: SocketAddr = match sides.near {
        IpAddr::V4(_) => "[::1]:0",
        IpAddr::V6(_) => "127.0.0.1:0",
    }
    .parse()?;
    let result = sides.socket(Type::STREAM)?.bind(&other.into());
    println!("name: of the other family {}", shown(&result));

    let reused = |first: bool, second: bool| -> Result<String> {
        let one = sides.socket(Type::STREAM)?;
        one.set_reuse_address(first)?;
        one.bind(&sides.at(0).into())?;
        let two = sides.socket(Type::STREAM)?;
        two.set_reuse_address(second)?;
        let bound = two.bind(&one.local_addr()?);
        let before = shown(&bound);
        let listens = one.listen(1);
        let three = sides.socket(Type::STREAM)?;
        three.set_reuse_address(true)?;
        let late = three.bind(&one.local_addr()?);
        Ok(format!("{before}, then listen {}, late {}", shown(&listens), shown(&late)))
    };
    for (first, second) in [(false, false), (true, false), (true, true)] {
        println!("name: reused {first} {second}: {}", reused(first, second)?);
    }
    Ok(())
}

fn options(sides: &Sides) -> Result<()> {
    let stream = sides.open("echo")?;
    let socket = SockRef::from(&stream);
    println!("option: type {}", shown(&socket.r#type().map(|kind| kind == Type::STREAM)));
    println!("option: protocol {}", shown(&socket.protocol().map(|p| p == Some(Protocol::TCP))));
    println!("option: no delay {}", shown(&socket.tcp_nodelay()));
    socket.set_tcp_nodelay(false)?;
    println!("option: no delay {}", shown(&socket.tcp_nodelay()));
    println!("option: keep alive {}", shown(&socket.keepalive()));
    let alive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    println!("option: keep alive {}", shown(&socket.set_tcp_keepalive(&alive)));
    println!("option: idle {}", shown(&socket.tcp_keepalive_time()));
    println!("option: interval {}", shown(&socket.tcp_keepalive_interval()));
    println!("option: retries {}", shown(&socket.tcp_keepalive_retries()));
    println!("option: linger {}", shown(&socket.linger()));
    socket.set_linger(Some(Duration::from_secs(3)))?;
    println!("option: linger {}", shown(&socket.linger()));
    socket.set_linger(None)?;
    println!("option: read limit {}", shown(&stream.read_timeout()));
    println!("option: read limit zero {}", shown(&stream.set_read_timeout(Some(Duration::ZERO))));
    println!("option: write limit {}", shown(&stream.write_timeout()));
    socket.set_tcp_user_timeout(Some(Duration::from_secs(9)))?;
    println!("option: user limit {}", shown(&socket.tcp_user_timeout()));
    println!("option: listens {}", shown(&socket.is_listener()));
    println!("option: reuse {}", shown(&socket.reuse_address()));
    println!("option: broadcast {}", shown(&socket.broadcast()));
    println!("option: close on exec {}", shown(&socket.set_cloexec(true)));
    println!("option: buffers {}", socket.recv_buffer_size()? >= 4096);
    let six = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    println!("option: IPv6 only {}", shown(&six.only_v6()));
    println!("option: IPv6 only {}", shown(&six.set_only_v6(true)));
    println!("option: IPv6 only {}", shown(&six.only_v6()));
    let four = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    println!("option: IPv6 only on IPv4 {}", shown(&four.set_only_v6(true)));
    Ok(())
}

fn listeners(sides: &Sides) -> Result<()> {
    let listener = TcpListener::bind(sides.at(0))?;
    let at = listener.local_addr()?;
    println!("listener: listens {}", shown(&SockRef::from(&listener).is_listener()));
    listener.set_nonblocking(true)?;
    println!("listener: nobody {}", shown(&listener.accept().map(|_| ())));
    listener.set_nonblocking(false)?;
    println!("listener: taken {}", shown(&TcpListener::bind(at).map(|_| ())));
    println!("listener: peer {}", shown(&SockRef::from(&listener).peer_addr().map(|_| ())));
    println!("listener: connect {}", shown(&SockRef::from(&listener).connect(&sides.far.into())));
    let mut buffer = [0; 16];
    let mut raw = [MaybeUninit::uninit(); 4];
    println!("listener: read {}", shown(&SockRef::from(&listener).recv(&mut raw)));

    let mut call = sides.open(&format!("call {}", at.port()))?;
    let (mut accepted, from) = listener.accept()?;
    println!("listener: from the far side {}", from.ip() == sides.far.ip());
    println!("listener: at its address {}", accepted.local_addr()? == at);
    let mut all = Vec::new();
    accepted.read_to_end(&mut all)?;
    println!("listener: received {:?}", String::from_utf8_lossy(&all));
    accepted.write_all(b"answer")?;
    drop(accepted);
    let len = call.read(&mut buffer)?;
    println!("listener: answered {:?}", String::from_utf8_lossy(&buffer[..len]));

    let second = listener.try_clone()?;
    drop(listener);
    let mut calls: Vec<_> =
        (0..20).map(|_| sides.open(&format!("call {}", at.port()))).collect::<Result<_>>()?;
    for number in 0..20_u8 {
        let (mut accepted, _) = second.accept()?;
        accepted.read_to_end(&mut Vec::new())?;
        accepted.write_all(&[number])?;
    }
    let mut sum = 0;
    for call in &mut calls {
        call.read_exact(&mut buffer[..1])?;
        sum += u32::from(buffer[0]);
    }
    println!("listener: twenty calls, sum {sum}");

    // An accept that waits while the listener is shut down.
    let waiting = second.try_clone()?;
    let thread = thread::spawn(move || shown(&waiting.accept().map(|_| ())));
    thread::sleep(MOMENT);
    println!("listener: shut {}", shown(&SockRef::from(&second).shutdown(Shutdown::Both)));
    println!("listener: an accept that waited {}", thread.join().unwrap_or_default());
    println!("listener: then {}", shown(&TcpStream::connect(at).map(|_| ())));
    Ok(())
}

fn time_limits(sides: &Sides) -> Result<()> {
    let mut buffer = [0; 16];
    let mut stream = sides.open("echo")?;
    stream.set_read_timeout(Some(Duration::from_millis(80)))?;
    let started = Instant::now();
    println!("time: read {}", shown(&stream.read(&mut buffer)));
    println!("time: it waited {}", started.elapsed() >= Duration::from_millis(75));
    stream.write_all(b"more")?;
    stream.set_read_timeout(Some(LIMIT))?;
    println!("time: read {}", shown(&stream.read(&mut buffer)));
    let mut stream = sides.open("later")?;
    println!("time: late {}", shown(&stream.read(&mut buffer)));

    let mut stream = sides.open("stuck")?;
    stream.set_nonblocking(true)?;
    let piece = vec![7; 65_536];
    let mut sent = 0;
    let full = loop {
        match stream.write(&piece) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
        if sent > 64 << 20 {
            anyhow::bail!("there is no end of buffers");
        }
    };
    println!("time: full {}", shown::<()>(&Err(full)));
    stream.set_nonblocking(false)?;
    stream.write_all(b"last")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("time: all has come {}", answer.parse::<usize>().ok() == Some(sent + 4));
    Ok(())
}

fn datagrams(sides: &Sides) -> Result<()> {
    let mut buffer = [0; 2048];
    let socket = UdpSocket::bind(sides.at(0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    println!("datagram: sent {}", shown(&socket.send_to(b"one", sides.far)));
    let (len, from) = socket.recv_from(&mut buffer)?;
    println!("datagram: {len} octets from the far side {}", from == sides.far);
    println!("datagram: without a peer {}", shown(&socket.send(b"x")));
    println!("datagram: peer {}", shown(&socket.peer_addr().map(|_| ())));
    println!("datagram: connect {}", shown(&socket.connect(sides.far)));
    println!("datagram: peer {}", shown(&socket.peer_addr().map(|peer| peer == sides.far)));
    println!("datagram: sent {}", shown(&socket.send(b"four")));
    println!("datagram: peek {}", shown(&socket.peek(&mut buffer)));
    println!("datagram: cut {}", shown(&socket.recv(&mut buffer[..2])));
    socket.set_nonblocking(true)?;
    println!("datagram: the rest is gone {}", shown(&socket.recv(&mut buffer)));
    socket.set_nonblocking(false)?;
    println!("datagram: empty {}", shown(&socket.send(b"")));
    println!("datagram: empty {}", shown(&socket.recv(&mut buffer)));
    println!("datagram: too long {}", shown(&socket.send(&[0; 65_600])));
    println!("datagram: taken {}", shown(&UdpSocket::bind(socket.local_addr()?).map(|_| ())));
    println!("datagram: broadcast {}", shown(&socket.broadcast()));
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    println!("datagram: silence {}", shown(&socket.recv(&mut buffer)));

    let unbound = sides.socket(Type::DGRAM)?;
    println!("datagram: unbound {}", shown(&unbound.send_to(b"x", &sides.far.into())));
    let port = unbound.local_addr()?.as_socket().map(|a| a.port() != 0);
    println!("datagram: it has a port {port:?}");
    let refused = UdpSocket::bind(sides.at(0))?;
    refused.connect(SocketAddr::new(sides.far.ip(), 1))?;
    refused.set_read_timeout(Some(MOMENT))?;
    println!("datagram: to nobody {}", shown(&refused.send(b"x")));
    thread::sleep(MOMENT);
    println!("datagram: refused {}", shown(&refused.recv(&mut buffer)));

    let socket = SockRef::from(&refused);
    println!("datagram: listen {}", shown(&socket.listen(1)));
    println!("datagram: accept {}", shown(&socket.accept().map(|_| ())));
    println!("datagram: type {}", shown(&socket.r#type().map(|kind| kind == Type::DGRAM)));
    Ok(())
}

fn wrong_kinds(sides: &Sides) -> Result<()> {
    let socket = sides.socket(Type::STREAM)?;
    let mut raw = [MaybeUninit::uninit(); 4];
    println!("kind: new one reads {}", shown(&socket.recv(&mut raw)));
    println!("kind: new one writes {}", shown(&socket.send(b"x")));
    println!("kind: new one accepts {}", shown(&socket.accept().map(|_| ())));
    println!("kind: new one is shut {}", shown(&socket.shutdown(Shutdown::Both)));
    println!("kind: listen {}", shown(&socket.listen(5)));
    println!("kind: it has a port {:?}", socket.local_addr()?.as_socket().map(|a| a.port() != 0));
    let stream = sides.open("echo")?;
    println!("kind: a stream listens {}", shown(&SockRef::from(&stream).listen(5)));
    println!("kind: a stream accepts {}", shown(&SockRef::from(&stream).accept().map(|_| ())));
    println!(
        "kind: a stream connects {}",
        shown(&SockRef::from(&stream).connect(&sides.far.into()))
    );
    println!("kind: raw {}", shown(&Socket::new(Domain::IPV4, Type::SEQPACKET, None).map(|_| ())));
    Ok(())
}

/// One IPv6 socket for both families, and names that need no server.
pub(crate) fn both_families() -> Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(5)?;
    let listener: TcpListener = socket.into();
    let port = listener.local_addr()?.port();
    for to in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let stream = TcpStream::connect((to, port))?;
        let (accepted, from) = listener.accept()?;
        println!("both: {to} comes from {} to {}", from.ip(), accepted.local_addr()?.ip());
        drop(stream);
    }
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map(|_| ());
    println!("both: IPv4 is taken {}", shown(&taken));
    let only = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    only.set_only_v6(true)?;
    only.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    only.listen(5)?;
    let port = only.local_addr()?.as_socket().map_or(0, |address| address.port());
    println!(
        "both: side by side {}",
        shown(&TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map(|_| ()))
    );
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:0".parse()?;
    println!(
        "both: a mapped address {}",
        shown(&TcpListener::bind(mapped).and_then(|l| l.local_addr()).map(|a| a.ip()))
    );
    println!(
        "both: unspecified means here {}",
        shown(
            &TcpStream::connect((Ipv4Addr::UNSPECIFIED, listener.local_addr()?.port())).map(|_| ())
        )
    );
    println!(
        "both: localhost {}",
        shown(&TcpStream::connect(("localhost", listener.local_addr()?.port())).map(|_| ()))
    );
    Ok(())
}
