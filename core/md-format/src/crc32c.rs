//! CRC-32C (Castagnoli, reflected polynomial 0x82f63b78) as md uses it: no inversion of its own.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `TABLES[j][b]`: what byte `b` does to the remainder when `j` more bytes follow.
const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut step = 1;
    while step < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[step - 1][byte];
            tables[step][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        step += 1;
    }
    tables
}

/// The remainder after `bytes`, from `seed` on. Eight bytes a step.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let at = |table: usize, byte: u32| TABLES[table & 7][(byte & 0xff) as usize];
    let (words, rest) = bytes.as_chunks::<8>();
    let crc = words.iter().fold(seed, |crc, &[a, b, c, d, e, f, g, h]| {
        let low = crc ^ u32::from_le_bytes([a, b, c, d]);
        let high = u32::from_le_bytes([e, f, g, h]);
        at(7, low)
            ^ at(6, low >> 8)
            ^ at(5, low >> 16)
            ^ at(4, low >> 24)
            ^ at(3, high)
            ^ at(2, high >> 8)
            ^ at(1, high >> 16)
            ^ at(0, high >> 24)
    });
    rest.iter().fold(crc, |crc, &byte| crc >> 8 ^ at(0, crc ^ u32::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the definition has it.
    fn slow(seed: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(seed, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
        })
    }

    #[test]
    fn it_is_the_remainder_that_the_definition_gives() {
        // The check value of CRC-32C, which inverts before and after.
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> = (0..300_u32).map(|i| (i * i % 251) as u8).collect();
        for len in 0..bytes.len() {
            let (from, seed) = (len % 9, len as u32 ^ 0x5555_aaaa);
            let part = bytes.get(from..len.max(from)).unwrap_or_default();
            assert_eq!(crc32c(seed, part), slow(seed, part), "{len} bytes");
        }
    }
}
