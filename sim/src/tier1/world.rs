//! One seed: shards on a disk, clients, faults, lives. Owns the order of events, which follows from the seed
//! alone.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::{Instant, NodeId, Now, Offset, PartitionId, ShardId, WalId, WallTime};
use martlet_node::seam::{EngineLog, replay};
use martlet_shard::api::{Answer, Call, CallContext, CallToken, Reply};
use martlet_shard::{AllowAll, Engine, EngineConfig};
use martlet_wal::io::IoRequest;
use martlet_wal::read::{ReadEnd, ReadStart};
use martlet_wal::{Geometry, NewWal, Recovery, RecoveryError, StorageState, Store, StoreConfig};

use super::checker::{Checker, Verdict};
use super::clients::{Clients, Job};
use super::dice::Dice;
use super::disk::{Disk, place_of};
use super::outcome::{End, Outcome};
use super::plan::{Kind, Plan};
use super::seat::{Reading, Seat, UnderWay};
use super::table::Fault;

/// Makes the chance of moves another than that of everything else.
const MOVER_SALT: u64 = 0x6d6f_7665_735f_6f6e;
/// Likewise for the path of big batches.
const BIG_BATCH_SALT: u64 = 0x6269_675f_6261_7463;
/// Requests a read of everything may take before it is called stuck.
const TURNS_MAX: usize = 20_000;

