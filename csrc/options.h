// The similarities' options and their names, the same for every backend.
#pragma once

#include <array>
#include <string_view>
#include <utility>

namespace itm {

enum class FeatureNorm { kClippedL2, kL2, kClippedL1, kL1, kClipped, kNone, kSoftmax };
enum class Aggregation { kLogSumExp, kMean, kSum, kMax };

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
