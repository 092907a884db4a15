// Attention of prompts' new tokens over keys and values that lie in blocks, on a CPU: each sees its
// past and those before it. `many_queries.py` builds and calls it.
//
// A thread takes some queries of the heads that share keys, and turns them, so that a column is a
// query: scores are a few keys times two vectors of columns, maxima and sums of a query's scores
// lie in one place of vectors, and what the scores weigh is a few queries times two vectors of
// values. Pieces of keys are joined as in FlashAttention (Dao et al. 2022, algorithm 1): what was
// summed so far is scaled when a larger score comes.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "tiles.h"

namespace {

constexpr std::int64_t kKeys = 64;      // of a piece; with their values they fill a part of a cache
constexpr std::int64_t kQueries = 128;  // that a thread takes at a time, those of a group together
constexpr float kNone = -1e30f;         // less than any score; what differs from it is a number

struct Span {
  std::int64_t token, count;       // packed tokens of one sequence
  std::int64_t past;               // the first one's position
  std::int64_t range, last_range;  // where its positions lie
};

struct Attention {
  std::int64_t count, heads, groups, dim;
  const Span* spans;           // (count)
  const std::int64_t* ranges;  // pairs: [first, last) places in the storage
  const float *keys, *values;  // (heads, places, dim), a head `storage_head` behind the one before
  std::int64_t storage_head;
  const float* query;  // (heads * groups, tokens, dim), and how far it is from one to the next
  std::int64_t query_head, query_token;
  float* out;           // (tokens, heads * groups, dim), dense
  std::int64_t window;  // a query sees so many positions, its own the last of them; 0: all
  float scale;
};

// Some queries of a span, of one head of the storage.
struct Share {
  const Span* span;
  std::int64_t head, first, count;
};

struct Rooms {
  Room turned, values, scores, sums, largest, totals;
  std::vector<std::int64_t> positions;
};

template <typename Floats, int most>
class Part {
 public:
  Part(const Attention& task, const Share& share, Rooms& rooms)
      : task_(task),
        share_(share),
        rows_(task.groups * share.count),
        columns_((rows_ + kTile - 1) / kTile * kTile),
        padded_((task.dim + kTile - 1) / kTile * kTile),
        turned_(rooms.turned.of(task.dim * columns_)),
        copied_(rooms.values.of(padded_ == task.dim ? 0 : kKeys * padded_)),
        scores_(rooms.scores.of(kKeys * columns_)),
        sums_(rooms.sums.of(rows_ * padded_)),
        largest_(rooms.largest.of(columns_)),
        totals_(rooms.totals.of(columns_)),
        positions_(rooms.positions) {}

  INLINE void compute() {
    begin();
    const Span& span = *share_.span;
    const std::int64_t at = positions_.front(), last = at + share_.count - 1;
    std::int64_t position = 0;  // of a piece's first key
    for (std::int64_t r = span.range; r < span.last_range; ++r) {
      const std::int64_t end = task_.ranges[2 * r + 1];
      for (std::int64_t place = task_.ranges[2 * r]; place < end && position <= last;) {
        const std::int64_t keys = std::min(kKeys, end - place);
        if (!task_.window || position + keys > at - task_.window + 1)
          piece(place, position, std::min(keys, last - position + 1));
        place += keys;
        position += keys;
      }
    }
    finish();
  }

 private:
  static constexpr std::int64_t kTile = 2 * lanes<Floats>;

  INLINE std::int64_t head_of(std::int64_t row) const {
    return share_.head * task_.groups + row / share_.count;
  }
  INLINE std::int64_t token_of(std::int64_t row) const {
    return share_.span->token + share_.first + row % share_.count;
  }

  INLINE void begin() {
    positions_.resize(rows_);
    for (std::int64_t row = 0; row < rows_; ++row)
      positions_[row] = share_.span->past + share_.first + row % share_.count;
    for (std::int64_t row = 0; row < columns_; ++row) {
      const float* from =
          task_.query + head_of(row) * task_.query_head + token_of(row) * task_.query_token;
      for (std::int64_t d = 0; d < task_.dim; ++d)
        turned_[d * columns_ + row] = row < rows_ ? from[d] * task_.scale : 0.0f;
    }
    std::fill_n(sums_, rows_ * padded_, 0.0f);
    std::fill_n(largest_, columns_, kNone);
    std::fill_n(totals_, columns_, 0.0f);
  }

