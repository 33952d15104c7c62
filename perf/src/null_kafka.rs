//! A broker of Kafka's protocol that does nothing: what a client costs by itself.
//!
//! Owns a listener, and the batches produced to it, in memory, for those who read them. Answers at once, one
//! thread a connection, in the oldest versions that today's clients speak. Must never be taken for a broker:
//! it checks nothing, forgets what is old, and gives each partition 0 of a topic only.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Doing, PerfError};

/// Batches that a topic keeps for its readers.
const BATCHES_MAX: usize = 4096;
/// Longest request.
const REQUEST_BYTES_MAX: usize = 128 << 20;
/// Key, lowest and highest version of what is answered.
const SERVED: [(i16, i16, i16); 6] = [(0, 3, 7), (1, 4, 4), (2, 1, 1), (3, 1, 1), (18, 0, 0), (22, 0, 1)];

#[derive(Default)]
struct Log {
    /// First offset and bytes.
    batches: VecDeque<(i64, Vec<u8>)>,
    end: i64,
}

#[derive(Default)]
struct Shared {
    logs: Mutex<BTreeMap<String, Log>>,
    grown: Condvar,
    port: i32,
}

impl Shared {
    fn logs(&self) -> MutexGuard<'_, BTreeMap<String, Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens on a loopback port, prints it, and serves until the process ends.
///
/// # Errors
/// The socket's.
pub(crate) fn run() -> Result<(), PerfError> {
    let listener = TcpListener::bind("127.0.0.1:0").doing("listening")?;
    let address = listener.local_addr().doing("listening")?;
    writeln!(io::stdout(), "{address}").doing("printing the address")?;
    let shared = Arc::new(Shared { port: i32::from(address.port()), ..Shared::default() });
    for stream in listener.incoming() {
        let (stream, shared) = (stream.doing("accepting")?, shared.clone());
        // A connection ends with its client.
        std::thread::spawn(move || serve(&stream, &shared).is_ok());
    }
    Ok(())
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(256 << 10, stream);
    let mut request = Vec::new();
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.resize(length, 0);
        input.read_exact(&mut request)?;
        let mut reader = Wire { bytes: &request };
        let (key, version) = (reader.i16()?, reader.i16()?);
        let correlation = reader.i32()?;
        reader.text()?;
        let mut out = vec![0; 4];
        out.extend(correlation.to_be_bytes());
        match key {
            0 => produce(&mut reader, &mut out, shared, version)?,
            1 => fetch(&mut reader, &mut out, shared)?,
            2 => list_offsets(&mut reader, &mut out)?,
            3 => metadata(&mut reader, &mut out, shared)?,
            18 => versions(&mut out, version),
            22 => out.extend([&[0; 6][..], &1i64.to_be_bytes(), &[0; 2]].concat()),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        let length = i32::try_from(out.len() - 4).map_err(|_| io::ErrorKind::InvalidData)?;
        out[..4].copy_from_slice(&length.to_be_bytes());
        (&*stream).write_all(&out)?;
    }
}

/// Fields of a request in the versions without tags.
struct Wire<'a> {
    bytes: &'a [u8],
}

