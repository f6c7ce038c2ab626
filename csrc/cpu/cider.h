// CIDEr and CIDEr-D of encoded captions: blocks of all pairs, or pairs one by one. Encoding: host/ngrams.h.
//
// phi(G, c) = 10 / (n |G|) sum_{r in G} penalty(r, c) sum_f u_rf v_cf, where f runs over the features of all orders,
// u_rf = idf_f^2 count_rf / |r| and v_cf = count_cf / |c| (CIDEr; CIDEr-D's unary counts: 1 / |c|).
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

struct EncodedCaptions {
  const int64_t* offsets;
  const int32_t* features;
  const int32_t* counts;
  const double* idf_squared;
  const double* inverse_norms;
  const int32_t* bigrams;
  int64_t n_captions, max_n;
  const int64_t* references;  // [n_images + 1]: image i owns captions references[i] ... references[i + 1] - 1
  int64_t n_images;
  bool unary;    // CIDEr-D: unary counts
  double sigma;  // of the length penalty, in bigrams; 0: none
};

// out[i, j] = phi of image image_ids[i] and caption caption_ids[j]; ids are in range.
template <class Out>
void cider_block(const EncodedCaptions& text, const int64_t* image_ids, int64_t n_images, const int64_t* caption_ids,
                 int64_t n_captions, Out* out);

// out[i] = phi of image image_ids[i] and caption caption_ids[i].
template <class Out>
void cider_pairs(const EncodedCaptions& text, const int64_t* image_ids, const int64_t* caption_ids, int64_t n,
                 Out* out);

// References of one block of images, as lists by feature: what a caption's feature adds to each image of the block.
struct ReferenceLists {
  const int64_t* begin;   // [n_lists + 1] into weights; a dense list has one weight per image of the block
  const uint8_t* dense;   // [n_lists]
  const uint8_t* images;  // by weight, for lists that are not dense
  const double* weights;
  int64_t width;  // images of the block, padded to the widest vector
};

// sums[image] = sum over the features of a caption (list number, factor) of factor * weight.
#define ITM_DECLARE_CIDER(isa)                                                                                  \
  namespace isa {                                                                                               \
  void cider_sums(const ReferenceLists&, const int32_t* lists, const double* factors, int64_t n, double* sums); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_CIDER)
#undef ITM_DECLARE_CIDER

}  // namespace itm
