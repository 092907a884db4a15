// Rows times a piece of a matrix as nn.Linear stores it; sums are float32.
//
// So few rows use every weight so seldom that memory is what they wait for. A piece of the matrix
// meets all rows while the piece after it is asked for.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "numbers.h"

// A cache line of float32; compilers make of it what a processor has.
typedef float Floats __attribute__((vector_size(64)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));
typedef std::uint32_t Bits __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(32)));

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kPiece = 48;       // outputs that a thread takes at a time
constexpr std::int64_t kSmall = 1 << 15;  // products that are not worth a second thread

INLINE void load(const float* from, Floats& out) { std::memcpy(&out, from, sizeof out); }

INLINE void load(const bfloat16* from, Floats& out) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  std::memcpy(&out, &bits, sizeof out);
}

// The first `count` of a vector's numbers, and zeros.
template <typename Number>
INLINE void load_some(const Number* from, std::int64_t count, Floats& out) {
  Number some[kLanes] = {};
  std::memcpy(some, from, count * sizeof(Number));
  load(some, out);
}

INLINE float total(const Floats& lanes) {
  Floats8 low, high;
  std::memcpy(&low, &lanes, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char*>(&lanes) + sizeof low, sizeof high);
  low += high;
  Floats4 first, second;
  std::memcpy(&first, &low, sizeof first);
  std::memcpy(&second, reinterpret_cast<const char*>(&low) + sizeof first, sizeof second);
  first += second;
  return (first[0] + first[2]) + (first[1] + first[3]);
}

// `rows` rows of `x` times `outputs` rows of `weight`, all `width` long: `emit(r, o, product)`.
template <int rows, int outputs, typename Number, typename Emit>
INLINE void block(const Number* weight, const float* x, std::int64_t width, const Emit& emit) {
  Floats sums[rows][outputs] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Floats column[outputs];
    for (int o = 0; o < outputs; ++o) {
      load(weight + o * width + i, column[o]);
      __builtin_prefetch(weight + (o + outputs) * width + i, 0, 2);
    }
    for (int r = 0; r < rows; ++r) {
      Floats numbers;
      load(x + r * width + i, numbers);
      for (int o = 0; o < outputs; ++o) sums[r][o] += numbers * column[o];
    }
  }
  // As vectors, too: how a product is rounded must not hang on what it is computed beside.
  if (i < width) {
    Floats column[outputs];
    for (int o = 0; o < outputs; ++o) load_some(weight + o * width + i, width - i, column[o]);
    for (int r = 0; r < rows; ++r) {
      Floats numbers;
      load_some(x + r * width + i, width - i, numbers);
      for (int o = 0; o < outputs; ++o) sums[r][o] += numbers * column[o];
    }
  }
  // Not unrolled, the sums would leave their registers.
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < outputs; ++o) emit(r, o, total(sums[r][o]));
  }
}

// `outputs` rows of `weight` and all rows of `x`, `most` of them at a time.
template <int most, int outputs, typename Number, typename Emit>
INLINE void strip(const Number* weight, const float* x, std::int64_t rows, std::int64_t width,
                  const Emit& emit) {
  std::int64_t row = 0;
  const auto shifted = [&](int r, int o, float product) { emit(row + r, o, product); };
  for (; row + most <= rows; row += most)
    block<most, outputs>(weight, x + row * width, width, shifted);
  if (most > 4 && row + 4 <= rows) {
    block<4, outputs>(weight, x + row * width, width, shifted);
    row += 4;
  }
  if (row + 2 <= rows) {
    block<2, outputs>(weight, x + row * width, width, shifted);
    row += 2;
  }
  if (row < rows) block<1, outputs>(weight, x + row * width, width, shifted);
}

// `count` rows of `weight` and all rows of `x`, `outputs` of the former at a time:
// `emit(row, output, product)`.
template <int most, int outputs, typename Number, typename Emit>
INLINE void part(const Number* weight, std::int64_t count, const float* x, std::int64_t rows,
                 std::int64_t width, const Emit& emit) {
  std::int64_t at = 0;
  const auto shifted = [&](std::int64_t r, int o, float product) { emit(r, at + o, product); };
  for (; at + outputs <= count; at += outputs)
    strip<most, outputs>(weight + at * width, x, rows, width, shifted);
  for (; at < count; ++at) strip<most, 1>(weight + at * width, x, rows, width, shifted);
}

// `count` numbers in float32; loads that lie across two cache lines would cost twice.
class Widened {
 public:
  template <typename Number>
  Widened(const Number* given, std::int64_t count) : room_(count + kLanes) {
    void* start = room_.data();
    std::size_t bytes = room_.size() * sizeof(float);
    numbers_ =
        static_cast<float*>(std::align(sizeof(Floats), count * sizeof(float), start, bytes));
    for (std::int64_t i = 0; i < count; ++i) numbers_[i] = widened(given[i]);
  }
  const float* numbers() const { return numbers_; }

 private:
  std::vector<float> room_;
  float* numbers_;
};

// Functions are compiled for processors with AVX-512, with AVX2, and for any other.
#if defined(__x86_64__)
#define FOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define FOR_AVX2 __attribute__((target("avx2,fma")))
INLINE bool has_avx512() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
INLINE bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif
