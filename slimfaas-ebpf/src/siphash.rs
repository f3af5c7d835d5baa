//! SipHash-2-4 with a 64-bit result (Aumasson and Bernstein), for input of any length, without allocation and without
//! indexing, so that the kernel's verifier has nothing to bound.

use crate::contract::Key;

/// Takes input in pieces. How it is cut into pieces does not change the result.
#[derive(Clone, Copy)]
pub struct SipHasher {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
    /// The last `length % 8` bytes, the first of them lowest.
    tail: u64,
    /// Bytes taken so far.
    length: u64,
}

impl SipHasher {
    #[inline(always)]
    pub const fn new(key: Key) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
            tail: 0,
            length: 0,
        }
    }

    #[inline(always)]
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.tail |= u64::from(*byte) << (8 * (self.length & 7));
            self.length = self.length.wrapping_add(1);
            if self.length & 7 == 0 {
                self.compress(self.tail);
                self.tail = 0;
            }
        }
    }

    #[inline(always)]
    pub fn finish(mut self) -> u64 {
        // The length's low byte is the highest byte of the last word; the tail never reaches it.
        self.compress(self.tail | (self.length << 56));
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline(always)]
    fn compress(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

/// The hash of exactly eight bytes, given as the word they are in little endian: two blocks and no loop.
#[inline(always)]
pub fn siphash_word(key: Key, word: u64) -> u64 {
    let mut hasher = SipHasher::new(key);
    hasher.compress(word);
    hasher.length = 8;
    hasher.finish()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    /// `vectors_sip64` of the reference implementation: the result, as its eight little-endian bytes read in order,
    /// of hashing the first n of the bytes 0, 1, 2, … under the key 0, 1, …, 15.
    const VECTORS: [u64; 64] = [
        0x310e_0edd_47db_6f72,
        0xfd67_dc93_c539_f874,
        0x5a4f_a9d9_0980_6c0d,
        0x2d7e_fbd7_9666_6785,
        0xb787_7127_e094_27cf,
        0x8da6_99cd_6455_7618,
        0xcee3_fe58_6e46_c9cb,
        0x37d1_018b_f500_02ab,
        0x6224_939a_79f5_f593,
        0xb0e4_a90b_df82_009e,
        0xf3b9_dd94_c5bb_5d7a,
        0xa7ad_6b22_462f_b3f4,
        0xfbe5_0e86_bc8f_1e75,
        0x903d_84c0_2756_ea14,
        0xeef2_7a8e_90ca_23f7,
        0xe545_be49_61ca_29a1,
        0xdb9b_c257_7fcc_2a3f,
        0x9447_be2c_f5e9_9a69,
        0x9cd3_8d96_f0b3_c14b,
        0xbd61_79a7_1dc9_6dbb,
        0x98ee_a21a_f25c_d6be,
        0xc767_3b2e_b0cb_f2d0,
        0x883e_a3e3_9567_5393,
        0xc8ce_5ccd_8c03_0ca8,
        0x94af_49f6_c650_adb8,
        0xeab8_858a_de92_e1bc,
        0xf315_bb5b_b835_d817,
        0xadcf_6b07_6361_2e2f,
        0xa5c9_1da7_acaa_4dde,
        0x7165_9587_6650_a2a6,
        0x28ef_495c_53a3_87ad,
        0x42c3_41d8_fa92_d832,
        0xce7c_f272_2f51_2771,
        0xe378_59f9_4623_f3a7,
        0x3812_05bb_1ab0_e012,
        0xae97_a10f_d434_e015,
        0xb4a3_1508_beff_4d31,
        0x8139_6229_f090_7902,
        0x4d0c_f49e_e5d4_dcca,
        0x5c73_336a_76d8_bf9a,
        0xd0a7_0453_6ba9_3e0e,
        0x9259_58fc_d642_0cad,
        0xa915_c29b_c806_7318,
        0x952b_79f3_bc0a_a6d4,
        0xf21d_f2e4_1d45_35f9,
        0x8757_7519_048f_53a9,
        0x10a5_6cf5_dfcd_9adb,
        0xeb75_095c_cd98_6cd0,
        0x51a9_cb9e_cba3_12e6,
        0x96af_adfc_2ce6_66c7,
        0x72fe_5297_5a43_64ee,
        0x5a16_45b2_76d5_92a1,
        0xb274_cb8e_bf87_870a,
        0x6f9b_b420_3de7_b381,
        0xeaec_b2a3_0b22_a87f,
        0x9924_a43c_c131_5724,
        0xbd83_8d3a_afbf_8db7,
        0x0b1a_2a32_65d5_1aea,
        0x1350_79a3_231c_e660,
        0x932b_2846_e4d7_0666,
        0xe191_5f5c_b1ec_a46c,
        0xf325_965c_a16d_629f,
        0x575f_f28e_6038_1be5,
        0x7245_06eb_4c32_8a95,
    ];

    fn key_of_the_vectors() -> Key {
        Key::from_secret(core::array::from_fn(|i| i as u8))
    }

    fn siphash(key: Key, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher::new(key);
        hasher.write(bytes);
        hasher.finish()
    }

    #[test]
    fn equals_the_published_vectors() {
        let input: [u8; 64] = core::array::from_fn(|i| i as u8);
        for (length, expected) in VECTORS.into_iter().enumerate() {
            assert_eq!(siphash(key_of_the_vectors(), &input[..length]), expected.swap_bytes(), "length {length}");
        }
    }

    #[test]
    fn a_word_equals_its_eight_bytes() {
        let word = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(siphash_word(key_of_the_vectors(), word), VECTORS[8].swap_bytes());
    }

    /// The standard library's deprecated hasher is SipHash-2-4: an implementation that nobody here wrote.
    #[expect(deprecated, reason = "it is here to be compared with")]
    fn siphash_of_std(key: Key, bytes: &[u8]) -> u64 {
        use core::hash::Hasher;

        let mut hasher = core::hash::SipHasher::new_with_keys(key.k0, key.k1);
        hasher.write(bytes);
        hasher.finish()
    }

    proptest! {
        #[test]
        fn equals_the_standard_library(k0: u64, k1: u64, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let key = Key { k0, k1 };
            prop_assert_eq!(siphash(key, &bytes), siphash_of_std(key, &bytes));
        }

        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0..80_usize) {
            let key = key_of_the_vectors();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = SipHasher::new(key);
            hasher.write(first);
            hasher.write(second);
            prop_assert_eq!(hasher.finish(), siphash(key, &bytes));
        }

        #[test]
        fn a_word_is_a_short_cut(k0: u64, k1: u64, word: u64) {
            let key = Key { k0, k1 };
            prop_assert_eq!(siphash_word(key, word), siphash(key, &word.to_le_bytes()));
        }
    }
}
