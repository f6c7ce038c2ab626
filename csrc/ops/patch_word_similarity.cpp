// torch.ops.itm_fast.patch_word_similarity: schema and CPU registration. Contract:
// itm_fast/ops/patch_word_similarity.py.
#include "../cpu/patch_word_similarity.h"

#include "candidates.h"

namespace itm {
namespace {

Roles roles_of(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts) {
  check_operands(regions, words);
  ITM_CHECK_VALUE(regions.dim() == 3, "regions must have shape (n_images, n_tokens, dim), got ", shape_of(regions));
  return Roles(regions, words, word_counts, std::nullopt, false);
}

struct Sizes {
  int64_t n_images, n_captions, n_patches, n_aggregated, n_kept;
  bool class_token;
};

// candidates: of given pairs, whose scores they are then.
Sizes sizes_of(const Roles& roles, const Tensor& regions, const Tensor& scores, const Tensor& logits, int64_t n_kept,
               bool class_token, const Tensor* candidates = nullptr) {
  const int64_t n_images = roles.n_images, n_captions = roles.n_captions, n_patches = regions.size(1) - class_token;
  ITM_CHECK_VALUE(n_patches > 0, "regions must have patches, got ", shape_of(regions));
  ITM_CHECK_VALUE(candidates == nullptr || candidates->dim() == 2, "candidates must have shape (n_lists, k)");
  const int64_t rows = candidates != nullptr ? candidates->size(0) : n_images;
  const int64_t columns = candidates != nullptr ? candidates->size(1) : n_captions;
  ITM_CHECK_VALUE(has_shape(scores, {rows, columns, n_patches}), "scores must have shape (", rows, ", ", columns, ", ",
                  n_patches, "), got ", shape_of(scores));
  ITM_CHECK_VALUE(logits.dim() == 3 && logits.size(0) == n_images && logits.size(1) == n_patches && logits.size(2) > 0,
                  "logits must have shape (", n_images, ", ", n_patches, ", n_aggregated), got ", shape_of(logits));
  ITM_CHECK_VALUE(0 < n_kept && n_kept <= n_patches, "n_kept must be 1 to ", n_patches, ", got ", n_kept);
  const ScalarType type = score_type(regions.scalar_type());
  ITM_CHECK_TYPE(scores.scalar_type() == type && logits.scalar_type() == type, "scores and logits must be ", type,
                 ", got ", scores.scalar_type(), " and ", logits.scalar_type());
  return {n_images, n_captions, n_patches, logits.size(2), n_kept, class_token};
}

// Rows of numbers from one stride to another; the numbers after a longer one's end stay 0.
Tensor with_width(const Tensor& rows, int64_t width) {
  Tensor out = zeros({rows.size(0), rows.size(1), width}, rows.scalar_type());
  const int64_t size = rows.element_size(), from = rows.size(2) * size, to = width * size;
  const char* source = static_cast<const char*>(rows.const_data_ptr());
  char* target = static_cast<char*>(out.mutable_data_ptr());
  for (int64_t r = 0; r < rows.size(0) * rows.size(1); r++)
    std::memcpy(target + r * to, source + r * from, std::min(from, to));
  return out;
}

struct Operands {
  const Sizes sizes;
  const Tensor scores, logits;  // contiguous; rows of the logits are whole vectors
  Tensor grad_logits;           // likewise, or none

  Operands(const Sizes& sizes, const Tensor& scores, const Tensor& logits, bool need_logits)
      : sizes(sizes),
        scores(as_contiguous(scores)),
        logits(with_width(as_contiguous(logits), whole_vectors(sizes.n_aggregated))),
        grad_logits(zeros(need_logits ? this->logits.sizes() : Shape({0}), logits.scalar_type())) {}

  Tensor gradient_of(const Tensor& given) const {
    return grad_logits.dim() == 3 ? with_width(grad_logits, given.size(2)) : empty({0}, given.scalar_type());
  }

