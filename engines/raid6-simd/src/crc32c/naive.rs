//! Bit by bit from the definition: the oracle of the tests.

use super::Routines;
use super::poly::times_x;

/// The name of the implementation.
pub(super) const NAME: &str = "naive";

pub(super) static ROUTINES: Routines = Routines { name: NAME, crc32c, copy_crc32c };

fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!crc, |state, byte| {
        // Eight multiplications by x; the byte enters at x^32, that is at the state's highest powers.
        (0..8).fold(state ^ u32::from(*byte), |state, _| times_x(state))
    })
}

fn copy_crc32c(crc: u32, src: &[u8], dst: &mut [u8]) -> u32 {
    let len = src.len().min(dst.len());
    dst[..len].copy_from_slice(&src[..len]);
    crc32c(crc, &src[..len])
}
