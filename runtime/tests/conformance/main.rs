//! One suite for every driver: what a runtime promises, whatever is below it. Each driver has a
//! [`harness::Harness`].

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod files;
mod harness;
mod mailboxes;
mod sim;
mod sockets;
mod tasks;
mod timers;
mod uring;

/// The whole suite on one harness.
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance! { @cases $harness;
            files: written_bytes_are_read_back, a_read_ends_with_the_file, what_is_missing_is_not_found,
                names_come_and_go, lengths_change, a_lock_is_exclusive, writes_in_flight_together,
                a_dropped_write_harms_nobody, directories_in_depth, paths_with_nul_are_refused;
            sockets: echo, a_large_send_arrives_whole, half_close, a_refused_connection,
                a_peer_that_resets, a_dropped_recv_takes_nothing_of_the_next, a_dropped_accept,
                two_listeners_share_a_port, both_directions_at_once, recv_needs_room,
                many_connections_at_once, shutdown_and_drop_deliver_all;
            timers: fire_in_order, cancelled_timers_leave_nothing, time_outs, a_sleep_of_nothing_ends;
            tasks: join_and_abort, a_dropped_handle_detaches, an_aborted_task_drops_what_it_holds,
                classes_share, io_goes_on_beside_busy_tasks, a_stall_is_named, work_left_at_the_end,
                a_late_task_is_dropped, local_primitives;
            mailboxes: ping_pong, a_ring_of_executors, back_pressure, ends_are_noticed,
                a_flood_does_not_starve,
                wakes_from_elsewhere, wakers_outlive_their_executor;
        }
    };
    (@cases $harness:expr; $($group:ident : $($case:ident),+ ;)+) => {
        $($(
            #[test]
            fn $case() {
                $crate::$group::$case(&$harness);
            }
        )+)+
    };
}
