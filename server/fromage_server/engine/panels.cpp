// Many rows times a matrix that lies in panels, on a CPU: `panels.py` builds and calls it.
//
// A panel holds the weights of as many outputs as two vectors have numbers, column by column. A
// tile, a few rows times a panel, keeps its sums in registers: for every column it reads two
// vectors of weights and one number of each row. A piece of a panel stays in the first caches while
// all rows pass by; only where these are more than the last cache holds, panels pass by some of them.
//
// Memory is asked for weights before they are needed: while a few rows meet a piece of a panel, for
// the next piece; while many meet some panels, for the next panels. Both are spread over all that
// is computed meanwhile.

#include <omp.h>

#include <algorithm>

#include "rows.h"

namespace {

constexpr std::int64_t kRun = 384;           // columns that are summed in one
constexpr std::int64_t kFew = 96;            // rows that stay in the second cache
constexpr std::int64_t kCached = 2'000'000;  // numbers of rows that stay in the last one
constexpr std::int64_t kBlock = 48;          // rows that are not divided between threads

// The weights of a panel's outputs in one column.
template <typename Floats>
INLINE void load_column(const float* from, Floats (&out)[2]) {
  load(from, out[0]);
  load(from + lanes<Floats>, out[1]);
}

// Two of bfloat16 lie in the bits of one float32, and each is one with the other's bits cleared.
template <typename Floats>
INLINE void load_column(const bfloat16* from, Floats (&out)[2]) {
  typename Like<Floats>::Bits both;
  std::memcpy(&both, from, sizeof both);
  const auto first = both << 16, second = both & 0xffff0000u;
  std::memcpy(&out[0], &first, sizeof first);
  std::memcpy(&out[1], &second, sizeof second);
}

// A panel's columns in their order. Meanwhile the weights that follow are asked for: one column of
// them for every `step` of these, and each tile goes on where the last one stopped.
template <int bytes>
struct Ahead {
  const char* weight;
  std::int64_t step;

  template <typename Use>
  INLINE void each(std::int64_t columns, const Use& use) {
    for (std::int64_t i = 0; i < columns; weight += bytes) {
      for (int line = 0; line < bytes; line += 64) __builtin_prefetch(weight + line);
      const std::int64_t end = std::min(i + step, columns);
      for (; i < end; ++i) use(i);
    }
  }
};

// `rows` rows of `x` times `columns` columns of a panel, added to `out`, whose rows are `apart`
// numbers from each other. Each sum is made in the order of the columns, whatever it is computed
// beside.
template <typename Floats, int rows, typename Number>
INLINE void add_products(const Number* weight, const float* x, std::int64_t columns,
                         std::int64_t width, float* out, std::int64_t apart,
                         Ahead<2 * lanes<Floats> * sizeof(Number)>& ahead) {
  Floats sums[rows][2] = {};
  // Not inlined, it would be compiled for any processor.
  ahead.each(columns, [&](std::int64_t i) __attribute__((always_inline)) {
    Floats column[2];
    load_column(weight + i * 2 * lanes<Floats>, column);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const float number = x[r * width + i];
      sums[r][0] += number * column[0];
      sums[r][1] += number * column[1];
    }
  });
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    float* to = out + r * apart;
    Floats first, second;
    load(to, first);
    load(to + lanes<Floats>, second);
    first += sums[r][0];
    second += sums[r][1];
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + lanes<Floats>, &second, sizeof second);
  }
}

// How a task is cut: a thread takes so many panels at a time; so many rows meet so many columns of
// each of them before the others' turn comes.
struct Cut {
  std::int64_t panels, rows, columns;
};

// There should be something for every thread, and where panels are taken by eights, for each twice.
inline Cut cut_of(const Task& task, std::int64_t panels, std::int64_t threads) {
  const auto shared = [&](std::int64_t shares, std::int64_t most) {
    return std::clamp<std::int64_t>(panels / shares, 1, most);
  };
  if (task.rows <= kFew) return {shared(threads, 3), kFew, kRun};
  if (task.rows * task.width <= kCached) return {1, task.rows, task.width};
  return {shared(2 * threads, 8), kFew, 2 * kRun};
}

