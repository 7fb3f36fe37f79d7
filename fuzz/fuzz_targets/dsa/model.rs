//! Any descriptors in any memory, on the model.

use dsa_model::device::{Device, DeviceConfig};
use dsa_model::faults::FaultPlan;
use dsa_model::memory::{Mapped, PAGE, PageState};
use dsa_model::personality::Personality;
use engine_dsa::wire::{DESCRIPTOR_BYTES, Descriptor, at};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Where memory begins; there is a page that is not mapped before and behind.
const BASE: u64 = 0x1000_0000;
/// Pages of memory.
const PAGES: u64 = 4;

/// Address fields of descriptors.
const ADDRESSES: [usize; 5] = [at::RECORD, at::SOURCE, at::DESTINATION, at::SPECIFIC, at::CRC_SEED_ADDRESS];

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let memory = Mapped::new();
    let mut bytes = vec![0; (PAGES * PAGE) as usize];
    for chunk in bytes.chunks_mut(256) {
        let byte = u.arbitrary()?;
        chunk.fill(byte);
    }
    // A list of descriptors lies somewhere.
    let list = u.int_in_range(0..=PAGES * PAGE / 64 - 8)? as usize * DESCRIPTOR_BYTES;
    for i in 0..u.int_in_range(0..=8)? {
        let member = descriptor(u)?;
        bytes[list + i * DESCRIPTOR_BYTES..][..DESCRIPTOR_BYTES].copy_from_slice(&member.0);
    }
    memory.map(BASE, bytes);
    for page in 0..PAGES {
        let state = match u.int_in_range(0..=9)? {
            0 => PageState::Absent,
            1 => PageState::AbsentTimes(2),
            2 => PageState::ReadOnly,
            3 => PageState::Missing,
            _ => PageState::Present,
        };
        memory.set_page(BASE + page * PAGE, state);
    }
    let personality = match u.int_in_range(0..=2)? {
        0 => Personality::v1(),
        1 => Personality::v1_restricted(),
        _ => Personality { block_on_fault: true, ..Personality::v2() },
    };
    let config = match u.arbitrary()? {
        true => DeviceConfig::dedicated(personality, 4),
        false => DeviceConfig::shared(personality, 8, 6),
    };
    let faults = match u.int_in_range(0..=2)? {
        0 => FaultPlan::none(),
        1 => FaultPlan::random(u.arbitrary()?),
        _ => FaultPlan::hostile(u.arbitrary()?),
    };
    let mut device = Device::new(config.with_faults(faults), memory.clone());
    let Ok(client) = device.open() else { return Ok(()) };
    for _ in 0..u.int_in_range(1..=6)? {
        let descriptor = descriptor(u)?;
        let _ = device.call(client, &[descriptor], u.arbitrary()?);
        device.step();
    }
    device.run_to_rest(2000);
    device.begin_close(client);
    device.run_to_rest(2000);
    device.close(client);
    assert!(memory.bytes(BASE, (PAGES * PAGE) as usize).is_some(), "the memory has its size still");
    Ok(())
}

/// Any 64 bytes, of which the addresses and sizes often mean something.
fn descriptor(u: &mut Unstructured<'_>) -> Result<Descriptor> {
    let mut descriptor = Descriptor(u.arbitrary()?);
    if u.ratio(3, 4)? {
        for field in ADDRESSES {
            if u.ratio(7, 8)? {
                let mut address = BASE + u.int_in_range(0..=(PAGES + 1) * PAGE)? - PAGE / 2;
                if u.ratio(3, 4)? {
                    address &= !63;
                }
                descriptor.set_field(field, address.to_le_bytes());
            }
        }
        descriptor.set_field(at::SIZE, u.int_in_range(0..=10_000_u32)?.to_le_bytes());
        descriptor.set_field(at::RESERVED, [0; 2]);
        descriptor.set_field(at::INTERRUPT, [0; 2]);
        // Opcodes that exist, and flags that are more often legal.
        descriptor.set_operation(u.int_in_range(0..=0x21)?, u.arbitrary::<u32>()? & 0x0f_010f | 0x0c);
    }
    Ok(descriptor)
}
