// The likeliest next token without all logits, on a CPU: `greedy_head.py` builds and calls it.
//
// A head's weights in int8 tell every logit up to an error that is known beforehand. Those that may
// be the largest are computed as they always are.

#include <limits>

#include "codes.h"

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kTiny = 1e-30;  // what rounding to bfloat16 may take from tiny logits

struct Head {
  const void* weight;          // (outputs, width)
  const std::int8_t* codes;    // (outputs, padded): weight / scale, rounded
  const float *scale, *error;  // (outputs): error bounds |weight - codes * scale|, sums included,
  const float* norm;           // (outputs): and this |codes * scale|
  const void* bias;            // (outputs) or null
  std::int64_t outputs, width, padded;
  float rounding;              // of a logit, relative to it
  std::int32_t kind;           // of processor, see `chosen_guess`
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
  // Rows without codes come to nothing here: all their logits are computed.
  for (; row + Kind::rows <= s.asked.rows; row += Kind::rows)
    guess_rows<Kind, Kind::rows>(codes, count, s.rounded.row(row), head.padded, keep);
  if constexpr (Kind::rows > 2) {
    for (; row + 2 <= s.asked.rows; row += 2)
      guess_rows<Kind, 2>(codes, count, s.rounded.row(row), head.padded, keep);
  }
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
template <typename Floats, typename Number>
INLINE float logit_of(const Screening& s, std::int64_t row, std::int64_t token) {
  const Head& head = s.head;
  const Number* weight = static_cast<const Number*>(head.weight) + token * head.width;
  const Number* bias = static_cast<const Number*>(head.bias);
  float found = 0;
  block<Floats, 1, 1>(weight, s.x + row * head.width, head.width, [&](int, int, float product) {
    if (bias) product += widened(bias[token]);
    Number rounded;
    narrow(product, rounded);
    found = widened(rounded);
  });
  return found;
}

// The first of the largest logits of a row, as torch.argmax has it, among those that are looked at.
class Best {
 public:
  void look(std::int64_t token, float logit) {
    // torch calls nothing the largest of what holds such numbers.
    if (std::isnan(logit) || logit == -kNever) unusable_ = true;
    if (logit > largest_ || (logit == largest_ && token < token_)) token_ = token, largest_ = logit;
  }
  std::int64_t token() const { return unusable_ || largest_ == kNever ? -1 : token_; }

 private:
  bool unusable_ = false;
  std::int64_t token_ = -1;
  float largest_ = kNever;
};

template <typename Floats, typename Number>
INLINE std::int64_t best_of(const Screening& s, std::int64_t row) {
  const Head& head = s.head;
  if (!s.rounded.is_finite(row)) return -1;
  const bool all = !s.rounded.is_usual(row);
  const float* at_least = s.guesses.at_least.get() + row * s.pieces;
  const float* at_most = s.guesses.at_most.get() + row * s.pieces;
  float needed = kNever;
  for (std::int64_t piece = 0; !all && piece < s.pieces; ++piece)
    needed = std::max(needed, at_least[piece]);
  needed -= head.rounding * std::fabs(needed) + kTiny;
  Best best;
  for (std::int64_t piece = 0; piece < s.pieces; ++piece) {
    if (!all && at_most[piece] < needed) continue;
    const std::int64_t first = piece * kPiece, last = std::min(first + kPiece, head.outputs);
    for (std::int64_t token = first; token < last; ++token) {
      const float guessed = all ? 0 : s.guesses.logits[row * head.outputs + token];
      if (!all && guessed + s.wrong(row, token) < needed) continue;
      if (token != s.asked.ret && !s.is_forbidden(row, token))
        best.look(token, logit_of<Floats, Number>(s, row, token));
    }
  }
  if (!s.is_forbidden(row, s.asked.ret))
    best.look(s.asked.ret, logit_of<Floats, Number>(s, row, s.asked.ret) * s.asked.factors[row]);
  return best.token();
}

// One function for each kind of processor.
#if defined(__x86_64__)
template <typename Number>
FOR_VNNI void guess_vnni(const Screening& s, std::int64_t piece) {
  guess_piece<Vnni, Number>(s, piece);
}
template <typename Number>
FOR_AVX512 std::int64_t best512(const Screening& s, std::int64_t row) {
  return best_of<Floats16, Number>(s, row);
}
template <typename Number>
FOR_AVX2 void guess_avx2(const Screening& s, std::int64_t piece) {
  guess_piece<Avx2, Number>(s, piece);
}
template <typename Number>
FOR_AVX2 std::int64_t best256(const Screening& s, std::int64_t row) {
  return best_of<Floats8, Number>(s, row);
}
#endif
template <typename Number>
void guess_plain(const Screening& s, std::int64_t piece) {
  guess_piece<Plain, Number>(s, piece);
}
template <typename Number>
std::int64_t best_plain(const Screening& s, std::int64_t row) {
  return best_of<Floats8, Number>(s, row);
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

// `kind`: 2 for what this processor does best, 1 for AVX2, 0 for neither.
template <typename Number>
auto chosen_guess(int kind) {
#if defined(__x86_64__)
  if (kind > 1 && has_avx512() && __builtin_cpu_supports("avx512vnni")) return guess_vnni<Number>;
  if (kind > 0 && has_avx2()) return guess_avx2<Number>;
#endif
  return guess_plain<Number>;
}

template <typename Number>
void find(const Head& head, const Asked& asked) {
  const auto guess = chosen_guess<Number>(head.kind);
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
