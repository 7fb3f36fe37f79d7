//! Records: those of the vectors, and everything else that a device may write.

use engine_dsa::record::{Class, Delta, Outcome, RecordView};
use engine_dsa::wire::{Descriptor, at, flag, status};

use super::common::{F, Random, bytes, record, vectors};

#[test]
fn records_of_the_vectors() {
    for vector in vectors() {
        let id = vector["id"].as_str().unwrap();
        let view =
            RecordView::from(<[u8; 32]>::try_from(bytes(vector["crs"][0][1].as_str().unwrap())).unwrap());
        let outcome = view.outcome();
        let failed = |code, class| Outcome::Failed { code, class };
        let fault = |write, completed| Outcome::PageFault {
            write,
            resumable: true,
            completed,
            addr: F + 0x2000,
            result: 0,
        };
        let wanted = match id {
            "V10" | "V14" => Outcome::FalsePredicate,
            "V31" => failed(status::DUALCAST_ADDRESSES, Class::Cpu),
            "V32" => failed(status::OVERLAP, Class::Cpu),
            "V33" => fault(false, 0x2000),
            "V34" => fault(true, 0x2000),
            "V35" => fault(true, 0x1f9c),
            "V36" => fault(false, 0x2000),
            "V37" => fault(false, 0),
            "V38" => failed(status::BAD_OPCODE, Class::Config),
            "V39" | "V40" => failed(status::BAD_FLAGS, Class::Programming),
            "V41" => failed(status::RESERVED_FIELD, Class::Programming),
            "V42" | "V43" | "V45" => failed(status::BAD_SIZE, Class::Split),
            "V44" | "V64" => Outcome::Pending,
            "V50" => Outcome::BatchFailed { completed: 3 },
            "V51" | "V57" => Outcome::BatchFailed { completed: 2 },
            "V52" => Outcome::BatchFailed { completed: 1 },
            "V53" => failed(status::LIST_ALIGNMENT, Class::Programming),
            "V54" | "V55" => failed(status::BAD_COUNT, Class::Split),
            "V56" => Outcome::BatchPageFault { completed: 2, addr: F + 0x2000 },
            "V63" => failed(status::DIF_ERROR, Class::Data),
            _ => Outcome::Success,
        };
        assert_eq!(outcome, wanted, "{id}");
        match id {
            "V08" | "V12" | "V13" => assert_eq!(view.difference(), Some(None), "{id}"),
            "V09" | "V10" | "V11" => assert_eq!(view.difference(), Some(Some(1234)), "{id}"),
            "V15" | "V21" | "V22" => assert_eq!(view.crc(), Some(0xe306_9283), "{id}"),
            "V39" => assert_eq!(view.invalid_flags(), Some(flag::CHECK_RESULT)),
            "V40" => assert_eq!(view.invalid_flags(), Some(flag::CACHE_CONTROL)),
            "V36" | "V37" => assert_eq!(view.crc(), None, "{id}: it is not done"),
            "V58" => assert_eq!(view.delta(), Some(Delta::Differs(20))),
            "V59" => assert_eq!(view.delta(), Some(Delta::Overflow(80))),
            "V63" => {
                let found = view.dif_mismatch().unwrap();
                assert!(found.guard && !found.application && !found.reference && !found.all_ones);
                assert_eq!(found.completed, 520);
            }
            _ => {}
        }
    }
}

#[test]
fn any_record_has_an_outcome_and_undefined_bytes_do_not_matter() {
    let mut state = Random(0x5eed);
    for status in 0..=u8::MAX {
        for _ in 0..64 {
            let mut bytes: [u8; 32] = std::array::from_fn(|_| state.next() as u8);
            bytes[0] = status;
            let view = RecordView::from(bytes);
            let outcome = view.outcome();
            assert_eq!(outcome == Outcome::Pending, status == 0);
            let done = matches!(status & 0x7f, 1 | 2);
            assert_eq!(matches!(outcome, Outcome::Success | Outcome::FalsePredicate), done);
            assert!(done || view.difference().is_none() && view.crc().is_none() && view.delta().is_none());
            for number in 0..=u8::MAX {
                let mut descriptor = Descriptor(std::array::from_fn(|_| state.next() as u8));
                descriptor.set_operation(number, descriptor.flags());
                // Whatever both say: no panic, and less to do than before.
                if let Some(rest) = descriptor.resume(&view) {
                    let left = if number == 8 { at::DELTA_SIZE } else { at::SIZE };
                    let size = |d: &Descriptor| u32::from_le_bytes(d.field(left));
                    assert!(size(&rest) > 0 && size(&rest) <= size(&descriptor));
                }
            }
        }
    }
    assert_eq!(record(0x7f, None, 0, 0, 0).outcome(), Outcome::Failed { code: 0x7f, class: Class::Device });
    assert_eq!(record(0x1e, None, 0, 0, 0).outcome(), Outcome::Failed { code: 0x1e, class: Class::Config });
    assert_eq!(record(0x20, None, 0, 0, 0).outcome(), Outcome::Failed { code: 0x20, class: Class::Device });
    assert_eq!(record(0x01, Some(3), 9, 0, 0).difference(), None);
}
