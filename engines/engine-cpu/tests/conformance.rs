//! The CPU, as a backend among others, passes the conformance suite with each of its kernels.

#![cfg(test)]

use async_tx::Backend;
use async_tx::conformance::{self, Point, Subject};
use engine_cpu::CpuBackend;
use raid6_simd::{Kernel, Kernels, Selection};

struct Cpu(Selection);

impl Subject for Cpu {
    fn backend(&mut self) -> Box<dyn Backend> {
        Box::new(CpuBackend::new(Kernels::select(self.0).expect("a kernel that is available")))
    }
}

/// What only a device can be tried with: fences, and trouble.
const FOR_DEVICES: [Point; 7] = [
    Point::Fence,
    Point::AbandonedBehindFence,
    Point::FaultIsAValue,
    Point::LateAfterAbort,
    Point::DeviceGone,
    Point::DropWhileStalled,
    Point::Retry,
];

#[test]
fn the_cpu_passes_every_point() {
    let report = conformance::run(&mut Cpu(Selection::Auto));
    assert!(report.passed(), "{report}");
    assert_eq!(report.not_tried().collect::<Vec<_>>(), FOR_DEVICES, "{report}");
}

#[test]
fn every_kernel_gives_the_results_of_the_definitions() {
    let points = [Point::Results, Point::Surroundings, Point::DependencyRelease];
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        let report = conformance::run_points(&mut Cpu(Selection::Only(kernel)), &points);
        assert!(report.passed(), "{kernel}: {report}");
    }
}
