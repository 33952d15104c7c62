//! Faults of disks.

use super::*;

fn rates(fault: Fault, ppm: u32) -> FaultRates {
    FaultRates::none().with(fault, ppm)
}

/// Bytes of each sector, told by their first.
fn sectors(contents: &[u8]) -> Vec<u8> {
    contents.chunks(512).map(|sector| sector[0]).collect()
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..50 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            rt.make_directory_all("/data/wal").await.unwrap();
            rt.sync_directory("/").await.unwrap();
            rt.sync_directory("/data").await.unwrap();
            durable_file(&rt, "/data/wal/ring-0", 7, 4).await;
        });
        one.crash();
        assert_eq!(one.contents("/data/wal/ring-0"), Some(blocks(7, 4).to_vec()), "seed {seed}");
    }
}

#[test]
fn what_was_not_synced_is_kept_lost_or_torn() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..100 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            let file = durable_file(&rt, "/ring-0", 1, 4).await;
            file.write_at(0, blocks(2, 4), false).await.unwrap();
        });
        assert_eq!(sectors(&one.contents("/ring-0").unwrap()), [2; 32], "a read sees what was written");
        one.crash();
        let after = sectors(&one.contents("/ring-0").unwrap());
        match after.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            32 => kept += 1,
            _ => torn += 1,
        }
        let counted = (one.count(Fault::LostUnsynced), one.count(Fault::Torn));
        let all = after.iter().all(|byte| *byte == after[0]);
        let expected = if !all {
            (0, 1)
        } else if after[0] == 1 {
            (1, 0)
        } else {
            (0, 0)
        };
        assert_eq!(counted, expected, "seed {seed}");
        assert!(after.iter().all(|byte| [1, 2].contains(byte)));
    }
    assert!(kept > 5 && lost > 5 && torn > 20, "kept {kept} lost {lost} torn {torn}");
}

#[test]
fn a_write_in_flight_at_a_crash_may_be_there_and_may_not() {
    let mut found = 0;
    for seed in 0..60 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            let file = durable_file(&rt, "/ring-0", 1, 1).await;
            let spawned = rt.clone();
            let write = async move { file.write_at(0, blocks(2, 1), true).await.unwrap() };
            spawned.spawn(crate::Class::Normal, "write", write).detach();
            rt.yield_now().await;
        });
        one.crash();
        found += usize::from(sectors(&one.contents("/ring-0").unwrap()).contains(&2));
    }
    assert!((5..55).contains(&found), "{found}");
}

#[test]
fn a_sync_does_not_cover_what_had_not_completed_when_it_was_submitted() {
    let mut lost = 0;
    for seed in 0..200 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            let file = std::rc::Rc::new(durable_file(&rt, "/ring-0", 1, 1).await);
            let writer = std::rc::Rc::clone(&file);
            let mut write = rt.spawn(crate::Class::Normal, "write", async move {
                writer.write_at(0, blocks(2, 1), false).await
            });
            rt.yield_now().await;
            // Submitted beside the write: even if it ends later, it says nothing about it.
            file.sync_data().await.unwrap();
            let _ = (&mut write).await;
        });
        one.crash();
        lost += usize::from(sectors(&one.contents("/ring-0").unwrap()) != [2; 8]);
    }
    assert!(lost > 50, "{lost}");
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next_one() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut one = One::new(seed, FaultRates::none());
        let file = one.run(async |rt| {
            let file = durable_file(&rt, "/ring-0", 1, 1).await;
            file.write_at(0, blocks(2, 1), false).await.unwrap();
            file
        });
        one.world.set_rates(rates(Fault::SyncError, 1_000_000));
        let file = one.run(async move |_| {
            assert_eq!(file.sync_data().await.unwrap_err().raw_os_error(), Some(libc::EIO));
            file
        });
        one.world.set_rates(FaultRates::none());
        one.run(async move |_| file.sync_data().await.unwrap());
        assert_eq!(one.world.counts().at(Fault::SyncError, "ring"), 1);
        one.crash();
        lost += usize::from(sectors(&one.contents("/ring-0").unwrap()) != [2; 8]);
    }
    assert!(lost > 10, "{lost}");
}

