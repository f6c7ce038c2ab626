// torch.ops.itm_fast.attended_similarity: schema and CPU registration. Contract: itm_fast/ops/attended_similarity.py.
#include "../cpu/attended_similarity_tiles.h"

namespace itm {
namespace {

void check(const Tensor& regions, const Tensor& words, const Tensor& weight) {
  ITM_CHECK_VALUE(regions.dim() == 3, "regions must have shape (n_images, n_regions, dim), got ", shape_of(regions));
  ITM_CHECK_VALUE(words.dim() == 2 && words.size(1) == regions.size(2), "words must have shape (n_words, ",
                  regions.size(2), "), got ", shape_of(words));
  ITM_CHECK_VALUE(weight.dim() == 2 && weight.size(1) == regions.size(2) && weight.size(0) > 0,
                  "weight must have shape (width, ", regions.size(2), "), got ", shape_of(weight));
  ITM_CHECK_VALUE(regions.size(2) > 0, "regions and words have dim 0; vectors need at least one number");
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

std::tuple<Tensor, Tensor> attended_similarity_cpu(const Tensor& regions, const Tensor& words,
                                                   const Tensor& word_counts, const Tensor& weight, const Tensor& bias,
                                                   double lambda_softmax) {
  check(regions, words, weight);
  check_numbers("bias", bias, {weight.size(0)}, weight);
  const Batch images(regions, std::nullopt, "region"), captions = Batch::packed(words, word_counts, "word");
  Tensor similarities = empty({regions.size(0), words.size(0), weight.size(0)}, regions.scalar_type());
  Tensor lengths = empty({regions.size(0), words.size(0)}, regions.scalar_type());
  if (lengths.numel() == 0) return {similarities, lengths};
  const Tensor whole_bias = as_contiguous(bias);
  by_type(regions.scalar_type(), [&](auto number) {
    using T = decltype(number);
    const AttendedOperands<T> operands(images, captions, weight, lambda_softmax, false);
    attended_similarity_tiles<T>(operands, whole_bias.const_data_ptr<T>(), similarities.mutable_data_ptr<T>(),
                                 lengths.mutable_data_ptr<T>());
  });
  return {similarities, lengths};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attended_similarity_backward_cpu(
    const Tensor& grad, const Tensor& similarities, const Tensor& lengths, const Tensor& regions, const Tensor& words,
    const Tensor& word_counts, const Tensor& weight, double lambda_softmax) {
  check(regions, words, weight);
  check_numbers("grad", grad, {regions.size(0), words.size(0), weight.size(0)}, regions);
  check_numbers("similarities", similarities, grad.sizes(), regions);
  check_numbers("lengths", lengths, {regions.size(0), words.size(0)}, regions);
  const Batch images(regions, std::nullopt, "region"), captions = Batch::packed(words, word_counts, "word");
  const bool none = lengths.numel() == 0;
  const ScalarType type = regions.scalar_type();
  auto gradient = [&](Shape shape) { return none ? zeros(shape, type) : empty(shape, type); };
  Tensor of_regions = gradient(regions.sizes()), of_words = gradient(words.sizes()),
         of_weight = gradient(weight.sizes()), of_bias = gradient({weight.size(0)});
  if (none) return {of_regions, of_words, of_weight, of_bias};
  const Tensor cotangent = as_contiguous(grad), units = as_contiguous(similarities), norms = as_contiguous(lengths);
  by_type(type, [&](auto number) {
    using T = decltype(number);
    const AttendedOperands<T> operands(images, captions, weight, lambda_softmax, true);
    attended_similarity_backward_tiles<T>(
        operands, {cotangent.const_data_ptr<T>(), units.const_data_ptr<T>(), norms.const_data_ptr<T>(),
                   of_regions.mutable_data_ptr<T>(), of_words.mutable_data_ptr<T>(), of_weight.mutable_data_ptr<T>(),
                   of_bias.mutable_data_ptr<T>()});
  });
  return {of_regions, of_words, of_weight, of_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "attended_similarity(Tensor regions, Tensor words, Tensor word_counts, Tensor weight, Tensor bias, "
      "float lambda_softmax) -> (Tensor, Tensor)");
  m.def(
      "attended_similarity_backward(Tensor grad, Tensor similarities, Tensor lengths, Tensor regions, Tensor words, "
      "Tensor word_counts, Tensor weight, float lambda_softmax) -> (Tensor, Tensor, Tensor, Tensor)");
  // Of CUDA only: cuda/ops/attended_vectors.cpp.
  m.def(
      "attended_vectors_(Tensor weights, Tensor regions, Tensor words, Tensor weight, Tensor bias, Tensor(a!) units, "
      "Tensor(b!) lengths) -> ()");
  m.def(
      "attended_gradients(Tensor grad, Tensor units, Tensor lengths, Tensor weights, Tensor regions, Tensor words, "
      "Tensor weight) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("attended_similarity", TORCH_BOX(&attended_similarity_cpu));
  m.impl("attended_similarity_backward", TORCH_BOX(&attended_similarity_backward_cpu));
}

}  // namespace itm
