//! Member I/O: io_uring and pread/pwrite behind one trait, and the buffers they own
