// Scores of given pairs and their gradients for every type that a batch's numbers may have.
#include "pairs.h"

#include "pairs_backward.h"

namespace itm {

template decltype(score_pairs<double, double>) score_pairs<double, double>;
template decltype(score_pairs<float, float>) score_pairs<float, float>;
template decltype(score_pairs<Half, float>) score_pairs<Half, float>;
template decltype(score_pairs<BFloat16, float>) score_pairs<BFloat16, float>;

template decltype(score_pairs_backward<double, double>) score_pairs_backward<double, double>;
template decltype(score_pairs_backward<float, float>) score_pairs_backward<float, float>;
template decltype(score_pairs_backward<Half, float>) score_pairs_backward<Half, float>;
template decltype(score_pairs_backward<BFloat16, float>) score_pairs_backward<BFloat16, float>;

}  // namespace itm
