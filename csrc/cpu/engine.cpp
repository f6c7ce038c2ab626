// The tile engine for every type that a batch's numbers may have, and the types they are multiplied and summed up in.
#include "engine.h"

#include "engine_backward.h"

namespace itm {

template decltype(score_forward<double, double, double>) score_forward<double, double, double>;
template decltype(score_forward<float, float, float>) score_forward<float, float, float>;
template decltype(score_forward<Half, float, float>) score_forward<Half, float, float>;
template decltype(score_forward<BFloat16, float, float>) score_forward<BFloat16, float, float>;
template decltype(score_forward<BFloat16, BFloat16, float>) score_forward<BFloat16, BFloat16, float>;

template decltype(score_backward<double, double>) score_backward<double, double>;
template decltype(score_backward<float, float>) score_backward<float, float>;
template decltype(score_backward<Half, float>) score_backward<Half, float>;
template decltype(score_backward<BFloat16, float>) score_backward<BFloat16, float>;

}  // namespace itm
