//! A piece of /sys, /proc, /dev and /run, as files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use uraid_attach::Host;

/// A tree that is built up file by file.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        Tree(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn host(&self) -> Host {
        Host::below(self.0.path())
    }

    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(Path::new(target), path).unwrap();
        self
    }

    /// nbd0 attached with a partition, nbd1 free, nbd10 attached without a backend.
    pub(crate) fn with_devices() -> Self {
        let tree = Tree::new();
        tree.file("sys/block/nbd0/pid", "4711\n")
            .file("sys/block/nbd0/size", "2048\n")
            .file("sys/block/nbd0/ro", "0\n")
            .file("sys/block/nbd0/backend", "uraid:tank\n")
            .file("sys/block/nbd0/nbd0p1/dev", "43:1\n")
            .file("sys/class/block/nbd0/dev", "43:0\n")
            .file("sys/class/block/nbd0p1/dev", "43:1\n")
            .file("sys/block/nbd1/size", "0\n")
            .file("sys/block/nbd10/pid", "9\n")
            .file("sys/block/nbd10/size", "16\n")
            .file("sys/block/nbd10/ro", "1\n")
            .file("sys/class/block/nbd10/dev", "43:320\n")
            .file("sys/block/sda/size", "1\n")
            .file("proc/1/comm", "init\n")
            .file("proc/1/fd/x", "");
        tree
    }
}
