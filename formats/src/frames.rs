//! Walking frames laid end to end, as the body of a `Frames` response holds them: a 128-byte header and its
//! body, again and again. Owns the walk and its checks; what a body means is its format's.

use martlet_core::FRAME_HEADER_BYTES;
use martlet_core::frame::{ArchivedFrameHeader, FrameError, FrameHeader, check};

/// A frame in place.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    /// Checked: magic, version, checksum, ranges.
    pub header: &'a ArchivedFrameHeader,
    /// As long as the header says; its checksum is [`FrameView::check_body`]'s to compare.
    pub body: &'a [u8],
}

impl FrameView<'_> {
    /// Compares the body with the header's checksum.
    ///
    /// # Errors
    /// [`FrameError::BodyChecksum`].
    pub fn check_body(&self) -> Result<(), FrameError> {
        let from = usize::from(self.header.body_crc_from);
        let found = martlet_core::checksum::crc32c(self.body.get(from..).unwrap_or_default());
        let expected = self.header.body_crc.to_native();
        if found == expected { Ok(()) } else { Err(FrameError::BodyChecksum { found, expected }) }
    }

    /// The header as a value.
    ///
    /// # Errors
    /// [`FrameError::Field`], which a checked header does not have.
    pub fn to_header(&self) -> Result<FrameHeader, FrameError> {
        let value: Result<FrameHeader, rkyv::rancor::Failure> = rkyv::deserialize(self.header);
        value.map_err(|_| FrameError::Field { field: "encoding" })
    }
}

/// Iterates the frames of `bytes`. After an error there is nothing more: where the next frame begins is
/// unknown.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { rest: bytes }
    }

    fn take(&mut self) -> Result<FrameView<'a>, FrameError> {
        let header = check(self.rest)?;
        let behind = &self.rest[FRAME_HEADER_BYTES..];
        let expected = header.body_length.to_native();
        let Some((body, rest)) = behind.split_at_checked(expected as usize) else {
            return Err(FrameError::BodyLength { found: behind.len(), expected });
        };
        self.rest = rest;
        Ok(FrameView { header, body })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<FrameView<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.rest = &[];
        }
        Some(taken)
    }
}

/// Reads `bytes` as frames with every check; for fuzzing. Never panics.
pub fn check_frames(bytes: &[u8]) {
    let mut used = 0;
    for frame in Frames::new(bytes).flatten() {
        used += FRAME_HEADER_BYTES + frame.body.len();
        let sound = frame.check_body().is_ok();
        let value = frame.to_header();
        assert_eq!(value.is_ok_and(|header| header.check_body(frame.body).is_ok()), sound);
    }
    assert!(used <= bytes.len(), "frames lie within their bytes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_core::checksum::crc32c;
    use proptest::prelude::*;

    fn frames(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            let header = FrameHeader {
                base_offset: index as u64,
                offset_span: 1,
                body_length: body.len() as u32,
                body_crc: crc32c(body),
                ..FrameHeader::default()
            };
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..10),
        ) {
            let bytes = frames(&bodies);
            let mut read = Vec::new();
            for frame in Frames::new(&bytes) {
                let frame = frame.unwrap();
                prop_assert!(frame.check_body().is_ok());
                prop_assert_eq!(frame.header.base_offset.to_native(), read.len() as u64);
                read.push(frame.body.to_vec());
            }
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn damage_is_found_and_never_panics(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 1..5),
            at: prop::sample::Index,
            mask in 1u8..,
        ) {
            let mut bytes = frames(&bodies);
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
            check_frames(&bytes);
            let sound = |frame: Result<FrameView<'_>, _>| frame.is_ok_and(|frame| frame.check_body().is_ok());
            prop_assert!(!Frames::new(&bytes).all(sound), "a flipped byte was not found");
        }
    }

    #[test]
    fn a_cut_frame_ends_the_walk() {
        let bytes = frames(&[vec![1; 10], vec![2; 10]]);
        let mut walk = Frames::new(&bytes[..bytes.len() - 1]);
        assert!(walk.next().unwrap().is_ok());
        let error = walk.next().unwrap().unwrap_err();
        assert_eq!(error, FrameError::BodyLength { found: 9, expected: 10 });
        assert!(walk.next().is_none());
    }
}