struct Range {
  std::int64_t first, last;

  INLINE std::int64_t count() const { return last - first; }
};

// What a thread takes at a time: some panels of a matrix, and some rows.
struct Share {
  std::int64_t panel, last_panel, row, last_row;
  std::int64_t next_panel;  // what it probably takes then
};

// Of a task whose weight is (panels, width, 2, lanes), in bfloat16 (panels, width, lanes, 2); all
// else is float32.
template <typename Floats, int most, typename Number>
class Part {
 public:
  Part(const Task& task, const Cut& cut)
      : task_(task),
        cut_(cut),
        x_(static_cast<const float*>(task.x)),
        bias_(static_cast<const float*>(task.bias)),
        out_(static_cast<float*>(task.out)) {}

  INLINE void compute(const Share& share) const {
    Ahead<kBytes> panels{bytes_at(share.next_panel, 0), tiles(share.last_row - share.row)};
    for (std::int64_t row = share.row; row < share.last_row; row += cut_.rows) {
      const std::int64_t last = std::min(row + cut_.rows, share.last_row);
      for (std::int64_t column = 0; column < task_.width; column += cut_.columns) {
        const Range columns{column, std::min(column + cut_.columns, task_.width)};
        for (std::int64_t panel = share.panel; panel < share.last_panel; ++panel) {
          if (task_.rows > kFew) {
            piece(panel, row, last, columns, panels);
          } else {
            Ahead<kBytes> pieces{after(share, panel, columns), tiles(last - row)};
            piece(panel, row, last, columns, pieces);
          }
        }
      }
    }
  }

 private:
  static constexpr std::int64_t kOutputs = 2 * lanes<Floats>;
  static constexpr int kBytes = kOutputs * sizeof(Number);

  INLINE const Number* weight_at(std::int64_t panel, std::int64_t column) const {
    return static_cast<const Number*>(task_.weight) + (panel * task_.width + column) * kOutputs;
  }
  INLINE const char* bytes_at(std::int64_t panel, std::int64_t column) const {
    return reinterpret_cast<const char*>(weight_at(panel, column));
  }
  // What is read after a piece of this share.
  INLINE const char* after(const Share& share, std::int64_t panel, const Range& columns) const {
    if (panel + 1 < share.last_panel) return bytes_at(panel + 1, columns.first);
    if (columns.last < task_.width) return bytes_at(share.panel, columns.last);
    return bytes_at(share.next_panel, 0);  // asked for, not read: there may be no such panel
  }

  // How many tiles of `most` rows; the rest is made of smaller ones. Two rows alone are not worth a
  // tile, as they have too few sums: eight are two tiles of four, not one of six.
  static INLINE std::int64_t whole_tiles(std::int64_t rows) {
    return rows / most - (most == 6 && rows > most && rows % most == 2);
  }
  static INLINE std::int64_t tiles(std::int64_t rows) {
    const std::int64_t whole = whole_tiles(rows), rest = rows - whole * most;
    return whole + (most > 4 ? rest / 4 : 0) + rest % 4 / 2 + rest % 2;
  }

  INLINE void piece(std::int64_t panel, std::int64_t row, std::int64_t last, const Range& columns,
                    Ahead<kBytes>& ahead) const {
    for (std::int64_t whole = whole_tiles(last - row); whole > 0; --whole, row += most)
      rows_of<most>(panel, row, columns, ahead);
    if (most > 4)
      for (; row + 4 <= last; row += 4) rows_of<4>(panel, row, columns, ahead);
    if (row + 2 <= last) rows_of<2>(panel, row, columns, ahead), row += 2;
    if (row < last) rows_of<1>(panel, row, columns, ahead);
  }

