// The similarities' options, the same for every backend.
#pragma once

namespace itm {

enum class FeatureNorm { kClippedL2, kL2, kClippedL1, kL1, kClipped, kNone, kSoftmax };
enum class Aggregation { kLogSumExp, kMean, kSum, kMax };

}  // namespace itm
