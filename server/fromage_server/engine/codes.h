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
  static constexpr int rows = 4;
  template <int rows>
  static constexpr int outputs_with = 4;
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
  static constexpr int rows = 4;
  template <int rows>
  static constexpr int outputs_with = rows > 2 ? 2 : 4;  // whose sums registers are left for
  template <int rows, int outputs, typename Emit>
  FOR_AVX2 static void guess(const std::int8_t* codes, const std::int16_t* x, std::int64_t width,
                             const Emit& emit) {
    __m256i sums[rows][outputs] = {};
    for (std::int64_t i = 0; i < width; i += kCodes) {
#pragma GCC unroll 8
      for (int o = 0; o < outputs; ++o)
        __builtin_prefetch(codes + (o + outputs) * width + i, 0, 2);
#pragma GCC unroll 2
      for (int half = 0; half < kCodes; half += kCodes / 2) {
        __m256i column[outputs];
#pragma GCC unroll 8
        for (int o = 0; o < outputs; ++o) {
          const auto* at = reinterpret_cast<const __m128i*>(codes + o * width + i + half);
          column[o] = _mm256_cvtepi8_epi16(_mm_loadu_si128(at));
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
          const auto* at = reinterpret_cast<const __m256i*>(x + r * width + i + half);
          __m256i numbers = _mm256_loadu_si256(at);
          __asm__("" : "+x"(numbers));  // or it would be read again for every output
#pragma GCC unroll 8
          for (int o = 0; o < outputs; ++o) {
            const __m256i both = _mm256_madd_epi16(numbers, column[o]);
            sums[r][o] = _mm256_add_epi32(sums[r][o], both);
          }
        }
      }
    }
    static_assert(outputs == 1 || outputs == 2 || outputs == 4);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      float totals[4];
      _mm_storeu_ps(totals, totals_of(sums[r][0], sums[r][outputs > 1], sums[r][outputs / 2],
                                      sums[r][outputs - 1]));
      for (int o = 0; o < outputs; ++o) emit(r, o, totals[o]);
    }
  }

 private:
  // Each one's lanes together. In float32: all of them might be too much for 32 bits.
  FOR_AVX2 static __m128 totals_of(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256 first = _mm256_hadd_ps(_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b));
    const __m256 second = _mm256_hadd_ps(_mm256_cvtepi32_ps(c), _mm256_cvtepi32_ps(d));
    const __m256 halves = _mm256_hadd_ps(first, second);
    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
  }
};
#endif

struct Plain {
  static constexpr int rows = 1;
  template <int rows>
  static constexpr int outputs_with = 1;
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
  constexpr int outputs = Kind::template outputs_with<rows>;
  std::int64_t at = 0;
  const auto shifted = [&](int r, int o, float product) { emit(r, at + o, product); };
  for (; at + outputs <= count; at += outputs)
    Kind::template guess<rows, outputs>(codes + at * width, x, width, shifted);
  if (outputs == 1) return;
  for (; at < count; ++at) Kind::template guess<rows, 1>(codes + at * width, x, width, shifted);
}