  template <int rows>
  INLINE void rows_of(std::int64_t panel, std::int64_t row, const Range& columns,
                      Ahead<kBytes>& ahead) const {
    const Number* weight = weight_at(panel, columns.first);
    const float* x = x_ + row * task_.width + columns.first;
    const std::int64_t output = panel * kOutputs;
    float* out = out_ + row * task_.outputs + output;
    const std::int64_t count = std::min(kOutputs, task_.outputs - output);
    if (columns.first == 0) {
      for (int r = 0; r < rows; ++r)
        for (std::int64_t o = 0; o < count; ++o)
          out[r * task_.outputs + o] = bias_ ? bias_[output + o] : 0;
    }
    float place[rows * kOutputs];  // the last panel's rest is nobody's
    float* sums = out;
    std::int64_t apart = task_.outputs;
    if (count < kOutputs) {
      sums = place, apart = kOutputs;
      std::fill_n(place, rows * kOutputs, 0.0f);
      for (int r = 0; r < rows; ++r)
        std::copy_n(out + r * task_.outputs, count, place + r * kOutputs);
    }
    // A long sum in one would lose more to rounding.
    for (std::int64_t i = 0; i < columns.count(); i += kRun)
      add_products<Floats, rows>(weight + i * kOutputs, x + i, std::min(kRun, columns.count() - i),
                                 task_.width, sums, apart, ahead);
    if (count < kOutputs)
      for (int r = 0; r < rows; ++r)
        std::copy_n(place + r * kOutputs, count, out + r * task_.outputs);
  }

  const Task& task_;
  const Cut& cut_;
  const float *x_, *bias_;
  float* out_;
};

// One function for each kind of processor.
#if defined(__x86_64__)
template <typename Number>
FOR_AVX512 void part512(const Task& task, const Cut& cut, const Share& share) {
  Part<Floats16, 12, Number>(task, cut).compute(share);
}
template <typename Number>
FOR_AVX2 void part256(const Task& task, const Cut& cut, const Share& share) {
  Part<Floats8, 6, Number>(task, cut).compute(share);
}
#endif
template <typename Number>
void part_plain(const Task& task, const Cut& cut, const Share& share) {
  Part<Floats8, 2, Number>(task, cut).compute(share);
}

using Compute = void (*)(const Task&, const Cut&, const Share&);

template <typename Number>
Compute chosen_part() {
#if defined(__x86_64__)
  if (has_avx512()) return part512<Number>;
  if (has_avx2()) return part256<Number>;
#endif
  return part_plain<Number>;
}

std::int64_t outputs_of_a_panel() {
#if defined(__x86_64__)
  if (has_avx512()) return 2 * lanes<Floats16>;
#endif
  return 2 * lanes<Floats8>;
}

}  // namespace

// How many outputs a panel has on this machine.
extern "C" std::int64_t fromage_panel() { return outputs_of_a_panel(); }

extern "C" void fromage_panels(const Task* task, int is_bfloat16) {
  static const Compute of_float = chosen_part<float>(), of_bfloat16 = chosen_part<bfloat16>();
  const Compute compute = is_bfloat16 ? of_bfloat16 : of_float;
  const std::int64_t size = outputs_of_a_panel(), panels = (task->outputs + size - 1) / size;
  const std::int64_t threads = omp_get_max_threads();
  const Cut cut = cut_of(*task, panels, threads);
  const std::int64_t groups = (panels + cut.panels - 1) / cut.panels;
  // Rows are divided, too, where there are more threads than groups of panels.
  const std::int64_t blocks = (task->rows + kBlock - 1) / kBlock;
  const std::int64_t parts = groups ? std::min(blocks, (threads + groups - 1) / groups) : 0;
  const std::int64_t rows = parts ? (blocks + parts - 1) / parts * kBlock : 0;
  const bool together = task->rows * task->outputs * task->width > kSmall;
#pragma omp parallel for collapse(2) schedule(dynamic) if (together)
  for (std::int64_t part = 0; part < parts; ++part)
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t panel = group * cut.panels, row = part * rows;
      compute(*task, cut,
              {panel, std::min(panel + cut.panels, panels),  //
               row, std::min(row + rows, task->rows),        //
               panel + omp_get_num_threads() * cut.panels});
    }
}
