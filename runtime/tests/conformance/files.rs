//! Files: what was written is read, whatever was short, missing, or dropped on the way.

use std::io::ErrorKind;

use bytes::Bytes;
use martlet_runtime::{AlignedBuffer, Class, DirectFile, OpenOptions, Runtime};

use crate::harness::{Harness, block, pattern};

const NEW: OpenOptions = OpenOptions { write: true, create: true, create_new: false, direct: true };
const READ: OpenOptions = OpenOptions { write: false, create: false, create_new: false, direct: true };

async fn read(file: &DirectFile, offset: u64, length: usize) -> Vec<u8> {
    let (result, buffer) = file.read_at(offset, AlignedBuffer::zeroed(length, 4096)).await;
    assert_eq!(result.unwrap(), buffer.len());
    buffer.to_vec()
}

async fn create(runtime: &Runtime, path: &std::path::Path) -> DirectFile {
    DirectFile::open(runtime, path, NEW).await.unwrap()
}

pub(crate) fn written_bytes_are_read_back(harness: &impl Harness) {
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let file = create(&rt, &path).await;
        assert!(file.block_bytes() >= 4096);
        file.write_at(0, block(65_536, 1), true).await.unwrap();
        file.write_at(65_536, block(8192, 2), false).await.unwrap();
        file.write_at(4096, block(4096, 3), false).await.unwrap();
        file.sync_data().await.unwrap();
        file.write_at(0, Bytes::new(), true).await.unwrap();
        let mut expected = [pattern(65_536, 1), pattern(8192, 2)].concat();
        expected[4096..8192].copy_from_slice(&pattern(4096, 3));
        assert!(read(&file, 0, 73_728).await == expected);
        file.close().await;
        let again = DirectFile::open(&rt, &path, READ).await.unwrap();
        assert_eq!(again.length().unwrap(), 73_728);
        assert!(read(&again, 65_536, 8192).await == pattern(8192, 2));
        assert!(again.write_at(0, block(4096, 9), false).await.is_err(), "opened for reading");
    });
}

pub(crate) fn a_read_ends_with_the_file(harness: &impl Harness) {
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let file = create(&rt, &path).await;
        file.write_at(0, block(8192, 1), true).await.unwrap();
        assert!(read(&file, 4096, 65_536).await == pattern(8192, 1)[4096..]);
        assert!(read(&file, 8192, 4096).await.is_empty());
        assert!(read(&file, 1 << 30, 4096).await.is_empty());
        file.truncate(5000).await.unwrap();
        assert!(read(&file, 0, 65_536).await == pattern(8192, 1)[..5000]);
    });
}

pub(crate) fn what_is_missing_is_not_found(harness: &impl Harness) {
    let directory = harness.directory();
    harness.run(async move |rt| {
        let missing = directory.join("missing");
        let kind = |error: std::io::Error| error.kind();
        assert_eq!(
            DirectFile::open(&rt, &missing, READ).await.map_err(kind).err(),
            Some(ErrorKind::NotFound)
        );
        assert_eq!(rt.unlink(&missing).await.map_err(kind), Err(ErrorKind::NotFound));
        assert_eq!(rt.rename(&missing, directory.join("x")).await.map_err(kind), Err(ErrorKind::NotFound));
        assert_eq!(rt.sync_directory(&missing).await.map_err(kind), Err(ErrorKind::NotFound));
        assert_eq!(rt.list_directory(&missing).map_err(kind), Err(ErrorKind::NotFound));
        drop(create(&rt, &missing).await);
        let only_new = OpenOptions { create_new: true, ..NEW };
        let there = DirectFile::open(&rt, &missing, only_new).await.map_err(kind).err();
        assert_eq!(there, Some(ErrorKind::AlreadyExists));
    });
}

