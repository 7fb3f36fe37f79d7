//! The checksums, in their plainest form: the model is the oracle for the kernels, so it shares no code with
//! them.

/// Polynomial of CRC-32C, most significant bit first.
const CRC32C: u32 = 0x1edc_6f41;
/// Polynomial of the T10 guard, most significant bit first.
const T10: u16 = 0x8bb7;

const fn table32() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = (i as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 0x8000_0000 != 0 { (value << 1) ^ CRC32C } else { value << 1 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
}

static TABLE: [u32; 256] = table32();

/// A running CRC-32C with the device's two bypasses.
///
/// The state is kept most significant bit first: it starts at the complement of the reflected seed and ends
/// as the complement of the reflected state, unless inversion is bypassed; every byte enters reflected,
/// unless that is bypassed. With neither, and seed 0, it is the usual CRC-32C; a result is the next seed.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c {
    state: u32,
    bypass_inversion: bool,
    bypass_reflection: bool,
}

impl Crc32c {
    /// Starts at `seed`.
    pub fn new(seed: u32, bypass_inversion: bool, bypass_reflection: bool) -> Self {
        let state = if bypass_inversion { seed } else { !seed.reverse_bits() };
        Self { state, bypass_inversion, bypass_reflection }
    }

    /// Takes in `data`.
    pub fn update(&mut self, data: &[u8]) {
        for byte in data {
            let byte = if self.bypass_reflection { *byte } else { byte.reverse_bits() };
            let index = (self.state >> 24) as u8 ^ byte;
            self.state = (self.state << 8) ^ TABLE.get(usize::from(index)).copied().unwrap_or(0);
        }
    }

    /// The result so far.
    pub fn value(&self) -> u32 {
        if self.bypass_inversion { self.state } else { !self.state.reverse_bits() }
    }
}

/// CRC-32C of `data` in the usual convention, continued from `seed` (0 to begin).
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    let mut crc = Crc32c::new(seed, false, false);
    crc.update(data);
    crc.value()
}

/// CRC-16 of T10 over `data`, most significant bit first, started at `seed`.
pub fn crc16_t10(seed: u16, data: &[u8]) -> u16 {
    data.iter().fold(seed, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| {
                if crc & 0x8000 != 0 { (crc << 1) ^ T10 } else { crc << 1 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"12345"), b"6789"), 0xe306_9283);
        assert_eq!(crc16_t10(0, b"123456789"), 0xd0db);
    }
}
