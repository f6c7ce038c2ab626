// Arguments of the relevance kernels; the launchers take raw pointers and a stream and know no torch.
#pragma once

#include <cstdint>

#include "number.h"

namespace itm::cuda {

// An encoded corpus as itm_fast.ops.cider.EncodedText has it, and which of its pairs are asked for.
struct CiderArgs {
  const int64_t* offsets;  // (captions * max_n + 1,)
  const int32_t* features;
  const int32_t* counts;
  const double* idf_squared;
  const double* inverse_norms;   // (captions, max_n)
  const int32_t* bigrams;        // (captions,)
  const int64_t* references;     // (n_images + 1,)
  const int64_t* image_ids;      // (n,); phi of what is out of range is NaN, of captions too
  const int64_t* caption_ids;    // (m,); as many as images for pairs
  void* phi;                     // (n, m), or (n,) for pairs; float or double
  int64_t n_images, n_captions;  // of the corpus
  int64_t n, m;                  // asked for
  double sigma;                  // of the length penalty, in bigrams; 0: none
  int32_t max_n;                 // at most 31
  int32_t unary;                 // CIDEr-D: unary counts
};

// phi of all pairs of n images and m captions; n * m / 256 < 2^31.
void cider_block(const CiderArgs& args, Number phi, void* stream);
// phi of n pairs.
void cider_pairs(const CiderArgs& args, Number phi, void* stream);

}  // namespace itm::cuda
