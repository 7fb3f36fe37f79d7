//! Queues that never close do not pile up. The count is the process's, so this test has one of its own.

#![cfg(test)]

mod script;

use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::open::OpenError;

use script::{opener, setup};

#[test]
fn no_queue_is_opened_while_too_many_do_not_close() {
    let (opener, opened) = opener(|_| setup());
    let open = || DsaBackend::open("dsa", opener.clone(), Options::default()).map(drop);
    let refused = (0..100).find_map(|_| open().err());
    assert!(matches!(refused, Some(OpenError::Lingering { count: 8 })), "{refused:?}");
    let count = opened.lock().unwrap().len();
    assert_eq!(count, 8, "none was opened after that");
    // As soon as one has closed, there is room for another.
    opened.lock().unwrap()[3].let_close();
    while open().is_err() {
        std::thread::yield_now();
    }
    for handle in opened.lock().unwrap().iter() {
        handle.let_close();
    }
}