  // All rows and `count` keys from a place on, the first of which has this position.
  INLINE void piece(std::int64_t place, std::int64_t position, std::int64_t count) {
    const std::int64_t dim = task_.dim, start = share_.head * task_.storage_head + place * dim;
    for (std::int64_t column = 0; column < columns_; column += kTile) {
      const std::int64_t last = std::min(column + kTile, rows_);
      const std::int64_t seen = seen_by(column, last, position, count);
      for (std::int64_t key = seen; key < count; ++key)
        std::fill_n(scores_ + key * columns_ + column, kTile, 0.0f);
      if (seen == 0) continue;
      score(task_.keys + start, column, seen);
      hide(column, last, position, seen);
      weigh(column, seen);
    }
    const float* values = task_.values + start;
    if (padded_ != dim) {
      for (std::int64_t i = 0; i < count; ++i) {
        std::copy_n(values + i * dim, dim, copied_ + i * padded_);
        std::fill_n(copied_ + i * padded_ + dim, padded_ - dim, 0.0f);
      }
      values = copied_;
    }
    std::int64_t row = 0;
    for (; row + most <= rows_; row += most) sum<most>(row, position, count, values);
    if (most > 4)
      for (; row + 4 <= rows_; row += 4) sum<4>(row, position, count, values);
    if (row + 2 <= rows_) sum<2>(row, position, count, values), row += 2;
    if (row < rows_) sum<1>(row, position, count, values);
  }

  // How many of a piece's keys any of these rows sees.
  INLINE std::int64_t seen_by(std::int64_t row, std::int64_t last_row, std::int64_t position,
                              std::int64_t count) const {
    const auto last = std::max_element(positions_.begin() + row, positions_.begin() + last_row);
    return std::max<std::int64_t>(0, std::min(count, *last - position + 1));
  }

  INLINE void score(const float* keys, std::int64_t column, std::int64_t count) {
    std::int64_t key = 0;
    for (; key + most <= count; key += most) scores_of<most>(keys, key, column);
    if (most > 4)
      for (; key + 4 <= count; key += 4) scores_of<4>(keys, key, column);
    if (key + 2 <= count) scores_of<2>(keys, key, column), key += 2;
    if (key < count) scores_of<1>(keys, key, column);
  }

  template <int keys_at_once>
  INLINE void scores_of(const float* keys, std::int64_t key, std::int64_t column) {
    Floats sums[keys_at_once][2] = {};
    product<Floats, keys_at_once>(keys + key * task_.dim, task_.dim, 1, turned_ + column, columns_,
                                  task_.dim, sums);
#pragma GCC unroll 16
    for (int r = 0; r < keys_at_once; ++r) {
      float* scores = scores_ + (key + r) * columns_ + column;
      store(sums[r][0], scores);
      store(sums[r][1], scores + lanes<Floats>);
    }
  }

  // No query sees what is behind it, or before its window.
  INLINE void hide(std::int64_t row, std::int64_t last_row, std::int64_t position,
                   std::int64_t count) {
    for (; row < last_row; ++row) {
      const std::int64_t own = positions_[row] - position;
      const std::int64_t first = task_.window ? own - task_.window + 1 : 0;
      for (std::int64_t key = 0; key < std::min(first, count); ++key)
        scores_[key * columns_ + row] = -INFINITY;
      for (std::int64_t key = std::max<std::int64_t>(own + 1, 0); key < count; ++key)
        scores_[key * columns_ + row] = -INFINITY;
    }
  }

