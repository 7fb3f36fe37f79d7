//! The guard's CRC: 16 bits, polynomial 0x8BB7, most significant bit first, nothing reflected.
//!
//! Eight bytes at a time, by eight tables: table `k` holds what a byte contributes when `k` more bytes
//! follow it, and contributions of a CRC add up by exclusive or.

/// The polynomial, without its highest term.
const POLYNOMIAL: u16 = 0x8bb7;
/// Bytes at a time.
const SLICES: usize = 8;

static TABLES: [[u16; 256]; SLICES] = tables();

const fn tables() -> [[u16; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut k = 0;
        while k < SLICES {
            // The first table has the byte itself pass through, each further one another zero byte.
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 != 0 { crc << 1 ^ POLYNOMIAL } else { crc << 1 };
                bit += 1;
            }
            tables[k][byte] = crc;
            k += 1;
        }
        byte += 1;
    }
    tables
}

/// The CRC of `data`, continued from `crc`: 0 at the beginning, for the usual guard.
pub fn crc16(mut crc: u16, data: &[u8]) -> u16 {
    let (chunks, rest) = data.as_chunks::<SLICES>();
    for chunk in chunks {
        let [high, low] = crc.to_be_bytes();
        let [a, b, c, d, e, f, g, h] = *chunk;
        let bytes = [a ^ high, b ^ low, c, d, e, f, g, h];
        crc = bytes
            .iter()
            .zip(TABLES.iter().rev())
            .fold(0, |sum, (byte, table)| sum ^ table[usize::from(*byte)]);
    }
    for byte in rest {
        let [high, low] = crc.to_be_bytes();
        crc = u16::from(low) << 8 ^ TABLES[0][usize::from(high ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One bit at a time, as the definition has it.
    fn slowly(mut crc: u16, data: &[u8]) -> u16 {
        for byte in data {
            for bit in (0..8).rev() {
                let carry = crc >> 15 ^ u16::from(byte >> bit & 1);
                crc = crc << 1 ^ if carry == 1 { POLYNOMIAL } else { 0 };
            }
        }
        crc
    }

    #[test]
    fn the_check_value_of_t10_dif() {
        assert_eq!(crc16(0, b"123456789"), 0xd0db);
    }

    #[test]
    fn as_the_definition_for_every_length_and_continued() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(600)
        .collect();
        for len in 0..data.len() {
            let seed = (len as u16).wrapping_mul(0x9e37);
            let whole = slowly(seed, &data[..len]);
            assert_eq!(crc16(seed, &data[..len]), whole, "{len}");
            let middle = len / 3;
            assert_eq!(crc16(crc16(seed, &data[..middle]), &data[middle..len]), whole, "{len}");
        }
    }
}
