// The likeliest next token without all logits, on a CPU: `greedy_head.py` builds and calls it.
//
// A head's weights in int8 tell every logit up to an error that is known beforehand. Those that may
// be the largest are computed as they always are.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "rows.h"

#if defined(__x86_64__)
#define FOR_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#endif

namespace {

constexpr std::int64_t kCodes = 32;  // that are read at once
constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Head {
  const void* weight;          // (outputs, width)
  const std::int8_t* codes;    // (outputs, padded): weight / scale, rounded
  const float *scale, *error;  // (outputs): error bounds |weight - codes * scale|, sums included,
  const float* norm;           // (outputs): and this |codes * scale|
  const void* bias;            // (outputs) or null
  std::int64_t outputs, width, padded;
  float rounding;              // of a logit, relative to it
};

struct Asked {
  const void* x;                  // (rows, width)
  std::int64_t rows;
  const std::int64_t* forbidden;  // token ids, those of row r from starts[r] to starts[r + 1]
  const std::int64_t* starts;
  const float* factors;           // (rows): of the logit of `ret`
  std::int64_t ret;
  std::int64_t* tokens;           // (rows): what is found; -1 where no logit is a number
};

// Rows of 16-bit numbers: x / scale, rounded.
class Rounded {
 public:
  // As large as sums of `padded` / 8 products with codes leave 32 bits for.
  Rounded(const float* x, std::int64_t rows, std::int64_t width, std::int64_t padded)
      : width_(padded), numbers_(rows * padded), scales_(rows), norms_(rows), errors_(rows) {
    const float levels = std::min<std::int64_t>(32767, (std::int64_t(1) << 31) / (16 * padded));
    for (std::int64_t row = 0; row < rows; ++row, x += width) {
      float largest = 0;
      for (std::int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(x[i]));
      const float scale = scales_[row] = std::max(largest / levels, 1e-30f);
      double squares = 0, lost = 0;
      for (std::int64_t i = 0; i < width; ++i) {
        // What is no number stays none in the norm.
        const float code = std::isfinite(largest) ? std::nearbyint(x[i] / scale) : 0;
        const float bounded = std::min(std::max(code, -levels), levels);
        numbers_[row * padded + i] = std::int16_t(bounded);
        const double rest = x[i] - double(bounded) * scale;
        squares += double(x[i]) * x[i];
        lost += rest * rest;
      }
      // Rounded up: they bound.
      norms_[row] = float(std::sqrt(squares) * (1 + 1e-6));
      errors_[row] = float(std::sqrt(lost) * (1 + 1e-6));
    }
  }
  const std::int16_t* row(std::int64_t row) const { return numbers_.data() + row * width_; }
  float scale(std::int64_t row) const { return scales_[row]; }
  float norm(std::int64_t row) const { return norms_[row]; }    // |x|
  float error(std::int64_t row) const { return errors_[row]; }  // |x - codes * scale|

 private:
  std::int64_t width_;
  std::vector<std::int16_t> numbers_;
  std::vector<float> scales_, norms_, errors_;
};

// What the codes tell, and what each piece of the outputs may come to.
struct Guesses {
  Guesses(std::int64_t rows, std::int64_t outputs, std::int64_t pieces)
      : logits(new float[rows * outputs]),
        at_least(new float[rows * pieces]),
        at_most(new float[rows * pieces]) {}

  std::unique_ptr<float[]> logits;             // (rows, outputs)
  std::unique_ptr<float[]> at_least, at_most;  // (rows, pieces)
};

struct Screening {
  const Head& head;
  const Asked& asked;
  const float* x;
  const Rounded& rounded;
  std::int64_t pieces;
  Guesses& guesses;

