//! The client without I/O: every input is a call with the time as a value, every output is data. The tokio face and
//! the simulator drive the same machines.