#[test]
fn a_name_counts_only_after_its_directory_was_synced() {
    let (mut lost_new, mut lost_removal, mut lost_rename) = (0, 0, 0);
    for seed in 0..60 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            durable_file(&rt, "/kept.seg", 1, 1).await;
            durable_file(&rt, "/old.seg", 1, 1).await;
            create(&rt, "/new.seg").await.unwrap().write_at(0, blocks(2, 1), true).await.unwrap();
            rt.unlink("/kept.seg").await.unwrap();
            rt.rename("/old.seg", "/moved.seg").await.unwrap();
        });
        assert!(one.contents("/kept.seg").is_none() && one.contents("/moved.seg").is_some());
        one.crash();
        lost_new += usize::from(one.contents("/new.seg").is_none());
        lost_removal += usize::from(one.contents("/kept.seg").is_some());
        let (old, moved) = (one.contents("/old.seg"), one.contents("/moved.seg"));
        assert!(old.is_some() != moved.is_some(), "a rename is whole or not at all");
        lost_rename += usize::from(old.is_some());
        let lost = one.world.counts().at(Fault::VolatileName, "segment");
        let seen = [one.contents("/new.seg").is_none(), one.contents("/kept.seg").is_some(), old.is_some()];
        assert_eq!(lost, seen.iter().filter(|lost| **lost).count() as u64);
    }
    for lost in [lost_new, lost_removal, lost_rename] {
        assert!((15..50).contains(&lost), "{lost_new} {lost_removal} {lost_rename}");
    }
}

#[test]
fn a_lost_directory_takes_its_files_along() {
    let mut lost = 0;
    for seed in 0..30 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            rt.make_directory_all("/data").await.unwrap();
            durable_file(&rt, "/data/ring-0", 1, 1).await;
        });
        one.crash();
        lost += usize::from(one.contents("/data/ring-0").is_none());
    }
    assert!((5..25).contains(&lost), "{lost}");
}

#[test]
fn a_kill_keeps_every_completed_write_and_name() {
    let mut one = One::new(3, FaultRates::none());
    one.run(async |rt| {
        create(&rt, "/ring-0").await.unwrap().write_at(0, blocks(2, 1), false).await.unwrap();
    });
    one.world.kill(one.machine);
    assert_eq!(one.contents("/ring-0"), Some(blocks(2, 1).to_vec()));
    assert_eq!((one.count(Fault::ProcessKill), one.count(Fault::PowerLoss)), (1, 0));
}

#[test]
fn short_counts_are_finished_above_and_counted() {
    let both = rates(Fault::ShortRead, 300_000).with(Fault::ShortWrite, 300_000);
    let mut one = One::new(5, both);
    one.run(async |rt| {
        let file = create(&rt, "/ring-0").await.unwrap();
        for round in 0..40u64 {
            let byte = round as u8 + 1;
            file.write_at(round * 8 * BLOCK as u64, blocks(byte, 8), true).await.unwrap();
            let (read, buffer) =
                file.read_at(round * 8 * BLOCK as u64, AlignedBuffer::zeroed(8 * BLOCK, BLOCK)).await;
            assert_eq!(read.unwrap(), 8 * BLOCK);
            assert!(buffer.iter().all(|found| *found == byte));
        }
    });
    assert!(one.count(Fault::ShortRead) > 3, "{}", one.count(Fault::ShortRead));
    assert!(one.count(Fault::ShortWrite) > 3, "{}", one.count(Fault::ShortWrite));
}

#[test]
fn a_broken_link_leaves_the_sync_to_the_program() {
    for seed in 0..20 {
        let mut one = One::new(seed, rates(Fault::BrokenLink, 1_000_000));
        one.run(async |rt| {
            durable_file(&rt, "/ring-0", 9, 2).await;
        });
        assert_eq!(one.count(Fault::BrokenLink), 1);
        one.crash();
        assert_eq!(one.contents("/ring-0"), Some(blocks(9, 2).to_vec()));
    }
}

