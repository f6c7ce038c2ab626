// Arguments of the semantic margin loss's kernels; the launchers take raw pointers and a stream and know no torch.
#pragma once

#include <cstdint>

#include "number.h"

namespace itm::cuda {

enum class MarginVariant : int32_t { kFixed, kLiteral, kReleased };
enum class MarginSampling : int32_t { kHardest, kEasiest, kRandom, kSoft, kHard, kGiven };

struct SemanticMarginArgs {
  const void* sims;          // (n, n) contiguous
  const void* relevance;     // (n, n), or (3, n): of the pairs (i, i), (i, m_i), (i, l_i) or (l_i, i); any strides
  const int64_t* image_ids;  // (n,): pairs of one image are no negatives of each other; or null: the diagonal only
  const int64_t* given;      // (2, n), sampling kGiven: -1 for none; what is out of range makes the loss NaN
  const double* uniform;     // (2, n), sampling kRandom
  int64_t* chosen;           // (2, n): m, l; not written by semantic_margin_all
  void* grad;                // (n, n), type of sims
  void* loss;                // one float (double for double); null: only choose
  double* numbers;           // (5, n): scratch
  int32_t* found;            // (4, n): scratch
  int32_t* counts;           // (n,): zero before the launch, zero after it
  uint32_t* finished;        // zero before the launch, zero after it
  int64_t down, across;      // strides of relevance
  double temperature, margin_max, margin_min;  // infinities: no bound
  double divisor;                              // of loss and gradient: n for a mean
  int32_t n;
  int32_t relevance_is_double, relevance_of_pairs;
  int32_t column;  // margins of l_i by the relevance of (l_i, i)
  MarginVariant variant;
  MarginSampling sampling;
};

// One negative of each kind for every pair, margins, hinges, their sum and its gradient in one launch.
void semantic_margin_chosen(const SemanticMarginArgs& args, Number sims, void* stream);
// The same over all negatives, variant kFixed and the relevance of all pairs.
void semantic_margin_all(const SemanticMarginArgs& args, Number sims, void* stream);

}  // namespace itm::cuda
