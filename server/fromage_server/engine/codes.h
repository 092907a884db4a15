// Rows in 16 bits times rows of int8 codes.

#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>

#include "rows.h"

#if defined(__x86_64__)
#define FOR_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#endif

constexpr std::int64_t kCodes = 32;  // that are read at once

// Rows of 16-bit numbers: x / scale, rounded.
class Rounded {
 public:
  // As large as sums of `padded` / 8 products with codes leave 32 bits for.
  Rounded(const float* x, std::int64_t rows, std::int64_t width, std::int64_t padded)
      : width_(padded), numbers_(rows * padded), scales_(rows), norms_(rows), errors_(rows) {
    const float levels = std::min<std::int64_t>(32767, (std::int64_t(1) << 31) / (16 * padded));
    for (std::int64_t row = 0; row < rows; ++row, x += width) {
      float largest = 0;
      double squares = 0, lost = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        largest = std::max(largest, std::fabs(x[i]));
        squares += double(x[i]) * x[i];
      }
      norms_[row] = std::sqrt(squares) * (1 + 1e-6);  // rounded up: it bounds
      if (!is_usual(row)) continue;
      const float scale = scales_[row] = largest / levels;
      for (std::int64_t i = 0; i < width; ++i) {
        const float code = std::min(std::max(std::nearbyint(x[i] / scale), -levels), levels);
        const double rest = x[i] - double(code) * scale;
        numbers_[row * padded + i] = std::int16_t(code);
        lost += rest * rest;
      }
      errors_[row] = std::sqrt(lost) * (1 + 1e-6);
    }
  }
  const std::int16_t* row(std::int64_t row) const { return numbers_.data() + row * width_; }
  float scale(std::int64_t row) const { return scales_[row]; }
  float norm(std::int64_t row) const { return norms_[row]; }    // |x|
  float error(std::int64_t row) const { return errors_[row]; }  // |x - codes * scale|
  bool is_finite(std::int64_t row) const { return std::isfinite(norms_[row]); }
  // Whether nothing overflows and nothing small is lost; `GreedyHead` sees to the weights. Rows
  // for which this is not so have no codes.
  bool is_usual(std::int64_t row) const { return norms_[row] > 1e-15 && norms_[row] < 1e15; }

 private:
  std::int64_t width_;
  std::vector<std::int16_t> numbers_;
  std::vector<float> scales_;
  std::vector<double> norms_, errors_;
};

// Products of `rows` rows of `x` and `outputs` rows of `codes`, all `width` long: `emit(r, o,
// product)`. Every lane's sum fits into 32 bits, see `Rounded`.
#if defined(__x86_64__)
struct Vnni {
  static constexpr int rows = 4, outputs = 4;
  template <int rows, int outputs, typename Emit>
  FOR_VNNI static void guess(const std::int8_t* codes, const std::int16_t* x, std::int64_t width,
                             const Emit& emit) {
    __m512i sums[rows][outputs] = {};
    for (std::int64_t i = 0; i < width; i += kCodes) {
      __m512i column[outputs];
      for (int o = 0; o < outputs; ++o) {
        const std::int8_t* at = codes + o * width + i;
        column[o] = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
        __builtin_prefetch(at + outputs * width, 0, 2);
      }
      for (int r = 0; r < rows; ++r) {
        const __m512i numbers = _mm512_loadu_si512(x + r * width + i);
        for (int o = 0; o < outputs; ++o)
          sums[r][o] = _mm512_dpwssd_epi32(sums[r][o], numbers, column[o]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int o = 0; o < outputs; ++o)
        emit(r, o, _mm512_reduce_add_ps(_mm512_cvtepi32_ps(sums[r][o])));
    }
  }
};

struct Avx2 {
  static constexpr int rows = 2, outputs = 4;
  template <int rows, int outputs, typename Emit>
  FOR_AVX2 static void guess(const std::int8_t* codes, const std::int16_t* x, std::int64_t width,
                             const Emit& emit) {
    __m256i sums[rows][outputs] = {};
    for (std::int64_t i = 0; i < width; i += kCodes / 2) {
      __m256i column[outputs];
      for (int o = 0; o < outputs; ++o) {
        const std::int8_t* at = codes + o * width + i;
        column[o] = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
        __builtin_prefetch(at + outputs * width, 0, 2);
      }
      for (int r = 0; r < rows; ++r) {
        const auto* at = reinterpret_cast<const __m256i*>(x + r * width + i);
        const __m256i numbers = _mm256_loadu_si256(at);
        for (int o = 0; o < outputs; ++o) {
          const __m256i both = _mm256_madd_epi16(numbers, column[o]);
          sums[r][o] = _mm256_add_epi32(sums[r][o], both);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int o = 0; o < outputs; ++o) {
        float lanes[8], whole = 0;
        _mm256_storeu_ps(lanes, _mm256_cvtepi32_ps(sums[r][o]));
        for (float lane : lanes) whole += lane;
        emit(r, o, whole);
      }
    }
  }
};
#endif

struct Plain {
  static constexpr int rows = 1, outputs = 1;
  template <int rows, int outputs, typename Emit>
  static void guess(const std::int8_t* codes, const std::int16_t* x, std::int64_t width,
                    const Emit& emit) {
    static_assert(rows == 1 && outputs == 1);
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < width; ++i) sum += std::int32_t(codes[i]) * x[i];
    emit(0, 0, float(sum));
  }
};

// A few rows of `x` and `count` rows of `codes`: `emit(r, o, product)`. Every lane's sum fits into
// 32 bits, see `Rounded`.
template <typename Kind, int rows, typename Emit>
INLINE void guess_rows(const std::int8_t* codes, std::int64_t count, const std::int16_t* x,
                       std::int64_t width, const Emit& emit) {
  std::int64_t at = 0;
  const auto shifted = [&](int r, int o, float product) { emit(r, at + o, product); };
  for (; at + Kind::outputs <= count; at += Kind::outputs)
    Kind::template guess<rows, Kind::outputs>(codes + at * width, x, width, shifted);
  if (Kind::outputs == 1) return;
  for (; at < count; ++at) Kind::template guess<rows, 1>(codes + at * width, x, width, shifted);
}
