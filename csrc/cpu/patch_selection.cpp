#include <algorithm>
#include <numeric>
#include <vector>

#include "patch_word_similarity.h"

namespace itm {

template <class T>
void select_patches(const T* scores, int64_t n_patches, int64_t n_kept, int32_t* kept, int32_t* left_out) {
  std::vector<int32_t> order(n_patches);
  std::iota(order.begin(), order.end(), 0);
  const auto better = [scores](int32_t a, int32_t b) {
    const T x = scores[a], y = scores[b];
    if (x != x || y != y) return x != x && y != y ? a < b : x != x;
    return x != y ? x > y : a < b;
  };
  const auto last = order.begin() + n_kept - 1;
  std::nth_element(order.begin(), last, order.end(), better);
  for (int32_t patch = 0; patch < n_patches; patch++)
    if (better(*last, patch))
      *left_out++ = patch;
    else
      *kept++ = patch;
}

template void select_patches(const float*, int64_t, int64_t, int32_t*, int32_t*);
template void select_patches(const double*, int64_t, int64_t, int32_t*, int32_t*);

}  // namespace itm
