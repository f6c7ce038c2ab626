// torch.ops.itm_fast.attended_similarity: schema and CPU registration. Contract: itm_fast/ops/attended_similarity.py.
#include "../cpu/attended_similarity_tiles.h"
#include "candidates.h"

namespace itm {
namespace {

void check_regions(const Tensor& regions, bool may_be_packed) {
  ITM_CHECK_VALUE(regions.dim() == 3 || (may_be_packed && regions.dim() == 2),
                  "regions must have shape (n_images, n_regions, dim)", may_be_packed ? " or (total, dim)" : "",
                  ", got ", shape_of(regions));
}

void check(const Tensor& regions, const Tensor& words, const Tensor& weight) {
  ITM_CHECK_VALUE(words.dim() == 2 && words.size(1) == regions.size(regions.dim() - 1),
                  "words must have shape (n_words, ", regions.size(regions.dim() - 1), "), got ", shape_of(words));
  ITM_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == regions.size(regions.dim() - 1) && weight.size(0) > 0,
                  "weight must have shape (width, ", regions.size(regions.dim() - 1), "), got ", shape_of(weight));
  ITM_CHECK_VALUE(regions.size(regions.dim() - 1) > 0,
                  "regions and words have dim 0; vectors need at least one number");
  const auto type = regions.scalar_type();
  ITM_CHECK_TYPE((type == ScalarType::Float || type == ScalarType::Double) && words.scalar_type() == type &&
                     weight.scalar_type() == type,
                 "regions, words and weight must all be float32 or all float64, got ", type, ", ", words.scalar_type(),
                 ", ", weight.scalar_type());
}

void check_numbers(const char* name, const Tensor& given, Shape shape, const Tensor& like) {
  ITM_CHECK_VALUE(has_shape(given, shape), name, " must have shape ", as_text(shape), ", got ", shape_of(given));
  ITM_CHECK_TYPE(given.scalar_type() == like.scalar_type(), name, " must be ", like.scalar_type(), ", got ",
                 given.scalar_type());
}

template <class Run>
void by_type(ScalarType type, const Run& run) {
  if (type == ScalarType::Double)
    run(double());
  else
    run(float());
}

// The pairs of a call: those of the candidates, or all.
struct AttendedPairs {
  const Batch images, captions;
  const bool of_captions;
  std::vector<int64_t> all;  // of every image all captions, unless candidates are given
  Tensor indices;
  Candidates candidates;

  AttendedPairs(const Tensor& regions, const Tensor& words, const Tensor& word_counts)
      : images(regions, std::nullopt, "region"),
        captions(Batch::packed(words, word_counts, "word")),
        of_captions(false),
        all(images.n_groups * captions.n_groups),
        candidates{all.data(), images.n_groups, captions.n_groups, captions.n_groups} {
    for (int64_t i = 0; i < int64_t(all.size()); i++) all[i] = i % captions.n_groups;
  }
  AttendedPairs(const Tensor& regions, const Tensor& words, const Tensor& word_counts,
                const std::optional<Tensor>& region_counts, const Tensor& given, bool of_captions)
      : images(Batch::of(regions, region_counts, "region")),
        captions(Batch::packed(words, word_counts, "word")),
        of_captions(of_captions),
        indices(checked_candidates(given, of_captions ? captions.n_groups : images.n_groups, of_captions)),
        candidates{indices.const_data_ptr<int64_t>(), indices.size(0), indices.size(1),
                   of_captions ? images.n_groups : captions.n_groups} {
    check_candidates(candidates);
  }

