//! Records in a stream of bytes: lines, zero-terminated, or length-prefixed. What [`Splitter`] reads from
//! [`write_record`] is the same bytes again. Must never change a byte of a record, and never hold more than
//! one record and one read.

use std::io::{self, Read, Write};

use martlet_core::limits::BATCH_BYTES_MAX;

use crate::cli::Framing;
use crate::failure::Failure;

/// Bytes asked of the input at a time.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of one record; a longer one fits no batch.
const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX as usize;

impl Framing {
    /// The byte that ends a record; `None` if lengths stand in front.
    fn end(self) -> Option<u8> {
        match (self.length_prefixed, self.null) {
            (true, _) => None,
            (false, true) => Some(0),
            (false, false) => Some(b'\n'),
        }
    }
}

/// Cuts records out of `input`.
pub(super) struct Splitter<R> {
    input: R,
    framing: Framing,
    buffer: Vec<u8>,
    /// Bytes of `buffer` before this are used up.
    used: usize,
    /// Bytes of `buffer` before this hold no end byte.
    searched: usize,
    at_end: bool,
    records: u64,
    bytes: u64,
}

impl<R: Read> Splitter<R> {
    pub(super) fn new(input: R, framing: Framing) -> Splitter<R> {
        Splitter {
            input,
            framing,
            buffer: Vec::new(),
            used: 0,
            searched: 0,
            at_end: false,
            records: 0,
            bytes: 0,
        }
    }

    /// Bytes of input used so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Calls `take` with every whole record that one read brings; `false` at the end of the input. A last
    /// record without its end byte counts.
    ///
    /// # Errors
    /// The input cannot be read, a record is too long, or the last length has too few bytes behind it.
    pub(super) fn read_some(&mut self, mut take: impl FnMut(&[u8])) -> Result<bool, Failure> {
        if self.at_end {
            return Ok(false);
        }
        self.buffer.drain(..self.used);
        self.searched = self.searched.saturating_sub(self.used);
        self.used = 0;
        let kept = self.buffer.len();
        self.buffer.resize(kept + READ_BYTES, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[kept..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|error| Failure::io("cannot read the input", &error))?,
            }
        };
        self.buffer.truncate(kept + read);
        self.at_end = read == 0;
        while let Some((from, to, next)) = self.next_record()? {
            take(&self.buffer[from..to]);
            self.records += 1;
            self.bytes += (next - self.used) as u64;
            self.used = next;
            self.searched = self.searched.max(next);
        }
        if self.buffer.len() - self.used > RECORD_BYTES_MAX {
            return Err(self.too_long(self.buffer.len() - self.used));
        }
        Ok(true)
    }

    /// The next whole record as (start, end, start of what follows).
    fn next_record(&mut self) -> Result<Option<(usize, usize, usize)>, Failure> {
        let rest = &self.buffer[self.used..];
        let Some(end) = self.framing.end() else { return self.next_prefixed() };
        let from = self.searched - self.used;
        if let Some(at) = rest[from..].iter().position(|&byte| byte == end) {
            let to = self.used + from + at;
            return Ok(Some((self.used, to, to + 1)));
        }
        self.searched = self.buffer.len();
        if self.at_end && !rest.is_empty() {
            return Ok(Some((self.used, self.buffer.len(), self.buffer.len())));
        }
        Ok(None)
    }

    fn next_prefixed(&self) -> Result<Option<(usize, usize, usize)>, Failure> {
        let rest = &self.buffer[self.used..];
        let cut_off = || {
            let number = self.records + 1;
            Failure::Failed(format!("record {number} of the input is cut off: its length says there is more"))
        };
        let Some((prefix, body)) = rest.split_first_chunk::<4>() else {
            return if self.at_end && !rest.is_empty() { Err(cut_off()) } else { Ok(None) };
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > RECORD_BYTES_MAX {
            return Err(self.too_long(length));
        }
        if body.len() < length {
            return if self.at_end { Err(cut_off()) } else { Ok(None) };
        }
        let from = self.used + 4;
        Ok(Some((from, from + length, from + length)))
    }

    fn too_long(&self, bytes: usize) -> Failure {
        let remedy = match self.framing.end() {
            None => "does each record follow its length as four bytes, most significant first?",
            Some(b'\n') => "is --null or --length-prefixed missing?",
            Some(_) => "is each record followed by a zero byte?",
        };
        Failure::Failed(format!(
            "record {} of the input has {bytes} bytes or more, at most {RECORD_BYTES_MAX} are possible: \
             {remedy}",
            self.records + 1
        ))
    }
}

/// Writes a record so that a [`Splitter`] with the same framing reads it back.
pub(super) fn write_record(output: &mut impl Write, framing: Framing, parts: &[&[u8]]) -> io::Result<()> {
    if framing.end().is_none() {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        output.write_all(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes())?;
    }
    for part in parts {
        output.write_all(part)?;
    }
    match framing.end() {
        Some(end) => output.write_all(&[end]),
        None => Ok(()),
    }
}

/// Key and value of a record: split at the first `separator`; without one there is no key.
pub(super) fn split_key<'a>(record: &'a [u8], separator: Option<&str>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator.map(str::as_bytes) else { return (None, record) };
    let found = record.windows(separator.len()).position(|window| window == separator);
    found.map_or((None, record), |at| (Some(&record[..at]), &record[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in small pieces.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn split(input: &[u8], framing: Framing, step: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let mut splitter = Splitter::new(Dribble(input, step), framing);
        let mut records = Vec::new();
        while splitter.read_some(|record| records.push(record.to_vec()))? {}
        Ok(records)
    }

    #[test]
    fn records_come_back_byte_for_byte_in_every_framing() {
        let records: [&[u8]; 6] =
            [b"one", b"", b"with \r", "\u{96e8}\u{71d5}".as_bytes(), &[0xff; 300], b"x"];
        for framing in [
            Framing::default(),
            Framing { null: true, length_prefixed: false },
            Framing { null: false, length_prefixed: true },
        ] {
            let mut stream = Vec::new();
            for record in records {
                write_record(&mut stream, framing, &[record]).unwrap();
            }
            for step in [1, 2, 7, 1000] {
                assert_eq!(split(&stream, framing, step).unwrap(), records, "{framing:?} by {step}");
            }
        }
    }

    #[test]
    fn a_last_line_without_its_end_counts_and_a_cut_off_length_does_not() {
        assert_eq!(split(b"a\nb", Framing::default(), 1).unwrap(), [b"a", b"b"]);
        assert_eq!(split(b"", Framing::default(), 1).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(split(b"\n", Framing::default(), 1).unwrap(), [b""]);
        let prefixed = Framing { null: false, length_prefixed: true };
        for cut in [&[0u8, 0, 0, 2, b'a'][..], &[0, 0]] {
            assert!(split(cut, prefixed, 1).unwrap_err().to_string().contains("cut off"));
        }
        assert!(split(&[255; 8], prefixed, 8).unwrap_err().to_string().contains("most significant first"));
    }

    #[test]
    fn keys_are_split_at_the_first_separator() {
        assert_eq!(split_key(b"k:v:w", Some(":")), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split_key(b"k::v", Some("::")), (Some(&b"k"[..]), &b"v"[..]));
        assert_eq!(split_key(b":v", Some(":")), (Some(&b""[..]), &b"v"[..]));
        assert_eq!(split_key(b"v", Some(":")), (None, &b"v"[..]));
        assert_eq!(split_key(b"a:b", None), (None, &b"a:b"[..]));
    }
}
