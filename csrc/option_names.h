// The similarities' options by name: apart, for kernels need no names and their compiling would take longer with them.
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include "options.h"

namespace itm {

template <class Enum, size_t kSize>
using Names = std::array<std::pair<std::string_view, Enum>, kSize>;

inline constexpr Names<FeatureNorm, 7> kFeatureNorms{{{"clipped_l2norm", FeatureNorm::kClippedL2},
                                                      {"l2norm", FeatureNorm::kL2},
                                                      {"clipped_l1norm", FeatureNorm::kClippedL1},
                                                      {"l1norm", FeatureNorm::kL1},
                                                      {"clipped", FeatureNorm::kClipped},
                                                      {"no_norm", FeatureNorm::kNone},
                                                      {"softmax", FeatureNorm::kSoftmax}}};
inline constexpr Names<Aggregation, 4> kAggregations{{{"LogSumExp", Aggregation::kLogSumExp},
                                                      {"Mean", Aggregation::kMean},
                                                      {"Sum", Aggregation::kSum},
                                                      {"Max", Aggregation::kMax}}};

}  // namespace itm
