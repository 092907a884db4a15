// Attention of single queries over keys and values that lie in blocks, on a CPU: for each sequence
// one new token, whose keys and values are stored first. `single_queries.py` builds and calls it.
//
// Two passes over a sequence's past (scores, then what they weigh), position after position: what
// comes out depends neither on where its blocks lie nor on the other sequences.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "numbers.h"

// One function for each kind of processor; the loader chooses.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_PROCESSOR
#endif

namespace {

// exp(x) for x <= 0, to about 2 units in the last place (Cephes' polynomial); in plain arithmetic,
// so that a loop over it becomes vector instructions.
inline float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;  // NaN stays NaN
  const float whole = std::floor(clamped * 1.44269504088896341f + 0.5f);
  const float rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const std::int32_t bits = (std::int32_t(whole) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

struct Past {
  const std::int64_t* ranges;  // pairs: [first, last) places in the storage
  std::int64_t count;          // of ranges
  std::int64_t positions;
};

// `query` (groups, dim) float attends to one head's `keys` and `values` (places, dim). `scores` has
// room for (groups, positions), `out` is (groups, dim).
EACH_PROCESSOR void attend_head(const float* query, std::int64_t groups, std::int64_t dim,
                                const float* keys, const float* values, Past past, float scale,
                                float softcap, float* scores, float* out) {
  std::int64_t at = 0;
  for (std::int64_t r = 0; r < past.count; ++r) {
    for (std::int64_t place = past.ranges[2 * r]; place < past.ranges[2 * r + 1]; ++place, ++at) {
      const float* key = keys + place * dim;
      for (std::int64_t g = 0; g < groups; ++g) {
        float sum = 0.0f;
        for (std::int64_t d = 0; d < dim; ++d) sum += query[g * dim + d] * key[d];
        scores[g * past.positions + at] = sum * scale;
      }
    }
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    float* row = scores + g * past.positions;
    if (softcap != 0.0f) {
      for (std::int64_t i = 0; i < past.positions; ++i)
        row[i] = softcap * std::tanh(row[i] / softcap);
    }
    float most = -std::numeric_limits<float>::infinity();
    for (std::int64_t i = 0; i < past.positions; ++i) most = row[i] > most ? row[i] : most;
    float total = 0.0f;
    for (std::int64_t i = 0; i < past.positions; ++i) {
      row[i] = exponential(row[i] - most);
      total += row[i];
    }
    const float share = 1.0f / total;
    for (std::int64_t i = 0; i < past.positions; ++i) row[i] *= share;
  }
  std::memset(out, 0, sizeof(float) * groups * dim);
  at = 0;
  for (std::int64_t r = 0; r < past.count; ++r) {
    for (std::int64_t place = past.ranges[2 * r]; place < past.ranges[2 * r + 1]; ++place, ++at) {
      const float* value = values + place * dim;
      for (std::int64_t g = 0; g < groups; ++g) {
        const float weight = scores[g * past.positions + at];
        for (std::int64_t d = 0; d < dim; ++d) out[g * dim + d] += weight * value[d];
      }
    }
  }
}

// (heads, tokens, dim): how far it is from one head, and from one token, to the next.
struct States {
  const void* data;
  std::int64_t head, token;
};

struct Task {
  std::int64_t sequences, heads, groups, dim;
  const std::int64_t* tokens;   // (sequences): which packed token
  const std::int64_t* places;   // (sequences): where its keys and values go
  const std::int64_t* offsets;  // (sequences + 1): whose ranges are which
  const std::int64_t* ranges;   // (…, 2)
  float *keys, *values;         // (heads, places, dim)
  std::int64_t storage_head;
  States query, key, value;
  void* out;  // (tokens, heads * groups, dim), dense
  float scale, softcap;
};

template <typename Number>
void attend(const Task& task) {
  const std::int64_t dim = task.dim, groups = task.groups;
  const std::int64_t all = task.sequences * task.heads;
#pragma omp parallel if (all > 1)
  {
    std::vector<float> query(groups * dim), out(groups * dim), scores;
#pragma omp for schedule(static)
    for (std::int64_t job = 0; job < all; ++job) {
      // By head first: neighbours in the order of sequences are of an age, and as long.
      const std::int64_t head = job / task.sequences, sequence = job % task.sequences;
      const std::int64_t token = task.tokens[sequence];
      const auto at = [&](const States& states, std::int64_t of) {
        return static_cast<const Number*>(states.data) + of * states.head + token * states.token;
      };
      float* keys = task.keys + head * task.storage_head;
      float* values = task.values + head * task.storage_head;
      const Number *key = at(task.key, head), *value = at(task.value, head);
      const std::int64_t place = task.places[sequence] * dim;
      for (std::int64_t d = 0; d < dim; ++d) {
        keys[place + d] = widened(key[d]);
        values[place + d] = widened(value[d]);
      }
      for (std::int64_t g = 0; g < groups; ++g) {
        const Number* one = at(task.query, head * groups + g);
        for (std::int64_t d = 0; d < dim; ++d) query[g * dim + d] = widened(one[d]);
      }
      const std::int64_t first = task.offsets[sequence];
      Past past{task.ranges + 2 * first, task.offsets[sequence + 1] - first, 0};
      for (std::int64_t r = 0; r < past.count; ++r)
        past.positions += past.ranges[2 * r + 1] - past.ranges[2 * r];
      if (std::int64_t(scores.size()) < groups * past.positions)
        scores.resize(groups * past.positions);
      attend_head(query.data(), groups, dim, keys, values, past, task.scale, task.softcap,
                  scores.data(), out.data());
      Number* result = static_cast<Number*>(task.out) +
                       (token * task.heads + head) * groups * dim;
      for (std::int64_t i = 0; i < groups * dim; ++i) narrow(out[i], result[i]);
    }
  }
}

}  // namespace

extern "C" void fromage_single_queries(const Task* task, int is_bfloat16) {
  if (is_bfloat16) {
    attend<bfloat16>(*task);
  } else {
    attend<float>(*task);
  }
}