  bool is_forbidden(std::int64_t row, std::int64_t token) const {
    const std::int64_t *first = asked.forbidden + asked.starts[row],
                       *last = asked.forbidden + asked.starts[row + 1];
    return std::find(first, last, token) != last;
  }
  // Of a guessed logit.
  float wrong(std::int64_t row, std::int64_t token) const {
    return head.error[token] * rounded.norm(row) + head.norm[token] * rounded.error(row);
  }
};

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

template <typename Kind, typename Number>
INLINE void guess_piece(const Screening& s, std::int64_t piece) {
  const Head& head = s.head;
  const std::int64_t first = piece * kPiece;
  const std::int64_t count = std::min(kPiece, head.outputs - first);
  const std::int8_t* codes = head.codes + first * head.padded;
  const Number* bias = static_cast<const Number*>(head.bias);
  float* logits = s.guesses.logits.get() + first;
  std::int64_t row = 0;
  const auto keep = [&](int r, std::int64_t o, float product) {
    float logit = product * s.rounded.scale(row + r) * head.scale[first + o];
    if (bias) logit += widened(bias[first + o]);
    logits[(row + r) * head.outputs + o] = logit;
  };
  for (; row + Kind::rows <= s.asked.rows; row += Kind::rows)
    guess_rows<Kind, Kind::rows>(codes, count, s.rounded.row(row), head.padded, keep);
  for (; row < s.asked.rows; ++row)
    guess_rows<Kind, 1>(codes, count, s.rounded.row(row), head.padded, keep);
  for (row = 0; row < s.asked.rows; ++row) {
    float* guessed = logits + row * head.outputs;
    // It is scaled by itself, and looked at in any case.
    if (s.asked.ret >= first && s.asked.ret < first + count) guessed[s.asked.ret - first] = kNever;
    for (std::int64_t i = s.asked.starts[row]; i < s.asked.starts[row + 1]; ++i) {
      const std::int64_t o = s.asked.forbidden[i] - first;
      if (o >= 0 && o < count) guessed[o] = kNever;
    }
    float at_least = kNever, at_most = kNever;
    for (std::int64_t o = 0; o < count; ++o) {
      const float wrong = s.wrong(row, first + o);
      at_least = std::max(at_least, guessed[o] - wrong);
      at_most = std::max(at_most, guessed[o] + wrong);
    }
    s.guesses.at_least[row * s.pieces + piece] = at_least;
    s.guesses.at_most[row * s.pieces + piece] = at_most;
  }
}

// The logit as `few_rows` computes it, with its rounding.
template <typename Number>
INLINE float logit_of(const Screening& s, std::int64_t row, std::int64_t token) {
  const Head& head = s.head;
  const Number* weight = static_cast<const Number*>(head.weight) + token * head.width;
  const Number* bias = static_cast<const Number*>(head.bias);
  float found = 0;
  block<1, 1>(weight, s.x + row * head.width, head.width, [&](int, int, float product) {
    if (bias) product += widened(bias[token]);
    Number rounded;
    narrow(product, rounded);
    found = widened(rounded);
  });
  return found;
}

// The first of the largest logits of a row, as torch.argmax has it.
template <typename Number>
INLINE std::int64_t best_of(const Screening& s, std::int64_t row) {
  const Head& head = s.head;
  const float* at_least = s.guesses.at_least.get() + row * s.pieces;
  const float* at_most = s.guesses.at_most.get() + row * s.pieces;
  if (!std::isfinite(s.rounded.norm(row))) return -1;
  float needed = kNever;
  for (std::int64_t piece = 0; piece < s.pieces; ++piece)
    needed = std::max(needed, at_least[piece]);
  needed -= head.rounding * std::fabs(needed);
  std::int64_t best = -1;
  float largest = kNever;
  const auto look = [&](std::int64_t token, float logit) {
    if (logit > largest || (logit == largest && token < best)) best = token, largest = logit;
  };
  for (std::int64_t piece = 0; piece < s.pieces; ++piece) {
    if (!(at_most[piece] >= needed) || at_most[piece] == kNever) continue;
    const std::int64_t first = piece * kPiece, last = std::min(first + kPiece, head.outputs);
    for (std::int64_t token = first; token < last; ++token) {
      const float guessed = s.guesses.logits[row * head.outputs + token];
      if (guessed == kNever || !(guessed + s.wrong(row, token) >= needed)) continue;
      look(token, logit_of<Number>(s, row, token));
    }
  }
  if (!s.is_forbidden(row, s.asked.ret))
    look(s.asked.ret, logit_of<Number>(s, row, s.asked.ret) * s.asked.factors[row]);
  return std::isfinite(largest) ? best : -1;
}

// One function for each kind of processor.
#if defined(__x86_64__)
template <typename Number>
FOR_VNNI void guess_vnni(const Screening& s, std::int64_t piece) {
  guess_piece<Vnni, Number>(s, piece);
}
template <typename Number>
FOR_AVX512 std::int64_t best512(const Screening& s, std::int64_t row) {
  return best_of<Number>(s, row);
}
template <typename Number>
FOR_AVX2 void guess_avx2(const Screening& s, std::int64_t piece) {
  guess_piece<Avx2, Number>(s, piece);
}
template <typename Number>
FOR_AVX2 std::int64_t best256(const Screening& s, std::int64_t row) {
  return best_of<Number>(s, row);
}
#endif
template <typename Number>
void guess_plain(const Screening& s, std::int64_t piece) {
  guess_piece<Plain, Number>(s, piece);
}
template <typename Number>
std::int64_t best_plain(const Screening& s, std::int64_t row) {
  return best_of<Number>(s, row);
}

// The logits are to be `few_rows`'s own to the bit: the same kinds of processors.
template <typename Number>
auto chosen_best() {
#if defined(__x86_64__)
  if (has_avx512()) return best512<Number>;
  if (has_avx2()) return best256<Number>;
#endif
  return best_plain<Number>;
}

template <typename Number>
auto chosen_guess() {
#if defined(__x86_64__)
  if (has_avx512() && __builtin_cpu_supports("avx512vnni")) return guess_vnni<Number>;
  if (has_avx2()) return guess_avx2<Number>;
#endif
  return guess_plain<Number>;
}

template <typename Number>
void find(const Head& head, const Asked& asked) {
  static const auto guess = chosen_guess<Number>();
  static const auto best = chosen_best<Number>();
  const Widened x(static_cast<const Number*>(asked.x), asked.rows * head.width);
  const Rounded rounded(x.numbers(), asked.rows, head.width, head.padded);
  const std::int64_t pieces = (head.outputs + kPiece - 1) / kPiece;
  Guesses guesses(asked.rows, head.outputs, pieces);
  const Screening screening{head, asked, x.numbers(), rounded, pieces, guesses};
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (std::int64_t piece = 0; piece < pieces; ++piece) guess(screening, piece);
#pragma omp for schedule(dynamic)
    for (std::int64_t row = 0; row < asked.rows; ++row) asked.tokens[row] = best(screening, row);
  }
}

}  // namespace

extern "C" void fromage_greedy(const Head* head, const Asked* asked, int is_bfloat16) {
  if (is_bfloat16) {
    find<bfloat16>(*head, *asked);
  } else {
    find<float>(*head, *asked);
  }
}