  // As similarity_forward and similarity_backward want it made.
  auto similarity() const {
    return [this](auto number) {
      using T = decltype(number);
      PatchWordSimilarity<T> options{};
      options.n_patches = sizes.n_patches;
      options.n_kept = sizes.n_kept;
      options.n_aggregated = sizes.n_aggregated;
      options.n_captions = sizes.n_captions;
      options.class_token = sizes.class_token;
      options.scores = scores.const_data_ptr<T>();
      options.logits = logits.const_data_ptr<T>();
      options.grad_logits = grad_logits.numel() > 0 ? grad_logits.mutable_data_ptr<T>() : nullptr;
      Similarity<T> similarity;
      similarity.forward = [options, kernel = ITM_PICK(patch_word_similarity_forward<T>)](const Tile<T>& tile) {
        kernel(tile, options);
      };
      similarity.backward = [options, kernel = ITM_PICK(patch_word_similarity_backward<T>)](const Tile<T>& tile) {
        kernel(tile, options);
      };
      similarity.scratch = [options](int64_t n_context, int64_t stride, int64_t) {
        return patch_word_similarity_scratch(options, n_context, stride);
      };
      similarity.needs_gram = true;
      return similarity;
    };
  }
};

Tensor patch_word_similarity_cpu(const Tensor& regions, const Tensor& words, const Tensor& scores, const Tensor& logits,
                                 const std::optional<Tensor>& word_counts, int64_t n_kept, bool class_token) {
  const Roles roles = roles_of(regions, words, word_counts);
  const Operands operands(sizes_of(roles, regions, scores, logits, n_kept, class_token), scores, logits, false);
  return similarity_forward(roles, operands.similarity());
}

std::tuple<Tensor, Tensor, Tensor> patch_word_similarity_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const Tensor& scores, const Tensor& logits,
    const std::optional<Tensor>& word_counts, int64_t n_kept, bool class_token, bool need_regions, bool need_words,
    bool need_logits) {
  const Roles roles = roles_of(regions, words, word_counts);
  const Operands operands(sizes_of(roles, regions, scores, logits, n_kept, class_token), scores, logits, need_logits);
  const auto [grad_regions, grad_words] =
      similarity_backward(grad, regions, words, roles, operands.similarity(), need_regions, need_words);
  return {grad_regions, grad_words, operands.gradient_of(logits)};
}

Tensor patch_word_similarity_candidates_cpu(const Tensor& regions, const Tensor& words, const Tensor& scores,
                                            const Tensor& logits, const std::optional<Tensor>& word_counts,
                                            const Tensor& candidates, bool of_captions, int64_t n_kept,
                                            bool class_token) {
  const Roles roles = roles_of(regions, words, word_counts);
  const Operands operands(sizes_of(roles, regions, scores, logits, n_kept, class_token, &candidates), scores, logits,
                          false);
  return candidates_forward(GivenPairs(roles, candidates, of_captions, true), operands.similarity());
}

std::tuple<Tensor, Tensor, Tensor> patch_word_similarity_candidates_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const Tensor& scores, const Tensor& logits,
    const std::optional<Tensor>& word_counts, const Tensor& candidates, bool of_captions, int64_t n_kept,
    bool class_token, bool need_regions, bool need_words, bool need_logits) {
  const Roles roles = roles_of(regions, words, word_counts);
  const Operands operands(sizes_of(roles, regions, scores, logits, n_kept, class_token, &candidates), scores, logits,
                          need_logits);
  const auto [grad_regions, grad_words] =
      candidates_backward(grad, regions, words, GivenPairs(roles, candidates, of_captions, true), operands.similarity(),
                          need_regions, need_words);
  return {grad_regions, grad_words, operands.gradient_of(logits)};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "patch_word_similarity(Tensor regions, Tensor words, Tensor scores, Tensor logits, Tensor? word_counts, "
      "int n_kept, bool class_token) -> Tensor");
  m.def(
      "patch_word_similarity_backward(Tensor grad, Tensor regions, Tensor words, Tensor scores, Tensor logits, "
      "Tensor? word_counts, int n_kept, bool class_token, bool need_regions, bool need_words, bool need_logits) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "patch_word_similarity_candidates(Tensor regions, Tensor words, Tensor scores, Tensor logits, "
      "Tensor? word_counts, Tensor candidates, bool of_captions, int n_kept, bool class_token) -> Tensor");
  m.def(
      "patch_word_similarity_candidates_backward(Tensor grad, Tensor regions, Tensor words, Tensor scores, "
      "Tensor logits, Tensor? word_counts, Tensor candidates, bool of_captions, int n_kept, bool class_token, "
      "bool need_regions, bool need_words, bool need_logits) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("patch_word_similarity", TORCH_BOX(&patch_word_similarity_cpu));
  m.impl("patch_word_similarity_backward", TORCH_BOX(&patch_word_similarity_backward_cpu));
  m.impl("patch_word_similarity_candidates", TORCH_BOX(&patch_word_similarity_candidates_cpu));
  m.impl("patch_word_similarity_candidates_backward", TORCH_BOX(&patch_word_similarity_candidates_backward_cpu));
}

}  // namespace itm
