// The two sides of a similarity: batches of groups of vectors, which of them is the context, and what the kernels need
// of each.
#pragma once

#include "similarity.h"

namespace itm::cuda {

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
inline int64_t size_in_bytes(ScalarType type) {
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

// One side of the operator: groups of vectors, and what was prepared of them.
struct Groups {
  Tensor vectors;                // (n, max, dim)
  std::optional<Tensor> counts;  // (n,) contiguous
  int64_t n, max, dim;

  Tensor prepared;                    // what the kernels read: `vectors`, or a zero-padded copy
  int64_t pitch = 0, padded_dim = 0;  // of `prepared`
  std::optional<Tensor> norms;        // (n, pitch)

  Groups(const char* what, const Tensor& given, const std::optional<Tensor>& given_counts);

  ScalarType type() const { return vectors.scalar_type(); }
  ScalarType wide() const { return type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

  // `prepared` with groups of `new_pitch` vectors of `new_dim` numbers of type `to`; a copy where the batch isn't that
  // already, or has padding that must read as zero.
  void prepare(Launch& launch, int64_t new_pitch, int64_t new_dim, ScalarType to, bool need_norms, bool zero_padding);

  // Cuts groups [first, first + n_groups) into tiles of at most 128 vectors, or of one larger group, once `prepared`
  // has groups of `max` vectors. n_tiles stays on the device; its bound follows from the shape. The next plan takes
  // this one's place.
  Side plan(Launch& launch, int most_groups, int64_t first, int64_t n_groups);

 private:
  std::optional<Tensor> plan_;
};

struct Roles {
  bool regions_query;
  Groups context, query;

  explicit Roles(const SimilarityInputs& in);

  // Of a (n_images, n_captions) matrix, by context and query group.
  int64_t context_stride() const { return regions_query ? 1 : query.n; }
  int64_t query_stride() const { return regions_query ? context.n : 1; }
};

// Which tensor-core product makes S of vectors of a type.
Product product_of(ScalarType type);

}  // namespace itm::cuda
