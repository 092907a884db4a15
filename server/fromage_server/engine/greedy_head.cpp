// The likeliest next token without all logits, on a CPU: `greedy_head.py` builds and calls it.
//
// A head's weights in int8 tell every logit up to an error that is known beforehand. Those that may
// be the largest are computed as they always are.

#include <algorithm>
#include <cmath>
#include <limits>

#include "rows.h"

namespace {

// Four codes in each of sixteen lanes.
typedef std::int32_t Codes __attribute__((vector_size(64)));

constexpr std::int64_t kCodes = 64;
constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Head {
  const void* weight;           // (outputs, width)
  const std::int8_t* codes;     // (outputs, padded): weight / scale, rounded, see `greedy_head.py`
  const float *scale, *error;   // (outputs): error * |x| bounds what the codes are wrong by
  const void* bias;             // (outputs) or null
  std::int64_t outputs, width, padded;
  float rounding;               // of a logit, relative to it
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

// What the codes tell, and what each piece of the outputs may come to.
struct Guesses {
  Guesses(std::int64_t rows, std::int64_t outputs, std::int64_t pieces)
      : logits(new float[rows * outputs]),
        at_least(new float[rows * pieces]),
        at_most(new float[rows * pieces]),
        norms(new float[rows]) {}

  std::unique_ptr<float[]> logits;             // (rows, outputs)
  std::unique_ptr<float[]> at_least, at_most;  // (rows, pieces)
  std::unique_ptr<float[]> norms;              // (rows)
};

struct Screening {
  const Head& head;
  const Asked& asked;
  const float *x, *padded;  // (rows, width), (rows, padded)
  std::int64_t pieces;
  Guesses& guesses;

  bool is_forbidden(std::int64_t row, std::int64_t token) const {
    const std::int64_t *first = asked.forbidden + asked.starts[row],
                       *last = asked.forbidden + asked.starts[row + 1];
    return std::find(first, last, token) != last;
  }
};

// `rows` rows of `x` times `outputs` rows of `codes`, all `width` long: `emit(r, o, product)`.
template <int rows, int outputs, typename Emit>
INLINE void guess(const std::int8_t* codes, const float* x, std::int64_t width, const Emit& emit) {
  Floats sums[rows][outputs] = {};
  for (std::int64_t i = 0; i < width; i += kCodes) {
    Codes four[outputs];
    for (int o = 0; o < outputs; ++o) {
      std::memcpy(&four[o], codes + o * width + i, sizeof four[o]);
      __builtin_prefetch(codes + (o + outputs) * width + i, 0, 2);
    }
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      Floats column[outputs];
#pragma GCC unroll 8
      for (int o = 0; o < outputs; ++o)
        column[o] = __builtin_convertvector((four[o] << (24 - 8 * quarter)) >> 24, Floats);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        Floats numbers;
        load(x + r * width + i + quarter * kLanes, numbers);
#pragma GCC unroll 8
        for (int o = 0; o < outputs; ++o) sums[r][o] += numbers * column[o];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < outputs; ++o) emit(r, o, total(sums[r][o]));
  }
}

// `count` rows of `codes` and all rows of `x`.
template <int most, int outputs, typename Emit>
INLINE void guess_all(const std::int8_t* codes, std::int64_t count, const float* x,
                      std::int64_t rows, std::int64_t width, const Emit& emit) {
  std::int64_t at = 0;
  for (; at + outputs <= count; at += outputs) {
    std::int64_t row = 0;
    const auto shifted = [&](int r, int o, float product) { emit(row + r, at + o, product); };
    const std::int8_t* these = codes + at * width;
    for (; row + most <= rows; row += most) guess<most, outputs>(these, x + row * width, width, shifted);
    for (; row < rows; ++row) guess<1, outputs>(these, x + row * width, width, shifted);
  }
  for (; at < count; ++at) {
    for (std::int64_t row = 0; row < rows; ++row)
      guess<1, 1>(codes + at * width, x + row * width, width,
                  [&](int, int, float product) { emit(row, at, product); });
  }
}

template <int most, int outputs, typename Number>
INLINE void guess_piece(const Screening& s, std::int64_t piece) {
  const Head& head = s.head;
  const std::int64_t first = piece * kPiece;
  const std::int64_t count = std::min(kPiece, head.outputs - first);
  const Number* bias = static_cast<const Number*>(head.bias);
  float* logits = s.guesses.logits.get() + first;
  guess_all<most, outputs>(head.codes + first * head.padded, count, s.padded, s.asked.rows,
                           head.padded, [&](std::int64_t row, std::int64_t o, float product) {
                        float logit = product * head.scale[first + o];
                        if (bias) logit += widened(bias[first + o]);
                        logits[row * head.outputs + o] = logit;
                      });
  for (std::int64_t row = 0; row < s.asked.rows; ++row) {
    float* guessed = logits + row * head.outputs;
    // It is scaled by itself, and looked at in any case.
    if (s.asked.ret >= first && s.asked.ret < first + count) guessed[s.asked.ret - first] = kNever;
    for (std::int64_t i = s.asked.starts[row]; i < s.asked.starts[row + 1]; ++i) {
      const std::int64_t o = s.asked.forbidden[i] - first;
      if (o >= 0 && o < count) guessed[o] = kNever;
    }
    float at_least = kNever, at_most = kNever;
    for (std::int64_t o = 0; o < count; ++o) {
      const float wrong = head.error[first + o] * s.guesses.norms[row];
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
  const float norm = s.guesses.norms[row];
  if (!std::isfinite(norm)) return -1;
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
      if (guessed == kNever || !(guessed + head.error[token] * norm >= needed)) continue;
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
FOR_AVX512 void guess512(const Screening& s, std::int64_t piece) {
  guess_piece<4, 4, Number>(s, piece);
}
template <typename Number>
FOR_AVX512 std::int64_t best512(const Screening& s, std::int64_t row) {
  return best_of<Number>(s, row);
}
template <typename Number>
FOR_AVX2 void guess256(const Screening& s, std::int64_t piece) {
  guess_piece<4, 1, Number>(s, piece);
}
template <typename Number>
FOR_AVX2 std::int64_t best256(const Screening& s, std::int64_t row) {
  return best_of<Number>(s, row);
}
#endif
template <typename Number>
void guess_plain(const Screening& s, std::int64_t piece) {
  guess_piece<4, 1, Number>(s, piece);
}
template <typename Number>
std::int64_t best_plain(const Screening& s, std::int64_t row) {
  return best_of<Number>(s, row);
}

struct Chosen {
  void (*guess)(const Screening&, std::int64_t piece);
  std::int64_t (*best)(const Screening&, std::int64_t row);
};

template <typename Number>
Chosen chosen() {
#if defined(__x86_64__)
  if (has_avx512()) return {guess512<Number>, best512<Number>};
  if (has_avx2()) return {guess256<Number>, best256<Number>};
#endif
  return {guess_plain<Number>, best_plain<Number>};
}

template <typename Number>
void find(const Head& head, const Asked& asked) {
  static const Chosen kernels = chosen<Number>();
  const Number* given = static_cast<const Number*>(asked.x);
  const Widened x(given, asked.rows, head.width, head.width);
  const Widened padded(given, asked.rows, head.width, head.padded);
  const std::int64_t pieces = (head.outputs + kPiece - 1) / kPiece;
  Guesses guesses(asked.rows, head.outputs, pieces);
  for (std::int64_t row = 0; row < asked.rows; ++row) {
    double squares = 0;
    for (std::int64_t i = 0; i < head.width; ++i) {
      const double number = x.numbers()[row * head.width + i];
      squares += number * number;
    }
    // Rounded up: it bounds.
    guesses.norms[row] = float(std::sqrt(squares) * (1 + 1e-6));
  }
  const Screening screening{head, asked, x.numbers(), padded.numbers(), pieces, guesses};
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (std::int64_t piece = 0; piece < pieces; ++piece) kernels.guess(screening, piece);
#pragma omp for schedule(dynamic)
    for (std::int64_t row = 0; row < asked.rows; ++row)
      asked.tokens[row] = kernels.best(screening, row);
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
