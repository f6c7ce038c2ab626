// SCAN's cross attention in its closed form over S of one context group and the queries of several groups, wherever S
// lies: with a the attention of one query over the context rows and G their Gram matrix,
//   <query, attended> = a . s,   |attended|^2 = a^T G a.
// Also the largest similarity of each query, and what both do with a group's values. (Lee et al., ECCV 2018.)
#pragma once

#include "numbers.cuh"
#include "similarity.h"

namespace itm::cuda {

constexpr double kEpsilon = 1e-8;

SIMT_DEVICE float exponential(float x) { return __expf(x); }
SIMT_DEVICE double exponential(double x) { return exp(x); }
SIMT_DEVICE float logarithm(float x) { return logf(x); }
SIMT_DEVICE double logarithm(double x) { return log(x); }

SIMT_DEVICE void load4(const float* from, float (&to)[4]) {
  const float4 x = __ldg(reinterpret_cast<const float4*>(from));
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
SIMT_DEVICE void load4(const double* from, double (&to)[4]) {
  for (int i = 0; i < 4; i++) to[i] = __ldg(from + i);
}

// Of each row and query group: the norm and 1 / (norm + epsilon), or the maximum and 1 / sum of exponentials.
template <class T>
struct RowStatistics {
  T *inverse, *size;  // [row * n_groups + group]
  int n_groups;
};

// The first normalisation of S: per context row, over the queries of one group.
template <class T>
struct Normalisation {
  bool clips, l2, l1, softmax;

  SIMT_DEVICE explicit Normalisation(FeatureNorm norm)
      : clips(norm == FeatureNorm::kClippedL2 || norm == FeatureNorm::kClippedL1 || norm == FeatureNorm::kClipped),
        l2(norm == FeatureNorm::kClippedL2 || norm == FeatureNorm::kL2),
        l1(norm == FeatureNorm::kClippedL1 || norm == FeatureNorm::kL1),
        softmax(norm == FeatureNorm::kSoftmax) {}

  SIMT_DEVICE bool sums() const { return l2 | l1 | softmax; }
  // Leaky ReLU of slope 0.1, as the original code has it (its paper clips at 0).
  SIMT_DEVICE T clip(T s) const { return clips & !(s > T(0)) ? s * T(0.1) : s; }
  SIMT_DEVICE T slope(T s) const { return clips & !(s > T(0)) ? T(0.1) : T(1); }
  SIMT_DEVICE T apply(T s, const RowStatistics<T>& of, int row) const {
    if (!sums()) return clip(s);
    const T inverse = of.inverse[row * of.n_groups];
    return softmax ? exponential(s - of.size[row * of.n_groups]) * inverse : clip(s) * inverse;
  }
};

// Query groups side by side in the columns of a tile.
struct Columns {
  const int32_t *begin, *size;
  int n_groups;
};

// All warps of the block take part: 4 rows and 8 lanes along the columns of one group at a time.
template <class T>
SIMT_DEVICE void row_statistics(const Normalisation<T>& norm, const T* s, int ld, int n_rows, const Columns& columns,
                                const RowStatistics<T>& out) {
  const int lane = int(threadIdx.x) % 32, n_warps = int(blockDim.x) / 32, place = lane % 8;
  for (int task = int(threadIdx.x) / 32; task < (n_rows + 3) / 4 * columns.n_groups; task += n_warps) {
    const int group = task % columns.n_groups, row = task / columns.n_groups * 4 + lane / 8;
    const int size = columns.size[group];
    const T* from = s + (row < n_rows ? row : n_rows - 1) * ld + columns.begin[group];
    T largest = 0;
    if (norm.softmax) {
      largest = from[0];
      for (int w = 0; w < size; w += 8) {
        const T x = from[w + place < size ? w + place : 0];
        largest = x > largest ? x : largest;
      }
      largest = simt::group_max(largest, 8);
    }
    T sum = 0;
    for (int w = 0; w < size; w += 8) {
      const bool inside = w + place < size;
      const T x = from[inside ? w + place : 0];
      const T k = norm.clip(x);
      const T term = norm.softmax ? exponential(x - largest) : norm.l2 ? k * k : k < T(0) ? -k : k;
      sum += inside ? term : T(0);
    }
    sum = simt::group_sum(sum, 8);
    if (norm.l2) sum = sqrt(sum);
    if (place == 0 && row < n_rows) {
      out.size[row * out.n_groups + group] = norm.softmax ? largest : sum;
      out.inverse[row * out.n_groups + group] = T(1) / (norm.softmax ? sum : sum + T(kEpsilon));
    }
  }
}

template <class T>
struct Attended {
  T sum, dot;  // of the weights, of weight x s
};

// One column: weights <- exp(lambda P - its maximum); `statistics` begin at its group's place in the first row.
template <class T>
SIMT_DEVICE Attended<T> attend(const Normalisation<T>& norm, T lambda, const T* s, int ld, T* weights, int weights_ld,
                               int n_rows, const RowStatistics<T>& statistics) {
  T largest = 0;
  for (int row = 0; row < n_rows; row++) {
    const T z = lambda * norm.apply(s[row * ld], statistics, row);
    largest = row == 0 || z > largest ? z : largest;
  }
  Attended<T> sums{0, 0};
  for (int row = 0; row < n_rows; row++) {
    const T x = s[row * ld];
    const T weight = exponential(lambda * norm.apply(x, statistics, row) - largest);
    weights[row * weights_ld] = weight;
    sums.sum += weight;
    sums.dot += weight * x;
  }
  return sums;
}

// G w for eight rows from `first` on; G's rows are read as columns, it is symmetric.
template <class T>
SIMT_DEVICE void gram_rows(const T* gram, int pitch, const T* weights, int ld, int first, int begin, int end,
                           T (&sums)[8]) {
#pragma unroll 2
  for (int k = begin; k < end; k++) {
    T g[2][4];
    load4(gram + k * pitch + first, g[0]);
    load4(gram + k * pitch + (first + 4 < pitch ? first + 4 : first), g[1]);
    const T x = weights[k * ld];
    for (int i = 0; i < 8; i++) sums[i] += g[i / 4][i % 4] * x;
  }
}

// w^T G w of one column.
template <class T>
SIMT_DEVICE T gram_quadratic(const T* gram, int pitch, const T* weights, int ld, int n_rows) {
  T total = 0;
  for (int first = 0; first < n_rows; first += 8) {
    T sums[8] = {};
    gram_rows(gram, pitch, weights, ld, first, 0, first, sums);
    for (int i = 0; i < 8; i++) sums[i] *= T(2);  // what lies left of the diagonal counts twice
    gram_rows(gram, pitch, weights, ld, first, first, first + 8 < n_rows ? first + 8 : n_rows, sums);
    for (int i = 0; i < 8; i++)
      if (first + i < n_rows) total += sums[i] * weights[(first + i) * ld];
  }
  return total;
}

// Cosine of the query with what it attends to; the clamp is on the product of the norms.
template <class T>
SIMT_DEVICE T attended_cosine(const Attended<T>& sums, T quadratic, T query_norm) {
  const T inverse = T(1) / sums.sum;
  const T norms = query_norm * (sqrt(quadratic > T(0) ? quadratic : T(0)) * inverse);
  return sums.dot * inverse / (norms > T(kEpsilon) ? norms : T(kEpsilon));
}

// NaN is larger than anything, as in torch.
template <class T>
SIMT_DEVICE bool exceeds(T x, T largest) {
  return (x > largest) | ((x != x) & (largest == largest));
}

template <class T>
SIMT_DEVICE T largest_similarity(const T* s, int ld, int n_rows) {
  T largest = s[0];
  for (int row = 1; row < n_rows; row++) largest = exceeds(s[row * ld], largest) ? s[row * ld] : largest;
  return largest;
}

// Eight lanes hold a group's values x[0 ... size) between them, lane `place` those at place, place + 8, ...; all lanes
// of the warp take part.
template <class T>
struct Extreme {
  T value;
  int index;
};
template <class T>
SIMT_DEVICE Extreme<T> first_largest(const T* x, int size, int place) {
  Extreme<T> best{0, -1};
  for (int q = place; q < size; q += 8)
    if (best.index < 0 || exceeds(x[q], best.value)) best = {x[q], q};
  for (int offset = 4; offset > 0; offset /= 2) {
    const T value = __shfl_xor_sync(0xffffffffu, best.value, offset);
    const int index = __shfl_xor_sync(0xffffffffu, best.index, offset);
    const bool equal = !exceeds(value, best.value) & !exceeds(best.value, value);
    const bool take = (index >= 0) & ((best.index < 0) | exceeds(value, best.value) | (equal & (index < best.index)));
    best = {take ? value : best.value, take ? index : best.index};
  }
  return best;
}
// Shifted by the largest that isn't NaN: NaN reaches the score through the sum.
template <class T>
SIMT_DEVICE T exponential_sum(const T* x, int size, int place, T lambda, T& shift) {
  T largest = 0;
  bool any = false;
  for (int q = place; q < size; q += 8) {
    const bool take = !any | (x[q] > largest) | (largest != largest);
    largest = take ? x[q] : largest;
    any = true;
  }
  for (int offset = 4; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, largest, offset);
    const bool other_any = __shfl_xor_sync(0xffffffffu, int(any), offset) != 0;
    const bool take = other_any & (!any | (other > largest) | (largest != largest));
    largest = take ? other : largest;
    any |= other_any;
  }
  T sum = 0;
  for (int q = place; q < size; q += 8) sum += exponential(lambda * (x[q] - largest));
  shift = largest;
  return simt::group_sum(sum, 8);
}

// A group's score from its queries' values. NaN for a group without any: its count was out of range.
template <class T>
SIMT_DEVICE T aggregate(Aggregation aggregation, T lambda, const T* x, int size, int place) {
  T score;
  if (aggregation == Aggregation::kLogSumExp) {
    T shift;
    const T sum = exponential_sum(x, size, place, lambda, shift);
    score = shift + logarithm(sum) / lambda;
  } else if (aggregation == Aggregation::kMax) {
    score = first_largest(x, size, place).value;
  } else {
    T sum = 0;
    for (int q = place; q < size; q += 8) sum += x[q];
    sum = simt::group_sum(sum, 8);
    score = aggregation == Aggregation::kMean ? sum / T(size) : sum;
  }
  return size > 0 ? score : T(NAN);
}

// grad_x[q] = the score's cotangent times its derivative in x[q].
template <class T>
SIMT_DEVICE void aggregate_backward(Aggregation aggregation, T lambda, const T* x, int size, int place, T grad,
                                    T* grad_x) {
  if (aggregation == Aggregation::kLogSumExp) {
    T shift;
    const T scale = grad / exponential_sum(x, size, place, lambda, shift);
    for (int q = place; q < size; q += 8) grad_x[q] = scale * exponential(lambda * (x[q] - shift));
  } else if (aggregation == Aggregation::kMax) {
    const int index = first_largest(x, size, place).index;
    for (int q = place; q < size; q += 8) grad_x[q] = q == index ? grad : T(0);
  } else {
    for (int q = place; q < size; q += 8) grad_x[q] = aggregation == Aggregation::kMean ? grad / T(size) : grad;
  }
}

}  // namespace itm::cuda