impl<'a> Wire<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn i16(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> io::Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn sized(&mut self) -> io::Result<&'a [u8]> {
        let length = usize::try_from(self.i32()?).unwrap_or(0);
        self.take(length)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Every request with its range. A newer version than is served is told so, in the oldest form.
fn versions(out: &mut Vec<u8>, version: i16) {
    out.extend(if version > 0 { 35i16 } else { 0 }.to_be_bytes());
    out.extend((SERVED.len() as i32).to_be_bytes());
    for (key, min, max) in SERVED {
        out.extend([key, min, max].iter().flat_map(|number| number.to_be_bytes()));
    }
}

/// Whatever is asked for exists, with one partition.
fn metadata(reader: &mut Wire<'_>, out: &mut Vec<u8>, shared: &Shared) -> io::Result<()> {
    out.extend(1i32.to_be_bytes());
    out.extend(1i32.to_be_bytes());
    put_text(out, "127.0.0.1");
    out.extend(shared.port.to_be_bytes());
    out.extend((-1i16).to_be_bytes());
    out.extend(1i32.to_be_bytes());
    let topics = reader.i32()?.max(0);
    out.extend(topics.to_be_bytes());
    for _ in 0..topics {
        out.extend(0i16.to_be_bytes());
        put_text(out, &reader.text()?);
        out.push(0);
        out.extend(1i32.to_be_bytes());
        out.extend(0i16.to_be_bytes());
        // Partition 0 is led by broker 1, the only replica, in sync.
        out.extend([0i32, 1, 1, 1, 1, 1].iter().flat_map(|number| number.to_be_bytes()));
    }
    Ok(())
}

fn list_offsets(reader: &mut Wire<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    reader.i32()?;
    let topics = reader.i32()?.max(0);
    out.extend(topics.to_be_bytes());
    for _ in 0..topics {
        put_text(out, &reader.text()?);
        let partitions = reader.i32()?.max(0);
        out.extend(partitions.to_be_bytes());
        for _ in 0..partitions {
            out.extend(reader.i32()?.to_be_bytes());
            reader.i64()?;
            out.extend(0i16.to_be_bytes());
            out.extend((-1i64).to_be_bytes());
            out.extend(0i64.to_be_bytes());
        }
    }
    Ok(())
}

fn produce(reader: &mut Wire<'_>, out: &mut Vec<u8>, shared: &Shared, version: i16) -> io::Result<()> {
    reader.text()?;
    reader.i16()?;
    reader.i32()?;
    let topics = reader.i32()?.max(0);
    out.extend(topics.to_be_bytes());
    for _ in 0..topics {
        let topic = reader.text()?;
        put_text(out, &topic);
        let partitions = reader.i32()?.max(0);
        out.extend(partitions.to_be_bytes());
        for _ in 0..partitions {
            out.extend(reader.i32()?.to_be_bytes());
            let mut batch = reader.sized()?.to_vec();
            let mut logs = shared.logs();
            let log = logs.entry(topic.clone()).or_default();
            let base = log.end;
            if batch.len() > 61 {
                batch[..8].copy_from_slice(&base.to_be_bytes());
                let mut last = [0; 4];
                last.copy_from_slice(&batch[23..27]);
                log.end += i64::from(i32::from_be_bytes(last)) + 1;
                log.batches.push_back((base, batch));
                if log.batches.len() > BATCHES_MAX {
                    log.batches.pop_front();
                }
            }
            drop(logs);
            shared.grown.notify_all();
            out.extend(0i16.to_be_bytes());
            out.extend(base.to_be_bytes());
            out.extend((-1i64).to_be_bytes());
            if version >= 5 {
                out.extend(0i64.to_be_bytes());
            }
        }
    }
    out.extend(0i32.to_be_bytes());
    Ok(())
}

/// One partition of one topic, as soon as it has grown behind what was read.
fn fetch(reader: &mut Wire<'_>, out: &mut Vec<u8>, shared: &Shared) -> io::Result<()> {
    reader.i32()?;
    let wait = Duration::from_millis(u64::try_from(reader.i32()?).unwrap_or(0));
    reader.i32()?;
    let bytes_max = usize::try_from(reader.i32()?).unwrap_or(0);
    reader.take(1)?;
    out.extend(0i32.to_be_bytes());
    let topics = reader.i32()?;
    out.extend(topics.to_be_bytes());
    if topics != 1 {
        return Ok(());
    }
    let topic = reader.text()?;
    put_text(out, &topic);
    reader.i32()?;
    out.extend(1i32.to_be_bytes());
    out.extend(reader.i32()?.to_be_bytes());
    let from = reader.i64()?;
    let deadline = Instant::now() + wait;
    let mut logs = shared.logs();
    while logs.get(&topic).is_none_or(|log| log.end <= from) {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
        logs =
            shared.grown.wait_timeout(logs, left).map_or_else(|error| error.into_inner().0, |(logs, _)| logs);
    }
    let log = logs.entry(topic).or_default();
    out.extend(0i16.to_be_bytes());
    out.extend(log.end.to_be_bytes());
    out.extend(log.end.to_be_bytes());
    out.extend((-1i32).to_be_bytes());
    let first = log.batches.partition_point(|(base, _)| *base < from);
    let mut bytes = 0;
    let wanted = log.batches.range(first..).take_while(|(_, batch)| {
        let has_room = bytes == 0 || bytes + batch.len() <= bytes_max;
        bytes += batch.len();
        has_room
    });
    let at = out.len();
    out.extend([0; 4]);
    wanted.for_each(|(_, batch)| out.extend(batch));
    let length = i32::try_from(out.len() - at - 4).unwrap_or(0);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}
