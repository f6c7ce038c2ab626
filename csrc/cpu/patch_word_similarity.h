// LAPS's similarity (Fu et al., CVPR 2024; CrossmodalGroup/LAPS): patches that a caption keeps of an image, aggregated
// to few tokens, against its words. Options and entry points.
#pragma once

#include "isa.h"
#include "tile.h"

namespace itm {

// A row of so many numbers, padded to whole vectors of any instruction set.
constexpr int64_t whole_vectors(int64_t n) { return (n + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple; }

template <class T>
struct PatchWordSimilarity {
  int64_t n_patches, n_kept, n_aggregated, n_captions;
  bool class_token;  // the first context vector is no patch
  const T* scores;   // [n_images, n_captions, n_patches], or of given pairs: the n_kept largest are kept
  const T* logits;   // [n_images, n_patches, padded_aggregated()]
  T* grad_logits;    // as logits, added to; backward only

  int64_t padded_aggregated() const { return whole_vectors(n_aggregated); }
  int64_t n_left_out() const { return n_patches - n_kept; }
  // The class token, the aggregated ones, the one of what is left out.
  int64_t n_tokens() const { return class_token + n_aggregated + 1; }
};

// Scratch of one worker in numbers, for tiles of at most n_context x stride.
template <class T>
int64_t patch_word_similarity_scratch(const PatchWordSimilarity<T>& options, int64_t n_context, int64_t stride) {
  const int64_t kept = options.n_kept, aggregated = options.padded_aggregated(), tokens = options.n_tokens();
  const int64_t padded_kept = whole_vectors(kept);
  return kept * (2 * stride + 3 * aggregated + 2 * padded_kept) + aggregated * padded_kept + 2 * tokens * stride +
         stride * aggregated + whole_vectors(n_context) + 2 * options.n_patches + 2 * stride +
         4 * whole_vectors(tokens + aggregated);
}

// kept [n_kept] and left_out [n_patches - n_kept], both ascending: the patches of the largest scores, of equal ones the
// first, NaN above all; and the rest.
template <class T>
void select_patches(const T* scores, int64_t n_patches, int64_t n_kept, int32_t* kept, int32_t* left_out);

#define ITM_DECLARE_PATCH_WORD_SIMILARITY(isa)                                        \
  namespace isa {                                                                     \
  template <class T>                                                                  \
  void patch_word_similarity_forward(const Tile<T>&, const PatchWordSimilarity<T>&);  \
  template <class T>                                                                  \
  void patch_word_similarity_backward(const Tile<T>&, const PatchWordSimilarity<T>&); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_PATCH_WORD_SIMILARITY)
#undef ITM_DECLARE_PATCH_WORD_SIMILARITY

}  // namespace itm
