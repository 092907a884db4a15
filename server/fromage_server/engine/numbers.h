// float32 and bfloat16, for the kernels beside it.

#pragma once

#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

using bfloat16 = std::uint16_t;

INLINE float widened(float x) { return x; }

INLINE float widened(bfloat16 x) {
  const std::uint32_t bits = std::uint32_t(x) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

INLINE void narrow(float x, float& out) { out = x; }

INLINE void narrow(float x, bfloat16& out) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t even = (bits >> 16) & 1;
  out = x != x ? 0x7fc0 : bfloat16((bits + 0x7fff + even) >> 16);
}