pub(crate) fn names_come_and_go(harness: &impl Harness) {
    let directory = harness.directory();
    harness.run(async move |rt| {
        let names = |rt: &Runtime| -> Vec<(String, bool, u64)> {
            let entries = rt.list_directory(&directory).unwrap();
            entries.into_iter().map(|entry| (entry.name, entry.is_directory, entry.length)).collect()
        };
        assert!(names(&rt).is_empty());
        let file = create(&rt, &directory.join("b")).await;
        file.write_at(0, block(4096, 1), true).await.unwrap();
        drop(create(&rt, &directory.join("a")).await);
        rt.sync_directory(&directory).await.unwrap();
        let found = names(&rt);
        assert_eq!(found, [("a".to_owned(), false, 0), ("b".to_owned(), false, 4096)]);
        rt.rename(directory.join("b"), directory.join("a")).await.unwrap();
        rt.make_directory_all(directory.join("c")).await.unwrap();
        let found = names(&rt);
        assert_eq!((&*found[0].0, found[0].2, &*found[1].0, found[1].1), ("a", 4096, "c", true));
        rt.unlink(directory.join("a")).await.unwrap();
        rt.sync_directory(&directory).await.unwrap();
        assert_eq!(names(&rt).len(), 1);
        // The name is gone, the open file is not.
        assert!(read(&file, 0, 4096).await == pattern(4096, 1));
        assert!(rt.free_bytes(&directory).unwrap() > 0);
    });
}

pub(crate) fn directories_in_depth(harness: &impl Harness) {
    let directory = harness.directory();
    harness.run(async move |rt| {
        let deep = directory.join("one/two/three");
        rt.make_directory_all(&deep).await.unwrap();
        rt.make_directory_all(&deep).await.unwrap();
        assert!(rt.list_directory(&deep).unwrap().is_empty());
        drop(create(&rt, &deep.join("file")).await);
        let below_a_file = rt.make_directory_all(deep.join("file/four")).await;
        assert!(below_a_file.is_err());
    });
}

pub(crate) fn paths_with_nul_are_refused(harness: &impl Harness) {
    harness.run(async move |rt| {
        let opened = DirectFile::open(&rt, "a\0b", NEW).await;
        assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::InvalidInput));
        assert!(rt.unlink("a\0b").await.is_err());
    });
}

pub(crate) fn lengths_change(harness: &impl Harness) {
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let file = create(&rt, &path).await;
        file.allocate(0, 1 << 20, true).await.unwrap();
        assert_eq!(file.length().unwrap(), 0);
        file.allocate(0, 1 << 20, false).await.unwrap();
        assert_eq!(file.length().unwrap(), 1 << 20);
        assert!(read(&file, 0, 4096).await == [0; 4096]);
        file.truncate(8192).await.unwrap();
        assert_eq!(file.length().unwrap(), 8192);
        file.truncate(1 << 20).await.unwrap();
        assert!(read(&file, 524_288, 4096).await == [0; 4096]);
    });
}

pub(crate) fn a_lock_is_exclusive(harness: &impl Harness) {
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let first = create(&rt, &path).await;
        let second = create(&rt, &path).await;
        assert!(first.lock().unwrap());
        assert!(!second.lock().unwrap());
        first.close().await;
        // The close is under way: the lock goes with it.
        while !second.lock().unwrap() {
            rt.sleep(std::time::Duration::from_millis(1)).await;
        }
    });
}

pub(crate) fn writes_in_flight_together(harness: &impl Harness) {
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let file = std::rc::Rc::new(create(&rt, &path).await);
        let writes: Vec<_> = (0..64u8)
            .map(|at| {
                let file = file.clone();
                let write =
                    async move { file.write_at(u64::from(at) * 4096, block(4096, at), at % 8 == 0).await };
                rt.spawn(Class::Normal, "write", write)
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
        file.sync_data().await.unwrap();
        for at in 0..64u8 {
            assert!(read(&file, u64::from(at) * 4096, 4096).await == pattern(4096, at));
        }
    });
}

pub(crate) fn a_dropped_write_harms_nobody(harness: &impl Harness) {
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let file = create(&rt, &path).await;
        file.write_at(0, block(1 << 20, 1), true).await.unwrap();
        for round in 0..16u8 {
            let write = file.write_at(0, block(1 << 20, 1), round % 2 == 0);
            let gone = rt.timeout(std::time::Duration::ZERO, write).await;
            drop(gone);
            let read = file.read_at(0, AlignedBuffer::zeroed(1 << 20, 4096));
            drop(rt.timeout(std::time::Duration::ZERO, read).await);
        }
        drop(file);
        let file = DirectFile::open(&rt, &path, READ).await.unwrap();
        assert!(read(&file, 0, 1 << 20).await == pattern(1 << 20, 1));
    });
}
