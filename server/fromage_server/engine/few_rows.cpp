// A few rows times a matrix as nn.Linear stores it, on a CPU: `few_rows.py` builds and calls it.
//
// So few rows use every weight so seldom that memory is what they wait for. A piece of the matrix
// meets all rows while the piece after it is asked for. Sums are float32.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "numbers.h"

namespace {

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

struct Task {
  const void *weight, *x, *bias;  // (outputs, width), (rows, width), (outputs) or null
  void* out;                      // (rows, outputs)
  std::int64_t rows, outputs, width;
};

// `rows` rows of `x` times `outputs` rows of `weight`, which are the ones from `at` on.
template <int rows, int outputs, typename Number>
INLINE void block(const Task& task, const float* x, std::int64_t row, std::int64_t at) {
  const std::int64_t width = task.width;
  const Number* weight = static_cast<const Number*>(task.weight) + at * width;
  x += row * width;
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
  float totals[rows][outputs];
  // Not unrolled, the sums would leave their registers.
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int o = 0; o < outputs; ++o) totals[r][o] = total(sums[r][o]);
  }
  for (; i < width; ++i) {
    for (int r = 0; r < rows; ++r) {
      for (int o = 0; o < outputs; ++o)
        totals[r][o] += widened(weight[o * width + i]) * x[r * width + i];
    }
  }
  const Number* bias = static_cast<const Number*>(task.bias);
  Number* out = static_cast<Number*>(task.out) + row * task.outputs + at;
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < outputs; ++o)
      narrow(bias ? totals[r][o] + widened(bias[at + o]) : totals[r][o], out[r * task.outputs + o]);
  }
}

// `outputs` outputs from `at` on, of all rows, `most` of them at a time.
template <int most, int outputs, typename Number>
INLINE void strip(const Task& task, const float* x, std::int64_t at) {
  std::int64_t row = 0;
  for (; row + most <= task.rows; row += most) block<most, outputs, Number>(task, x, row, at);
  if (most > 4 && row + 4 <= task.rows) {
    block<4, outputs, Number>(task, x, row, at);
    row += 4;
  }
  if (row + 2 <= task.rows) {
    block<2, outputs, Number>(task, x, row, at);
    row += 2;
  }
  if (row < task.rows) block<1, outputs, Number>(task, x, row, at);
}

// The outputs from `first` to `last`; `x` is Task's, in float32.
template <int most, int outputs, typename Number>
INLINE void part(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  std::int64_t at = first;
  for (; at + outputs <= last; at += outputs) strip<most, outputs, Number>(task, x, at);
  for (; at < last; ++at) strip<most, 1, Number>(task, x, at);
}

// One function for each kind of processor.
#if defined(__x86_64__)
template <typename Number>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))) void part512(
    const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  part<6, 4, Number>(task, x, first, last);
}
template <typename Number>
__attribute__((target("avx2,fma"))) void part256(const Task& task, const float* x,
                                                 std::int64_t first, std::int64_t last) {
  part<4, 1, Number>(task, x, first, last);
}
#endif
template <typename Number>
void part_plain(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  part<4, 1, Number>(task, x, first, last);
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
  const Number* given = static_cast<const Number*>(task.x);
  const std::int64_t count = task.rows * task.width;
  std::vector<float> room(count + kLanes);
  // Loads that lie across two cache lines would cost twice.
  void* start = room.data();
  std::size_t bytes = room.size() * sizeof(float);
  float* x = static_cast<float*>(std::align(sizeof(Floats), count * sizeof(float), start, bytes));
  for (std::int64_t i = 0; i < count; ++i) x[i] = widened(given[i]);
  const std::int64_t pieces = (task.outputs + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (task.rows * task.outputs * task.width > kSmall)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::int64_t first = piece * kPiece, last = first + kPiece;
    compute(task, x, first, last < task.outputs ? last : task.outputs);
  }
}

}  // namespace

extern "C" void fromage_few_rows(const Task* task, int is_bfloat16) {
  if (is_bfloat16) {
    product<bfloat16>(*task);
  } else {
    product<float>(*task);
  }
}
