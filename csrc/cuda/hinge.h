// Arguments of the hinge losses' kernels; the launchers take raw pointers and a stream and know no torch.
#pragma once

#include <cstdint>

#include "number.h"

namespace itm::cuda {

struct TripletArgs {
  const void* sims;  // (n, n) contiguous
  const int64_t*
      image_ids;         // (n,): pairs of one image are no negatives of each other; or null: only the diagonal is none
  void* grad;            // (n, n), type of sims
  void* loss;            // one float (double for double)
  double* costs;         // (2, n): of every row and every column; scratch
  int32_t* found;        // (2, n): of every row and every column; scratch
  uint32_t* finished;    // zero before the launch, zero after it
  double margin, scale;  // the loss is multiplied by `scale`: 1 / n for a mean
  int32_t n;
};

// Hinges, their sum and its gradient in one launch: with the hardest negative of every row and column, or with all.
// n <= 46340.
void triplet_hardest(const TripletArgs& args, Number sims, void* stream);
void triplet_all(const TripletArgs& args, Number sims, void* stream);

}  // namespace itm::cuda
