// What attention is computed with: products that stay in registers, and exponentials of vectors.

#pragma once

#include <vector>

#include "rows.h"

// Numbers that begin with a cache line.
class Room {
 public:
  float* of(std::int64_t count) {
    if (std::int64_t(room_.size()) < count + kLine) room_.resize(count + kLine);
    void* start = room_.data();
    std::size_t bytes = room_.size() * sizeof(float);
    std::align(kLine * sizeof(float), count * sizeof(float), start, bytes);
    return static_cast<float*>(start);
  }

 private:
  std::vector<float> room_;
};

template <typename Floats>
INLINE void store(const Floats& numbers, float* to) {
  std::memcpy(to, &numbers, sizeof numbers);
}

// exp(x) for x <= 0 (Cephes' polynomial), 0 where it is tiny.
template <typename Floats>
INLINE void exponential(Floats& x) {
  typedef typename Like<Floats>::Signed Signed;
  const Floats least = Floats{} - 87.0f, y = x < least ? least : x;  // NaN stays NaN
  const Signed whole = __builtin_convertvector(y * 1.44269504088896341f - 0.5f, Signed);
  const Floats power = __builtin_convertvector(whole, Floats);
  const Floats rest = y - power * 0.69314718056f;
  Floats sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const Signed bits = (whole + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &bits, sizeof scale);
  x = x < least ? Floats{} : sum * scale;
}

// Numbers (count, rows) of `x` times two vectors of each of `count` rows of `matrix`: added to
// `sums`, each in the order of the rows. A number's neighbours are `row` and `step` away.
template <typename Floats, int rows>
INLINE void product(const float* x, std::int64_t row, std::int64_t step, const float* matrix,
                    std::int64_t stride, std::int64_t count, Floats (&sums)[rows][2]) {
  for (std::int64_t i = 0; i < count; ++i) {
    Floats column[2];
    load(matrix + i * stride, column[0]);
    load(matrix + i * stride + lanes<Floats>, column[1]);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const float number = x[r * row + i * step];
      sums[r][0] += number * column[0];
      sums[r][1] += number * column[1];
    }
  }
}
