//! Every decoder against changed examples, the same ones in every run. `MARTLET_FUZZ_ROUNDS` asks for more of
//! them, `MARTLET_FUZZ_SECONDS` for as many as fit into that time for each decoder, `MARTLET_FUZZ_SEED` for
//! others. A failure names target, seed and bytes.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use martlet_fuzz::corpus::examples;
use martlet_fuzz::mutate::{Dice, mutate, reseal};
use martlet_fuzz::{TARGETS, Target};

const ROUNDS: u64 = 20_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn check(target: Target, seed: u64, bytes: &[u8]) {
    let (name, decode) = target;
    if catch_unwind(|| decode(bytes)).is_err() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} panicked with seed {seed} on {} bytes: {hex}", bytes.len());
    }
}

fn smoke(target: Target) {
    let rounds = number("MARTLET_FUZZ_ROUNDS", ROUNDS);
    let (began, time) = (Instant::now(), Duration::from_secs(number("MARTLET_FUZZ_SECONDS", 0)));
    let first = number("MARTLET_FUZZ_SEED", 1) << 32;
    let examples = examples(target.0);
    assert!(examples.iter().all(|example| !example.is_empty()), "an example of {} is empty", target.0);
    for example in &examples {
        check(target, 0, example);
        for length in 0..example.len().min(512) {
            check(target, 0, &example[..length]);
        }
    }
    let mut seed = first;
    while seed < first + rounds || seed % 1024 != 0 || began.elapsed() < time {
        let mut dice = Dice(seed);
        let example = &examples[dice.below(examples.len())];
        let mut bytes = mutate(example, &mut dice);
        if dice.below(2) == 0 {
            reseal(target.0, &mut bytes);
        }
        check(target, seed, &bytes);
        seed += 1;
    }
    println!("{}: {} inputs in {} s", target.0, seed - first, began.elapsed().as_secs());
}

#[test]
fn no_decoder_panics() {
    std::thread::scope(|scope| {
        // Two halves of the targets, for two cores.
        let (even, odd): (Vec<_>, Vec<_>) = TARGETS.iter().enumerate().partition(|(index, _)| index % 2 == 0);
        let halves = [even, odd]
            .map(|half| scope.spawn(move || half.into_iter().for_each(|(_, target)| smoke(*target))));
        for half in halves {
            assert!(half.join().is_ok(), "a decoder failed, see above");
        }
    });
}

#[test]
fn examples_are_good_and_resealing_reaches_the_fields() {
    use martlet_core::frame::FrameHeader;
    use martlet_wal::layout::checkpoint::Checkpoint;
    use martlet_wal::layout::flush::FlushHeader;
    use martlet_wal::layout::footer::Footer;
    use martlet_wal::layout::run::RunHeader;
    use martlet_wal::layout::superblock::Superblock;
    let one = |target: &str| examples(target).remove(0);
    assert!(FrameHeader::decode(&one("frame_header")).is_ok());
    assert!(Checkpoint::decode(&one("checkpoint")).is_ok());
    assert!(Footer::decode(&one("footer")).is_ok());
    assert!(Superblock::decode_file(&one("superblock")).is_ok());
    assert!(RunHeader::decode(&one("run")).is_ok());
    let mut flush = one("flush_header");
    assert!(FlushHeader::decode(&flush).is_ok());
    flush[33] ^= 1;
    assert!(FlushHeader::decode(&flush).is_err(), "a flipped bit is found");
    reseal("flush_header", &mut flush);
    assert!(FlushHeader::decode(&flush).is_ok(), "a new checksum hides it");
    let mut checkpoint = one("checkpoint");
    checkpoint[70] ^= 1;
    assert!(Checkpoint::decode(&checkpoint).is_err());
    reseal("checkpoint", &mut checkpoint);
    assert!(Checkpoint::decode(&checkpoint).is_ok());
}

#[test]
fn a_decoder_that_panics_fails() {
    let bad: Target = ("bad", |bytes| assert!(bytes.len() < 3));
    assert!(catch_unwind(|| check(bad, 7, b"abc")).is_err());
}
