// torch.ops.itm_fast.cider_relevance and cider_pairs: schemas and CPU registration. Contract: itm_fast/ops/cider.py.
#include "../cpu/cider.h"

#include "tensor.h"

namespace itm {
namespace {

void check_ids(const Tensor& ids, const char* name, int64_t limit) {
  ITM_CHECK_TYPE(ids.scalar_type() == ScalarType::Long, name, " must be int64, got ", ids.scalar_type());
  ITM_CHECK_VALUE(ids.dim() == 1, name, " must have one dimension, got shape ", shape_of(ids));
  const int64_t *id = ids.const_data_ptr<int64_t>(), n = ids.numel();
  for (int64_t i = 0; i < n; i++)
    ITM_CHECK_INDEX(id[i] >= 0 && id[i] < limit, name, "[", i, "] is ", id[i], ", expected 0 ... ", limit - 1);
}

// The tensors of an encoded corpus come from Encoder, by way of itm_fast.relevance.Corpus: here only what memory safety
// needs of their sizes, and no look at every number of every call.
EncodedCaptions encoded(const Tensor& offsets, const Tensor& features, const Tensor& counts, const Tensor& idf_squared,
                        const Tensor& inverse_norms, const Tensor& bigrams, const Tensor& references, bool unary,
                        double sigma) {
  for (const Tensor* tensor : {&offsets, &features, &counts, &idf_squared, &inverse_norms, &bigrams, &references})
    ITM_CHECK_VALUE(tensor->is_contiguous(), "the tensors of an encoded corpus must be contiguous");
  const int64_t n_captions = inverse_norms.size(0), max_n = inverse_norms.size(1);
  ITM_CHECK_VALUE(offsets.numel() == n_captions * max_n + 1 && bigrams.numel() == n_captions &&
                      features.numel() == counts.numel() && references.numel() >= 1,
                  "the tensors of an encoded corpus do not fit each other");
  ITM_CHECK_VALUE(offsets.const_data_ptr<int64_t>()[n_captions * max_n] == features.numel() &&
                      references.const_data_ptr<int64_t>()[references.numel() - 1] <= n_captions,
                  "the offsets of an encoded corpus do not fit its features");
  return {offsets.const_data_ptr<int64_t>(),
          features.const_data_ptr<int32_t>(),
          counts.const_data_ptr<int32_t>(),
          idf_squared.const_data_ptr<double>(),
          inverse_norms.const_data_ptr<double>(),
          bigrams.const_data_ptr<int32_t>(),
          n_captions,
          max_n,
          references.const_data_ptr<int64_t>(),
          references.numel() - 1,
          unary,
          sigma};
}

Tensor cider_relevance_cpu(const Tensor& offsets, const Tensor& features, const Tensor& counts,
                           const Tensor& idf_squared, const Tensor& inverse_norms, const Tensor& bigrams,
                           const Tensor& references, const Tensor& image_ids, const Tensor& caption_ids, bool unary,
                           double sigma, ScalarType dtype) {
  const EncodedCaptions text =
      encoded(offsets, features, counts, idf_squared, inverse_norms, bigrams, references, unary, sigma);
  const Tensor images = as_contiguous(image_ids), captions = as_contiguous(caption_ids);
  check_ids(images, "image_ids", text.n_images);
  check_ids(captions, "caption_ids", text.n_captions);
  Tensor out = empty({images.numel(), captions.numel()}, dtype);
  auto run = [&](auto number) {
    using Out = decltype(number);
    cider_block(text, images.const_data_ptr<int64_t>(), images.numel(), captions.const_data_ptr<int64_t>(),
                captions.numel(), out.mutable_data_ptr<Out>());
  };
  ITM_CHECK_TYPE(dtype == ScalarType::Float || dtype == ScalarType::Double, "dtype must be float32 or float64, got ",
                 dtype);
  dtype == ScalarType::Double ? run(double()) : run(float());
  return out;
}

Tensor cider_pairs_cpu(const Tensor& offsets, const Tensor& features, const Tensor& counts, const Tensor& idf_squared,
                       const Tensor& inverse_norms, const Tensor& bigrams, const Tensor& references,
                       const Tensor& image_ids, const Tensor& caption_ids, bool unary, double sigma, ScalarType dtype) {
  const EncodedCaptions text =
      encoded(offsets, features, counts, idf_squared, inverse_norms, bigrams, references, unary, sigma);
  const Tensor images = as_contiguous(image_ids), captions = as_contiguous(caption_ids);
  check_ids(images, "image_ids", text.n_images);
  check_ids(captions, "caption_ids", text.n_captions);
  ITM_CHECK_VALUE(images.numel() == captions.numel(), "image_ids and caption_ids must have the same length, got ",
                  images.numel(), " and ", captions.numel());
  ITM_CHECK_TYPE(dtype == ScalarType::Float || dtype == ScalarType::Double, "dtype must be float32 or float64, got ",
                 dtype);
  Tensor out = empty({images.numel()}, dtype);
  auto run = [&](auto number) {
    using Out = decltype(number);
    cider_pairs(text, images.const_data_ptr<int64_t>(), captions.const_data_ptr<int64_t>(), images.numel(),
                out.mutable_data_ptr<Out>());
  };
  dtype == ScalarType::Double ? run(double()) : run(float());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "cider_relevance(Tensor offsets, Tensor features, Tensor counts, Tensor idf_squared, Tensor inverse_norms, "
      "Tensor bigrams, Tensor references, Tensor image_ids, Tensor caption_ids, bool unary, float sigma, "
      "ScalarType dtype) -> Tensor");
  m.def(
      "cider_pairs(Tensor offsets, Tensor features, Tensor counts, Tensor idf_squared, Tensor inverse_norms, "
      "Tensor bigrams, Tensor references, Tensor image_ids, Tensor caption_ids, bool unary, float sigma, "
      "ScalarType dtype) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("cider_relevance", TORCH_BOX(&cider_relevance_cpu));
  m.impl("cider_pairs", TORCH_BOX(&cider_pairs_cpu));
}

}  // namespace itm
