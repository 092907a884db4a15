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

// As many float32 as a processor computes with at once: compilers make little of more.
typedef float Floats16 __attribute__((vector_size(64)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));

// The same number of bfloat16, of bits, and of whole numbers.
template <typename Floats>
struct Like;
template <>
struct Like<Floats16> {
  typedef std::uint32_t Bits __attribute__((vector_size(64)));
  typedef std::int32_t Signed __attribute__((vector_size(64)));
  typedef std::uint16_t Halves __attribute__((vector_size(32)));
};
template <>
struct Like<Floats8> {
  typedef std::uint32_t Bits __attribute__((vector_size(32)));
  typedef std::int32_t Signed __attribute__((vector_size(32)));
  typedef std::uint16_t Halves __attribute__((vector_size(16)));
};

// A product, as `few_rows.py` tells both kernels of rows of it.
struct Task {
  const void* weight;    // as the kernel wants it
  const void *x, *bias;  // (rows, width), (outputs) or null
  void* out;             // (rows, outputs)
  std::int64_t rows, outputs, width;
};

template <typename Floats>
constexpr std::int64_t lanes = sizeof(Floats) / sizeof(float);

constexpr std::int64_t kLine = 16;        // numbers of a cache line
constexpr std::int64_t kPiece = 48;       // outputs that a thread takes at a time
constexpr std::int64_t kSmall = 1 << 15;  // products that are not worth a second thread

template <typename Floats>
INLINE void load(const float* from, Floats& out) {
  std::memcpy(&out, from, sizeof out);
}

template <typename Floats>
INLINE void load(const bfloat16* from, Floats& out) {
  typename Like<Floats>::Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const auto bits = __builtin_convertvector(halves, typename Like<Floats>::Bits) << 16;
  std::memcpy(&out, &bits, sizeof out);
}

// The first `count` of a vector's numbers, and zeros.
template <typename Number, typename Floats>
INLINE void load_some(const Number* from, std::int64_t count, Floats& out) {
  Number some[lanes<Floats>] = {};
  std::memcpy(some, from, count * sizeof(Number));
  load(some, out);
}

template <typename Floats, typename Half>
INLINE void add_halves(const Floats& whole, Half& sum) {
  Half second;
  std::memcpy(&sum, &whole, sizeof sum);
  std::memcpy(&second, reinterpret_cast<const char*>(&whole) + sizeof sum, sizeof second);
  sum += second;
}

INLINE float total(const Floats4& four) { return (four[0] + four[2]) + (four[1] + four[3]); }

INLINE float total(const Floats8& whole) {
  Floats4 half;
  add_halves(whole, half);
  return total(half);
}

INLINE float total(const Floats16& whole) {
  Floats8 half;
  add_halves(whole, half);
  return total(half);
}

// `rows` rows of `x` times `outputs` rows of `weight`, all `width` long: `emit(r, o, product)`.
template <typename Floats, int rows, int outputs, typename Number, typename Emit>
INLINE void block(const Number* weight, const float* x, std::int64_t width, const Emit& emit) {
  Floats sums[rows][outputs] = {};
  std::int64_t i = 0;
  for (; i + lanes<Floats> <= width; i += lanes<Floats>) {
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
template <typename Floats, int most, int outputs, typename Number, typename Emit>
INLINE void strip(const Number* weight, const float* x, std::int64_t rows, std::int64_t width,
                  const Emit& emit) {
  std::int64_t row = 0;
  const auto shifted = [&](int r, int o, float product) { emit(row + r, o, product); };
  for (; row + most <= rows; row += most)
    block<Floats, most, outputs>(weight, x + row * width, width, shifted);
  if (most > 4 && row + 4 <= rows) {
    block<Floats, 4, outputs>(weight, x + row * width, width, shifted);
    row += 4;
  }
  if (row + 2 <= rows) {
    block<Floats, 2, outputs>(weight, x + row * width, width, shifted);
    row += 2;
  }
  if (row < rows) block<Floats, 1, outputs>(weight, x + row * width, width, shifted);
}

// `count` rows of `weight` and all rows of `x`, `outputs` of the former at a time:
// `emit(row, output, product)`.
template <typename Floats, int most, int outputs, typename Number, typename Emit>
INLINE void part(const Number* weight, std::int64_t count, const float* x, std::int64_t rows,
                 std::int64_t width, const Emit& emit) {
  std::int64_t at = 0;
  const auto shifted = [&](std::int64_t r, int o, float product) { emit(r, at + o, product); };
  for (; at + outputs <= count; at += outputs)
    strip<Floats, most, outputs>(weight + at * width, x, rows, width, shifted);
  for (; at < count; ++at) strip<Floats, most, 1>(weight + at * width, x, rows, width, shifted);
}

// `count` numbers in float32; loads that lie across two cache lines would cost twice.
class Widened {
 public:
  template <typename Number>
  Widened(const Number* given, std::int64_t count) : room_(count + kLine) {
    void* start = room_.data();
    std::size_t bytes = room_.size() * sizeof(float);
    numbers_ =
        static_cast<float*>(std::align(kLine * sizeof(float), count * sizeof(float), start, bytes));
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