  int64_t n_rows() const { return AttendedOperands<float>::rows_of(captions, candidates, of_captions).back(); }
};

// similarities and lengths: empty, of the words of all pairs.
void forward(const AttendedPairs& pairs, const Tensor& weight, const Tensor& bias, double lambda_softmax,
             Tensor& similarities, Tensor& lengths) {
  if (lengths.numel() == 0) return;
  const Tensor whole_bias = as_contiguous(bias);
  by_type(weight.scalar_type(), [&](auto number) {
    using T = decltype(number);
    const PairLists lists(pairs.candidates, !pairs.of_captions);
    const AttendedOperands<T> operands(pairs.images, pairs.captions, pairs.candidates, lists, pairs.of_captions, weight,
                                       lambda_softmax, false);
    attended_similarity_tiles<T>(operands, whole_bias.const_data_ptr<T>(), similarities.mutable_data_ptr<T>(),
                                 lengths.mutable_data_ptr<T>());
  });
}

std::tuple<Tensor, Tensor> attended_similarity_cpu(const Tensor& regions, const Tensor& words,
                                                   const Tensor& word_counts, const Tensor& weight, const Tensor& bias,
                                                   double lambda_softmax) {
  check_regions(regions, false);
  check(regions, words, weight);
  check_numbers("bias", bias, {weight.size(0)}, weight);
  const AttendedPairs pairs(regions, words, word_counts);
  Tensor similarities = empty({regions.size(0), words.size(0), weight.size(0)}, regions.scalar_type());
  Tensor lengths = empty({regions.size(0), words.size(0)}, regions.scalar_type());
  forward(pairs, weight, bias, lambda_softmax, similarities, lengths);
  return {similarities, lengths};
}

std::tuple<Tensor, Tensor> attended_similarity_candidates_cpu(
    const Tensor& regions, const Tensor& words, const Tensor& word_counts, const std::optional<Tensor>& region_counts,
    const Tensor& candidates, const Tensor& weight, const Tensor& bias, bool of_captions, double lambda_softmax) {
  check_regions(regions, true);
  check(regions, words, weight);
  check_numbers("bias", bias, {weight.size(0)}, weight);
  const AttendedPairs pairs(regions, words, word_counts, region_counts, candidates, of_captions);
  Tensor similarities = empty({1, pairs.n_rows(), weight.size(0)}, regions.scalar_type());
  Tensor lengths = empty({1, pairs.n_rows()}, regions.scalar_type());
  forward(pairs, weight, bias, lambda_softmax, similarities, lengths);
  return {similarities, lengths};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const AttendedPairs& pairs, const Tensor& grad,
                                                    const Tensor& similarities, const Tensor& lengths,
                                                    const Tensor& regions, const Tensor& words, const Tensor& weight,
                                                    double lambda_softmax) {
  check_numbers("similarities", similarities, grad.sizes(), regions);
  check_numbers("lengths", lengths, {grad.size(0), grad.size(1)}, regions);
  const ScalarType type = regions.scalar_type();
  Tensor of_regions = zeros(regions.sizes(), type), of_words = zeros(words.sizes(), type),
         of_weight = zeros(weight.sizes(), type), of_bias = zeros({weight.size(0)}, type);
  if (lengths.numel() == 0) return {of_regions, of_words, of_weight, of_bias};
  const Tensor cotangent = as_contiguous(grad), units = as_contiguous(similarities), norms = as_contiguous(lengths);
  by_type(type, [&](auto number) {
    using T = decltype(number);
    const PairLists lists(pairs.candidates, !pairs.of_captions);
    const AttendedOperands<T> operands(pairs.images, pairs.captions, pairs.candidates, lists, pairs.of_captions, weight,
                                       lambda_softmax, true);
    attended_similarity_backward_tiles<T>(
        operands, {cotangent.const_data_ptr<T>(), units.const_data_ptr<T>(), norms.const_data_ptr<T>(),
                   of_regions.mutable_data_ptr<T>(), of_words.mutable_data_ptr<T>(), of_weight.mutable_data_ptr<T>(),
                   of_bias.mutable_data_ptr<T>()});
  });
  return {of_regions, of_words, of_weight, of_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attended_similarity_backward_cpu(
    const Tensor& grad, const Tensor& similarities, const Tensor& lengths, const Tensor& regions, const Tensor& words,
    const Tensor& word_counts, const Tensor& weight, double lambda_softmax) {
  check_regions(regions, false);
  check(regions, words, weight);
  check_numbers("grad", grad, {regions.size(0), words.size(0), weight.size(0)}, regions);
  return backward({regions, words, word_counts}, grad, similarities, lengths, regions, words, weight, lambda_softmax);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attended_similarity_candidates_backward_cpu(
    const Tensor& grad, const Tensor& similarities, const Tensor& lengths, const Tensor& regions, const Tensor& words,
    const Tensor& word_counts, const std::optional<Tensor>& region_counts, const Tensor& candidates,
    const Tensor& weight, bool of_captions, double lambda_softmax) {
  check_regions(regions, true);
  check(regions, words, weight);
  const AttendedPairs pairs(regions, words, word_counts, region_counts, candidates, of_captions);
  check_numbers("grad", grad, {1, pairs.n_rows(), weight.size(0)}, regions);
  return backward(pairs, grad, similarities, lengths, regions, words, weight, lambda_softmax);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "attended_similarity(Tensor regions, Tensor words, Tensor word_counts, Tensor weight, Tensor bias, "
      "float lambda_softmax) -> (Tensor, Tensor)");
  m.def(
      "attended_similarity_backward(Tensor grad, Tensor similarities, Tensor lengths, Tensor regions, Tensor words, "
      "Tensor word_counts, Tensor weight, float lambda_softmax) -> (Tensor, Tensor, Tensor, Tensor)");
  // The words of the candidates' pairs one after another, (1, words, width): how many they are, the values say.
  m.def(
      "attended_similarity_candidates(Tensor regions, Tensor words, Tensor word_counts, Tensor? region_counts, "
      "Tensor candidates, Tensor weight, Tensor bias, bool of_captions, float lambda_softmax) -> (Tensor, Tensor)");
  m.def(
      "attended_similarity_candidates_backward(Tensor grad, Tensor similarities, Tensor lengths, Tensor regions, "
      "Tensor words, Tensor word_counts, Tensor? region_counts, Tensor candidates, Tensor weight, bool of_captions, "
      "float lambda_softmax) -> (Tensor, Tensor, Tensor, Tensor)");
  // Of CUDA only: cuda/ops/attended_vectors.cpp.
  m.def(
      "attended_vectors_(Tensor weights, Tensor regions, Tensor words, Tensor weight, Tensor bias, Tensor(a!) units, "
      "Tensor(b!) lengths, Tensor? images, Tensor? numbers, Tensor? vectors) -> ()");
  m.def(
      "attended_gradients(Tensor grad, Tensor units, Tensor lengths, Tensor weights, Tensor regions, Tensor words, "
      "Tensor weight, Tensor? images, Tensor? numbers, Tensor? vectors) -> (Tensor, Tensor, Tensor)");
  m.def("attended_words_(Tensor(a!) sums, Tensor differences, Tensor vectors, Tensor bounds) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("attended_similarity", TORCH_BOX(&attended_similarity_cpu));
  m.impl("attended_similarity_backward", TORCH_BOX(&attended_similarity_backward_cpu));
  m.impl("attended_similarity_candidates", TORCH_BOX(&attended_similarity_candidates_cpu));
  m.impl("attended_similarity_candidates_backward", TORCH_BOX(&attended_similarity_candidates_backward_cpu));
}

}  // namespace itm
