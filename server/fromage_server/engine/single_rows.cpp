// A single row times a matrix as nn.Linear stores it, on a CPU: `single_rows.py` builds and calls it.
//
// Every weight is read once and used once, so memory is what it waits for: rows of the matrix are
// read four at a time, and the four after them asked for meanwhile. Sums are float32.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using bfloat16 = std::uint16_t;

// A cache line of float32; compilers make of it what a processor has.
typedef float Floats __attribute__((vector_size(64)));
typedef std::uint32_t Bits __attribute__((vector_size(64)));
typedef std::uint16_t Halves __attribute__((vector_size(32)));

constexpr std::int64_t kLanes = 16, kRows = 4, kSmall = 1 << 15;

#define INLINE inline __attribute__((always_inline))

INLINE void load(const float* from, Floats& out) { std::memcpy(&out, from, sizeof out); }

INLINE void load(const bfloat16* from, Floats& out) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  std::memcpy(&out, &bits, sizeof out);
}

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

template <int rows, typename Number>
INLINE void multiply(const Number* weight, const float* x, std::int64_t width, float* out) {
  Floats sums[rows] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Floats column, numbers;
    load(x + i, column);
    for (int r = 0; r < rows; ++r) {
      const Number* at = weight + r * width + i;
      __builtin_prefetch(at + rows * width, 0, 2);
      load(at, numbers);
      sums[r] += numbers * column;
    }
  }
  for (int r = 0; r < rows; ++r) {
    float sum = 0.0f;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) sum += sums[r][lane];
    for (std::int64_t rest = i; rest < width; ++rest)
      sum += widened(weight[r * width + rest]) * x[rest];
    out[r] = sum;
  }
}

struct Task {
  const void *weight, *x, *bias;  // (outputs, width), (width), (outputs) or null
  void* out;                      // (outputs)
  std::int64_t outputs, width;
};

// The outputs from `first` to `last`; `x` is Task's, in float32.
template <typename Number>
INLINE void part(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  const Number* weight = static_cast<const Number*>(task.weight);
  const Number* bias = static_cast<const Number*>(task.bias);
  Number* out = static_cast<Number*>(task.out);
  float sums[kRows];
  for (std::int64_t at = first; at < last; at += kRows) {
    const std::int64_t count = last - at < kRows ? last - at : kRows;
    const Number* rows = weight + at * task.width;
    if (count == kRows) {
      multiply<kRows>(rows, x, task.width, sums);
    } else {
      for (std::int64_t r = 0; r < count; ++r)
        multiply<1>(rows + r * task.width, x, task.width, sums + r);
    }
    for (std::int64_t r = 0; r < count; ++r)
      narrow(bias ? sums[r] + widened(bias[at + r]) : sums[r], out[at + r]);
  }
}

// One function for each kind of processor.
#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define AVX2 __attribute__((target("avx2,fma")))
template <typename Number>
AVX512 void part512(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  part<Number>(task, x, first, last);
}
template <typename Number>
AVX2 void part256(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  part<Number>(task, x, first, last);
}
#endif
template <typename Number>
void part_plain(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  part<Number>(task, x, first, last);
}

template <typename Number>
auto chosen_part() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    return part512<Number>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return part256<Number>;
#endif
  return part_plain<Number>;
}

template <typename Number>
void product(const Task& task) {
  static const auto compute = chosen_part<Number>();
  std::vector<float> x(task.width);
  for (std::int64_t i = 0; i < task.width; ++i) x[i] = widened(static_cast<const Number*>(task.x)[i]);
  // Neighbouring outputs stay in one thread: a matrix is read in as many streams as there are.
  constexpr std::int64_t kPiece = 64;
  const std::int64_t pieces = (task.outputs + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (task.outputs * task.width > kSmall)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::int64_t first = piece * kPiece, last = first + kPiece;
    compute(task, x.data(), first, last < task.outputs ? last : task.outputs);
  }
}

}  // namespace

extern "C" void fromage_single_row(const Task* task, int is_bfloat16) {
  if (is_bfloat16) {
    product<bfloat16>(*task);
  } else {
    product<float>(*task);
  }
}
