#include <algorithm>

#include "patch_word_similarity.h"

namespace itm {

template <class T>
void select_patches(const T* scores, int64_t n_patches, int64_t n_kept, int32_t* kept, int32_t* left_out) {
  // In place of the two results: they lie one after the other only while they are selected.
  std::vector<int32_t> order(n_patches);
  std::iota(order.begin(), order.end(), 0);
  const auto better = [scores](int32_t a, int32_t b) {
    const T x = scores[a], y = scores[b];
    if (x != x || y != y) return x != x && y != y ? a < b : x != x;
    return x != y ? x > y : a < b;
  };
  if (n_kept < n_patches) std::nth_element(order.begin(), order.begin() + n_kept, order.end(), better);
  std::sort(order.begin(), order.begin() + n_kept);
  std::sort(order.begin() + n_kept, order.end());
  std::copy_n(order.begin(), n_kept, kept);
  std::copy(order.begin() + n_kept, order.end(), left_out);
}

template void select_patches(const float*, int64_t, int64_t, int32_t*, int32_t*);
template void select_patches(const double*, int64_t, int64_t, int32_t*, int32_t*);

}  // namespace itm