#[test]
fn errors_of_the_device_reach_the_program() {
    let mut one = One::new(1, FaultRates::none());
    let file = one.run(async |rt| durable_file(&rt, "/a.seg", 1, 4).await);
    let mut sick = FaultRates::none();
    sick.set_at(Fault::ReadError, "segment", 1_000_000);
    sick.set_at(Fault::WriteError, "segment", 1_000_000);
    one.world.set_rates(sick);
    one.run(async move |rt| {
        let (read, _) = file.read_at(0, AlignedBuffer::zeroed(BLOCK, BLOCK)).await;
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
        let wrote = file.write_at(0, blocks(2, 4), true).await;
        assert_eq!(wrote.unwrap_err().raw_os_error(), Some(libc::EIO));
        create(&rt, "/ring-0").await.unwrap().write_at(0, blocks(1, 1), true).await.unwrap();
    });
    assert_eq!((one.count(Fault::ReadError), one.count(Fault::WriteError)), (1, 1));
}

#[test]
fn a_full_disk_refuses_and_what_is_removed_makes_room() {
    let mut one = One::new(1, FaultRates::none());
    one.world.set_disk_capacity(one.machine, 8 * BLOCK as u64);
    one.run(async |rt| {
        let file = create(&rt, "/a.seg").await.unwrap();
        file.write_at(0, blocks(1, 6), true).await.unwrap();
        let refused = file.write_at(6 * BLOCK as u64, blocks(1, 6), true).await;
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(file.length().unwrap(), 8 * BLOCK as u64, "as much as fits was written");
        assert_eq!(
            file.allocate(0, 9 * BLOCK as u64, true).await.unwrap_err().raw_os_error(),
            Some(libc::ENOSPC)
        );
        // A block that is already there can still be written.
        file.write_at(0, blocks(3, 1), true).await.unwrap();
        assert_eq!(rt.free_bytes("/").unwrap(), 0);
        file.close().await;
        rt.unlink("/a.seg").await.unwrap();
        rt.sync_directory("/").await.unwrap();
        assert_eq!(rt.free_bytes("/").unwrap(), 8 * BLOCK as u64);
    });
    assert!(one.world.counts().at(Fault::NoSpace, "segment") >= 2);
    one.world.set_rates(rates(Fault::NoInode, 1_000_000));
    one.run(async |rt| {
        assert_eq!(create(&rt, "/b.seg").await.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(rt.make_directory_all("/d").await.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    });
    assert_eq!(one.world.counts().at(Fault::NoInode, "segment"), 1);
    assert_eq!(one.world.counts().at(Fault::NoInode, "directory"), 1);
}

#[test]
fn corruption_strikes_only_when_it_is_switched_on_and_is_recorded() {
    for fault in [Fault::CorruptSector, Fault::Misdirected, Fault::LostWrite] {
        let mut quiet = One::new(2, rates(fault, 1_000_000));
        quiet.run(async |rt| durable_file(&rt, "/a.seg", 1, 4).await);
        assert_eq!(quiet.count(fault), 0);

        let mut one = One::new(2, FaultRates::none());
        let file = one.run(async |rt| {
            durable_file(&rt, "/b.seg", 5, 16).await;
            durable_file(&rt, "/a.seg", 1, 16).await
        });
        let before = one.contents("/a.seg").unwrap();
        let mut lying = rates(fault, 1_000_000);
        lying.corruption = true;
        one.world.set_rates(lying);
        one.run(async move |_| {
            let _ = file.read_at(0, AlignedBuffer::zeroed(4 * BLOCK, BLOCK)).await;
            file.write_at(8 * BLOCK as u64, blocks(2, 1), true).await.unwrap();
        });
        assert!(one.count(fault) > 0, "{fault}");
        let told = one.world.corruptions();
        assert!(told.iter().any(|corruption| corruption.fault == fault), "{told:?}");
        let after = one.contents("/a.seg").unwrap();
        match fault {
            Fault::CorruptSector => assert_ne!(after[..4 * BLOCK], before[..4 * BLOCK]),
            _ => assert_eq!(after[8 * BLOCK..9 * BLOCK], before[8 * BLOCK..9 * BLOCK], "{fault}"),
        }
        one.crash();
        assert_eq!(one.contents("/a.seg").unwrap().len(), 16 * BLOCK);
    }
}

#[test]
fn completions_overtake_each_other_and_slow_disks_are_slow() {
    let mut one = One::new(4, rates(Fault::SlowDisk, 200_000).with(Fault::Reordered, 200_000));
    one.run(async |rt| {
        let file = std::rc::Rc::new(create(&rt, "/ring-0").await.unwrap());
        let mut writes = Vec::new();
        for block in 0..50u64 {
            let file = std::rc::Rc::clone(&file);
            let write =
                async move { file.write_at(block * BLOCK as u64, blocks(1, 1), false).await.unwrap() };
            writes.push(rt.spawn(crate::Class::Normal, "write", write));
        }
        for mut write in writes {
            let _ = (&mut write).await;
        }
    });
    assert!(one.world.counts().at(Fault::Reordered, "ring") > 5);
    assert!(one.world.counts().at(Fault::SlowDisk, "ring") > 2);
    assert!(one.world.now().instant.0 > 1_000_000);
}

#[test]
fn a_lock_keeps_others_out_until_its_holder_dies() {
    let mut one = One::new(1, FaultRates::none());
    one.run(async |rt| {
        let first = durable_file(&rt, "/ring-0", 1, 1).await;
        let second = create(&rt, "/ring-0").await.unwrap();
        assert!(first.lock().unwrap());
        assert!(!second.lock().unwrap());
        first.close().await;
        rt.yield_now().await;
        assert!(second.lock().unwrap());
        Box::leak(Box::new(second));
    });
    one.crash();
    one.run(async |rt| assert!(create(&rt, "/ring-0").await.unwrap().lock().unwrap()));
}

#[test]
fn direct_io_must_be_aligned() {
    let mut one = One::new(1, FaultRates::none());
    one.run(async |rt| {
        let file = durable_file(&rt, "/ring-0", 1, 1).await;
        let refused = file.write_at(100, blocks(1, 1), false).await;
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let refused = file.write_at(0, blocks(1, 1).slice(..100), false).await;
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn a_cut_file_shows_zeros_when_it_grows_again() {
    for seed in 0..30 {
        let mut one = One::new(seed, FaultRates::none());
        one.run(async |rt| {
            let file = durable_file(&rt, "/a.seg", 6, 4).await;
            file.truncate(BLOCK as u64).await.unwrap();
            file.truncate(4 * BLOCK as u64).await.unwrap();
            let (read, buffer) = file.read_at(0, AlignedBuffer::zeroed(4 * BLOCK, BLOCK)).await;
            assert_eq!(read.unwrap(), 4 * BLOCK);
            assert!(buffer[..BLOCK].iter().all(|byte| *byte == 6));
            assert!(buffer[BLOCK..].iter().all(|byte| *byte == 0));
        });
        one.crash();
        let after = one.contents("/a.seg").unwrap();
        assert!(after.len() == BLOCK || after.len() == 4 * BLOCK, "{}", after.len());
        assert!(after[..BLOCK].iter().all(|byte| *byte == 6));
        let rest = &after[BLOCK..];
        assert!(rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 6), "seed {seed}");
    }
}

#[test]
fn the_rest_of_a_write_that_was_cut_belongs_to_its_beginning() {
    use crate::sim::disk::{DiskFile, WriteId};

    for rest in [8192 + 1024, 8192] {
        let mut file = DiskFile::default();
        file.remember(WriteId(1), 4096, 4096 + 1024, true);
        assert!(file.goes_on_at(rest) && !file.goes_on_at(4096), "{rest}");
        file.remember(WriteId(2), rest, 16_384 - rest, false);
        let (touched, newest) = file.touched(12_288, 1);
        assert_eq!((touched[0].len(), newest), (12_288, Some(WriteId(1))), "{rest}");
        assert!(!file.goes_on_at(16_384), "it is whole");
    }
}
