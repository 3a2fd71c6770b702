//! A proxy before a server that does what networks and overloaded servers do, request by request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::dice::Dice;

/// What happens to the next request that it fits.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The request is read, and this is the answer: status line, and body.
    Answer(&'static str, &'static str),
    /// The next answer of more bytes than these is cut there.
    CutAfter(usize),
    /// The next answer of more bytes than these stops there; nothing more comes.
    StallAfter(usize),
}

/// A proxy on a free port of loopback; ends with the test.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The last comes first.
    faults: Mutex<Vec<Fault>>,
    met: AtomicUsize,
    ended: AtomicBool,
    heads: Mutex<Vec<String>>,
    /// Any request may meet a fault: so many of a thousand do.
    chance: Mutex<Option<(Dice, u64)>>,
}

impl Proxy {
    /// Stands before `server`.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        let shared = proxy.shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), shared) = (client, shared.clone()) else { continue };
                std::thread::spawn(move || connection(&client, server, &shared));
            }
        });
        proxy
    }

    /// `http://..`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next requests meet these, in this order.
    pub fn meet(&self, faults: &[Fault]) {
        *self.shared.faults.lock().unwrap() = faults.iter().rev().cloned().collect();
    }

    /// From now on so many requests of a thousand meet a fault, by a seed.
    pub fn chance(&self, seed: u64, in_thousand: u64) {
        *self.shared.chance.lock().unwrap() = Some((Dice(seed), in_thousand));
    }

    /// How many requests met a fault.
    pub fn met(&self) -> usize {
        self.shared.met.load(Ordering::SeqCst)
    }

    /// First line and headers of each request, in the order they came.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// What chance has for a request.
    fn roll(&self) -> Chance {
        let mut chance = self.chance.lock().unwrap();
        let Some((dice, in_thousand)) = chance.as_mut() else { return Chance::Nothing };
        if !dice.in_thousand(*in_thousand) {
            return Chance::Nothing;
        }
        self.met.fetch_add(1, Ordering::SeqCst);
        let (bytes, millis) = (dice.below(100_000) as usize, dice.below(400));
        let slow_down =
            Fault::Answer("503 Slow Down", "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>");
        let internal = Fault::Answer("500 Internal Server Error", "<Error><Code>InternalError</Code><Message>Try again.</Message></Error>");
        match dice.below(6) {
            0 => Chance::Meet(slow_down),
            1 => Chance::Meet(internal),
            2 => Chance::Delay(Duration::from_millis(millis)),
            3 => Chance::Lose,
            // The request is worked on, and the answer is lost.
            4 => Chance::Meet(Fault::CutAfter(0)),
            _ => Chance::Meet(Fault::CutAfter(bytes)),
        }
    }

    /// The next fault, when `fits` says so.
    fn take(&self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.last().filter(|fault| fits(fault)).cloned()?;
        faults.pop();
        self.met.fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }
}

/// What chance does to a request.
enum Chance {
    Nothing,
    Delay(Duration),
    /// It never arrives.
    Lose,
    Meet(Fault),
}

/// Clients wait for an answer before they ask again, so what comes down belongs to the last request.
fn connection(client: &TcpStream, server: SocketAddr, shared: &Shared) {
    let Ok(upstream) = TcpStream::connect(server) else { return };
    let answered = AtomicUsize::new(0);
    // Of chance, for what comes down on this connection.
    let cut = Mutex::new(None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = requests(client, &upstream, shared, &answered, &cut);
            let _ = upstream.shutdown(Shutdown::Both);
        });
        answers(&upstream, client, shared, &answered, &cut);
        let _ = client.shutdown(Shutdown::Both);
        let _ = upstream.shutdown(Shutdown::Both);
    });
}

fn requests(
    client: &TcpStream,
    mut server: &TcpStream,
    shared: &Shared,
    answered: &AtomicUsize,
    cut: &Mutex<Option<Fault>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(64 << 10, client);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            if let Some(number) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap_or(0);
            }
        }
        shared.heads.lock().unwrap().push(head.clone());
        answered.store(0, Ordering::SeqCst);
        let by_chance = match shared.roll() {
            Chance::Nothing => None,
            Chance::Lose => return Ok(()),
            Chance::Delay(time) => {
                std::thread::sleep(time);
                None
            }
            Chance::Meet(fault) => Some(fault),
        };
        let (answer_at_once, cut_later) = match by_chance {
            Some(Fault::Answer(status, body)) => (Some(Fault::Answer(status, body)), None),
            cut => (shared.take(|fault| matches!(fault, Fault::Answer(..))), cut),
        };
        if let Some(Fault::Answer(status, body)) = answer_at_once {
            std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
            return answer(client, status, body);
        }
        *cut.lock().unwrap() = cut_later;
        server.write_all(head.as_bytes())?;
        std::io::copy(&mut reader.by_ref().take(length), &mut server)?;
    }
}

fn answers(mut server: &TcpStream, mut client: &TcpStream, shared: &Shared, answered: &AtomicUsize, cut: &Mutex<Option<Fault>>) {
    let mut part = vec![0; 64 << 10];
    while let Ok(read @ 1..) = server.read(&mut part) {
        let before = answered.fetch_add(read, Ordering::SeqCst);
        let fits = |fault: &Fault| matches!(fault, Fault::CutAfter(bytes) | Fault::StallAfter(bytes) if before + read > *bytes && before <= *bytes);
        let by_chance = cut.lock().unwrap().take_if(|fault| fits(fault));
        let fault = by_chance.or_else(|| shared.take(fits));
        let Some(Fault::CutAfter(bytes) | Fault::StallAfter(bytes)) = fault else {
            if client.write_all(&part[..read]).is_err() {
                return;
            }
            continue;
        };
        let _ = client.write_all(&part[..bytes - before]);
        while matches!(fault, Some(Fault::StallAfter(_))) && !shared.ended.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        return;
    }
}

fn answer(mut client: &TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(client, "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    client.shutdown(Shutdown::Write)
}
