//! The conformance suite: a backend that keeps its promises passes, and each broken promise is caught by
//! the point that names it.

#[cfg(test)]
#[path = "conformance/device.rs"]
mod device;

use async_tx::conformance::{self, Point};
use async_tx::*;

use device::{Flaw, Mock, Nature};

fn passes_everything(nature: Nature) {
    let report = conformance::run(&mut Mock::new(nature));
    assert!(report.passed(), "{report}");
    assert_eq!(report.not_tried().count(), 0, "{report}");
}

#[test]
fn an_asynchronous_backend_that_keeps_its_promises_passes_every_point() {
    passes_everything(Nature::GOOD);
}

#[test]
fn a_copy_engine_with_limits_passes_every_point() {
    let caps = [OpKind::Copy, OpKind::Fill, OpKind::Compare, OpKind::Dualcast, OpKind::CopyCrc32c];
    let caps = caps.into_iter().fold(Caps::NONE, Caps::with);
    let limits = Limits { sources_max: 2, len_min: 256, len_max: 1 << 15, align: 64, keeps_on_fault: true };
    passes_everything(Nature { caps, fences: caps, limits, queue: 3, ..Nature::GOOD });
}

#[test]
fn a_queue_of_one_passes_every_point() {
    passes_everything(Nature { queue: 1, ..Nature::GOOD });
}

#[test]
fn a_backend_without_fences_passes_and_the_report_says_what_was_not_tried() {
    let report = conformance::run(&mut Mock::new(Nature { fences: Caps::NONE, ..Nature::GOOD }));
    assert!(report.passed(), "{report}");
    assert_eq!(report.not_tried().collect::<Vec<_>>(), [Point::Fence, Point::AbandonedBehindFence]);
}

/// Every flaw and the points that name it; others may fail, too, but these must.
const CAUGHT_BY: &[(Flaw, &[Point])] = &[
    (Flaw::NamesNothing, &[Point::Declares]),
    (Flaw::NoRoomWhenFresh, &[Point::Declares]),
    (Flaw::WantsBatchesOfNone, &[Point::Declares]),
    (Flaw::LosesTheTail, &[Point::Results]),
    (Flaw::ForgetsVerdicts, &[Point::Results]),
    (Flaw::PanicsOnSevenBytes, &[Point::Results]),
    (Flaw::WritesBehindTheEnd, &[Point::Surroundings]),
    (Flaw::WritesASource, &[Point::Surroundings]),
    (Flaw::MixesUpResults, &[Point::OwnResult]),
    (Flaw::CompletesTwice, &[Point::Once]),
    (Flaw::ForgetsOne, &[Point::Once, Point::CallbackOnce]),
    (Flaw::CompletesWhatWasNot, &[Point::Once]),
    (Flaw::TakesMoreThanOffered, &[Point::Once]),
    (Flaw::ClearsTheList, &[Point::ReapAppends]),
    (Flaw::CompletesBeforeItIsDone, &[Point::QuietAfterCompletion, Point::DependencyRelease]),
    (Flaw::WritesAgainLater, &[Point::QuietAfterCompletion]),
    (Flaw::RoomTooLarge, &[Point::QueueFull]),
    (Flaw::RoomTooSmall, &[Point::QueueFull]),
    (Flaw::LosesRoom, &[Point::QueueFull]),
    (Flaw::DropsWhatDoesNotFit, &[Point::QueueFull, Point::Once]),
    (Flaw::IgnoresFences, &[Point::Fence]),
    (Flaw::RunsBehindAFailedFence, &[Point::AbandonedBehindFence]),
    (Flaw::SaysOkOnAFault, &[Point::FaultIsAValue]),
    (Flaw::FaultSpoilsASource, &[Point::FaultIsAValue]),
    (Flaw::FaultSpoilsWhatItKeeps, &[Point::FaultIsAValue]),
    (Flaw::AbortForgets, &[Point::Abort, Point::DeviceGone, Point::Retry]),
    (Flaw::AbortCompletesTwice, &[Point::Abort]),
    (Flaw::AbortDoesNotWait, &[Point::Abort, Point::LateAfterAbort, Point::DeviceGone, Point::Retry]),
    (Flaw::NeverComesBack, &[Point::DeviceGone, Point::Revive]),
    (Flaw::ComesBackDead, &[Point::Revive]),
    (Flaw::DropDoesNotWait, &[Point::Drop, Point::DropWhileStalled, Point::Cancel]),
    (Flaw::DropWaitsForever, &[Point::DropWhileStalled]),
];

#[test]
fn every_broken_promise_is_caught_by_the_point_that_names_it() {
    let mut missed = Vec::new();
    for (flaw, points) in CAUGHT_BY {
        let report = conformance::run_points(&mut Mock::flawed(*flaw), points);
        let failures: Vec<Point> = report.failures().collect();
        if failures != *points {
            missed.push(format!("{flaw:?}:\n{report}"));
        }
    }
    assert!(missed.is_empty(), "not caught: {}", missed.join("\n"));
}
