// What the hinge losses over a batch's scores share: operands, which pairs are negatives of each other, the hardest of
// them, and loss and gradient over all of them. Comparisons are written so that NaN wins: it ends in the loss.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../cpu/parallel.h"

namespace itm {

constexpr int64_t kRowsPerItem = 64, kColumnsPerItem = 256;

// item(first, last) over the rows or columns [0, n) of n x n scores, in pieces that do not depend on the number of
// threads.
template <class Item>
void for_pieces(int64_t n, int64_t piece, Item&& item) {
  parallel_items((n + piece - 1) / piece, double(n) * n * kMoveWork,
                 [&](int64_t i) { item(i * piece, std::min(n, (i + 1) * piece)); });
}

// The scores as contiguous float, or double for double.
inline Tensor checked_sims(const Tensor& sims) {
  ITM_CHECK_VALUE(sims.dim() == 2 && sims.size(0) == sims.size(1),
                  "sims must be a square matrix (n, n) with the pairs on its diagonal, got ", shape_of(sims));
  const auto type = sims.scalar_type();
  ITM_CHECK_TYPE(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                     type == ScalarType::Half,
                 "sims must be float32, float64, bfloat16 or float16, got ", type);
  return as_contiguous(as_type(sims, type == ScalarType::Double ? type : ScalarType::Float));
}

// Pairs i and j are negatives of each other unless i = j or, where ids are given, both are of the same image.
class Negatives {
 public:
  Negatives(int64_t n, const std::optional<Tensor>& image_ids) : n_(n), own_(n), begin_(n), end_(n) {
    std::iota(own_.begin(), own_.end(), 0);
    std::iota(begin_.begin(), begin_.end(), 0);
    std::iota(end_.begin(), end_.end(), 1);
    if (!image_ids.has_value()) return;
    ITM_CHECK_VALUE(image_ids->dim() == 1 && image_ids->size(0) == n, "image_ids must have shape (", n,
                    ",), one per pair, got ", shape_of(*image_ids));
    ITM_CHECK_TYPE(image_ids->scalar_type() == ScalarType::Long, "image_ids must be int64, got ",
                   image_ids->scalar_type());
    const Tensor contiguous = as_contiguous(*image_ids);
    const int64_t* id = contiguous.const_data_ptr<int64_t>();
    std::sort(own_.begin(), own_.end(), [id](int64_t a, int64_t b) { return std::tie(id[a], a) < std::tie(id[b], b); });
    for (int64_t first = 0, last; first < n; first = last) {
      for (last = first; last < n && id[own_[last]] == id[own_[first]];) last++;
      for (int64_t k = first; k < last; k++) begin_[own_[k]] = first, end_[own_[k]] = last;
    }
  }

  int64_t size() const { return n_; }
  int64_t count(int64_t i) const { return n_ - (end_[i] - begin_[i]); }

  // run(begin, end) for every run of negatives of pair i within [first, last).
  template <class Run>
  void runs(int64_t i, int64_t first, int64_t last, Run&& run) const {
    for (int64_t k = begin_[i]; k < end_[i]; k++) {
      const int64_t own = own_[k];
      if (own < first) continue;
      if (own >= last) break;
      if (first < own) run(first, own);
      first = own + 1;
    }
    if (first < last) run(first, last);
  }

  // The k-th negative of pair i, 0 <= k < count(i).
  int64_t nth(int64_t i, int64_t k) const {
    for (int64_t m = begin_[i]; m < end_[i] && own_[m] <= k; m++) k++;
    return k;
  }

