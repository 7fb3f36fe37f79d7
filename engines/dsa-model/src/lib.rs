//! A model of an Intel DSA device: executes the real 64-byte descriptors, writes real completion records,
//! and misbehaves on request.
