//! TCP on loopback: one connection, one message at a time, a plain blocking echo on another thread.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, PerfError};
use crate::histogram::Latencies;
use crate::report::Row;

pub(crate) fn round_trips(bytes: usize, time: Duration) -> Result<Row, PerfError> {
    let latencies = measure(bytes, time)?;
    let mut row = Row::new(format!("tcp echo {bytes} B, depth 1"), "none");
    let figures = latencies.percentiles();
    row.operations_per_second = Some(figures.count as f64 / time.as_secs_f64());
    row.latency = Some(figures);
    Ok(row)
}

/// Round trips of `bytes` for `time`.
pub(crate) fn measure(bytes: usize, time: Duration) -> Result<Latencies, PerfError> {
    let listener = TcpListener::bind("127.0.0.1:0").doing("listening on loopback")?;
    let address = listener.local_addr().doing("asking for the address")?;
    let server = thread::spawn(move || serve(&listener, bytes));
    let mut stream = TcpStream::connect(address).doing("connecting over loopback")?;
    stream.set_nodelay(true).doing("setting TCP_NODELAY")?;
    let mut message = vec![1u8; bytes];
    let mut latencies = Latencies::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&message).doing("sending")?;
        stream.read_exact(&mut message).doing("receiving")?;
        latencies.record(sent.elapsed());
    }
    drop(stream);
    server.join().map_err(|_| PerfError::Thread("echo server".into()))?.doing("echoing")?;
    Ok(latencies)
}

fn serve(listener: &TcpListener, bytes: usize) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut message = vec![0u8; bytes];
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
