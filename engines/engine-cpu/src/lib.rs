//! The chain engine's CPU backend over raid6-simd
