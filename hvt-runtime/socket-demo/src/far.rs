//! The far side: does what the first line of a connection says.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;

/// How long anything may take before the far side gives up.
const LIMIT: Duration = Duration::from_secs(20);

/// Serves on this address for ever.
pub(crate) fn serve(at: &str) -> Result<()> {
    let at = start(at.parse()?)?;
    println!("far side at {at}");
    loop {
        thread::sleep(LIMIT);
    }
}

/// Serves on this address in threads of their own, UDP and TCP on the same port.
pub(crate) fn start(at: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind(at).context("the far side")?;
    let at = listener.local_addr()?;
    let datagrams = UdpSocket::bind(at).context("the far side's datagrams")?;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
            // What is lost is asked for again or missed: the near side says so.
            let _ = datagrams.send_to(&buffer[..len], from);
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = play(stream);
            });
        }
    });
    Ok(at)
}

fn play(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = String::new();
    let mut reader = BufReader::with_capacity(1, &stream);
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let word = words.next().unwrap_or_default();
    let number = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let mut stream = &stream;
    match word {
        "echo" => {
            io::copy(&mut &*stream, &mut &*stream)?;
            stream.shutdown(Shutdown::Write)
        }
        "close" => Ok(()),
        "reset" => SockRef::from(stream).set_linger(Some(Duration::ZERO)),
        // What the near side has sent behind the line stays unread.
        "unread" => {
            thread::sleep(Duration::from_millis(50));
            Ok(())
        }
        "end" => {
            stream.shutdown(Shutdown::Write)?;
            let count = io::copy(&mut &*stream, &mut io::sink())?;
            let _ = count;
            Ok(())
        }
        "count" => {
            let count = io::copy(&mut &*stream, &mut io::sink())?;
            write!(stream, "{count}")
        }
        "flood" => {
            let piece: Vec<u8> = (0..65_536_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
            let mut left = number;
            while left > 0 {
                let len = usize::try_from(left.min(piece.len() as u64)).unwrap_or(0);
                stream.write_all(&piece[..len])?;
                left -= len as u64;
            }
            Ok(())
        }
        // Takes nothing until the near side says so on another connection, or for a while.
        "stuck" => {
            thread::sleep(Duration::from_millis(300));
            let count = io::copy(&mut &*stream, &mut io::sink())?;
            write!(stream, "{count}")
        }
        "later" => {
            thread::sleep(Duration::from_millis(100));
            stream.write_all(b"late")
        }
        // Connects back to a port of the near side.
        "call" => {
            let mut back = stream.peer_addr()?;
            back.set_port(u16::try_from(number).unwrap_or(0));
            let mut call = TcpStream::connect(back)?;
            call.set_read_timeout(Some(LIMIT))?;
            call.write_all(b"called")?;
            call.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            call.read_to_end(&mut answer)?;
            stream.write_all(&answer)
        }
        _ => Ok(()),
    }
}
