#include "groups.h"

#include <algorithm>

#include "products.h"

namespace itm::cuda {

Groups::Groups(const char* what, const Tensor& given, const std::optional<Tensor>& given_counts)
    : vectors(given), n(given.size(0)), max(given.size(1)), dim(given.size(2)) {
  STD_TORCH_CHECK(n == 0 || max > 0, what, "s has max_", what, "s = 0; every group needs at least one ", what);
  if (given_counts.has_value()) counts = torch::stable::contiguous(*given_counts);
}

void Groups::prepare(Launch& launch, int64_t new_pitch, int64_t new_dim, ScalarType to, bool need_norms,
                     bool zero_padding) {
  pitch = new_pitch;
  padded_dim = new_dim;
  const bool aligned = reinterpret_cast<uintptr_t>(vectors.const_data_ptr()) % 16 == 0;
  const bool as_it_is = vectors.is_contiguous() && aligned && pitch == max && padded_dim == dim && to == type() &&
                        !(zero_padding && counts.has_value());
  prepared = as_it_is ? vectors : empty(vectors, {n, pitch, padded_dim}, to);
  if (need_norms) norms = empty(vectors, {n, pitch}, wide());
  if (as_it_is && !need_norms) return;
  VectorsArgs args{};
  args.data = launch.strided<void>(vectors);
  args.counts = launch.in<int64_t>(counts);
  args.copy = as_it_is ? nullptr : launch.out<void>(prepared);
  args.norms = need_norms ? launch.out<void>(*norms) : nullptr;
  args.group_stride = vectors.stride(0);
  args.vector_stride = vectors.stride(1);
  args.number_stride = vectors.stride(2);
  args.n_groups = int32_t(n);
  args.max = int32_t(max);
  args.dim = int32_t(dim);
  args.pitch = int32_t(pitch);
  args.padded_dim = int32_t(padded_dim);
  prepare_vectors(args, number_of(type()), number_of(to), launch.stream());
}

Side Groups::plan(Launch& launch, int most_groups, int64_t first, int64_t n_groups) {
  if (!plan_.has_value() || plan_->numel() < 3 * n_groups + 3)
    plan_ = empty(vectors, {3 * n_groups + 3}, ScalarType::Int);
  PlanArgs args{};
  args.counts = counts.has_value() ? launch.in<int64_t>(*counts) + first : nullptr;
  args.sizes = launch.out<int32_t>(*plan_);
  args.offsets = args.sizes + n_groups;
  args.tile_begin = args.offsets + n_groups + 1;
  args.n_tiles = args.tile_begin + n_groups + 1;
  args.n_groups = int32_t(n_groups);
  args.max = int32_t(max);
  args.limit = kTileVectors;
  args.most_groups = most_groups;
  plan_tiles(args, launch.stream());
  // A tile ends where it has all the groups it may, or where it and the next one together hold more than the limit.
  const int64_t by_vectors = 2 * (n_groups * max / (kTileVectors + 1)) + 1, by_groups = n_groups / most_groups + 1;
  // Groups, when none is shorter.
  const int64_t at_least = std::clamp<int64_t>(kTileVectors / max, 1, most_groups);
  const int64_t bound = std::min((n_groups + at_least - 1) / at_least, by_vectors + by_groups);
  return {launch.in<char>(prepared) + first * max * padded_dim * size_in_bytes(prepared.scalar_type()),
          args.sizes,
          args.offsets,
          args.tile_begin,
          args.tile_begin + 1,
          args.n_tiles,
          nullptr,
          int32_t(n_groups),
          int32_t(max),
          int32_t(bound),
          0};
}

Roles::Roles(const SimilarityInputs& in)
    : regions_query(in.cross_attn == "i2t"),
      context(regions_query ? Groups("word", in.words, in.word_counts)
                            : Groups("region", in.regions, in.region_counts)),
      query(regions_query ? Groups("region", in.regions, in.region_counts) : Groups("word", in.words, in.word_counts)) {
  STD_TORCH_CHECK(in.cross_attn == "t2i" || in.cross_attn == "i2t", "cross_attn must be t2i or i2t");
  STD_TORCH_CHECK(context.dim == query.dim && context.dim > 0, "regions and words must have the same dim above 0");
  STD_TORCH_CHECK(context.type() == query.type(), "regions and words must have the same dtype");
  number_of(context.type());
  for (const Groups* side : {&context, &query})
    STD_TORCH_CHECK(
        side->n * round_up(std::max<int64_t>(side->max, 1), 8) < (int64_t(1) << 31) && side->dim < (int64_t(1) << 24),
        "a batch of shape ", shape_of(side->vectors), " is too large: score it in parts");
}

Product product_of(ScalarType type) {
  if (type == ScalarType::BFloat16) return Product::kBf16;
  if (type == ScalarType::Half) return Product::kF16;
  return tf32_allowed() ? Product::kTf32 : Product::kTf32x3;
}

}  // namespace itm::cuda
