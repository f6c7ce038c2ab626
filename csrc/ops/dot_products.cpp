// torch.ops.itm_fast.dot_products: scores of two sets of embeddings, images . captions^T, on the tile product. torch's
// own mm leaves half of some processors unused (csrc/README.md). dot_products_candidates: of given pairs, every vector
// of an image with the one of a caption.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <array>

#include "../cpu/batch.h"
#include "../cpu/engine.h"
#include "../cpu/gemm.h"
#include "../cpu/owner_columns.h"
#include "../cpu/parallel.h"
#include "candidates.h"

namespace itm {
namespace {

constexpr int64_t kGroupColumns = 2 * kPanelColumns;  // two panels of 1024 numbers and a chunk of rows stay in 1 MB
constexpr int64_t kFewRows = 256;                     // below, packing would cost more than the faster product gains

Tensor dot_products_cpu(const Tensor& images, const Tensor& captions) {
  ITM_CHECK_VALUE(images.dim() == 2 && captions.dim() == 2 && images.size(1) == captions.size(1),
                  "embeddings must have shapes (n_images, dim) and (n_captions, dim), got ", shape_of(images), " and ",
                  shape_of(captions));
  ITM_CHECK_TYPE(images.scalar_type() == captions.scalar_type(), "embeddings must have the same dtype, got ",
                 images.scalar_type(), " and ", captions.scalar_type());
  const int64_t n = images.size(0), m = captions.size(0), dim = images.size(1);
  const Tensor sims = empty({n, m}, images.scalar_type());
  if (images.scalar_type() != ScalarType::Float || n < kFewRows || dim == 0) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(sims.get(), images.get(), transposed(captions).get()));
    return sims;
  }
  const Tensor left = images.stride(1) == 1 ? images : as_contiguous(images);
  const Tensor right = captions.stride(1) == 1 ? captions : as_contiguous(captions);
  float* out = sims.mutable_data_ptr<float>();
  const float* rows = left.const_data_ptr<float>();
  const float* columns = right.const_data_ptr<float>();
  const int64_t row_stride = left.stride(0), column_stride = right.stride(0);
  const Gemm<float, float> gemm;
  const double work = double(m) * dim * (n + kMoveWork);
  parallel_workers((m + kGroupColumns - 1) / kGroupColumns, work, [&](auto next) {
    const Buffer<float> panels(kGroupColumns * dim);
    std::array<const char*, kPanelColumns> vectors{};
    for (int64_t item = next(); item >= 0; item = next()) {
      const int64_t begin = item * kGroupColumns, end = std::min(m, begin + kGroupColumns);
      for (int64_t first = begin; first < end; first += kPanelColumns) {
        const int64_t width = std::min(kPanelColumns, end - first);
        for (int64_t i = 0; i < width; i++)
          vectors[i] = reinterpret_cast<const char*>(columns + (first + i) * column_stride);
        ITM_PICK(turn_vectors<float>)(vectors.data(), width, dim, panels + (first - begin) * dim, width);
      }
      for (int64_t top = 0; top < n; top += kChunkRows)
        for (int64_t first = begin; first < end; first += kPanelColumns) {
          const int64_t width = std::min(kPanelColumns, end - first);
          gemm(std::min(kChunkRows, n - top), width, dim, rows + top * row_stride, row_stride,
               panels + (first - begin) * dim, width, out + top * m + first, m);
        }
    }
  });
  return sims;
}

// products [n_images, k, n_vectors]: an image's vectors are columns, its captions' rows where they lie.
template <class T>
void products_of_lists(const Batch& images, const Batch& captions, const Candidates& candidates, T* products) {
  const int64_t n_vectors = images.max, k = candidates.k, stride = round_up(n_vectors, kColumnMultiple);
  const double work = double(images.n_groups) * n_vectors * images.dim * (k + kMoveWork);
  parallel_workers(images.n_groups, work, [&](auto next) {
    OwnerColumns<T, T> columns(n_vectors, images.dim);
    Buffer<T> room(k * stride);
    std::vector<const T*> rows;
    for (int64_t image = next(); image >= 0; image = next()) {
      const int64_t* list = candidates.indices + image * k;
      rows.clear();
      for (int64_t j = 0; j < k; j++)
        if (list[j] >= 0) rows.push_back(captions.vector<T>(0, list[j]));
      T* out = products + image * k * n_vectors;
      if (!rows.empty()) {
        columns.take(images, image, nullptr);
        columns.multiply(int64_t(rows.size()), columns.n_columns(), rows, room.data(), stride);
      }
      const T* row = room.data();
      for (int64_t j = 0; j < k; j++, out += n_vectors) {
        if (list[j] < 0) {
          std::fill_n(out, n_vectors, T(0));
        } else {
          std::copy_n(row, n_vectors, out);
          row += stride;
        }
      }
    }
  });
}

Tensor dot_products_candidates_cpu(const Tensor& images, const Tensor& captions, const Tensor& given) {
  ITM_CHECK_VALUE(images.dim() == 3 && captions.dim() == 2 && images.size(2) == captions.size(1),
                  "vectors must have shapes (n_images, n_vectors, dim) and (n_captions, dim), got ", shape_of(images),
                  " and ", shape_of(captions));
  const ScalarType type = images.scalar_type();
  ITM_CHECK_TYPE((type == ScalarType::Float || type == ScalarType::Double) && captions.scalar_type() == type,
                 "vectors must be both float32 or both float64, got ", type, " and ", captions.scalar_type());
  const Tensor indices = checked_candidates(given, images.size(0), false);
  const Candidates candidates{indices.const_data_ptr<int64_t>(), indices.size(0), indices.size(1), captions.size(0)};
  check_candidates(candidates);
  Tensor products = empty({images.size(0), candidates.k, images.size(1)}, type);
  if (products.numel() == 0) return products;
  if (images.size(2) == 0 || captions.size(0) == 0) return zeros(products.sizes(), type);
  const Batch of_images(images, std::nullopt, "vector"),
      of_captions(torch::stable::unsqueeze(captions, 0), std::nullopt, "vector");
  if (type == ScalarType::Double)
    products_of_lists<double>(of_images, of_captions, candidates, products.mutable_data_ptr<double>());
  else
    products_of_lists<float>(of_images, of_captions, candidates, products.mutable_data_ptr<float>());
  return products;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def("dot_products(Tensor images, Tensor captions) -> Tensor");
  m.def("dot_products_candidates(Tensor images, Tensor captions, Tensor candidates) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("dot_products", TORCH_BOX(&dot_products_cpu));
  m.impl("dot_products_candidates", TORCH_BOX(&dot_products_candidates_cpu));
}

}  // namespace itm
