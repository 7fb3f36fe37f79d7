//! Exit codes and texts of the commands that need no array.

use crate::support::Bench;

#[test]
fn usage_errors_exit_with_2_and_say_what_is_wrong() {
    let bench = Bench::new();
    for (args, word) in [
        ([].as_slice(), "Usage"),
        (&["creat"], "similar"),
        (&["create", "--name", "v", "a"], "--level"),
        (&["serve", "v.toml", "a"], "stands alone"),
        (&["serve", "a", "--listen", "tcp:0.0.0.0:10809"], "--insecure"),
        (&["serve", "a", "a"], "named twice"),
        (&["serve", "v.toml", "--read-only"], "--read-only goes into the configuration file"),
        (&["serve", "a", "--listen", "unix:/x", "--control", "/x"], "the same socket"),
        (&["status", "v", "--control", "/x"], "not both"),
        (&["fail", "a/b", "m"], "is not allowed there"),
        (&["status", "../x"], "is not allowed there"),
        (&["engines", "../x"], "is not allowed there"),
        (&["engines", "v", "--control", "/x"], "not both"),
        (&["engines", "--quick", "--control", "/x"], "--quick is for this machine"),
        (&["kernels", "--kernel", "fastest"], "auto, measured, cycle, naive, portable"),
    ] {
        let run = bench.uraid(args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn help_and_version_succeed() {
    let bench = Bench::new();
    for args in [&["--help"][..], &["--version"], &["create", "--help"], &["serve", "--help"]] {
        assert!(!bench.uraid(args).ok().is_empty());
    }
}

#[test]
fn commands_without_a_daemon_say_so_and_exit_with_1() {
    let bench = Bench::new();
    let control = bench.path("no.control");
    let control = control.to_str().unwrap();
    for args in [
        &["status", "--control", control][..],
        &["status", "--json", "--control", control],
        &["engines", "--control", control],
        &["fail", "--control", control, "m"],
        &["add", "--control", control, "m"],
        &["stop", "--control", control],
    ] {
        let run = bench.uraid(args);
        assert_eq!(run.code, 1, "{args:?}: {run:?}");
        assert!(run.stderr.contains("no daemon answers at"), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn a_configuration_is_checked_with_all_its_problems() {
    let bench = Bench::new();
    bench.file("good.toml", b"members = ['a', 'b']\n", 21);
    assert!(bench.uraid(&["check-config", "good.toml"]).ok().contains("no problem found; 2 members"));
    let require = b"members = ['a', 'b']\n[engines]\ndsa = 'require'\ndsa_sysfs = 'nowhere'\n";
    bench.file("require.toml", require, require.len() as u64);
    let text = bench.uraid(&["check-config", "require.toml"]).ok();
    assert!(text.contains("no DSA work queue of this machine can be used"), "{text}");
    let doubtful =
        b"members = ['a', 'b']\nsocket_group = 'no-such-group'\n[events]\nhook = '/no/such/hook'\n";
    bench.file("doubtful.toml", doubtful, doubtful.len() as u64);
    let text = bench.uraid(&["check-config", "doubtful.toml"]).ok();
    assert!(text.contains("no-such-group") && text.contains("/no/such/hook cannot be run"), "{text}");
    let strict = bench.uraid(&["check-config", "--strict", "doubtful.toml"]);
    assert!(strict.code == 1 && strict.stderr.contains("no-such-group"), "{strict:?}");
    bench.uraid(&["check-config", "--strict", "good.toml"]).ok();
    let bad = b"members = 3\nkernle = 'auto'\n";
    bench.file("bad.toml", bad, bad.len() as u64);
    for args in [&["check-config", "bad.toml"][..], &["serve", "bad.toml"]] {
        let run = bench.uraid(args);
        assert_eq!(run.code, 2, "{run:?}");
        for word in
            ["bad.toml:1:11: ", "bad.toml:2:1: unknown key `kernle`", "did you mean `kernel`?", "2 problems"]
        {
            assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
        }
    }
    assert_eq!(bench.uraid(&["check-config", "none.toml"]).code, 1);
}
