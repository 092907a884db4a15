// A few rows times a matrix as nn.Linear stores it, on a CPU: `few_rows.py` builds and calls it.

#include "rows.h"

namespace {

// The outputs from `first` to `last`; `x` is Task's, in float32.
template <typename Floats, int most, int outputs, typename Number>
INLINE void outputs_of(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  const Number* weight = static_cast<const Number*>(task.weight) + first * task.width;
  const Number* bias = static_cast<const Number*>(task.bias);
  Number* out = static_cast<Number*>(task.out);
  const auto emit = [&](std::int64_t row, std::int64_t o, float product) {
    const std::int64_t at = first + o;
    if (bias) product += widened(bias[at]);
    narrow(product, out[row * task.outputs + at]);
  };
  part<Floats, most, outputs>(weight, last - first, x, task.rows, task.width, emit);
}

// One function for each kind of processor.
#if defined(__x86_64__)
template <typename Number>
FOR_AVX512 void part512(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  outputs_of<Floats16, 6, 4, Number>(task, x, first, last);
}
template <typename Number>
FOR_AVX2 void part256(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  outputs_of<Floats8, 4, 2, Number>(task, x, first, last);
}
#endif
template <typename Number>
void part_plain(const Task& task, const float* x, std::int64_t first, std::int64_t last) {
  outputs_of<Floats8, 4, 2, Number>(task, x, first, last);
}

template <typename Number>
auto chosen_part() {
#if defined(__x86_64__)
  if (has_avx512()) return part512<Number>;
  if (has_avx2()) return part256<Number>;
#endif
  return part_plain<Number>;
}

template <typename Number>
void product(const Task& task) {
  static const auto compute = chosen_part<Number>();
  const Widened x(static_cast<const Number*>(task.x), task.rows * task.width);
  const std::int64_t pieces = (task.outputs + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static) if (task.rows * task.outputs * task.width > kSmall)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::int64_t first = piece * kPiece, last = first + kPiece;
    compute(task, x.numbers(), first, last < task.outputs ? last : task.outputs);
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