  // A tile's scores -> their weights.
  INLINE void weigh(std::int64_t column, std::int64_t count) {
    for (std::int64_t half = column; half < column + kTile; half += lanes<Floats>) {
      Floats before, total = {}, one;
      load(largest_ + half, before);
      Floats largest = before;
      for (std::int64_t key = 0; key < count; ++key) {
        load(scores_ + key * columns_ + half, one);
        largest = one > largest ? one : largest;
      }
      for (std::int64_t key = 0; key < count; ++key) {
        load(scores_ + key * columns_ + half, one);
        one -= largest;
        exponential(one);
        total += one;
        store(one, scores_ + key * columns_ + half);
      }
      store(largest, largest_ + half);
      before -= largest;
      exponential(before);
      load(totals_ + half, one);
      store(total + one * before, totals_ + half);
      for (std::int64_t row = half; row < std::min(half + lanes<Floats>, rows_); ++row) {
        if (const float share = before[row - half]; share != 1.0f)
          for (std::int64_t d = 0; d < padded_; ++d) sums_[row * padded_ + d] *= share;
      }
    }
  }

  template <int rows>
  INLINE void sum(std::int64_t row, std::int64_t position, std::int64_t count,
                  const float* values) {
    count = seen_by(row, row + rows, position, count);
    for (std::int64_t d = 0; d < padded_; d += kTile) {
      Floats sums[rows][2] = {};  // read from memory, they would stay there
      product<Floats, rows>(scores_ + row, 1, columns_, values + d, padded_, count, sums);
#pragma GCC unroll 16
      for (int r = 0; r < rows; ++r) {
        float* out = sums_ + (row + r) * padded_ + d;
        Floats before[2];
        load(out, before[0]);
        load(out + lanes<Floats>, before[1]);
        store(before[0] + sums[r][0], out);
        store(before[1] + sums[r][1], out + lanes<Floats>);
      }
    }
  }

  INLINE void finish() {
    for (std::int64_t row = 0; row < rows_; ++row) {
      float* out =
          task_.out + (token_of(row) * task_.heads * task_.groups + head_of(row)) * task_.dim;
      const float share = 1.0f / totals_[row];
      for (std::int64_t d = 0; d < task_.dim; ++d) out[d] = sums_[row * padded_ + d] * share;
    }
  }

  const Attention& task_;
  const Share& share_;
  std::int64_t rows_, columns_;  // queries, and filled up to tiles
  std::int64_t padded_;          // a head's numbers, filled up
  float *turned_, *copied_, *scores_, *sums_, *largest_, *totals_;
  std::vector<std::int64_t>& positions_;  // of the rows
};

// One function for each kind of processor.
#if defined(__x86_64__)
FOR_AVX512 void part512(const Attention& task, const Share& share, Rooms& rooms) {
  Part<Floats16, 12>(task, share, rooms).compute();
}
FOR_AVX2 void part256(const Attention& task, const Share& share, Rooms& rooms) {
  Part<Floats8, 6>(task, share, rooms).compute();
}
#endif
void part_plain(const Attention& task, const Share& share, Rooms& rooms) {
  Part<Floats8, 2>(task, share, rooms).compute();
}

using Compute = void (*)(const Attention&, const Share&, Rooms&);

Compute chosen_part() {
#if defined(__x86_64__)
  if (has_avx512()) return part512;
  if (has_avx2()) return part256;
#endif
  return part_plain;
}

}  // namespace

extern "C" void fromage_many_queries(const Attention* task) {
  static const Compute compute = chosen_part();
  const std::int64_t each = std::max<std::int64_t>(1, kQueries / task->groups);
  std::vector<Share> shares;
  for (std::int64_t s = 0; s < task->count; ++s) {
    const Span& span = task->spans[s];
    // The last queries of a span see most: whoever comes late to the end should have little to do.
    for (std::int64_t first = (span.count - 1) / each * each; first >= 0; first -= each)
      for (std::int64_t head = 0; head < task->heads; ++head)
        shares.push_back({&span, head, first, std::min(each, span.count - first)});
  }
  const std::int64_t all = shares.size();
#pragma omp parallel if (all > 1)
  {
    Rooms rooms;
#pragma omp for schedule(dynamic)
    for (std::int64_t i = 0; i < all; ++i) compute(*task, shares[i], rooms);
  }
}