/// One seed.
pub(crate) struct World {
    pub(crate) dice: Dice,
    /// Chance of its own for changes of the number of shards, so that worlds without them stay as they are.
    pub(crate) mover: Dice,
    pub(crate) plan: Plan,
    pub(crate) disk: Disk,
    pub(crate) seats: Vec<Seat>,
    pub(crate) wals: Vec<Option<WalId>>,
    pub(crate) now: Now,
    pub(crate) step: u64,
    pub(crate) checker: Checker,
    pub(crate) clients: Clients,
    pub(crate) jobs: BTreeMap<CallToken, Job>,
    pub(crate) next_token: u64,
    pub(crate) outcome: Outcome,
    /// Damage whose cost was seen: whatever was there then is there for good.
    pub(crate) judged: usize,
    /// The medium was damaged and a log could not be opened: nothing more to do.
    pub(crate) is_over: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let mut plan = Plan::draw(&mut dice);
        let mut mover = Dice::new(seed ^ MOVER_SALT);
        plan.moves = mover.once_in(6);
        plan.draw_big_batches(&mut Dice::new(seed ^ BIG_BATCH_SALT));
        World { mover, ..World::with(dice, plan) }
    }

    pub(crate) fn with(dice: Dice, plan: Plan) -> World {
        let mut disk = Disk::default();
        disk.is_tracking = plan.kind.is_medium();
        World {
            dice,
            mover: Dice::new(MOVER_SALT),
            disk,
            wals: vec![None; usize::from(plan.shards)],
            plan,
            seats: Vec::new(),
            now: Now { instant: Instant(1), wall: WallTime(1_700_000_000_000) },
            step: 0,
            checker: Checker::default(),
            clients: Clients::default(),
            jobs: BTreeMap::new(),
            next_token: 0,
            outcome: Outcome::default(),
            judged: 0,
            is_over: false,
        }
    }

    /// Lives the seed to its end.
    pub(crate) fn run(mut self) -> Result<Outcome, String> {
        let lives = 2 + self.dice.below(3);
        for life in 0..lives {
            self.outcome.lives += 1;
            self.plan.arm_start(&mut self.disk, &mut self.dice, life);
            self.start()?;
            if self.is_over {
                break;
            }
            let steps = 40 + self.dice.below(self.plan.steps);
            self.plan.arm(&mut self.disk, &mut self.dice, life);
            for _ in 0..steps {
                self.turn()?;
            }
            self.end()?;
        }
        if !self.is_over {
            self.disk.capacity = None;
            self.disk.eio = None;
            self.start()?;
        }
        self.outcome.table = std::mem::take(&mut self.disk.table);
        self.outcome.events = self.step;
        Ok(self.outcome)
    }

    pub(crate) fn store_config(&self) -> StoreConfig {
        StoreConfig {
            flush_bytes_max: 8 * 1024,
            staging_bytes_max: 24 * 1024,
            tail_cache_bytes: self.plan.tail_cache_bytes,
            read_cache_bytes: self.plan.tail_cache_bytes,
            settle_run_bytes_min: 2048,
            settle_job_bytes_max: 16 * 1024,
            settle_in_flight_bytes_max: 32 * 1024,
            settle_eager_bytes_min: self.plan.settle_eager_bytes_min,
            // Worlds without eager settling gather.
            gather_gap_bytes: if self.plan.settle_eager_bytes_min == u64::MAX { 256 } else { u64::MAX },
            big_batch_bytes_min: self.plan.big_batch_bytes_min,
            segment_bytes: self.plan.segment_bytes,
            ballast_bytes: 16 * 1024,
            mark_after: Duration::from_millis(10),
            full_retry_after: Duration::from_millis(50),
            #[cfg(feature = "planted-bugs")]
            planted: self.plan.planted_store,
        }
    }

    fn engine_config(&self, shard: usize) -> EngineConfig {
        let shard = ShardId(u16::try_from(shard).unwrap_or(0));
        EngineConfig {
            random: 77,
            pending_bytes_max: 64 * 1024,
            retention_interval: Duration::from_millis(200),
            metadata_log_bytes_max: 2000,
            #[cfg(feature = "planted-bugs")]
            planted: self.plan.planted_engine,
            ..EngineConfig::new(shard, self.plan.shards)
        }
    }

    /// Recovers every log, perhaps after being interrupted at it, and reads everything.
    fn start(&mut self) -> Verdict {
        self.change_shards()?;
        if self.is_over {
            return Ok(());
        }
        if self.dice.once_in(6) && self.plan.kind == Kind::Crash {
            let budget = self.dice.below(40);
            self.recover_all(Some(budget))?;
            self.crash_requests(Vec::new(), true);
        }
        self.recover_all(None)?;
        if self.is_over {
            return Ok(());
        }
        self.settle_down()?;
        self.verify()
    }

    /// Opens the logs. With a budget, power fails after so many requests.
    fn recover_all(&mut self, mut budget: Option<u64>) -> Verdict {
        self.seats.clear();
        for shard in 0..self.wals.len() {
            let mut tries = 0;
            let (store, engine) = loop {
                match self.recover(shard, &mut budget) {
                    Ok(Some(found)) => break found,
                    Ok(None) => {
                        self.seats.clear();
                        return Ok(());
                    }
                    Err(error) if self.may_fail(&error, tries) => tries += 1,
                    Err(error) if self.plan.kind.is_medium() && !self.disk.damage.is_empty() => {
                        // Said clearly, before anything was served.
                        let _ = error;
                        self.is_over = true;
                        return Ok(());
                    }
                    Err(error) => return Err(format!("shard {shard} cannot start: {error}")),
                }
            };
            let (under_way, reading) = (Vec::new(), BTreeMap::new());
            self.seats.push(Seat { store, engine, under_way, reading, inbox: Vec::new() });
        }
        Ok(())
    }

    /// Faults that pass: the next try is without them.
    fn may_fail(&mut self, error: &RecoveryError, tries: u32) -> bool {
        let is_io = matches!(error, RecoveryError::Io { .. } | RecoveryError::Unread { .. });
        let has_fault = self.plan.kind == Kind::Eio || self.plan.kind == Kind::Full;
        if is_io && has_fault && tries < 3 {
            self.disk.eio = None;
            self.disk.capacity = None;
            return true;
        }
        false
    }

    fn recover(
        &mut self,
        shard: usize,
        budget: &mut Option<u64>,
    ) -> Result<Option<(Store, Engine)>, RecoveryError> {
        let config = self.store_config();
        let (index, shards) = (u16::try_from(shard).unwrap_or(0), self.plan.shards);
        let mut recovery = match self.wals[shard] {
            Some(wal) => Recovery::open(wal, Some((index, shards)), config),
            None => {
                let geometry = Geometry {
                    file_bytes: self.plan.ring_file_bytes,
                    files: self.plan.ring_files,
                    block_bytes: 4096,
                };
                let wal = WalId(u128::from(self.dice.roll()) << 8 | shard as u128);
                let new = NewWal { wal, cluster: 1, node: NodeId(1), shard: index, shards, geometry };
                Recovery::create(new, config)
            }
        };
        let mut engine = Engine::new(self.engine_config(shard), Box::new(AllowAll));
        let mut turns = 0;
        loop {
            for item in recovery.take_replay() {
                let replayed = replay(&mut engine, item);
                assert!(replayed.is_ok(), "what passed its checksum is read: {replayed:?}");
            }
            if let Some(finished) = recovery.take_finished() {
                let (mut store, _) = finished?;
                self.wals[shard] = Some(store.wal());
                let recovered = engine.finish_recovery(&mut EngineLog(&mut store), self.now);
                if !recovered.problems.is_empty() {
                    assert!(!self.disk.damage.is_empty(), "nothing was damaged: {:?}", recovered.problems);
                }
                return Ok(Some((store, engine)));
            }
            let mut batch = Vec::new();
            while let Some((id, request)) = recovery.poll_io() {
                batch.push((id, request, self.disk.version()));
            }
            for (id, request, submitted) in batch {
                if let Some(left) = budget {
                    if *left == 0 {
                        self.crash_requests(vec![request], true);
                        return Ok(None);
                    }
                    *left -= 1;
                }
                let outcome = self.disk.execute(&request, submitted, &mut self.dice);
                recovery.complete(id, outcome);
            }
            turns += 1;
            assert!(turns < TURNS_MAX, "recovery is stuck");
        }
    }

    /// Completes requests, lets clients act, lets time pass, one of them a turn.
    fn turn(&mut self) -> Verdict {
        self.step += 1;
        match self.dice.below(10) {
            0..4 => self.act()?,
            4..8 => {
                let seat = self.dice.index(self.seats.len());
                if !self.plan.is_slow || self.dice.once_in(6) {
                    self.complete_one(seat);
                }
            }
            8 => {
                let time = Duration::from_micros(self.dice.below(20_000));
                self.pass(time);
            }
            _ => {
                let seat = self.dice.index(self.seats.len());
                self.deliver_metadata(seat)?;
            }
        }
        self.pump_all()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.instant = self.now.instant.after(time);
        self.now.wall.0 += i64::try_from(time.as_millis()).unwrap_or(0);
        if self.dice.once_in(50) {
            self.now.wall.0 += self.dice.below(20_000) as i64 - 10_000;
        }
        for seat in &mut self.seats {
            if seat.store.next_timer().is_some_and(|due| due <= self.now.instant) {
                seat.store.on_timer(self.now);
            }
            if seat.engine.next_timer().is_some_and(|due| due <= self.now.instant) {
                seat.engine.on_timer(&mut EngineLog(&mut seat.store), self.now);
            }
        }
    }

    /// Completes one request under way; sometimes not the oldest.
    fn complete_one(&mut self, seat: usize) {
        let under_way = &mut self.seats[seat].under_way;
        if under_way.is_empty() {
            return;
        }
        let at = if self.plan.is_reordered { self.dice.index(under_way.len()) } else { 0 };
        let UnderWay { id, request, submitted, born } = under_way.remove(at);
        if let Some(file) = super::disk::file_of(&request) {
            if at > 0 {
                self.disk.table.hit(Fault::Reordered, place_of(file));
            }
            if self.step - born > 60 {
                self.disk.table.hit(Fault::Slow, place_of(file));
            }
        }
        let outcome = self.disk.execute(&request, submitted, &mut self.dice);
        let seat = &mut self.seats[seat];
        seat.store.complete(id, outcome, self.now);
    }

    fn pump_all(&mut self) -> Verdict {
        for seat in 0..self.seats.len() {
            self.pump(seat)?;
        }
        Ok(())
    }

    /// Lets engine and store of a shard tell each other everything.
    pub(crate) fn pump(&mut self, at: usize) -> Verdict {
        loop {
            let Seat { store, engine, under_way, .. } = &mut self.seats[at];
            let durable = store.durable();
            engine.on_durable(&mut EngineLog(store), durable, self.now);
            if let StorageState::Fenced(fault) = store.state()
                && engine.fenced().is_none()
            {
                engine.fence(&mut EngineLog(store), &format!("{fault:?}"), self.now);
            }
            if store.checkpoint_wanted() {
                store.provide_checkpoint(engine.snapshot());
            }
            while let Some((id, request)) = store.poll_io(self.now) {
                under_way.push(UnderWay { id, request, submitted: self.disk.version(), born: self.step });
            }
            let finished = store.take_finished_reads();
            let metadata = engine.take_metadata();
            let answers = engine.take_answers();
            let is_quiet = finished.is_empty() && metadata.is_empty() && answers.is_empty();
            for (index, command) in metadata {
                self.broadcast(index, &command);
            }
            for (read, end) in finished {
                if let Some(reading) = self.seats[at].reading.remove(&read) {
                    self.on_read(reading, end)?;
                }
            }
            for answer in answers {
                self.on_answer(at, answer)?;
            }
            if is_quiet {
                return Ok(());
            }
        }
    }

    fn broadcast(&mut self, index: u64, command: &Bytes) {
        for seat in self.seats.iter_mut().skip(1) {
            seat.inbox.push((index, command.clone()));
        }
    }

    fn deliver_metadata(&mut self, at: usize) -> Verdict {
        let Seat { store, engine, inbox, .. } = &mut self.seats[at];
        for (index, command) in inbox.drain(..) {
            let applied = engine.apply_metadata(&mut EngineLog(store), index, &command, self.now);
            applied.map_err(|refusal| format!("metadata was refused: {refusal}"))?;
        }
        Ok(())
    }

    fn on_answer(&mut self, at: usize, answer: Answer) -> Verdict {
        let seat = &mut self.seats[at];
        let (reading, start) = match answer {
            Answer::Reply(token, result) => {
                let job = self.jobs.remove(&token).ok_or(format!("{token:?} was answered twice"))?;
                return self.hear(job, result);
            }
            Answer::Fetch { token, from, upto, .. } if from >= upto => {
                let job = self.jobs.remove(&token).ok_or(format!("{token:?} was answered twice"))?;
                return self.hear_frames(job, ReadEnd::Frames(Vec::new()));
            }
            Answer::Fetch { token, partition, from, upto, bytes_max, .. } => {
                (Reading { token }, seat.store.read(partition, from, upto, bytes_max))
            }
            Answer::FindTime { token, partition, time, upto } => {
                (Reading { token }, seat.store.find_time(partition, time, upto))
            }
            Answer::Call { .. } => return Err("a call was made where nothing makes any".to_owned()),
        };
        match start {
            ReadStart::Ended(end) => self.on_read(reading, end),
            ReadStart::Pending(read) => {
                seat.reading.insert(read, reading);
                Ok(())
            }
        }
    }

    fn on_read(&mut self, reading: Reading, end: ReadEnd) -> Verdict {
        let job = self.jobs.remove(&reading.token).ok_or("a read was answered twice")?;
        self.hear_frames(job, end)
    }

    /// Submits a call to the shard it belongs to.
    pub(crate) fn submit(&mut self, call: Call, job: Job) -> Verdict {
        self.next_token += 1;
        let token = CallToken(self.next_token);
        let at = usize::from(self.seats[0].engine.route(&call).0);
        self.jobs.insert(token, job);
        let seat = &mut self.seats[at];
        let log = &mut EngineLog(&mut seat.store);
        seat.engine.submit(log, token, &CallContext::default(), call, self.now);
        self.pump(at)
    }

    /// Goes on until nothing is under way.
    pub(crate) fn settle_down(&mut self) -> Verdict {
        for _ in 0..TURNS_MAX {
            for at in 0..self.seats.len() {
                self.deliver_metadata(at)?;
            }
            self.pump_all()?;
            let mut is_quiet = true;
            for at in 0..self.seats.len() {
                if !self.seats[at].under_way.is_empty() {
                    is_quiet = false;
                    self.complete_one(at);
                }
                is_quiet &= self.seats[at].inbox.is_empty();
            }
            if is_quiet {
                return Ok(());
            }
        }
        let under_way = self.seats.iter().flat_map(|seat| &seat.under_way);
        let under_way: Vec<String> = under_way.map(|under_way| describe(&under_way.request)).collect();
        Err(format!("requests never end: {under_way:?}"))
    }

    /// Ends a life.
    fn end(&mut self) -> Verdict {
        let end = match self.dice.below(6) {
            0 => End::Stopped,
            1 => End::Killed,
            _ => End::Power,
        };
        if end == End::Stopped {
            self.stop()?;
        }
        let big_runs = self.seats.iter().map(|seat| seat.store.counters().big_runs);
        self.outcome.big_runs += big_runs.sum::<u64>();
        let laps = self.seats.iter().map(|seat| {
            let counters = seat.store.counters();
            counters.flush_bytes / (self.plan.ring_file_bytes * u64::from(self.plan.ring_files))
        });
        self.outcome.laps = self.outcome.laps.max(laps.max().unwrap_or(0));
        let half_done: Vec<IoRequest> = self
            .seats
            .iter_mut()
            .flat_map(|seat| seat.under_way.drain(..).map(|under_way| under_way.request))
            .collect();
        self.crash_requests(half_done, end != End::Killed);
        self.note_damage();
        if self.plan.kind == Kind::Corrupt {
            self.damage();
            self.note_damage();
        }
        self.clients.crash(std::mem::take(&mut self.jobs), &mut self.checker);
        self.seats.clear();
        Ok(())
    }

    pub(crate) fn crash_requests(&mut self, half_done: Vec<IoRequest>, is_power: bool) {
        self.disk.eio = None;
        self.disk.misdirect = None;
        self.disk.crash(&mut self.dice, &half_done, is_power);
    }

    fn stop(&mut self) -> Verdict {
        for seat in &mut self.seats {
            seat.engine.shut_down();
        }
        self.settle_down()?;
        for seat in &mut self.seats {
            seat.store.close(seat.engine.snapshot());
        }
        for _ in 0..200 {
            self.settle_down()?;
            if self.seats.iter_mut().all(|seat| seat.store.is_closed()) {
                return self.settle_down();
            }
            self.pass(Duration::from_millis(20));
        }
        // On a full disk the checkpoint may never be written; the log has everything.
        if self.plan.kind == Kind::Full {
            Ok(())
        } else {
            Err(format!(
                "the log does not close: {:?}",
                self.seats.iter().map(|seat| seat.store.state()).collect::<Vec<_>>()
            ))
        }
    }

    fn damage(&mut self) {
        let place = self.plan.place;
        if let Some(damage) = self.disk.corrupt(place, &mut self.dice) {
            self.disk.damage.push(damage);
            // One place of the medium, once: two damaged copies of the same are beyond the promise.
            self.plan.kind = Kind::Damaged;
        }
    }

    /// Asks the engine now and drives the disk until it answers.
    pub(crate) fn ask(&mut self, call: Call) -> Result<Result<Reply, martlet_core::Refusal>, String> {
        self.submit(call, Job::Ask)?;
        for _ in 0..TURNS_MAX {
            if let Some(answer) = self.clients.asked.take() {
                return Ok(answer);
            }
            self.settle_down()?;
            self.pass(Duration::from_millis(5));
        }
        Err("a call is never answered".to_owned())
    }

    /// Reads frames from `from` on until the store answers.
    pub(crate) fn ask_frames(
        &mut self,
        at: usize,
        id: PartitionId,
        range: (Offset, Offset),
    ) -> Result<ReadEnd, String> {
        let mut start = self.seats[at].store.read(id, range.0, range.1, 8 * 1024);
        for _ in 0..TURNS_MAX {
            let read = match start {
                ReadStart::Ended(end) => return Ok(end),
                ReadStart::Pending(read) => read,
            };
            while let Some((request_id, request)) = self.seats[at].store.poll_io(self.now) {
                let (submitted, born) = (self.disk.version(), self.step);
                self.seats[at].under_way.push(UnderWay { id: request_id, request, submitted, born });
            }
            if self.seats[at].under_way.is_empty() {
                return Err("a read waits for nothing".to_owned());
            }
            self.complete_one(at);
            start = ReadStart::Pending(read);
            for (finished, end) in self.seats[at].store.take_finished_reads() {
                if finished == read {
                    start = ReadStart::Ended(end);
                } else if let Some(reading) = self.seats[at].reading.remove(&finished) {
                    self.on_read(reading, end)?;
                }
            }
        }
        Err("a read never ends".to_owned())
    }
}

/// A request without its bytes.
fn describe(request: &IoRequest) -> String {
    match request {
        IoRequest::Write { file, offset, data, sync } => {
            format!("write {} at {offset} of {file:?}, sync {sync}", data.len())
        }
        other => format!("{other:?}"),
    }
}