 private:
  int64_t n_;
  std::vector<int64_t> own_;          // all pairs by image, ascending within one
  std::vector<int64_t> begin_, end_;  // where the pairs of pair i's image are in own_
};

template <bool kLargest, class T>
bool beats(T x, T best) {
  return kLargest ? !(x <= best) : !(x >= best);
}

// The negative with the largest (smallest) score in every row and in every column; the first of equal ones, -1 for
// none.
template <bool kLargest, class T>
void extreme_negatives(const T* sims, const Negatives& negatives, int64_t* of_row, int64_t* of_column) {
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;  // as wide as a score: blended side by side
  constexpr T worst = kLargest ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
  const int64_t n = negatives.size();
  // Where all negatives have the worst score none has beaten it.
  auto first_if_none = [&](int64_t i, int64_t found) {
    return found < 0 && negatives.count(i) > 0 ? negatives.nth(i, 0) : found;
  };
  for_pieces(n, kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const T* row = sims + i * n;
      T best = worst;
      int64_t found = -1;
      negatives.runs(i, 0, n, [&](int64_t first, int64_t last) {
        for (int64_t j = first; j < last; j++)
          if (beats<kLargest>(row[j], best) && best == best) best = row[j], found = j;
      });
      of_row[i] = first_if_none(i, found);
    }
  });
  for_pieces(n, kColumnsPerItem, [&](int64_t begin, int64_t end) {
    T best_of[kColumnsPerItem];
    Index found_of[kColumnsPerItem];
    std::fill_n(best_of, end - begin, worst);
    std::fill_n(found_of, end - begin, Index(-1));
    for (int64_t i = 0; i < n; i++)
      negatives.runs(i, begin, end, [&](int64_t first, int64_t last) {
        const T* __restrict row = sims + i * n + first;
        T* __restrict best = best_of + (first - begin);
        Index* __restrict found = found_of + (first - begin);
        for (int64_t j = 0; j < last - first; j++) {
          const bool better = beats<kLargest>(row[j], best[j]) & (best[j] == best[j]);
          best[j] = better ? row[j] : best[j];
          found[j] = better ? Index(i) : found[j];
        }
      });
    for (int64_t j = begin; j < end; j++) of_column[j] = first_if_none(j, found_of[j - begin]);
  });
}

// Sum of both hinges over all negatives; grad (n, n), zero before, becomes its gradient. margins(i) returns a function
// of j with the margins of S[i, j] as a negative of row i and as one of column j.
template <class T, class Margins>
double hinge_over_all(const T* sims, const Negatives& negatives, const Margins& margins, T* grad) {
  const int64_t n = negatives.size(), n_items = (n + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<T> positive(n), row_active(n), column_active(n_items * n);  // counts as T: exact, and added to grad
  std::vector<double> loss(n_items);
  for (int64_t i = 0; i < n; i++) positive[i] = sims[i * n + i];
  for_pieces(n, kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<double> column_loss(n);
    for (int64_t i = begin; i < end; i++) {
      const auto margins_of = margins(i);
      const T own = positive[i];
      int32_t active = 0;
      negatives.runs(i, 0, n, [&](int64_t first, int64_t last) {
        const T* __restrict row = sims + i * n, * __restrict other = positive.data();
        T* __restrict g = grad + i * n, * __restrict counts = column_active.data() + begin / kRowsPerItem * n;
        double* __restrict sum = column_loss.data();
        for (int64_t j = first; j < last; j++) {
          const auto [of_row, of_column] = margins_of(j);
          const T a = of_row + row[j] - own, b = of_column + row[j] - other[j];
          const T a_counts = a <= 0 ? T(0) : T(1), b_counts = b <= 0 ? T(0) : T(1);
          g[j] = a_counts + b_counts;
          counts[j] += b_counts;
          active += a <= 0 ? 0 : 1;
          sum[j] += double(a <= 0 ? T(0) : a) + double(b <= 0 ? T(0) : b);
        }
      });
      row_active[i] = T(active);
    }
    loss[begin / kRowsPerItem] = std::accumulate(column_loss.begin(), column_loss.end(), 0.0);
  });
  for (int64_t j = 0; j < n; j++) {
    T active = row_active[j];
    for (int64_t item = 0; item < n_items; item++) active += column_active[item * n + j];
    grad[j * n + j] = -active;
  }
  return std::accumulate(loss.begin(), loss.end(), 0.0);
}

// loss as a scalar, grad in the dtype of the scores that were given; both divided by n for a mean.
inline std::tuple<Tensor, Tensor> reduced(double loss, const Tensor& grad, bool mean, const Tensor& sims) {
  const int64_t n = grad.size(0);
  auto divide = [n](auto* numbers) {
    for_pieces(n, kRowsPerItem, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin * n; k < end * n; k++) numbers[k] /= std::remove_reference_t<decltype(*numbers)>(n);
    });
  };
  if (mean && n > 0) {
    loss /= double(n);
    if (grad.scalar_type() == ScalarType::Double)
      divide(grad.mutable_data_ptr<double>());
    else
      divide(grad.mutable_data_ptr<float>());
  }
  return {scalar(loss, grad.scalar_type()), as_type(grad, sims.scalar_type())};
}

}  // namespace itm
