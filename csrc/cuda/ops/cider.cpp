// torch.ops.itm_fast.cider_relevance and cider_pairs on CUDA. Contract: itm_fast/ops/cider.py.
#include "../cider.h"

#include <limits>

#include "host.h"

namespace itm::cuda {
namespace {

// The tensors of an encoded corpus come from Encoder, by way of itm_fast.relevance.Corpus: here only their sizes and
// types are looked at; numbers would have to be copied to the host.
struct Corpus {
  const Tensor &offsets, &features, &counts, &idf_squared, &inverse_norms, &bigrams, &references;

  void check(const Tensor& image_ids, const Tensor& caption_ids) const {
    for (const Tensor* tensor : {&offsets, &features, &counts, &idf_squared, &inverse_norms, &bigrams, &references})
      STD_TORCH_CHECK(tensor->is_contiguous(), "the tensors of an encoded corpus must be contiguous");
    for (const Tensor* tensor : {&offsets, &references, &image_ids, &caption_ids})
      STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Long && tensor->dim() == 1,
                      "offsets, references, image_ids and caption_ids must be int64 with one dimension");
    for (const Tensor* tensor : {&features, &counts, &bigrams})
      STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Int, "features, counts and bigrams must be int32");
    for (const Tensor* tensor : {&idf_squared, &inverse_norms})
      STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Double, "idf_squared and inverse_norms must be float64");
    STD_TORCH_CHECK(inverse_norms.dim() == 2 && inverse_norms.size(1) >= 1 && inverse_norms.size(1) <= 31,
                    "inverse_norms must have shape (captions, n), n from 1 to 31, got ", shape_of(inverse_norms));
    STD_TORCH_CHECK(offsets.numel() == inverse_norms.numel() + 1 && bigrams.numel() == inverse_norms.size(0) &&
                        features.numel() == counts.numel() && references.numel() >= 1,
                    "the tensors of an encoded corpus do not fit each other");
    for (const Tensor* tensor :
         {&features, &counts, &idf_squared, &inverse_norms, &bigrams, &references, &image_ids, &caption_ids})
      STD_TORCH_CHECK(tensor->get_device_index() == offsets.get_device_index(),
                      "the ids and the tensors of an encoded corpus must be on one device");
  }
};

Tensor launched(const char* name, const Corpus& corpus, const Tensor& image_ids, const Tensor& caption_ids, bool unary,
                double sigma, ScalarType dtype, bool pairs) {
  corpus.check(image_ids, caption_ids);
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "dtype must be float32 or float64");
  const int64_t n = image_ids.numel(), m = caption_ids.numel();
  STD_TORCH_CHECK(!pairs || n == m, "image_ids and caption_ids must have the same length, got ", n, " and ", m);
  const int64_t blocks = pairs ? n / 8 + 1 : n * ((m + 255) / 256);
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "too many pairs for one call, got ", n, " images and ",
                  m, " captions");
  Tensor phi = empty(corpus.offsets, pairs ? std::vector<int64_t>{n} : std::vector<int64_t>{n, m}, dtype);
  if (n == 0 || m == 0) return phi;
  Launch launch(name, corpus.offsets);
  const Tensor images = torch::stable::contiguous(image_ids), captions = torch::stable::contiguous(caption_ids);
  const CiderArgs args{launch.in<int64_t>(corpus.offsets),
                       launch.in<int32_t>(corpus.features),
                       launch.in<int32_t>(corpus.counts),
                       launch.in<double>(corpus.idf_squared),
                       launch.in<double>(corpus.inverse_norms),
                       launch.in<int32_t>(corpus.bigrams),
                       launch.in<int64_t>(corpus.references),
                       launch.in<int64_t>(images),
                       launch.in<int64_t>(captions),
                       launch.out<void>(phi),
                       corpus.references.numel() - 1,
                       corpus.bigrams.numel(),
                       n,
                       m,
                       sigma,
                       int32_t(corpus.inverse_norms.size(1)),
                       unary};
  (pairs ? cider_pairs : cider_block)(args, number_of(dtype), launch.stream());
  launch.check();
  return phi;
}

Tensor relevance(const Tensor& offsets, const Tensor& features, const Tensor& counts, const Tensor& idf_squared,
                 const Tensor& inverse_norms, const Tensor& bigrams, const Tensor& references, const Tensor& image_ids,
                 const Tensor& caption_ids, bool unary, double sigma, ScalarType dtype) {
  const Corpus corpus{offsets, features, counts, idf_squared, inverse_norms, bigrams, references};
  return launched("cider_relevance", corpus, image_ids, caption_ids, unary, sigma, dtype, false);
}

Tensor of_pairs(const Tensor& offsets, const Tensor& features, const Tensor& counts, const Tensor& idf_squared,
                const Tensor& inverse_norms, const Tensor& bigrams, const Tensor& references, const Tensor& image_ids,
                const Tensor& caption_ids, bool unary, double sigma, ScalarType dtype) {
  const Corpus corpus{offsets, features, counts, idf_squared, inverse_norms, bigrams, references};
  return launched("cider_pairs", corpus, image_ids, caption_ids, unary, sigma, dtype, true);
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("cider_relevance", TORCH_BOX(&relevance));
  m.impl("cider_pairs", TORCH_BOX(&of_pairs));
}

}  // namespace itm::cuda
