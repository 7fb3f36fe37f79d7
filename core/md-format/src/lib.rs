//! Linux md superblock 1.x as values, and the assembly verdict over a set of members
#![forbid(unsafe_code)]
