//! Readiness as tokio sees it: edges of epoll, and what `ready` says.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::near::Sides;
use crate::shown;

const LIMIT: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(100);

/// All of it, on a runtime of its own.
pub(crate) fn script(sides: &Sides) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { timeout(LIMIT, play(sides)).await? })
}

async fn open(sides: &Sides, line: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(sides.far).await?;
    stream.set_nodelay(true)?;
    stream.write_all(line.as_bytes()).await?;
    stream.write_all(b"\n").await?;
    Ok(stream)
}

async fn play(sides: &Sides) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    let stream = open(sides, "echo").await?;
    let ready = timeout(MOMENT, stream.readable()).await;
    println!("event: nothing to read {}", ready.is_err());
    println!(
        "event: writable {}",
        shown(&stream.ready(Interest::WRITABLE).await.map(|r| r.is_writable()))
    );
    for round in 0..3 {
        stream.writable().await?;
        let sent = stream.try_write(b"data");
        stream.readable().await?;
        // A short read, then a look: the edge must come again with the next data.
        let first = stream.try_read(&mut buffer[..1]);
        let second = stream.try_read(&mut buffer);
        let third = stream.try_read(&mut buffer);
        println!(
            "event: round {round}: {} {} {} {}",
            shown(&sent),
            shown(&first),
            shown(&second),
            shown(&third)
        );
    }
    let (mut read, mut write) = stream.into_split();
    write.shutdown().await?;
    println!("event: end {}", shown(&read.read(&mut buffer).await));

    let stream = open(sides, "end").await?;
    let ready = stream.ready(Interest::READABLE).await;
    println!(
        "event: the peer has ended {}",
        shown(&ready.map(|r| (r.is_readable(), r.is_read_closed())))
    );
    let stream = open(sides, "reset").await?;
    let ready = stream.ready(Interest::READABLE).await;
    println!("event: reset {}", shown(&ready.map(|r| (r.is_readable(), r.is_read_closed()))));
    println!("event: reset {}", shown(&stream.try_read(&mut buffer)));

    // More than all buffers, in both directions at once.
    let stream = open(sides, "echo").await?;
    let (mut read, mut write) = stream.into_split();
    let writer = tokio::spawn(async move {
        let piece: Vec<u8> = (0..100_000_u32).map(|n| (n % 249).to_le_bytes()[0]).collect();
        for _ in 0..40 {
            write.write_all(&piece).await?;
        }
        write.shutdown().await
    });
    let (mut received, mut wrong) = (0_usize, 0_usize);
    loop {
        let count = read.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        for (offset, byte) in buffer[..count].iter().enumerate() {
            let expected = ((received + offset) % 100_000 % 249).to_le_bytes()[0];
            wrong += usize::from(*byte != expected);
        }
        received += count;
    }
    println!("event: {received} octets went round, {wrong} wrong, {}", shown(&writer.await?));

    let refused = TcpStream::connect(SocketAddr::new(sides.far.ip(), 1)).await;
    println!("event: refused {}", shown(&refused.map(|_| ())));

    let listener = TcpListener::bind(SocketAddr::new(sides.near, 0)).await?;
    let port = listener.local_addr()?.port();
    let mut calls = Vec::new();
    for _ in 0..30 {
        calls.push(open(sides, &format!("call {port}")).await?);
    }
    let server = tokio::spawn(async move {
        let mut tasks = Vec::new();
        for _ in 0..30 {
            let (mut stream, _) = listener.accept().await?;
            tasks.push(tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
                stream.write_all(&all).await
            }));
        }
        for task in tasks {
            task.await.map_err(io::Error::other)??;
        }
        Ok::<_, io::Error>(())
    });
    let mut answers = 0;
    for mut call in calls {
        let mut answer = Vec::new();
        call.read_to_end(&mut answer).await?;
        answers += usize::from(answer == b"called");
    }
    println!("event: {answers} calls answered, {}", shown(&server.await?));

    let socket = if sides.near.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(sides.near, 0))?;
    let stream = socket.connect(sides.far).await;
    println!("event: bound and connected {}", shown(&stream.map(|_| ())));

    let socket = UdpSocket::bind(SocketAddr::new(sides.near, 0)).await?;
    println!("event: datagram waits {}", timeout(MOMENT, socket.readable()).await.is_err());
    for round in 0..3 {
        socket.send_to(format!("round {round}").as_bytes(), sides.far).await?;
        let (len, _) = socket.recv_from(&mut buffer).await?;
        println!("event: datagram {:?}", String::from_utf8_lossy(&buffer[..len]));
    }
    Ok(())
}
